"""The HTTP API: the same jobs as the page's, for programs. Its document is at /api/openapi.json.

Errors are {"error": TEXT, "hints": [TEXT, …]} in the language that `app.texts.asked` finds.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions that are inside of others.
import functools
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import generation, metrics, picture, summary
from app.access import NOBODY_ELSE, Access, User
from app.board import Board, Gone, News, Shown, Status
from app.desk import NO_OUTLOOK, Choice, Desk, Draining, Wanted
from app.jobs.base import (
    Job,
    OtherJob,
    OwnerLimit,
    QueueFull,
    Speed,
    State,
    StoreUnavailable,
    UnknownJob,
    WorkerState,
    WorkerStatus,
    WrongState,
)
from app.jobs.store import new_id
from app.media import MediaFailed, MediaGone, picture_key
from app.memory import Fit, Refusal
from app.survey import Survey
from app.texts import asked, speaking, spoken, tr
from app.tokens import is_foreign
from app.watch import Watch
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.models import ModelSpec, Span

PREFIX = "/api"
IDS = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_BYTES = picture.MAX_BYTES + (1 << 20)  # of a picture and a form
KEPT = {"Cache-Control": "private, max-age=86400, immutable"}  # a picture of a job never becomes another
PROMPT_LETTERS = 4000  # in an address, where each may take 12 bytes, and servers take 64 KB
RETRY_S = 30  # when to try again, where nobody can say
RECONNECT_MS = 1000  # after which a browser asks for the events again when the connection broke
STATUS: dict[type[JingxiangError], int] = {
    UsageError: 400,
    UnknownJob: 404,
    OtherJob: 409,
    WrongState: 409,
    QueueFull: 429,
    OwnerLimit: 429,
    Draining: 503,
    StoreUnavailable: 503,
    MediaGone: 410,
    MediaFailed: 503,
}


class Settings(BaseModel):
    """Pixels, frames, denoising steps, frames per second, guidance."""

    width: int
    height: int
    frames: int
    steps: int
    fps: int
    guidance: float


class JobAnswer(BaseModel):
    """One job. Times are seconds since 1970. `position`: how many come before it; `wait_s`: seconds until it is begun,
    `left_s`: until it is done, once it runs, if that can be told; `unread`: the end of the prompt that the model could
    not read; `video`: where to get it.
    """

    id: str
    state: State
    model: str
    preset: str
    prompt: str
    negative_prompt: str
    seed: int
    picture: str = Field(description="SHA-256 of the file that was sent")
    settings: Settings
    step: int
    preview: int = Field(description="the step that its preview is of; 0: there is none")
    steps: int
    position: int
    wait_s: float | None
    left_s: float | None
    reason: str
    unread: str
    rung: str = Field(description="how memory was saved, if it had to be")
    batch: int
    seconds: float | None
    bytes: int
    pinned: bool
    created: float
    started: float | None
    ended: float | None
    video: str | None


class WorkerAnswer(BaseModel):
    """Who works. Its name, which is that of the machine, too, and why it failed are told to who is in charge alone:
    for others it has a number. `speed`: `eager` without compiled code, `compiling` while that is being made in the
    background, `compiled`; empty where it is not an issue; for videos of the size `speed_of`, such as `512x512x16`.
    """

    name: str
    state: WorkerState
    model: str
    models: list[str]
    device: str
    dtype: str
    total_bytes: int
    free_bytes: int
    held_bytes: int
    reason: str
    speed: Speed
    speed_of: str


class EstimateAnswer(BaseModel):
    """What a job with these settings takes. `rung`: how memory has to be saved for it (`full`: not at all); `seconds`:
    how long it takes, if anything like it has been made here; `message`: why it does not fit, and what does; `brief`:
    why, in a few words.
    """

    settings: Settings
    fits: bool
    rung: str
    needed_bytes: int | None
    seconds: float | None
    message: str
    brief: str


class TokensAnswer(BaseModel):
    """How many tokens a prompt has, of how many that the model reads at most, both null where nobody here can count
    them; `unread`: the end of the prompt that it does not read; `advice`: what would be better.
    """

    used: int | None
    most: int | None
    unread: str
    advice: list[str]


class RangeAnswer(BaseModel):
    """From the least to the most, in steps of `multiple`; 0: any number."""

    least: float
    most: float
    multiple: int


class ModelAnswer(BaseModel):
    """A model that a worker has. `sizes`: the numbers of pixels that it can make, by names like `512p`, each with the
    other settings of the recommended preset; `limits`: what each setting can be; `advice`: what some had better be.
    """

    name: str
    title: str
    takes_prompt: bool
    is_default: bool
    recommended: str = Field(description="the preset that suits the card best")
    presets: dict[str, EstimateAnswer]
    sizes: dict[str, EstimateAnswer]
    limits: dict[str, RangeAnswer]
    advice: dict[str, RangeAnswer]


class QueueAnswer(BaseModel):
    """How many wait and run, and who works."""

    model: str
    queued: int
    running: int
    workers: list[WorkerAnswer]


class StatusAnswer(BaseModel):
    """What holds for all. `loading`: the model that a worker is loading, or empty; `waiting_limit`: how many jobs may
    wait.
    """

    model: str
    loading: str
    queued: int
    running: int
    waiting_limit: int
    draining: bool
    disk_free_bytes: int
    workers: list[WorkerAnswer]


def build(desk: Desk, watch: Watch, access: Access, outputs: Path) -> FastAPI:
    """The application to be mounted at `PREFIX`, and /metrics beside it. `outputs`: where the log is. Who has to log in
    comes by way of `app.login.Gate`.
    """
    application = FastAPI(
        title="jingxiang", version="1", openapi_url=f"{PREFIX}/openapi.json", docs_url=None, redoc_url=None
    )
    application.include_router(_router(desk, watch, access, outputs), prefix=PREFIX)
    application.add_middleware(_Bounded)
    application.add_middleware(_Speaking)
    application.add_exception_handler(JingxiangError, _told)
    application.add_exception_handler(HTTPException, _refused)
    application.add_exception_handler(RequestValidationError, _malformed)

    @application.get("/metrics", include_in_schema=False, dependencies=[Depends(_guard(access))])
    def measured() -> Response:
        """For Prometheus."""
        return Response(metrics.text(desk), media_type=metrics.KIND)

    return application


def _guard(access: Access) -> Any:
    """Gives the user of a request, whom `app.login.Gate` has let in."""

    def guarded(request: Request) -> User:
        user: User = NOBODY_ELSE if access.is_open else request.scope["user"]
        return user

    return guarded


class _Speaking:
    """ASGI: speak the language of whoever asks, whatever thread it is answered in."""

    def __init__(self, app: ASGIApp) -> None:
        self._application = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with speaking(asked(Headers(raw=scope.get("headers", [])))):
            await self._application(scope, receive, send)


class _Bounded:
    """ASGI: nobody sends more than a picture and a form take, whether they say beforehand how much it is or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._application = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        refusal = JSONResponse({"error": tr("at most {limit} MB", limit=picture.MAX_BYTES >> 20), "hints": []}, 413)
        if length.isdigit() and int(length) > MOST_BYTES:
            await refusal(scope, receive, send)
            return
        received, is_over, is_answered = 0, False, False

        async def counted() -> Message:
            nonlocal received, is_over
            message = await receive()
            received += len(message.get("body", b""))
            is_over = received > MOST_BYTES
            return {"type": "http.disconnect"} if is_over else message

        async def unless_over(message: Message) -> None:
            nonlocal is_answered
            if not is_over:
                is_answered = True
                await send(message)

        with suppress(ClientDisconnect):
            await self._application(scope, counted, unless_over)
        if is_over and not is_answered:
            await refusal(scope, receive, send)


