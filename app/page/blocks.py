"""The page as Gradio's blocks: which fields there are, and what happens when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.examples import Example
from app.generation import MOST_LETTERS
from app.page.form import CUSTOM, FAST, Form
from jingxiang.models import Catalog
from jingxiang.presets import STANDARD

FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
# Gradio's own are too pale for small print: at least 4.5 to 1 is asked for (WCAG 2.2, 1.4.3).
COLOURS = {
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_800",
    "button_primary_text_color": "white",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "block_label_text_color": "*neutral_700",
    "error_text_color": "#b91c1c",
    "error_text_color_dark": "#fca5a5",
}
SECRET = "jingxiang"  # noqa: S105 (Gradio wants one for what a browser keeps; there is nothing secret in it)
FREE_S = 0.05
NOTHING = {"legend": "", "options": []}
# Loaded by the element that it draws: see static/.
MOUNT = (
    "import(new URL('page/{name}.js', document.baseURI))"
    ".then((part) => part.default({{ element, props, trigger, watch }}))"
)
QUIET: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
# What goes wrong is shown only where it went through Gradio's queue, which lets everybody through: jobs have their own.
ASKED: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}


def _forgiving(gallery: gr.Gallery) -> None:
    """A picture of it may be gone from the disk: that must not be the end of everything that the form does."""
    moved = gallery.async_move_resource_to_block_cache

    async def moved_if_there(path: str | Path | None) -> str | None:
        try:
            found: str | None = await moved(path)
        except FileNotFoundError:
            return str(path)
        return found

    gallery.async_move_resource_to_block_cache = moved_if_there


def theme() -> gr.themes.Base:
    return gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]).set(**COLOURS)


def blocks(form: Form, catalog: Catalog, examples: Sequence[Example], i18n: Any) -> gr.Blocks:
    """`i18n` marks texts that the browser translates; their Chinese is in `app/zh.json`.

    The fields take here what any model takes: what the page was told since is forgotten when the server is restarted.
    """
    limits = [spec.limits for spec in catalog.models.values()]
    fps_least, guidance_least = min(each.fps[0] for each in limits), min(each.guidance[0] for each in limits)
    fps_most, guidance_most = max(each.fps[1] for each in limits), max(each.guidance[1] for each in limits)
    with gr.Blocks(title="jingxiang", analytics_enabled=False) as page:
        draft = gr.BrowserState(storage_key="jingxiang-draft", secret=SECRET)
        _drawn("header")
        with gr.Row():
            with gr.Column(min_width=320, scale=2):
                pictures = gr.Gallery(
                    type="filepath", file_types=["image", ".mp4"], sources=["upload", "clipboard"], interactive=True,
                    label=i18n("Pictures, or a video made here"), elem_id="pictures", height=240, columns=3,
                    object_fit="contain",
                )  # fmt: skip
                _forgiving(pictures)
                shown = _drawn(
                    "examples",
                    [{"name": each.name, "title": dict(each.titles), "file": each.picture.name} for each in examples],
                )
                prompt = gr.Textbox(label=i18n("Prompt (English)"), lines=2, max_length=MOST_LETTERS, elem_id="prompt")
                hint = gr.HTML(elem_id="hint")
                with gr.Row():
                    with gr.Column(min_width=140):
                        standard = gr.Button(i18n("Standard"), variant="primary", size="lg", elem_id="standard")
                        standard_estimate = gr.HTML(elem_id="standard-estimate")
                    with gr.Column(min_width=140):
                        fast = gr.Button(i18n("Fast preview"), size="lg", elem_id="fast")
                        fast_estimate = gr.HTML(elem_id="fast-estimate")
                offers = _drawn("offers", {"preset": NOTHING, "size": NOTHING})
                with gr.Accordion(i18n("More settings"), open=False, elem_id="settings"):
                    model = gr.Dropdown(list(catalog.models), value=None, label=i18n("Model"), elem_id="model")
                    preset = _drawn("choices", "", elem_id="preset", elem_classes="choices")
                    size = _drawn("choices", "", elem_id="size", elem_classes="choices")
                    with gr.Row():
                        frames = gr.Slider(
                            1, max(each.frames for each in limits), 16, step=1, label=i18n("Frames"), elem_id="frames"
                        )
                        steps = gr.Slider(
                            1, max(each.steps for each in limits), 40, step=1, label=i18n("Steps"), elem_id="steps"
                        )
                    with gr.Row():
                        fps = gr.Slider(fps_least, fps_most, 8, step=1, label=i18n("Frames per second"), elem_id="fps")
                        guidance = gr.Slider(
                            guidance_least, guidance_most, 9, step=0.5, label=i18n("Guidance"), elem_id="guidance"
                        )
                    negative = gr.Textbox(
                        label=i18n("What it should not show (English)"), lines=1, max_length=MOST_LETTERS,
                        elem_id="negative",
                    )  # fmt: skip
                    seed = gr.Textbox(label=i18n("Seed (empty: random)"), max_lines=1, elem_id="seed")
                    custom = gr.Button(i18n("Generate with these settings"), elem_id="custom")
                    custom_estimate = gr.HTML(elem_id="custom-estimate")
            with gr.Column(min_width=320, scale=3):
                jobs = _drawn("jobs")
        with gr.Accordion(i18n("System"), open=False, elem_id="system-panel") as panel:
            _drawn("system")
        with gr.Accordion(i18n("Log summary"), open=False, elem_id="summary") as summary:
            told = gr.Textbox(label=i18n("To be copied into a question"), lines=12, buttons=["copy"], elem_id="log")
            look = gr.Button(i18n("Look"), elem_id="look")

        fields = [model, pictures, prompt, negative, preset, size, frames, steps, fps, guidance, seed]
        estimates = [
            offers, standard, standard_estimate, fast, fast_estimate, custom, custom_estimate,
        ]  # fmt: skip
        opening = [page.load, offers.select]  # the second one where the first found the store away
        gr.on(opening, form.opened, draft, [*fields, *estimates, hint, draft, panel, summary], **QUIET)
        gr.on([preset.input], form.preset_chosen, fields, fields, **QUIET)
        gr.on([model.input], form.model_chosen, fields, fields, **QUIET)
        numbers = [each.change for each in (frames, steps, fps, guidance)]
        gr.on(
            [*numbers, model.change, size.input, size.change, preset.input, offers.submit, pictures.change],
            form.changed, fields, [*estimates, draft], trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        gr.on(
            [prompt.change, negative.change, seed.change],
            form.typed, fields, [hint, draft], trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        pictures.upload(form.dropped, fields, fields, **ASKED)
        reusing = jobs.select(form.reused, None, fields, **ASKED)
        reusing.success(None, js="() => document.querySelector('#pictures').scrollIntoView({ block: 'center' })")
        shown.select(form.exemplified, None, [pictures, prompt], **ASKED)
        for button, name in ((standard, STANDARD), (fast, FAST), (custom, CUSTOM)):
            handing = button.click(form.handed_in(name), fields, pictures, **ASKED)
            handing.success(None, js="() => document.querySelector('#jobs .bar').scrollIntoView({ block: 'nearest' })")
        look.click(form.summarized, None, told, **ASKED)
    page.queue(max_size=None)
    # It asks itself a thousand times a second whether there is something to do: 4 % of a core, with nobody there.
    page._queue.sleep_when_free = FREE_S
    page._queue.progress_update_sleep_when_free = FREE_S
    return page


def _drawn(name: str, value: Any = None, *, elem_id: str = "", elem_classes: str = "") -> gr.HTML:
    """An element that one of our scripts draws."""
    return gr.HTML(
        value, html_template="", js_on_load=MOUNT.format(name=name), elem_id=elem_id or name,
        elem_classes=elem_classes or None, apply_default_css=False,
    )  # fmt: skip
