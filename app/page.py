"""The first page: a picture, a prompt, a button, progress, the video."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from app import generation, picture, summary
from app.access import Access
from app.desk import Desk, Kept, Wanted
from app.jobs.base import Job
from app.memory import Fit
from app.texts import FOLDER, asked, speaking, tr
from app.watch import Watch
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.language import catalog
from jingxiang.models import FULL, ModelSpec

FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
KEEP_S = 24 * 3600
ERROR_S = 30
PRESET_TITLES = {
    "standard": "Standard",
    "fast": "Fast preview",
    "12gb": "For cards with 12 GB",
    "24gb": "For cards with 24 GB",
    "40gb": "For cards with 40 GB and more",
}


def build(desk: Desk, watch: Watch, access: Access, outputs: Path) -> FastAPI:
    """The page as an application, its files below `outputs`."""
    texts = catalog(FOLDER) | _model_texts(desk.catalog.model(desk.model))
    i18n = gr.I18n(en={text: text for text in texts}, zh=texts, **{"zh-CN": texts})
    application = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        application, _blocks(desk, watch, access, outputs, i18n), path="/", i18n=i18n,
        theme=gr.themes.Default(font=FONTS), max_file_size=picture.MAX_BYTES,
        show_error=True, footer_links=[], ssr_mode=False, enable_monitoring=False,
        auth_dependency=None if access.is_open else lambda request: request.scope["user"].name,  # of `app.login`
    )  # fmt: skip
    return application


def _model_texts(spec: ModelSpec) -> dict[str, str]:
    """The model's own texts, which come from its table."""
    found = {spec.titles["en"]: spec.titles["zh"], spec.notices["en"]: spec.notices["zh"]}
    return {english: chinese for english, chinese in found.items() if english}


def _blocks(desk: Desk, watch: Watch, access: Access, outputs: Path, i18n: Any) -> gr.Blocks:
    spec = desk.catalog.model(desk.model)

    async def make(
        image: str | None,
        prompt: str,
        preset: str,
        seed: str,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008 (how gradio finds it)
    ) -> AsyncIterator[tuple[str | None, str]]:
        """Progress while it runs, then the video and the settings that made it. The job goes on if nobody looks."""
        with speaking(_language(request)):
            try:
                wanted = _wanted(image, prompt, preset, seed)
                job, _ = await asyncio.to_thread(desk.submit, wanted, owner=access.user(request.username or "").name)
                await asyncio.to_thread(_note_rung, desk, job)
                yield None, ""
                async for changed in watch.follow(job.id):
                    job = changed
                    _show(progress, *await asyncio.to_thread(desk.outlook, job), job)
                yield await asyncio.to_thread(_result, desk, job, outputs), _settings(job)
            except JingxiangError as error:
                raise gr.Error(error.message, duration=ERROR_S, title=tr("Error"), print_exception=False) from error

    async def summarize(request: gr.Request) -> str:
        with speaking(_language(request)):
            if not access.user(request.username or "").is_in_charge:
                return tr("only for who is in charge")
            return await asyncio.to_thread(summary.text, outputs, _language(request))

    with gr.Blocks(title="jingxiang", analytics_enabled=False, delete_cache=(3600, KEEP_S)) as blocks:
        gr.Markdown("# jingxiang 镜像")
        gr.Markdown(i18n(spec.titles["en"]), elem_id="model")
        if spec.notices["en"]:
            gr.Markdown(i18n(spec.notices["en"]), elem_id="notice")
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    type="filepath", label=i18n("Picture"), sources=["upload", "clipboard"], elem_id="picture"
                )
                prompt = gr.Textbox(
                    label=i18n("Prompt (English)"), lines=2, elem_id="prompt", visible=spec.takes_prompt
                )
                choices = [(i18n(PRESET_TITLES.get(name, name)), name) for name in spec.presets]
                preset = gr.Radio(choices, value="standard", label=i18n("Quality"), elem_id="preset")
                seed = gr.Textbox(label=i18n("Seed (empty: random)"), max_lines=1, elem_id="seed")
                button = gr.Button(i18n("Generate"), variant="primary", elem_id="generate")
            with gr.Column():
                video = gr.Video(label=i18n("Video"), autoplay=True, loop=True, elem_id="video")
                settings = gr.Code(label=i18n("Made with"), language="json", elem_id="settings")
        with gr.Accordion(i18n("Log summary"), open=False, elem_id="summary"):
            told = gr.Textbox(label=i18n("To be copied into a question"), lines=12, buttons=["copy"], elem_id="log")
            look = gr.Button(i18n("Look"), elem_id="look")
        look.click(summarize, None, told, api_visibility="private")
        inputs, outcomes = [image, prompt, preset, seed], [video, settings]
        # The job store is the queue: gradio's own lets everybody through.
        button.click(make, inputs, outcomes, concurrency_limit=None, show_progress_on=[video], api_name="generate")
    blocks.queue(max_size=None)
    return blocks


