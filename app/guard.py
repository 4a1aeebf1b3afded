"""What other sites' pages must not do with the browser of somebody who may use the app."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.texts import asked, speaking, tr


class SameSite:
    """ASGI: refuses requests that the page of another site sends, which would carry the logins that the browser knows.

    `hosts`, if any, are the only names that the app may be called by: a name that leads to loopback only since the page
    was loaded, so that the browser takes us for that site, is not among them.
    """

    def __init__(self, application: ASGIApp, hosts: Sequence[str]) -> None:
        self._application = application
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_ours(dict(scope["headers"])):
            with speaking(asked(Headers(scope=scope))):
                answer = JSONResponse({"error": tr("requests of other sites are not taken"), "hints": []}, 403)
            await answer(scope, receive, send)
            return
        await self._application(scope, receive, send)

    def _is_ours(self, headers: dict[bytes, bytes]) -> bool:
        named = {headers.get(name, b"").decode("latin-1").lower() for name in (b"host", b"x-forwarded-host")} - {""}
        if self._hosts and not all(_without_port(name) in self._hosts for name in named):
            return False
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        return not origin or urlsplit(origin).netloc in named


def _without_port(name: str) -> str:
    host, colon, port = name.rpartition(":")
    return host if colon and port.isdigit() else name
