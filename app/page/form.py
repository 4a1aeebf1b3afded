"""What the page's form does: fill it in, say what fits, hand it in. All answers are Gradio's updates of its fields."""

from __future__ import annotations

import html
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from app import generation, provenance, summary
from app.access import Access, User
from app.desk import Choice, Desk, Wanted
from app.examples import Example
from app.media import MediaFailed, picture_key
from app.memory import Fit, Refusal, rung_texts
from app.survey import Survey
from app.texts import asked, speaking, spoken, tr
from app.tokens import is_foreign
from jingxiang import console
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.models import FULL, ModelSpec, Preset
from jingxiang.presets import STANDARD
from jingxiang.weights import SHA256

FAST = "fast"
CUSTOM = ""  # the settings of the form
ERROR_S = 30
SEED_DIGITS = 20
KEEP_S = 2 * 24 * 3600  # of pictures that were put into forms, since they were used last
Gallery = Sequence[tuple[str, str | None]] | None


def preset_titles() -> dict[str, str]:
    return {
        STANDARD: tr("Standard"),
        FAST: tr("Fast preview"),
        "12gb": tr("For cards with 12 GB"),
        "24gb": tr("For cards with 24 GB"),
        "40gb": tr("For cards with 40 GB and more"),
    }


@dataclass(frozen=True)
class Filled:
    """The fields of the form, in the order in which Gradio gives them."""

    model: str
    pictures: Gallery
    prompt: str
    negative: str
    preset: str
    size: str
    frames: float
    steps: float
    fps: float
    guidance: float
    seed: str

    @property
    def is_there(self) -> bool:
        """Whether the page has it already: Gradio tells of changes in the middle of `Form.opened`."""
        return bool(self.model and self.preset and self.size)

    def settings(self, spec: ModelSpec) -> Preset:
        """Raises `UsageError` for what the model cannot make."""
        width, height = (int(side) for side in self.size.split("x"))
        changes = {
            "width": width, "height": height, "frames": int(self.frames), "steps": int(self.steps),
            "fps": int(self.fps), "guidance": float(self.guidance),
        }  # fmt: skip
        return generation.settings(spec, self.preset if self.preset in spec.presets else STANDARD, changes)


