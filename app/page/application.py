"""The page as an application: Gradio mounted, and our shell around it."""

from __future__ import annotations

import os
from pathlib import Path

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI, Request
from gradio import route_utils
from starlette.types import ASGIApp

from app import examples, picture
from app.access import Access
from app.desk import Desk
from app.page.blocks import blocks, theme
from app.page.form import Form
from app.page.shell import Shell
from app.texts import FOLDER
from jingxiang.language import catalog


def _root(request: Request, route_path: str, root_path: str | None) -> str:
    """Where the page is as the browser sees it, see `Shell`; without a host, of which only the browser can be certain.

    Gradio's own takes one folder for all who ask, and another host for each way in which they may come.
    """
    return str(request.scope.get("root_path", ""))


route_utils.get_root_url = _root


def build(desk: Desk, access: Access, outputs: Path) -> tuple[FastAPI, ASGIApp]:
    """Gradio's application, whose lifespan somebody has to see to, and the page that is to be asked."""
    texts = catalog(FOLDER)
    i18n = gr.I18n(en={text: text for text in texts}, zh=texts, **{"zh-CN": texts})
    shown = examples.load()
    form = Form(desk, access, outputs, Path(os.environ["GRADIO_TEMP_DIR"]), shown)
    application = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        application, blocks(form, desk.catalog, shown, i18n), path="/", i18n=i18n, theme=theme(),
        max_file_size=picture.MAX_BYTES,
        show_error=True, footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False,
        auth_dependency=None if access.is_open else lambda request: request.scope["user"].name,  # of `app.login`
    )  # fmt: skip
    return application, Shell(application, desk.catalog)
