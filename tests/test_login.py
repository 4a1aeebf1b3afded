"""app.login: the gate in front of an application, and in front of the app's own server"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.access import Access
from app.brake import Brake
from app.guard import SameSite
from app.login import Gate
from tests.peers import below
from tests.peers.app import App, guarded, serving, wait_for
from tests.test_brake import Clock

ACCESS = Access({"li": "li-password", "王": "第二个很长的密码"})
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
CHROMIUM = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
LI = {"name": "li", "password": "li-password"}


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """Says who asks, and what was sent."""
    user, body = scope.get("user"), await Request(scope, receive).body()
    text = f"{user.name if user else 'nobody'} {scope['path']} {len(body)}"
    await PlainTextResponse(text)(scope, receive, send)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> SameSite:
    return SameSite(Gate(behind, ACCESS, Brake(clock)), ())


def client(gate: SameSite, *, base: str = "http://app", address: str = "10.0.0.1", **headers: str) -> TestClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return TestClient(gate, base, headers=named, follow_redirects=False, client=(address, 5000))


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/file=/etc/passwd", "/api/jobs", "/metrics", "/login/"])
def test_strangers_get_nothing(gate: SameSite, path: str) -> None:
    answer = client(gate).get(path)
    assert (answer.status_code, answer.json()) == (
        401, {"error": "log in: Authorization: Bearer PASSWORD", "hints": []},
    )  # fmt: skip
    assert answer.headers["www-authenticate"] == 'Basic realm="jingxiang", charset="UTF-8"'
    assert answer.headers["cache-control"] == "no-store"
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        assert client(gate).request(method, path, content=b"much" if method == "POST" else b"").status_code == 401


def test_nothing_of_what_strangers_send_is_read(gate: SameSite) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        pytest.fail("it was read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"app"), (b"content-length", b"1000000")]
    scope = {"type": "http", "method": "POST", "path": "/api/jobs", "query_string": b"", "headers": headers}
    asyncio.run(gate(scope, receive, send))
    assert sent[0]["status"] == 401


def test_the_document_of_the_api_is_for_everybody(gate: SameSite) -> None:
    assert client(gate).get("/api/openapi.json").text == "nobody /api/openapi.json 0"


def test_programs_come_in_with_their_password(gate: SameSite) -> None:
    for header in ("Bearer li-password", basic("li", "li-password")):
        assert client(gate, authorization=header).post("/api/jobs", content=b"four").text == "li /api/jobs 4"
    assert client(gate, authorization=basic("王", "第二个很长的密码")).get("/").text == "王 / 0"
    for header in ("Bearer wrong", basic("li", "wrong"), basic("nobody", "li-password"), "Basic !", "Digest x"):
        assert client(gate, authorization=header).get("/").status_code == 401


def test_a_browser_is_not_made_to_ask_by_itself(gate: SameSite) -> None:
    for headers in ({"user-agent": CHROMIUM}, {"sec-fetch-mode": "cors"}):
        for accept in ("*/*", "application/json", "text/event-stream"):
            answer = client(gate).get("/api/jobs", headers={**headers, "accept": accept, "accept-language": "zh-CN"})
            assert answer.status_code == 401
            assert "www-authenticate" not in answer.headers
            assert answer.json() == {"error": "您已退出登录：请重新加载页面", "hints": []}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "login"),
        ("/?a=b", "login"),
        ("/index", "login"),
        ("/gradio_api/file=x", "../login"),
        ("/a/b%2Fc/d", "../../login"),
        ("//other.example/", "../../login"),
    ],
)
def test_who_opens_the_page_is_led_to_the_login(gate: SameSite, path: str, place: str) -> None:
    for headers in (HTML, {**HTML, "sec-fetch-mode": "navigate"}):
        answer = client(gate).get(f"http://app{path}", headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (303, place)
    assert client(gate).get("/", headers={**HTML, "sec-fetch-mode": "cors"}).status_code == 401
    assert client(gate).post("/", headers=HTML).status_code == 401


def test_the_page_asks_for_name_and_password_in_both_languages(gate: SameSite) -> None:
    page = client(gate).get("/login", headers=HTML)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-store"
    assert '<html lang="en">' in page.text
    assert '<label for="name">Name</label>' in page.text
    assert re.search(r'<input id="name" .* autocomplete="username" .* autofocus>', page.text)
    assert re.search(r'<input id="password" .* type="password" .* autocomplete="current-password">', page.text)
    chinese = client(gate, accept_language="zh-CN").get("/login").text
    assert '<html lang="zh">' in chinese
    assert '<label for="password">密码</label>' in chinese
    assert client(gate).put("/login").status_code == 405
    assert client(gate).head("/login").status_code == 200


def test_the_page_needs_no_other_host_and_lets_nothing_else_in(gate: SameSite) -> None:
    page = client(gate).get("/login")
    assert "//" not in page.text
    (style,) = re.findall(r"<style>(.*)</style>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert page.headers["content-security-policy"].split("; ") == [
        "default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'", "form-action 'self'",
        "base-uri 'none'", "frame-ancestors 'none'",
    ]  # fmt: skip
    assert "referrer-policy" not in page.headers  # with `no-referrer`, the form's origin would be null


def test_the_language_can_be_switched(gate: SameSite) -> None:
    browser = client(gate, accept_language="en")
    answer = browser.get("/login?language=zh")
    assert (answer.status_code, answer.headers["location"]) == (303, "login")
    assert answer.headers["set-cookie"] == "language=zh; Max-Age=31536000; SameSite=lax"
    assert '<html lang="zh">' in browser.get("/login").text
    assert browser.get("/login?language=fr").status_code == 200
    browser.get("/login?language=en")
    assert '<html lang="en">' in browser.get("/login").text


def test_logging_in_and_out(gate: SameSite) -> None:
    browser = client(gate, user_agent=CHROMIUM, **HTML)
    answer = browser.post("/login", data=LI, headers={"origin": "http://app"})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert re.fullmatch(
        r"session=[\w.-]+; HttpOnly; Max-Age=2592000; SameSite=lax", answer.headers["set-cookie"], re.ASCII
    )
    assert browser.get("/").text == "li / 0"
    assert browser.post("/api/jobs", content=b"four").text == "li /api/jobs 4"
    assert browser.get("/login").headers["location"] == "./"
    assert browser.get("/logout").status_code == 405
    assert browser.get("/").text == "li / 0"
    left = browser.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "login")
    assert browser.get("/").status_code == 303
    assert browser.get("/login").status_code == 200


def test_a_name_of_any_letters_and_with_a_space_behind_it(gate: SameSite) -> None:
    browser = client(gate)
    assert browser.post("/login", data={"name": " 王 ", "password": "第二个很长的密码"}).status_code == 303
    assert browser.get("/").text == "王 / 0"


@pytest.mark.parametrize(("base", "headers"), [("https://app", {}), ("http://app", {"x-forwarded-proto": "https"})])
def test_over_https_the_cookies_stay_there(gate: SameSite, base: str, headers: dict[str, str]) -> None:
    asked = client(gate, base=base)
    assert "; Secure" in asked.post("/login", data=LI, headers=headers).headers["set-cookie"]
    assert "; Secure" in asked.get("/login?language=zh", headers=headers).headers["set-cookie"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": "li"},
        {"name": "li", "password": "wrong"},
        {"name": "", "password": "li-password"},
        {"name": "nobody", "password": ""},
        {"name": "li", "password": "x" * 20_000},
        {**{f"field{number}": "1" for number in range(20)}, **LI},
    ],
)
def test_a_wrong_password_is_said(gate: SameSite, fields: dict[str, str]) -> None:
    answer = client(gate).post("/login", data=fields)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "www-authenticate" not in answer.headers
    assert '<p id="alert" role="alert">wrong name or password</p>' in answer.text


def test_what_was_typed_as_the_name_is_shown_as_it_is_and_the_password_not(gate: SameSite) -> None:
    page = client(gate).post("/login", data={"name": '"><script>alert(1)</script>', "password": "my-wrong-one"}).text
    assert 'value="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"' in page
    assert "<script" not in page
    assert "my-wrong-one" not in page
    assert re.search(r'<input id="password" .* autofocus aria-invalid="true" aria-describedby="alert">', page)


def test_what_is_no_form_is_no_login(gate: SameSite) -> None:
    for body in (b"\xff\xfe", b'{"name": "li", "password": "li-password"}', b"name=%FF&password=%FF"):
        assert client(gate).post("/login", content=body).status_code == 401


def test_a_session_that_is_not_ours_is_none(gate: SameSite) -> None:
    browser = client(gate)
    browser.post("/login", data=LI)
    session = browser.cookies["session"]
    assert client(gate, cookie=f"session={session}").get("/").text == "li / 0"
    assert client(gate, cookie=f"session=of-another-app; session={session}").get("/").text == "li / 0"
    for damaged in (session[:-1], session.replace(".", "", 1), "", session.upper()):
        assert client(gate, cookie=f"session={damaged}").get("/").status_code == 401
    assert client(gate, cookie=f"x-session={session}").get("/").status_code == 401


def test_who_is_logged_in_may_send_a_login_that_is_for_a_proxy(gate: SameSite) -> None:
    browser = client(gate, authorization=basic("of-the-proxy", "password"))
    assert browser.post("/login", data=LI).status_code == 303
    for _ in range(30):
        assert browser.get("/").text == "li / 0"


def test_other_sites_cannot_log_anybody_in_or_out(gate: SameSite) -> None:
    for origin in ("http://other.example", "null"):
        browser = client(gate, origin=origin)
        assert browser.post("/login", data=LI).status_code == 403
        assert browser.post("/logout").status_code == 403


def test_websockets_are_refused(gate: SameSite) -> None:
    for headers in ({}, {"authorization": "Bearer li-password"}):
        with pytest.raises(WebSocketDisconnect) as caught, client(gate).websocket_connect("/queue", headers=headers):
            pass
        assert caught.value.code == 1008


def test_guessing_is_slowed_down_on_the_page(gate: SameSite, clock: Clock) -> None:
    browser = client(gate)
    wrong = {"name": "li", "password": "wrong"}
    assert [browser.post("/login", data=wrong).status_code for _ in range(6)] == [401] * 5 + [429]
    held = browser.post("/login", data=LI)
    assert (held.status_code, held.headers["retry-after"]) == (429, "1")
    assert "too many wrong passwords: try again in 1 s" in held.text
    assert "set-cookie" not in held.headers
    chinese = browser.post("/login", data=wrong, headers={"accept-language": "zh"}).text
    assert "密码错误次数过多：请在 1 秒后重试" in chinese
    clock.now += 1
    assert browser.post("/login", data=wrong).status_code == 401
    assert browser.post("/login", data=wrong).headers["retry-after"] == "2"
    clock.now += 2
    assert browser.post("/login", data=LI).status_code == 303


def test_guessing_is_slowed_down_on_the_api(gate: SameSite, clock: Clock) -> None:
    for header in ("Bearer wrong", basic("li", "wrong")):
        program = client(gate, authorization=header)
        assert [program.get("/api/jobs").status_code for _ in range(6)] == [401] * 5 + [429]
        answer = program.get("/api/jobs")
        assert answer.json() == {"error": "too many wrong passwords: try again in 1 s", "hints": []}
        assert answer.headers["retry-after"] == "1"
        assert program.get("/", headers=HTML).headers["location"] == "login"
    assert client(gate, authorization="Bearer li-password").get("/").status_code == 429
    clock.now += 1
    assert client(gate, authorization="Bearer li-password").get("/").text == "li / 0"


def test_it_counts_page_and_api_together_and_what_a_header_says_of_the_address_not(gate: SameSite) -> None:
    for number in range(4):
        browser = client(gate, x_forwarded_for=f"10.9.9.{number}")
        assert browser.post("/login", data={"name": "li", "password": "wrong"}).status_code == 401
    assert client(gate, authorization=basic("li", "wrong")).get("/").status_code == 401
    assert client(gate, x_forwarded_for="10.9.9.9").post("/login", data=LI).status_code == 429


def test_who_guesses_locks_nobody_else_out(gate: SameSite) -> None:
    inside = client(gate)
    inside.post("/login", data=LI)
    for _ in range(30):
        client(gate).post("/login", data={"name": "li", "password": "wrong"})
        client(gate, authorization="Bearer wrong").get("/")
    assert client(gate).post("/login", data=LI).status_code == 429
    assert inside.get("/").text == "li / 0"
    elsewhere = client(gate, address="10.0.0.2")
    assert elsewhere.post("/login", data=LI).status_code == 303
    assert client(gate, address="10.0.0.2", authorization="Bearer li-password").get("/").text == "li / 0"


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with guarded(models, tmp_path_factory.mktemp("guarded")) as started:
        yield started


@contextlib.contextmanager
def logged_in(app: App, name: str, password: str) -> Iterator[httpx.Client]:
    with app.client(**HTML) as browser:
        browser.follow_redirects = True
        page = browser.post("/login", data={"name": name, "password": password})
        assert (page.status_code, page.url.path) == (200, "/")
        yield browser


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/config"), ("GET", "/theme.css"), ("GET", "/assets/index.js"), ("GET", "/manifest.json"),
        ("GET", "/gradio_api/info"), ("GET", "/gradio_api/app_id"), ("GET", "/gradio_api/heartbeat/x"),
        ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/queue/data?session_hash=x"),
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/call/generate"),
        ("GET", "/user"), ("GET", "/token"), ("GET", "/login_check"), ("GET", "/docs"), ("GET", "/no-such-page"),
        ("GET", "/api/jobs"), ("POST", "/api/jobs"), ("GET", "/api/jobs/x/video"), ("GET", "/metrics"),
    ],
)  # fmt: skip
def test_no_way_into_the_server_is_left_open(app: App, method: str, path: str) -> None:
    with app.client() as stranger:
        assert stranger.request(method, path).status_code == 401


def test_the_server_does_not_believe_what_is_said_of_an_address(app: App) -> None:
    def tried(number: int) -> int:
        with app.client(**{"x-forwarded-for": f"10.0.0.{number}"}) as guessing:
            return guessing.post("/login", data={"name": "nobody", "password": "wrong"}).status_code

    assert [tried(number) for number in range(6)] == [401] * 5 + [429]


def test_the_page_and_the_api_know_who_has_logged_in(app: App, photo: Path) -> None:
    with logged_in(app, "wang", "wang-password") as wang, logged_in(app, "zhao", "zhao-password") as zhao:
        assert wang.get("/config").json()["username"] == "wang"
        sent = {"image": photo.read_bytes()}
        number = wang.post("/api/jobs", files=sent, data={"prompt": "a cat", "preset": "fast"}).json()["id"]
        wait_for(lambda: wang.get(f"/api/jobs/{number}").json()["state"] == "done")
        (job,) = wang.get("/api/jobs").json()
        assert job["id"] == number
        assert zhao.get("/api/jobs").json() == []
        assert zhao.get(job["video"]).status_code == 404
        assert wang.get(job["video"]).content[4:8] == b"ftyp"
        with wang.stream("GET", f"/api/jobs/{job['id']}/events", headers={"accept": "text/event-stream"}) as stream:
            assert next(stream.iter_lines()) == "event: done"
        assert wang.post("/api/models/smoke/load").status_code == 403
        assert wang.post("/logout").url.path == "/login"
        assert wang.get("/api/jobs", headers={"accept": "*/*"}).status_code == 401


def test_below_a_folder_of_another_host(app: App) -> None:
    with below.serving(app.url) as url, httpx.Client(trust_env=False, follow_redirects=True) as browser:
        browser.headers.update(HTML)
        for path in ("", "gradio_api/file=x", "login"):
            assert str(browser.get(f"{url}{path}").url) == f"{url}login"
        page = browser.get(f"{url}login?language=zh")
        assert (str(page.url), '<html lang="zh">' in page.text) == (f"{url}login", True)
        page = browser.post(f"{url}login", data=LI, headers={"origin": url.removesuffix("/video/")})
        assert (page.status_code, str(page.url)) == (200, url)
        assert {(cookie.name, cookie.path) for cookie in browser.cookies.jar} == {
            ("language", "/video"), ("session", "/video"),
        }  # fmt: skip
        assert browser.get(f"{url}api/queue").json()["model"] == "smoke"
        assert browser.get(f"{url}api/jobs/x").json()["error"].startswith("没有")
        assert str(browser.post(f"{url}logout").url) == f"{url}login"
        assert {cookie.name for cookie in browser.cookies.jar} == {"language"}


def shown(app: App) -> bool:
    """Whether the page is there, worker or not."""
    try:
        return bool(json.loads(app.get("/readyz")[1])["page"])
    except urllib.error.URLError:
        return False


def test_a_session_outlives_the_server_and_works_on_another(app: App, models: Path, tmp_path: Path) -> None:
    with logged_in(app, "wang", "wang-password") as wang:
        cookie = f"session={wang.cookies['session']}"
    passwords = tmp_path / "passwords"
    passwords.write_text("zhao:another-password\nwang:wang-password\n")
    passwords.chmod(0o600)
    with serving(models, tmp_path, "--workers", "0", "--password-file", str(passwords)) as other:
        wait_for(lambda: shown(other))
        assert other.get("/api/jobs", cookie=cookie) == (200, "[]")
        with logged_in(app, "zhao", "zhao-password") as zhao:
            assert other.get("/api/jobs", cookie=f"session={zhao.cookies['session']}")[0] == 401