class Form:
    """The handlers of the form's events. `folder`: where Gradio may send files from."""

    def __init__(self, desk: Desk, access: Access, outputs: Path, folder: Path, examples: Sequence[Example]) -> None:
        self._desk = desk
        self._access = access
        self._outputs = outputs
        self._folder = folder
        self._examples = {each.name: each for each in examples}

    # Events

    def opened(self, draft: Any, request: gr.Request) -> list[Any]:
        """A page has been opened: what was in its form when it was left is there again."""
        with self._answering(request) as user:
            self._sweep()
            is_own = isinstance(draft, dict) and draft.get("user") == user.name  # else somebody else used this browser
            filled = self._restored(draft if is_own else {})
            return [
                *self._fields(filled), *self._estimates(filled), self._hint(filled), self._draft(filled, user),
                *[gr.update(visible=user.is_in_charge)] * 2,
            ]  # fmt: skip

    def model_chosen(self, request: gr.Request, *values: Any) -> list[Any]:
        """Other settings suit another model."""
        with self._answering(request):
            filled = Filled(*values)
            spec = self._desk.catalog.model(filled.model)
            name = self._desk.recommended(spec)
            return self._settings(self._with(filled, name, spec.preset(name)))

    def preset_chosen(self, request: gr.Request, *values: Any) -> list[Any]:
        with self._answering(request):
            filled = Filled(*values)
            spec = self._desk.catalog.model(filled.model)
            return self._settings(self._with(filled, filled.preset, spec.preset(filled.preset)))

    def changed(self, request: gr.Request, *values: Any) -> list[Any]:
        """Settings, or what is free, are others: what fits now, and how long it takes."""
        if not Filled(*values).is_there:
            return [gr.skip()] * 8
        with self._answering(request) as user:
            filled = Filled(*values)
            return [*self._estimates(filled), self._draft(filled, user)]

    def typed(self, request: gr.Request, *values: Any) -> list[Any]:
        if not Filled(*values).is_there:
            return [gr.skip()] * 2
        with self._answering(request) as user:
            filled = Filled(*values)
            return [self._hint(filled), self._draft(filled, user)]

    def dropped(self, request: gr.Request, *values: Any) -> list[Any]:
        """Pictures have been put in; a video of ours among them brings back what it was made with."""
        with self._answering(request) as user:
            filled = Filled(*values)
            paths = [Path(path) for path, _ in filled.pictures or ()]
            videos = [path for path in paths if path.suffix.lower() == ".mp4"]
            if not videos:  # what is typed meanwhile stays
                return [gr.skip()] * len(values)
            made = provenance.read(videos[-1])
            pictures = [path for path in paths if path not in videos]
            if made is None:
                _warn(tr("that video says nothing of how it was made here"))
                return self._fields(replace(filled, pictures=_gallery(pictures)))
            if made.model not in self._models():
                raise UsageError(tr("the video was made with {model}, which is not here", model=made.model))
            source = self._source(made.picture, user)
            if source is None and not pictures:
                _warn(tr("the picture that it was made from is not here: add it"))
            _tell(tr("the video's settings are in the form, with its seed {seed}", seed=made.seed))
            settings = {**made.settings, "seed": made.seed}
            return self._fields(self._of(made.model, settings, [source] if source else pictures))

    def reused(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        """The settings of a job, its picture and its seed."""
        with self._answering(request) as user:
            job = self._desk.store.job(str(event.id), _owner(user))
            if job.order.model not in self._models():
                raise UsageError(tr("the video was made with {model}, which is not here", model=job.order.model))
            source = self._source(job.order.picture, user)
            if source is None:
                _warn(tr("the picture that it was made from is not here: add it"))
            return self._fields(self._of(job.order.model, job.order.settings(), [source] if source else []))

    def exemplified(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        """The picture and the prompt of an example."""
        with self._answering(request):
            example = self._examples[str(event.name)]
            return [_gallery([self._placed(example.picture.read_bytes(), example.picture.name)]), example.prompt]

    def summarized(self, request: gr.Request) -> str:
        with self._answering(request) as user:
            if not user.is_in_charge:
                return tr("only for who is in charge")
            return summary.text(self._outputs, asked(request.headers))

    def handed_in(self, name: str) -> Callable[..., Any]:
        """Hand in every picture, with the preset of that name or, for `CUSTOM`, with the settings of the form."""

        def hand_in(request: gr.Request, *values: Any) -> Any:
            with self._answering(request) as user:
                filled = Filled(*values)
                left = self._hand_in(filled, name, user)
                return _gallery(left) if left else gr.skip()  # what was put in meanwhile stays

        return hand_in

    # What they consist of

    def _hand_in(self, filled: Filled, name: str, user: User) -> list[Path]:
        """Gives the pictures that could not be handed in, although others were."""
        if not filled.is_there:
            raise UsageError(tr("the page is not ready: load it again"))
        spec = self._desk.catalog.model(filled.model)
        paths = [Path(path) for path, _ in filled.pictures or ()]
        if not paths:
            raise UsageError(tr("choose a picture first"))
        preset = name or (filled.preset if filled.preset in spec.presets else STANDARD)
        changes = asdict(filled.settings(spec)) if name == CUSTOM else {}
        typed = filled.seed.strip()  # a text, because a number field cannot be empty: gradio makes nothing 0
        if typed and not (typed.isdecimal() and len(typed) <= SEED_DIGITS):
            raise UsageError(tr("the seed must be a whole number, not '{seed}'", seed=typed))
        wanted = Wanted(
            b"", "", filled.prompt, spec.name, preset, int(typed) if typed else None, changes, negative=filled.negative
        )
        for done, path in enumerate(paths):
            try:
                job, _ = self._desk.submit(self._pictured(wanted, path, user), owner=user.name)
            except JingxiangError as error:
                if not done:
                    raise
                _warn(tr("{done} of {all} are handed in, the others stay here: {reason}", done=done,
                         all=len(paths), reason=error.message))  # fmt: skip
                return paths[done:]
            if not done:
                self._note_rung(spec, job.order.preset)
        return []

    def _pictured(self, wanted: Wanted, path: Path, user: User) -> Wanted:
        """One of our own pictures, which `_source` put there, goes by the hash of the file that it was made from."""
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise UsageError(tr("the picture is not here any more: add it again")) from error
        is_ours = SHA256.fullmatch(path.stem) and self._stored(path.stem, user) == data
        return replace(wanted, picture=path.stem) if is_ours else replace(wanted, image=data, name=path.name)

    def _note_rung(self, spec: ModelSpec, preset: Preset) -> None:
        """Say that memory has to be saved for it."""
        fit = self._desk.fit(spec, preset)
        if isinstance(fit, Fit) and fit.rung != FULL:
            _tell(tr("little memory is free, so it takes longer: it is made {how}", how=rung_texts()[fit.rung]))

    def _models(self) -> list[str]:
        """Those that can be made with here; before any worker has said what it has, the one that is meant."""
        there = {name for worker in self._desk.store.workers() for name in worker.models}
        return [name for name in self._desk.catalog.models if name in there] or [self._desk.model]

    def _fields(self, filled: Filled) -> list[Any]:
        """Updates of all fields, in the order of `Filled`."""
        spec = self._desk.catalog.model(filled.model)
        choices = [(self._desk.catalog.model(name).titles[spoken()], name) for name in self._models()]
        limits = spec.limits
        return [
            gr.update(choices=choices, value=filled.model, visible=len(choices) > 1),
            filled.pictures or None,
            gr.update(value=filled.prompt, visible=spec.takes_prompt),
            gr.update(value=filled.negative, visible=spec.takes_prompt),
            filled.preset,
            filled.size,
            gr.update(value=filled.frames, maximum=limits.frames),
            gr.update(value=filled.steps, maximum=limits.steps),
            gr.update(value=filled.fps, minimum=limits.fps[0], maximum=limits.fps[1]),
            gr.update(value=filled.guidance, minimum=limits.guidance[0], maximum=limits.guidance[1]),
            filled.seed,
        ]

    def _settings(self, filled: Filled) -> list[Any]:
        """The same, but for what may be typed or put in meanwhile."""
        found = self._fields(filled)
        for index, each in enumerate(fields(Filled)):
            if each.name in ("pictures", "seed"):
                found[index] = gr.skip()
            elif each.name in ("prompt", "negative"):
                del found[index]["value"]
        return found

    def _with(self, filled: Filled, name: str, preset: Preset) -> Filled:
        """The form with the settings of a preset."""
        return replace(
            filled, preset=name, size=_size(preset), frames=preset.frames, steps=preset.steps, fps=preset.fps,
            guidance=preset.guidance,
        )  # fmt: skip

    def _of(self, model: str, settings: Mapping[str, Any], pictures: Sequence[Path]) -> Filled:
        """The form as it was for something that was made. Nothing of it is believed but what the model can make."""
        spec = self._desk.catalog.model(model)
        named = settings.get("preset")
        name = named if isinstance(named, str) and named in spec.presets else STANDARD
        known = {
            key: (float if key == "guidance" else int)(settings[key])
            for key in asdict(spec.preset(STANDARD))
            if _is_number(settings.get(key))
        }
        try:
            preset = generation.settings(spec, name, known)
        except UsageError:
            preset = spec.preset(name)
        prompt, negative = (str(settings.get(key, "")) for key in ("prompt", "negative_prompt"))
        empty = Filled(model, _gallery(pictures), prompt, negative, "", "", 0, 0, 0, 0, str(settings.get("seed", "")))
        return self._with(empty, name, preset)

    def _restored(self, draft: Mapping[str, Any]) -> Filled:
        """What a browser has kept: it may be of another version, or of somebody's making."""
        models = self._models()
        model = draft.get("model")
        if model not in models:
            model, draft = self._desk.model if self._desk.model in models else models[0], {}
        kept = draft.get("pictures")
        names = [name for name in kept if isinstance(name, str)] if isinstance(kept, list) else []
        pictures = [path for name in names if (path := self._kept(name)) is not None]
        recommended = self._desk.recommended(self._desk.catalog.model(model))
        return self._of(model, {"preset": recommended, **draft}, pictures)

    def _draft(self, filled: Filled, user: User) -> dict[str, Any]:
        """What a browser is to keep of the form."""
        try:
            settings = asdict(filled.settings(self._desk.catalog.model(filled.model)))
        except UsageError:
            settings = {}
        paths = [Path(path) for path, _ in filled.pictures or ()]
        return {
            "user": user.name, "model": filled.model, "prompt": filled.prompt, "negative_prompt": filled.negative,
            "seed": filled.seed, "preset": filled.preset,
            "pictures": [f"{path.parent.name}/{path.name}" for path in paths], **settings,
        }  # fmt: skip

    def _kept(self, name: str) -> Path | None:
        """A picture that was put into the form before: only from where Gradio keeps them, whatever a browser says."""
        folder, _, file = name.partition("/")
        path = self._folder / folder / file
        is_plain = {folder, file}.isdisjoint({"", ".", ".."}) and "/" not in file
        return path if is_plain and path.is_file() and not path.is_symlink() else None

    # What fits

    def _estimates(self, filled: Filled) -> list[Any]:
        """What presets and sizes there are, and what of them does not fit (see static/offers.js); for each of
        the three buttons whether, how and how long."""
        spec, survey = self._desk.catalog.model(filled.model), self._desk.survey()
        presets = {each.title: each for each in self._desk.presets(spec, survey)}
        try:
            preset = filled.settings(spec)
        except UsageError as error:
            own, preset = _not(error.message), spec.preset(STANDARD)
            is_possible = False
        else:
            choice = Choice("", preset, *survey.estimate(spec, preset))
            own = _estimated(choice, generation.advice(spec, preset))
            is_possible = not isinstance(choice.fit, Refusal)
        found: list[Any] = [{"preset": self._presets(spec, survey), "size": self._sizes(spec, preset, survey)}]
        for name in (STANDARD, FAST):
            choice = presets[name]
            found += [gr.update(interactive=not isinstance(choice.fit, Refusal)), _estimated(choice, ())]
        return [*found, gr.update(interactive=is_possible), own]

    def _presets(self, spec: ModelSpec, survey: Survey) -> dict[str, Any]:
        titles = preset_titles()
        options = [
            {
                "value": each.title, "label": titles.get(each.title, each.title), "reason": _reason(each.fit),
                "detail": f"{_size(each.preset)} · {each.preset.frames}",
            }
            for each in self._desk.presets(spec, survey)
        ]  # fmt: skip
        return {"legend": tr("Start from"), "options": options}

    def _sizes(self, spec: ModelSpec, preset: Preset, survey: Survey) -> dict[str, Any]:
        """The sizes that the model has, and the one that is chosen, if that is another one."""
        options: dict[str, dict[str, Any]] = {
            _size(each.preset): {
                "value": _size(each.preset), "label": each.title, "detail": _size(each.preset),
                "reason": _reason(each.fit), "pixels": each.preset.width * each.preset.height,
            }
            for each in self._desk.sizes(spec, preset, survey)
        }  # fmt: skip
        own = _size(preset)
        if own not in options:
            options[own] = {
                "value": own, "label": own, "detail": "", "reason": _reason(survey.fit(spec, preset)),
                "pixels": preset.width * preset.height,
            }  # fmt: skip
        return {"legend": tr("Size"), "options": sorted(options.values(), key=lambda each: each["pixels"])}

    def _hint(self, filled: Filled) -> str:
        """How much of the prompt the model reads, and what it cannot."""
        spec = self._desk.catalog.model(filled.model)
        if not spec.takes_prompt:
            return ""
        parts = []
        try:
            tokens = self._desk.tokens(spec)
        except JingxiangError as error:  # a damaged file of the model, which its worker says, too
            tokens = None
            parts.append(_not(error.message))
        if tokens is not None:
            count = tokens.count(filled.prompt)
            parts.append(tr("{used} of {most} tokens", used=count.used, most=count.most))
            if count.unread:
                parts.append(_not(generation.unread_text(count.unread)))
        if is_foreign(filled.prompt):
            parts.append(_not(tr("the model understands English only: say it in English")))
        return f'<p class="hint" role="status">{" · ".join(parts)}</p>'

    # Files

    def _source(self, digest: str, user: User) -> Path | None:
        """The picture of that hash, if it is here and one of that user's jobs was made from it."""
        data = self._stored(digest, user)
        return None if data is None else self._placed(data, f"{digest}.png")

    def _stored(self, digest: str, user: User) -> bytes | None:
        if not self._desk.store.uses(digest, _owner(user)):
            return None
        try:
            return self._desk.media.get(picture_key(digest))
        except MediaFailed:
            return None

    def _placed(self, data: bytes, name: str) -> Path:
        """Where Gradio may send it from: by a path that nobody else can guess."""
        place = self._folder / secrets.token_hex(16) / name
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
        return place

    def _sweep(self) -> None:
        """Forget pictures that no form has used for long: Gradio touches those that are."""
        for folder in self._folder.glob("*/"):
            with suppress(OSError):  # somebody else sweeps, too
                if time.time() - max(each.stat().st_mtime for each in (folder, *folder.iterdir())) > KEEP_S:
                    shutil.rmtree(folder)

    @contextmanager
    def _answering(self, request: gr.Request) -> Iterator[User]:
        """Speak the language of whoever asks; what goes wrong is shown as it is said."""
        with speaking(asked(request.headers)):
            try:
                yield self._access.user(request.username or "")
            except JingxiangError as error:
                # Gradio takes what it shows for a moment for HTML.
                text = html.escape(error.message, quote=False)
                raise gr.Error(text, duration=ERROR_S, title=tr("Error"), print_exception=False) from error


def _owner(user: User) -> str | None:
    """Whose jobs somebody may see: None for all."""
    return None if user.is_in_charge else user.name


def _tell(text: str) -> None:
    gr.Info(html.escape(text, quote=False), title=tr("Note"))


def _warn(text: str) -> None:
    gr.Warning(html.escape(text, quote=False), title=tr("Note"))


def _gallery(paths: Sequence[Path]) -> list[tuple[str, str | None]]:
    return [(str(path), None) for path in paths]


def _size(preset: Preset) -> str:
    return f"{preset.width}x{preset.height}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _reason(fit: Fit | Refusal | None) -> str:
    return fit.brief if isinstance(fit, Refusal) else ""


def _not(text: str) -> str:
    return f'<span class="no">{html.escape(text)}</span>'


def _estimated(choice: Choice, advice: Sequence[str]) -> str:
    """Size, time and memory of a choice, or why it does not fit; then what is not wise about it."""
    fit = choice.fit
    if isinstance(fit, Refusal):
        return f'<p class="estimate" role="status">{_not(fit.message)}</p>'
    parts = [_size(choice.preset), tr("{frames} frames", frames=choice.preset.frames)]
    parts.append(
        tr("about {seconds:.0f} s", seconds=max(1.0, choice.seconds))
        if choice.seconds is not None
        else tr("time not known yet")
    )
    if fit is not None:
        parts.append(console.size(fit.needed_bytes))
        if fit.rung != FULL:
            parts.append(rung_texts()[fit.rung])
    told = " · ".join(html.escape(part) for part in parts)
    return f'<p class="estimate" role="status">{"<br>".join([told, *map(html.escape, advice)])}</p>'