def _router(desk: Desk, watch: Watch, access: Access, outputs: Path) -> APIRouter:
    guard = _guard(access)
    board = Board(desk, outputs)
    router = APIRouter()
    Asking = Annotated[User, Depends(guard)]  # noqa: N806 (a type)

    def owner(user: User) -> str | None:
        """Whose jobs somebody may see and change: None for all."""
        return None if user.is_in_charge else user.name

    def answered(job: Job) -> JobAnswer:
        return answer(Shown(job, *desk.outlook(job)))

    def in_charge(user: Asking) -> User:
        if not user.is_in_charge:
            raise HTTPException(403, tr("only for who is in charge"))
        return user

    @router.post("/jobs", status_code=201, responses={200: {"description": "it was there already"}})
    def submit(
        user: Asking,
        response: Response,
        image: Annotated[bytes, File(description="JPEG, PNG, WEBP, BMP, GIF or TIFF, at most 20 MB")],
        prompt: Annotated[str, Form(max_length=10_000)] = "",
        model: Annotated[str, Form()] = "",
        preset: Annotated[str, Form()] = "standard",
        seed: Annotated[int | None, Form()] = None,
        width: Annotated[int | None, Form()] = None,
        height: Annotated[int | None, Form()] = None,
        frames: Annotated[int | None, Form()] = None,
        steps: Annotated[int | None, Form()] = None,
        fps: Annotated[int | None, Form()] = None,
        guidance: Annotated[float | None, Form()] = None,
        id: Annotated[str, Form(description="the same id again is the same job")] = "",
        negative_prompt: Annotated[str, Form(max_length=10_000, description="what should not be in the video")] = "",
    ) -> JobAnswer:
        """Hand in a job."""
        number = id or new_id()
        if not IDS.fullmatch(number):
            raise UsageError(tr("the id must be of 1 to 64 letters, digits, - and _"))
        given = {"width": width, "height": height, "frames": frames, "steps": steps, "fps": fps, "guidance": guidance}
        wanted = Wanted(image, tr("the picture"), prompt, model, preset, seed, _given(given), negative_prompt)
        job, is_new = desk.submit(wanted, owner=user.name, number=number)
        response.status_code = 201 if is_new else 200
        response.headers["Location"] = f"{PREFIX}/jobs/{job.id}"
        return answered(job)

    @router.get("/jobs")
    def jobs(user: Asking, most: Annotated[int, Query(ge=1, le=1000)] = 100, before: str = "") -> list[JobAnswer]:
        """Your jobs: those that wait or run in the order of the queue, then the others, the last one first. `before`:
        the id of a job; those that are listed after it, as the older ones are.
        """
        after = _checked(before) if before else ""
        found, outlooks = desk.store.jobs(owner=owner(user), most=most, after=after), desk.outlooks()
        return [answer(Shown(job, *outlooks.get(job.id, NO_OUTLOOK))) for job in found]

    def one(user: Asking, number: str) -> Job:
        """The job that is asked for, if it may be seen."""
        return desk.store.job(_checked(number), owner(user))

    @router.get("/jobs/{number}")
    def job(job: Annotated[Job, Depends(one)]) -> JobAnswer:
        return answered(job)

    @router.get("/jobs/{number}/events", response_class=EventSourceResponse)
    async def events(number: str, _: Annotated[Job, Depends(one)]) -> AsyncIterator[ServerSentEvent]:
        """The job now and whenever it has changed, to its end; the event's name is its state."""
        async for job in watch.follow(number):
            yield ServerSentEvent(data=await run_in_threadpool(answered, job), event=job.state)

    @router.delete("/jobs/{number}")
    def delete(user: Asking, number: str) -> JobAnswer:
        """Cancel a job that waits or runs; forget one that has ended, with its files."""
        return answered(desk.delete(_checked(number), owner(user)))

    @router.post("/jobs/{number}/retry")
    def retry(user: Asking, number: str) -> JobAnswer:
        """A job that failed or was cancelled, again, at the end of the queue."""
        return answered(desk.retry(_checked(number), owner(user)))

    @router.post("/jobs/{number}/again", status_code=201)
    def again(user: Asking, number: str, preset: str = "standard") -> JobAnswer:
        """A new job with the same picture, prompt and seed, and another preset."""
        return answered(desk.again(_checked(number), owner(user), preset=preset, by=user.name))

    @router.post("/jobs/{number}/move")
    def move(
        user: Annotated[User, Depends(in_charge)], number: str, position: Annotated[int, Query(ge=0)]
    ) -> JobAnswer:
        """Put a waiting job at that position; 0 is the next."""
        return answered(desk.store.move(_checked(number), position))

    @router.post("/jobs/{number}/pin")
    def pin(user: Asking, number: str, pinned: bool = True) -> JobAnswer:
        """Keep a job however old it is."""
        return answered(desk.store.pin(_checked(number), owner(user), is_pinned=pinned))

    @router.get("/jobs/{number}/video", response_class=Response)
    def video(job: Annotated[Job, Depends(one)]) -> Response:
        """The MP4."""
        if job.outcome is None:
            raise WrongState(job.id, job.state)
        return _file(desk, job.outcome.video, "video/mp4", f"{job.id}.mp4", job.outcome.bytes)

    @router.get("/jobs/{number}/preview", response_class=Response, responses={204: {"description": "there is none"}})
    def preview(job: Annotated[Job, Depends(one)]) -> Response:
        """How far a job is that runs: a small JPEG, a pixel for 8 x 8 of the video. Nothing before its first step, and
        when it has ended.
        """
        image, headers = desk.store.preview_of(job.id), {"Cache-Control": "no-store"}
        return Response(image, 200 if image else 204, headers, "image/jpeg")

    @router.get("/jobs/{number}/picture", response_class=Response)
    def source(
        job: Annotated[Job, Depends(one)],
        size: Annotated[int | None, Query(ge=16, le=1024, description="a JPEG with sides of at most so many")] = None,
    ) -> Response:
        """What it was made from: a PNG, upright and without metadata."""
        if size is not None:
            return Response(desk.thumbnail(job.order.picture, size), media_type="image/jpeg", headers=KEPT)
        key = picture_key(job.order.picture)
        return _file(desk, key, "image/png", f"{job.id}.png", desk.media.size(key))

    def status(user: User) -> QueueAnswer:
        depth, workers = desk.store.depth(), _workers(desk.store.workers(), user.is_in_charge)
        return QueueAnswer(model=desk.model, queued=depth["queued"], running=depth["running"], workers=workers)

    @router.get("/events", response_class=EventSourceResponse)
    async def all_events(user: Asking) -> AsyncIterator[ServerSentEvent]:
        """All that a page shows, as it changes. `jobs`: your jobs, as of `GET /api/jobs`; `job`: one that is new or has
        changed; `gone`: {"id"} of one that was deleted; `status`: queue, workers and disk. When the job store does not
        answer: `trouble`, {"message"}, and `jobs` and `status` again when it does.
        """
        async with aclosing(board.listen(owner(user))) as told:
            async for news in told:
                yield _event(news, user)

    @router.get("/queue")
    def queue(user: Asking) -> QueueAnswer:
        return status(user)

    @router.get("/models")
    def models(user: Asking) -> list[ModelAnswer]:
        """What can be made here, and what each preset takes."""
        survey = desk.survey()
        there = {name for worker in survey.workers for name in worker.models}
        return [_model(desk, spec, survey) for spec in desk.catalog.models.values() if spec.name in there]

    @router.get("/models/{name}/estimate")
    def estimate(
        user: Asking,
        name: str,
        preset: str = "standard",
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        steps: int | None = None,
    ) -> EstimateAnswer:
        """Whether a job fits now, and how long it takes."""
        spec = desk.catalog.model(name)
        given = {"width": width, "height": height, "frames": frames, "steps": steps}
        wanted = generation.settings(spec, preset, _given(given))
        return _estimate(Choice(preset, wanted, *desk.survey().estimate(spec, wanted)))

    @router.get("/models/{name}/tokens")
    def tokens(user: Asking, name: str, prompt: Annotated[str, Query(max_length=PROMPT_LETTERS)]) -> TokensAnswer:
        """How much of a prompt a model reads."""
        spec = desk.catalog.model(name)
        counter = desk.tokens(spec)
        count = counter.count(prompt) if counter else None
        advice = []
        if count and count.unread:
            advice.append(generation.unread_text(count.unread))
        if spec.takes_prompt and is_foreign(prompt):
            advice.append(tr("the model understands English only: say it in English"))
        return TokensAnswer(
            used=count.used if count else None,
            most=count.most if count else None,
            unread=count.unread if count else "",
            advice=advice,
        )

    @router.get("/log/summary", response_class=PlainTextResponse)
    def told(user: Annotated[User, Depends(in_charge)]) -> str:
        """The log in short, to be copied into a question: nothing in it is secret or says who somebody is."""
        return summary.text(outputs, spoken())

    @router.post("/models/{name}/load")
    def load(user: Annotated[User, Depends(in_charge)], name: str) -> QueueAnswer:
        """Let the workers load a model after what they do now, again if they have it. It is the default then."""
        desk.use(name)
        return status(user)

    return router