def _wanted(image: str | None, prompt: str, preset: str, seed: str) -> Wanted:
    """What was put into the form."""
    if image is None:
        raise UsageError(tr("choose a picture first"))
    typed = seed.strip()  # a text, because a number field cannot be empty: gradio makes nothing 0
    if typed and not typed.isdigit():
        raise UsageError(tr("the seed must be a whole number, not '{seed}'", seed=typed))
    file = Path(image)
    return Wanted(file.read_bytes(), file.name, prompt, preset=preset, seed=int(typed) if typed else None)


def _note_rung(desk: Desk, job: Job) -> None:
    """Say that memory has to be saved for it."""
    fit = desk.fit(desk.catalog.model(job.order.model), job.order.preset)
    if isinstance(fit, Fit) and fit.rung != FULL:
        gr.Info(
            tr("little memory is free: it is made in less, and takes longer ({rung})", rung=fit.rung), title=tr("Note")
        )


def _show(progress: Any, position: int, wait_s: float | None, job: Job) -> None:
    if job.state == "queued":
        text = tr("waiting; {count} come first", count=position) if position else tr("waiting for the model")
        if wait_s is not None:
            text += tr("; about {seconds:.0f} s", seconds=wait_s)
        progress(0, desc=text)
    else:
        progress((job.step, job.steps), desc=tr("drawing"), unit=tr("steps"))


def _result(desk: Desk, job: Job, outputs: Path) -> str:
    """The video's file, for gradio to send. Raises `JingxiangError` if there is none."""
    if job.outcome is None:
        if job.state == "queued":
            raise Kept
        raise JingxiangError(job.reason or tr("the job was cancelled"))
    if job.outcome.unread:
        gr.Warning(html.escape(generation.unread_text(job.outcome.unread)), title=tr("Note"))
    return str(_shown(desk, job.outcome.video, f"{job.id}.mp4", outputs / ".gradio" / "shown"))


def _shown(desk: Desk, key: str, name: str, folder: Path) -> Path:
    """The video where gradio may send it from: by a path that nobody else can guess, for a day."""
    for old in folder.glob("*"):
        if time.time() - old.stat().st_mtime > KEEP_S:
            shutil.rmtree(old, ignore_errors=True)
    place = folder / secrets.token_hex(16) / name
    place.parent.mkdir(parents=True)
    file = desk.media.file(key)
    if file is not None:
        with contextlib.suppress(OSError):  # on another disk
            os.link(file, place)
    if not place.exists():
        place.write_bytes(desk.media.get(key))
    return place


def _settings(job: Job) -> str:
    return json.dumps(job.order.settings(), ensure_ascii=False, indent=2)


def _language(request: gr.Request) -> str:
    """Gradio translates labels by itself, but not what the server sends later."""
    return asked(request.headers)
