"""The first page: a picture, a prompt, a button, progress, the video."""

from __future__ import annotations

import html
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from app import generation, picture
from app.engine import Engine
from app.generation import Order
from app.texts import FOLDER, speaking, tr
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.language import catalog
from jingxiang.models import ModelSpec

WAITING_JOBS = 5
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


@dataclass(frozen=True)
class Page:
    """The page as an ASGI application, and what gradio knows of it."""

    application: FastAPI
    blocks: gr.Blocks

    def hurry(self) -> None:
        """Let those who wait in the queue, and who come now, go on at once: a draining engine has an answer for each.

        Gradio has no public way to do that; see `Queue.create_event_queue_for_fn` in its queueing.py.
        """
        for function in self.blocks.fns.values():
            function.concurrency_limit = None
        for queue in self.blocks._queue.event_queue_per_concurrency_id.values():
            queue.concurrency_limit = None


def build(engine: Engine, outputs: Path) -> Page:
    """The page, its files below `outputs`."""
    outputs.mkdir(parents=True, exist_ok=True)
    texts = catalog(FOLDER) | _model_texts(engine.spec)
    i18n = gr.I18n(en={text: text for text in texts}, zh=texts, **{"zh-CN": texts})
    blocks = _blocks(engine, outputs, i18n)
    application = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        application, blocks, path="/", i18n=i18n, theme=gr.themes.Default(font=FONTS), allowed_paths=[str(outputs)],
        max_file_size=picture.MAX_BYTES, show_error=True, footer_links=[], ssr_mode=False, enable_monitoring=False,
    )  # fmt: skip
    return Page(application, blocks)


def _model_texts(spec: ModelSpec) -> dict[str, str]:
    """The model's own texts, which come from its table."""
    found = {spec.titles["en"]: spec.titles["zh"], spec.notices["en"]: spec.notices["zh"]}
    return {english: chinese for english, chinese in found.items() if english}


def _blocks(engine: Engine, outputs: Path, i18n: Any) -> gr.Blocks:
    spec = engine.spec

    async def make(
        image: str | None,
        prompt: str,
        preset: str,
        seed: str,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008 (how gradio finds it)
    ) -> AsyncIterator[tuple[str | None, str]]:
        """Progress while it runs, then the video and the settings that made it."""
        language = _language(request)
        try:
            with speaking(language):
                order = _order(spec, image, prompt, preset, seed, outputs)
            yield None, ""
            progress(0, desc=tr("waiting for the model", language=language))
            async for done, of in engine.make(order, lambda text: _warn(text, language)):
                progress((done, of), desc=tr("drawing", language=language), unit=tr("steps", language=language))
        except JingxiangError as error:
            title = tr("Error", language=language)
            raise gr.Error(error.message, duration=ERROR_S, title=title, print_exception=False) from error
        yield str(order.output), json.dumps(order.settings(), ensure_ascii=False, indent=2)

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
                choices = [(i18n(PRESET_TITLES[name]), name) for name in spec.presets]
                preset = gr.Radio(choices, value="standard", label=i18n("Quality"), elem_id="preset")
                seed = gr.Textbox(label=i18n("Seed (empty: random)"), max_lines=1, elem_id="seed")
                button = gr.Button(i18n("Generate"), variant="primary", elem_id="generate")
            with gr.Column():
                video = gr.Video(label=i18n("Video"), autoplay=True, loop=True, elem_id="video")
                settings = gr.Code(label=i18n("Made with"), language="json", elem_id="settings")
        inputs, outcomes = [image, prompt, preset, seed], [video, settings]
        button.click(make, inputs, outcomes, concurrency_limit=1, show_progress_on=[video], api_name="generate")
    blocks.queue(max_size=WAITING_JOBS)
    return blocks


def _order(spec: ModelSpec, image: str | None, prompt: str, preset: str, seed: str, outputs: Path) -> Order:
    """A checked order from what was put into the form."""
    if image is None:
        raise UsageError(tr("choose a picture first"))
    typed = seed.strip()  # a text, because a number field cannot be empty: gradio makes nothing 0
    if typed and not typed.isdigit():
        raise UsageError(tr("the seed must be a whole number, not '{seed}'", seed=typed))
    output = outputs / (time.strftime("%Y%m%d-%H%M%S") + f"-{os.urandom(3).hex()}.mp4")
    number = int(typed) if typed else None
    return generation.order(spec, image=Path(image), prompt=prompt, preset=preset, seed=number, output=output)


def _warn(unread: str, language: str) -> None:
    """Show what of a prompt was too long for the model."""
    gr.Warning(html.escape(generation.unread_text(unread, language)), title=tr("Note", language=language))


def _language(request: gr.Request) -> str:
    """The browser's first choice; gradio translates labels by itself, but not what the server sends later."""
    return "zh" if request.headers.get("accept-language", "").startswith("zh") else "en"