def answer(shown: Shown) -> JobAnswer:
    """What is said of a job."""
    job = shown.job
    order, outcome = job.order, job.outcome
    return JobAnswer(
        id=job.id,
        state=job.state,
        model=order.model,
        preset=order.preset_name,
        prompt=order.prompt,
        negative_prompt=order.negative,
        seed=order.seed,
        picture=order.picture,
        settings=Settings(**vars(order.preset)),
        step=job.step,
        preview=job.preview,
        steps=job.steps,
        position=shown.position,
        wait_s=shown.wait_s,
        left_s=shown.left_s,
        reason=job.reason,
        unread=outcome.unread if outcome else "",
        rung=outcome.rung if outcome else "",
        batch=outcome.batch if outcome else 1,
        seconds=outcome.seconds if outcome else None,
        bytes=outcome.bytes if outcome else 0,
        pinned=job.is_pinned,
        created=job.created,
        started=job.started,
        ended=job.ended,
        video=f"{PREFIX}/jobs/{job.id}/video" if outcome else None,
    )


def _event(news: News, user: User) -> ServerSentEvent:
    """What is the same for many pages is written once."""
    if isinstance(news, tuple):
        return ServerSentEvent(event="jobs", raw_data=f"[{','.join(map(_written, news))}]", retry=RECONNECT_MS)
    if isinstance(news, Shown):
        return ServerSentEvent(event="job", raw_data=_written(news))
    if isinstance(news, Gone):
        return ServerSentEvent(event="gone", data={"id": news.id})
    if isinstance(news, Status):
        return ServerSentEvent(event="status", raw_data=_written_status(news, user.is_in_charge))
    return ServerSentEvent(
        event="trouble", data={"message": tr("the job store does not answer; it is asked again and again")}
    )


