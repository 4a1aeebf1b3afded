"""jingxiang.probe, against real servers on this machine"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jingxiang import __version__, probe
from jingxiang.probe import Answer, Page

NEEDLE = "a" * 64
Behaviour = Callable[[BaseHTTPRequestHandler], None]
Serve = Callable[[Behaviour], str]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers every GET with the given function; returns the address of a page of it."""
    servers: list[ThreadingHTTPServer] = []

    def start(behaviour: Behaviour) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                behaviour(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/simple/numpy/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def page(text: str, after_s: float = 0) -> Behaviour:
    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(after_s)
        request.send_response(200)
        request.end_headers()
        request.wfile.write(text.encode())

    return answer


def status(code: int) -> Behaviour:
    return lambda request: request.send_error(code)


def dripping(request: BaseHTTPRequestHandler) -> None:
    """Never silent for long, but would take three seconds."""
    request.send_response(200)
    request.end_headers()
    for _ in range(30):
        try:
            request.wfile.write(b"x")
        except OSError:  # the client has gone
            return
        time.sleep(0.1)


def dripping_headers(request: BaseHTTPRequestHandler) -> None:
    """Never silent for long, and never done with its headers."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Wait: longer\r\n":
        try:
            request.wfile.write(bytes([byte]))
        except OSError:  # the client has gone
            return
        time.sleep(0.04)


def shortened(request: BaseHTTPRequestHandler) -> None:
    """Announces more than it sends."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(NEEDLE.encode())


def no_http(request: BaseHTTPRequestHandler) -> None:
    """What listens there is no web server."""
    request.wfile.write(b"220 ftp ready\r\n")


def cut_off(request: BaseHTTPRequestHandler) -> None:
    """The connection ends in the middle of a chunk."""
    request.protocol_version = "HTTP/1.1"
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"ff\r\nonly this")
    request.close_connection = True


def test_a_page_with_the_locked_file_is_good(serve: Serve) -> None:
    answer = probe.ask(Page(serve(page(f"<a href='x.whl#sha256={NEEDLE}'>x</a>", after_s=0.1)), NEEDLE))
    assert answer == Answer(answer.seconds)
    assert 0.1 <= answer.seconds < probe.TIMEOUT_S


def test_a_page_without_the_locked_file_is_of_no_use(serve: Serve) -> None:
    answer = probe.ask(Page(serve(page("<a href='old.whl'>old</a>")), NEEDLE))
    assert answer.reason == "answers, but does not have the locked version"


@pytest.mark.parametrize(
    ("code", "reason"), [(403, "403: blocked by its firewall"), (404, "404 Not Found"), (502, "502 Bad Gateway")]
)
def test_an_error_page_is_said_with_its_code(serve: Serve, code: int, reason: str) -> None:
    assert probe.ask(Page(serve(status(code)), NEEDLE)).reason == reason


def test_a_closed_port_is_no_answer() -> None:
    with socket.socket() as bound:  # taken but not listened on, so nobody else can answer
        bound.bind(("127.0.0.1", 0))
        answer = probe.ask(Page(f"http://127.0.0.1:{bound.getsockname()[1]}/", NEEDLE))
    assert answer.reason == "no answer (Connection refused)"


def test_a_server_that_is_silent_for_too_long_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.3)
    answer = probe.ask(Page(serve(page(NEEDLE, after_s=1)), NEEDLE))
    assert answer.reason == "timed out"
    assert 0.3 <= answer.seconds < 1


def test_a_server_that_drips_is_given_up_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.3)
    answer = probe.ask(Page(serve(dripping), NEEDLE))
    assert answer.reason
    assert answer.seconds < 2


def test_headers_that_drip_are_given_up_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of them is in time."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.3)
    start = time.monotonic()
    assert probe.ask(Page(serve(dripping_headers), NEEDLE)).reason == "timed out"
    assert time.monotonic() - start < 0.3 + probe.GRACE_S + 0.3


def test_a_body_that_is_shorter_than_announced_is_of_no_use(serve: Serve) -> None:
    assert probe.ask(Page(serve(shortened), NEEDLE)).reason == f"ends after {len(NEEDLE)} of 1000 bytes"


def test_no_more_is_taken_than_asked_for(serve: Serve) -> None:
    reply = probe.get(serve(page("x" * 1000)), time.monotonic() + 2, limit=10)
    assert (reply.status, reply.body, reply.problem) == (200, b"x" * 10, "")


def test_a_password_in_an_address_is_sent_as_a_header_and_never_shown(serve: Serve) -> None:
    logins: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        logins.append(request.headers["Authorization"])
        request.send_error(401)

    found = probe.ask(Page(serve(answer).replace("http://", "http://li:secret@"), NEEDLE))
    assert (found.reason, logins) == ("401 Unauthorized", ["Basic bGk6c2VjcmV0"])


@pytest.mark.parametrize("behaviour", [no_http, cut_off])
def test_an_answer_that_is_no_http_is_of_no_use(serve: Serve, behaviour: Behaviour) -> None:
    assert probe.ask(Page(serve(behaviour), NEEDLE)).reason


def test_an_address_that_is_none_is_of_no_use() -> None:
    assert probe.ask(Page("nowhere", NEEDLE)).reason == "no answer (unknown url type: 'nowhere')"


def test_mirrors_are_told_who_asks(serve: Serve) -> None:
    """Some block clients without a name, or with Python's own."""
    asked: list[tuple[str, str | None]] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append((request.path, request.headers["User-Agent"]))
        page("")(request)

    probe.ask(Page(serve(answer), NEEDLE))
    assert asked == [("/simple/numpy/", f"jingxiang/{__version__}")]


def test_all_are_asked_at_once_and_keep_their_names(serve: Serve) -> None:
    """Each answers only when all have been asked."""
    together = threading.Barrier(3)

    def answer(request: BaseHTTPRequestHandler) -> None:
        together.wait(5)
        page(request.path)(request)

    answers = probe.ask_all({name: Page(serve(answer) + name, f"/{name}") for name in ("b", "a", "c")})
    assert [(name, each.reason) for name, each in answers.items()] == [("b", ""), ("a", ""), ("c", "")]


def test_nobody_asked_is_nobody_heard() -> None:
    assert probe.ask_all({}) == {}


def test_the_good_ones_come_fastest_first() -> None:
    answers = {"a": Answer(0.3), "b": Answer(0.01, "404 Not Found"), "c": Answer(0.1), "d": Answer(0.2)}
    assert probe.fastest(answers) == ["c", "d", "a"]


def test_a_nearer_server_is_ranked_before_a_slower_one(serve: Serve) -> None:
    pages = {
        "slow": Page(serve(page(NEEDLE, after_s=0.3)), NEEDLE),
        "blocked": Page(serve(status(403)), NEEDLE),
        "near": Page(serve(page(NEEDLE)), NEEDLE),
    }
    assert probe.fastest(probe.ask_all(pages)) == ["near", "slow"]


def test_a_folder_is_asked_for_its_page(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(NEEDLE)
    assert probe.ask(Page(f"file://{tmp_path}/", NEEDLE)).reason == ""
    assert probe.ask(Page(f"file://{tmp_path}/none/", NEEDLE)).reason.startswith("no answer (")
