"""What surrounds Gradio's page: our scripts and styles, the language, and the folder that a proxy shows us in.

Gradio takes its language from the browser alone, and puts what it is given for the head there only when it has already
done so. Hence its page is changed on the way out: where it begins, the browser is made to say the language that
whoever looks has chosen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import examples
from app.access import NOBODY_ELSE
from app.memory import rung_texts
from app.page.words import STATIC, words
from app.texts import asked, speaking
from jingxiang.models import Catalog

FOLDER = "/page"
BASE = '<base href="./" />'  # in Gradio's page; all our addresses are relative to it
MANIFEST = '<link rel="manifest" href="/manifest.json" />'  # which is not there
CONFIG, END = "<script>window.gradio_config = ", "</script>"
ROOTED = re.compile(r'const root = "[^"]*";')  # a script of Gradio's page asks for another one there
LOCALES = {"en": "en", "zh": "zh-CN"}
HEAD = """<link rel="icon" href="page/icon.svg">
<link rel="stylesheet" href="page/page.css">
<link rel="modulepreload" href="page/jobs.js">
<script type="application/json" id="jingxiang">{said}</script>
<script>
for (const [name, value] of [["language", "{locale}"], ["languages", ["{locale}"]]])
  Object.defineProperty(navigator, name, {{ get: () => value }});
</script>"""

# Where the page is, only the browser knows for certain.
ROOT = """<script>
window.gradio_config.root = new URL(".", document.baseURI).href.replace(/\\/$/, "");
</script>"""


@dataclass(frozen=True)
class Shell:
    """ASGI: Gradio's `page` with what is ours."""

    page: ASGIApp
    catalog: Catalog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.page(scope, receive, send)
            return
        scope = _prefixed(scope)
        if scope["path"].startswith(f"{FOLDER}/"):
            await _files({**scope, "root_path": ""}, receive, _Revalidated(send))
        elif scope["path"] == "/":
            await self.page(scope, receive, _Changed(send, self._changed(Request(scope))))
        else:
            await self.page(scope, receive, send)

    def _changed(self, request: Request) -> Callable[[bytes], bytes]:
        language, user = asked(request.headers), request.scope.get("user", NOBODY_ELSE)
        models = {
            spec.name: {"title": spec.titles[language], "notice": spec.notices[language]}
            for spec in self.catalog.models.values()
        }
        with speaking(language):
            rungs = rung_texts()
        told = {"language": language, "texts": words(language), "user": user.name, "models": models, "rungs": rungs}
        said = json.dumps(told, ensure_ascii=False).replace("<", "\\u003c")
        head = HEAD.format(said=said, locale=LOCALES[language])

        def changed(body: bytes) -> bytes:
            text = body.decode().replace(BASE, f"{BASE}\n{head}", 1)
            text = text.replace(MANIFEST, "", 1)
            text = ROOTED.sub("const root = window.gradio_config.root;", text, count=1)
            configured = text.index(END, text.index(CONFIG)) + len(END)
            text = text[:configured] + ROOT + text[configured:]
            return text.replace('lang="en"', f'lang="{LOCALES[language]}"', 1).encode()

        return changed


def _prefixed(scope: Scope) -> Scope:
    """A proxy may show us in a folder of its site, which Gradio must know, for it gives whole addresses of its files. A
    proxy that says which is believed; else the page that asks is in it.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    said = headers.get(b"x-forwarded-prefix", "")
    referer = urlsplit(headers.get(b"referer", ""))
    if not said and scope["path"].startswith("/gradio_api/") and referer.netloc == headers.get(b"host"):
        said = referer.path.rpartition("/")[0]
    said = said.rstrip("/")
    return {**scope, "root_path": said} if said.startswith("/") else scope


_files = Starlette(
    routes=[
        Mount(f"{FOLDER}/examples", StaticFiles(directory=examples.FILE.with_suffix(""))),
        Mount(FOLDER, StaticFiles(directory=STATIC)),
    ]
)


@dataclass(frozen=True)
class _Revalidated:
    """A file that a browser asks for anew each time, and does not get again unless it is another."""

    send: Send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"cache-control", b"no-cache")]
        await self.send(message)


class _Changed:
    """Send a page with another body, once all of it is there; other answers as they are."""

    def __init__(self, send: Send, change: Callable[[bytes], bytes]) -> None:
        self._send = send
        self._change = change
        self._start: Message = {}
        self._body = bytearray()
        self._is_page = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            self._is_page = message["status"] == 200 and any(
                name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"]
            )
        if not self._is_page:
            await self._send(message)
        elif message["type"] == "http.response.body":
            await self._add(message)

    async def _add(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._change(bytes(self._body))
        kept = [each for each in self._start["headers"] if each[0].lower() != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*kept, length, (b"cache-control", b"no-store")]})
        await self._send({"type": "http.response.body", "body": body})