@functools.lru_cache(maxsize=1000)
def _written(shown: Shown) -> str:
    return answer(shown).model_dump_json()


@functools.lru_cache(maxsize=4)
def _written_status(status: Status, is_in_charge: bool) -> str:
    return StatusAnswer(
        model=status.model,
        loading=status.loading,
        queued=status.queued,
        running=status.running,
        waiting_limit=status.waiting_limit,
        draining=status.is_draining,
        disk_free_bytes=status.disk_free_bytes,
        workers=_workers(status.workers, is_in_charge),
    ).model_dump_json()


def _checked(number: str) -> str:
    """An id that may exist. Raises `UnknownJob`."""
    if not IDS.fullmatch(number):
        raise UnknownJob(number)
    return number


def _given(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _model(desk: Desk, spec: ModelSpec, survey: Survey) -> ModelAnswer:
    recommended = survey.recommended(spec)
    return ModelAnswer(
        name=spec.name,
        title=spec.titles[spoken()],
        takes_prompt=spec.takes_prompt,
        is_default=spec.name == desk.model,
        recommended=recommended,
        presets={each.title: _estimate(each) for each in desk.presets(spec, survey)},
        sizes={each.title: _estimate(each) for each in desk.sizes(spec, spec.preset(recommended), survey)},
        limits=_ranges(spec.limits.spans, spec.limits.multiple),
        advice=_ranges(spec.advice, spec.limits.multiple),
    )


def _ranges(spans: Mapping[str, Span], multiple: int) -> dict[str, RangeAnswer]:
    """The sides are multiples of a number, guidance is any, and all others are whole."""
    found = {}
    for name, (least, most) in spans.items():
        step = multiple if name in ("width", "height") else 0 if name == "guidance" else 1
        found[name] = RangeAnswer(least=max(least, step), most=most, multiple=step)
    return found


def _estimate(choice: Choice) -> EstimateAnswer:
    fit = choice.fit
    return EstimateAnswer(
        settings=Settings(**vars(choice.preset)),
        fits=not isinstance(fit, Refusal),
        rung=fit.rung if isinstance(fit, Fit) else "",
        needed_bytes=fit.needed_bytes if fit else None,
        seconds=choice.seconds,
        message=fit.message if isinstance(fit, Refusal) else "",
        brief=fit.brief if isinstance(fit, Refusal) else "",
    )


def _workers(found: Sequence[WorkerStatus], is_in_charge: bool) -> list[WorkerAnswer]:
    """For who is not in charge, without what tells of the machine and of other programs on it."""
    if is_in_charge:
        return [_worker(each) for each in found]
    return [_worker(replace(each, name=str(number), reason="")) for number, each in enumerate(found, 1)]


def _worker(status: WorkerStatus) -> WorkerAnswer:
    return WorkerAnswer(
        name=status.name,
        state=status.state,
        model=status.model,
        models=list(status.models),
        device=status.device,
        dtype=status.dtype,
        total_bytes=status.space.total_bytes if status.space else 0,
        free_bytes=status.space.free_bytes if status.space else 0,
        held_bytes=status.held_bytes,
        reason=status.reason,
        speed=status.speed,
        speed_of=status.speed_of,
    )


def _file(desk: Desk, key: str, kind: str, name: str, size: int) -> Response:
    """From a folder with ranges, as players ask for them; from a bucket all of it, piece by piece."""
    file = desk.media.file(key)
    if file is not None:
        if not file.exists():
            raise MediaGone(key)
        return FileResponse(file, media_type=kind, filename=name)
    headers = {"content-disposition": f'attachment; filename="{name}"', "content-length": str(size)}
    return StreamingResponse(desk.media.parts(key), media_type=kind, headers=headers)


async def _told(request: Request, error: Exception) -> Response:
    """An error of ours, in the words that it has."""
    assert isinstance(error, JingxiangError)
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    headers = {}
    if status in (429, 503):
        wait_s = getattr(error, "wait_s", None)
        headers["Retry-After"] = str(RETRY_S if wait_s is None else max(1, math.ceil(wait_s)))
    return JSONResponse({"error": error.message, "hints": list(error.hints)}, status, headers)


async def _malformed(request: Request, error: Exception) -> Response:
    """What does not even have the form of a request: the first thing that is wrong with it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"error": f"{where}: {first['msg']}", "hints": []}, 400)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "hints": []}, error.status_code, error.headers)
