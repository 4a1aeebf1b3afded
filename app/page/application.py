"""The page as an application: Gradio mounted, and our shell around it."""

from __future__ import annotations

import os
from pathlib import Path

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from app import examples, picture
from app.access import Access
from app.desk import Desk
from app.page.blocks import blocks, theme
from app.page.form import Form
from app.page.shell import Shell
from app.texts import FOLDER
from jingxiang.language import catalog


def build(desk: Desk, access: Access, outputs: Path) -> tuple[FastAPI, ASGIApp]:
    """Gradio's application, whose lifespan somebody has to see to, and the page that is to be asked."""
    texts = catalog(FOLDER)
    i18n = gr.I18n(en={text: text for text in texts}, zh=texts, **{"zh-CN": texts})
    shown = examples.load()
    form = Form(desk, access, outputs, Path(os.environ["GRADIO_TEMP_DIR"]), shown)
    application = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        application, blocks(form, shown, i18n), path="/", i18n=i18n, theme=theme(), max_file_size=picture.MAX_BYTES,
        show_error=True, footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False,
        auth_dependency=None if access.is_open else lambda request: request.scope["user"].name,  # of `app.login`
    )  # fmt: skip
    return application, Shell(application, desk.catalog)
