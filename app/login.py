"""The way in: everything that needs a login passes `Gate`, which also has the page to log in on."""

from __future__ import annotations

import base64
import hashlib
import html
import math
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app import cookies, texts
from app.access import Access, Login, User
from app.brake import Brake
from app.sessions import MOST_S, Sessions
from app.texts import asked, speaking, spoken, tr
from jingxiang.language import LANGUAGES

COOKIE = "session"
# What programs read first; it tells nothing about anybody.
OPEN = ("/api/openapi.json",)
YEAR_S = 365 * 24 * 3600
MOST_BYTES = 16 << 10  # of a form with a name and a password
CHALLENGE = {"WWW-Authenticate": 'Basic realm="jingxiang", charset="UTF-8"'}
FRESH = {"Cache-Control": "no-store"}

STYLE = """:root{color-scheme:light dark;background:#fff;color:#111827}
body{font:16px/1.5 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif;margin:0;padding:12vh 16px}
main{max-width:22em;margin:auto}
h1{font-size:24px}
label{display:block;margin-top:16px}
input,button{box-sizing:border-box;width:100%;padding:10px;font:inherit;border-radius:6px}
input{border:1px solid #767676}
button{margin-top:24px;border:0;background:#1d4ed8;color:#fff;cursor:pointer}
a,input,button{outline-offset:2px}
nav{margin-top:24px}
nav a{display:inline-block;padding:4px 8px 4px 0;color:#1d4ed8}
nav a[aria-current]{color:inherit;text-decoration:none}
[role=alert]{margin:16px 0 0;padding:10px;border:1px solid;border-radius:6px;color:#b91c1c}
[role=alert]::first-letter{text-transform:uppercase}
@media(prefers-color-scheme:dark){
:root{background:#111827;color:#f3f4f6}
nav a{color:#93c5fd}
[role=alert]{color:#fca5a5}
}"""
PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8"><title>{title} · jingxiang</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">
<style>{style}</style>
<main><h1>jingxiang 镜像</h1>{alert}
<form method="post" action="login">
<label for="name">{name_label}</label>
<input id="name" name="name" value="{name}" required autocomplete="username" autocapitalize="none" spellcheck="false"{at_name}>
<label for="password">{password_label}</label>
<input id="password" name="password" type="password" required autocomplete="current-password"{at_password}>
<button>{title}</button>
</form>
<nav aria-label="{switch}"><a href="login?language=zh" lang="zh"{is_zh}>中文</a> <a href="login?language=en" lang="en"{is_en}>English</a></nav>
</main></html>"""  # noqa: E501 (HTML)
POLICY = "; ".join([
    "default-src 'none'", "img-src data:",
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
    "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
])  # fmt: skip
# Another `Referrer-Policy` than browsers have anyway would take the origin from what the form sends, see `guard`.
PAGE_HEADERS = {**FRESH, "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}


class _Braked(Exception):
    def __init__(self, wait_s: float) -> None:
        self.message = tr("too many wrong passwords: try again in {seconds} s", seconds=math.ceil(wait_s))
        self.headers = {**FRESH, "Retry-After": str(math.ceil(wait_s))}
        super().__init__(self.message)


class Gate:
    """ASGI: lets nobody through who is not logged in, and tells the application in `scope["user"]` who it is.

    A session in a cookie comes before an Authorization header: that of a browser may be for a proxy before us, and is
    not to be taken for a wrong password then. The cookie is `SameSite=Lax`, so that links to the page that are followed
    from elsewhere find it; what other sites' pages send in the browser's name is refused by `app.guard`. It is of the
    folder that the page is in as the browser sees it, which is why no path is said anywhere here.
    """

    def __init__(self, application: ASGIApp, access: Access, brake: Brake) -> None:
        self._application = application
        self._access = access
        self._sessions = Sessions(access)
        self._brake = brake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nobody here speaks it
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            request = Request(scope, receive)
            with speaking(asked(request.headers)):
                answer = await self._answer(request)
            await (answer or self._application)(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        """None: the application has it."""
        path = request.scope["path"]
        if path == "/login":
            return await self._login(request)
        if path == "/logout":
            return _logout(request)
        if path in OPEN:
            return None
        return self._guarded(request)

    def _guarded(self, request: Request) -> Response | None:
        wants_page = _wants_page(request)
        login = Login.of(request.headers.get("authorization", ""))
        user = self._session(request)
        if user is None and login is not None:
            try:
                user = self._user(login, request)
            except _Braked as braked:
                if not wants_page:
                    return JSONResponse({"error": braked.message, "hints": []}, 429, braked.headers)
        if user is not None:
            request.scope["user"] = user
            return None
        if wants_page:
            raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
            return RedirectResponse("../" * (raw.count(b"/") - 1) + "login", 303, FRESH)
        if _is_browser(request):  # it would ask with a window of its own
            return JSONResponse({"error": tr("you are logged out: load the page again"), "hints": []}, 401, FRESH)
        error = {"error": tr("log in: Authorization: Bearer PASSWORD"), "hints": []}
        return JSONResponse(error, 401, {**FRESH, **CHALLENGE})

    async def _login(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._tried(request)
        if request.method not in ("GET", "HEAD"):
            return _wrong_method("GET, POST")
        language = request.query_params.get("language", "")
        if language in LANGUAGES:
            answer = RedirectResponse("login", 303, FRESH)
            _set(request, answer, texts.COOKIE, language, YEAR_S)  # the page's script may read it
            return answer
        return RedirectResponse("./", 303, FRESH) if self._session(request) else _page(200)

    async def _tried(self, request: Request) -> Response:
        """What the form of the page sends."""
        fields = await _fields(request)
        login = Login(fields.get("name", "").strip(), fields.get("password", ""))
        try:
            user = self._user(login, request)
        except _Braked as braked:
            return _page(429, login.name or "", braked.message, braked.headers)
        if user is None:
            return _page(401, login.name or "", tr("wrong name or password"))
        answer = RedirectResponse("./", 303, FRESH)
        _set(request, answer, COOKIE, self._sessions.begun(user.name), MOST_S, is_hidden=True)
        return answer

    def _session(self, request: Request) -> User | None:
        found = map(self._sessions.user, cookies.values(request.headers.get("cookie", ""), COOKIE))
        return next(filter(None, found), None)

    def _user(self, login: Login, request: Request) -> User | None:
        """Raises `_Braked`."""
        name, address = login.name or "", request.client.host if request.client else ""
        wait_s = self._brake.wait_s(name, address)
        if wait_s > 0:
            raise _Braked(wait_s)
        user = self._access.authorized(login)
        self._brake.note(name, address, is_right=user is not None)
        return user


def _logout(request: Request) -> Response:
    if request.method != "POST":
        return _wrong_method("POST")
    answer = RedirectResponse("login", 303, FRESH)
    _set(request, answer, COOKIE, "", 0, is_hidden=True)
    return answer


def _wants_page(request: Request) -> bool:
    """Whether somebody has opened an address in a browser."""
    mode = request.headers.get("sec-fetch-mode", "navigate")
    return request.method in ("GET", "HEAD") and mode == "navigate" and "text/html" in request.headers.get("accept", "")


def _is_browser(request: Request) -> bool:
    """Whether a page asks; browsers send Sec-Fetch-Mode over https and to this machine only."""
    return "sec-fetch-mode" in request.headers or request.headers.get("user-agent", "").startswith("Mozilla/")


def _wrong_method(allowed: str) -> Response:
    return Response(status_code=405, headers={"Allow": allowed})


def _set(request: Request, answer: Response, name: str, value: str, seconds: int, *, is_hidden: bool = False) -> None:
    """Of the folder of this address, as the browser sees it."""
    schemes = (request.url.scheme, request.headers.get("x-forwarded-proto", "").split(",")[0].strip())
    answer.set_cookie(
        name, value, max_age=seconds, path=None, secure="https" in schemes, httponly=is_hidden, samesite="lax"
    )


async def _fields(request: Request) -> dict[str, str]:
    """Of a form; none if it is not one, or too much."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return {}
        found = parse_qs(body.decode("utf-8", "replace"), errors="replace", max_num_fields=10)
    except (ClientDisconnect, ValueError):
        return {}
    return {name: values[0] for name, values in found.items()}


def _page(status: int, name: str = "", alert: str = "", headers: dict[str, str] | None = None) -> Response:
    focus = " autofocus" + (' aria-invalid="true" aria-describedby="alert"' if alert else "")
    text = PAGE.format(
        language=spoken(),
        style=STYLE,
        title=tr("Log in"),
        alert=f'<p id="alert" role="alert">{html.escape(alert)}</p>' if alert else "",
        name_label=tr("Name"),
        name=html.escape(name),
        at_name="" if name else focus,
        password_label=tr("Password"),
        at_password=focus if name else "",
        switch=tr("Language"),
        is_zh=' aria-current="true"' if spoken() == "zh" else "",
        is_en=' aria-current="true"' if spoken() == "en" else "",
    )
    return HTMLResponse(text, status, {**PAGE_HEADERS, **(headers or {})})
