"""jingxiang.fetch.client, against real servers and proxies on this machine"""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from jingxiang import __version__
from jingxiang.errors import UsageError
from jingxiang.fetch import client as client_module
from jingxiang.fetch import network
from jingxiang.fetch.bodies import Body
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.sampler import Reply
from tests.peers import faults, mirror, proxy, tls
from tests.peers.checkout import ROOT
from tests.peers.mirror import PAGE, Mirror
from tests.peers.proxy import Proxy
from tests.peers.system import free_port
from tests.peers.tls import Authority

BODY = bytes(range(256)) * 400
Answer = Callable[[BaseHTTPRequestHandler], None]
Made = Callable[..., Client]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own proxies and certificates stay out."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in (*network.AUTHORITIES, "SSL_CERT_DIR", "NETRC"):
            monkeypatch.delenv(name)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Clients: pip's settings by position, variables of the environment by name."""
    with ExitStack() as stack:

        def make(settings: dict[str, str] | None = None, *, per_host: int = 4, **environ: str) -> Client:
            found = network.of(settings or {}, {"HOME": str(tmp_path), **environ})
            return stack.enter_context(contextlib.closing(Client(found, per_host=per_host)))

        yield make


@pytest.fixture
def client(made: Made) -> Client:
    return made()


@pytest.fixture
def near() -> Iterator[Mirror]:
    with mirror.serving() as found:
        found.files |= {"/file": BODY, "/page": PAGE}
        yield found


@pytest.fixture
def far() -> Iterator[Mirror]:
    """Another host: the same address by its name, and another port."""
    with mirror.serving() as found:
        found.files |= {"/file": BODY, "/page": PAGE}
        found.url = found.url.replace("127.0.0.1", "localhost")
        yield found


@pytest.fixture
def through() -> Iterator[Proxy]:
    with proxy.serving() as found:
        yield found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return tls.authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def good(authority: Authority) -> Path:
    return authority.issue("good")


@pytest.fixture
def secure(good: Path) -> Iterator[Mirror]:
    with tls.serving(good) as found:
        found.files |= {"/file": BODY, "/page": PAGE}
        yield found


def rest(body: Body) -> bytes:
    block, data = memoryview(bytearray(10_000)), b""
    while count := body.read_into(block):
        data += block[:count]
    return data


def read(client: Client, url: str, **named: Any) -> bytes:
    with contextlib.closing(client.body(url, **named)) as body:
        return rest(body)


def fault(client: Client, url: str, **named: Any) -> tuple[Kind, str]:
    """How it fails, while the headers come or the body does."""
    with pytest.raises(Fault) as caught:
        read(client, url, **named)
    return caught.value.kind, caught.value.text


def page(client: Client, url: str) -> bytes:
    return client.page(url, seconds=5).body


def redirecting(target: str, status: int = 302) -> Answer:
    """Its address comes as UTF-8, as servers send it."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.send_header("Location", target.encode().decode("latin-1"))
        request.end_headers()

    return answer


def basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def shown(mirror: Mirror, name: str = "Authorization") -> list[str]:
    """What it has seen of a header, by request; empty where there was none."""
    return [request.headers.get(name, "") for request in mirror.asked]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def eventually(condition: Callable[[], object]) -> bool:
    """Whether it holds before long."""
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.01)
    return False


# Whole files and parts.


def test_a_file_is_asked_for_plainly(client: Client, near: Mirror) -> None:
    with contextlib.closing(client.body(f"{near.url}/file")) as body:
        assert (body.url, body.start, body.total) == (f"{near.url}/file", 0, len(BODY))
        assert rest(body) == BODY
    assert near.asked == [
        mirror.Request("/file", {
            "Host": near.url.removeprefix("http://"), "Accept-Encoding": "identity", "Accept": "*/*",
            "User-Agent": f"jingxiang/{__version__}",
        })
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "header"),
    [
        (0, 5, "bytes=0-4"),
        (5, 6, "bytes=5-5"),
        (1000, 70_000, "bytes=1000-69999"),
        (1000, None, "bytes=1000-"),
        (1000, 10**9, "bytes=1000-999999999"),
    ],
)
def test_a_part_is_what_was_asked_for(client: Client, near: Mirror, start: int, end: int | None, header: str) -> None:
    with contextlib.closing(client.body(f"{near.url}/file", start=start, end=end)) as body:
        assert (body.start, body.total) == (start, len(BODY))
        assert rest(body) == BODY[start:end]
    assert shown(near, "Range") == [header]


@pytest.mark.parametrize("answer", [faults.unranged, faults.chunked])
def test_a_server_that_sends_the_whole_file_says_so(client: Client, near: Mirror, answer: faults.Fault) -> None:
    near.answers["/file"] = partial(answer, near)
    with contextlib.closing(client.body(f"{near.url}/file", start=1000, end=2000)) as body:
        assert (body.start, body.total) == (0, len(BODY) if answer is faults.unranged else None)
        assert rest(body) == BODY


def test_a_part_beyond_the_end_is_a_wrong_length(client: Client, near: Mirror) -> None:
    assert fault(client, f"{near.url}/file", start=len(BODY)) == (Kind.LENGTH, "416: its file is shorter")


@pytest.mark.parametrize(
    ("header", "start", "total"),
    [("bytes 5-9/100", 5, 100), ("bytes 5-9/*", 5, None), (" bytes 0-9/10 ", 0, 10)],
)
def test_a_part_says_where_it_belongs(client: Client, near: Mirror, header: str, start: int, total: int | None) -> None:
    near.answers["/file"] = lambda request: near.send(request, b"0123456789", {"Content-Range": header}, 206)
    with contextlib.closing(client.body(f"{near.url}/file")) as body:
        assert (body.start, body.total, rest(body)) == (start, total, b"0123456789")


@pytest.mark.parametrize("header", ["", "bytes */100", "bytes 5-9", "lines 5-9/100", f"bytes {'9' * 5000}-9/9"])
def test_a_part_of_who_knows_what_is_a_fault(made: Made, near: Mirror, header: str) -> None:
    client = made(per_host=1)
    near.answers["/file"] = lambda request: near.send(
        request, BODY, {"Content-Range": header, "Content-Type": "multipart/byteranges"}, 206
    )
    for _ in range(2):
        assert fault(client, f"{near.url}/file", start=5) == (Kind.LENGTH, "206 without saying which part")


# Connections.


def test_a_connection_is_used_again(client: Client, near: Mirror) -> None:
    near.files["/big"] = bytes(1 << 20)
    near.answers |= {"/chunked": partial(faults.chunked, near), "/nothing": partial(faults.status(404), near)}
    near.files["/chunked"] = BODY
    for path in ("/file", "/big", "/chunked", "/page", "/nothing", "/file"):
        with contextlib.suppress(Fault):
            read(client, near.url + path)
    assert page(client, f"{near.url}/page") == PAGE
    assert (len(near.asked), near.connections) == (7, 1)


def test_a_body_that_nobody_wants_ends_its_connection(client: Client, near: Mirror) -> None:
    near.files["/big"] = bytes(64 << 20)
    client.body(f"{near.url}/big").close()
    assert read(client, f"{near.url}/file") == BODY
    assert near.connections == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_may_end_idle_connections(
    made: Made, near: Mirror, secure: Mirror, authority: Authority, scheme: str
) -> None:
    client = made({"cert": str(authority.certificate)})
    server = near if scheme == "http" else secure

    def answer(request: BaseHTTPRequestHandler) -> None:
        server.send(request, BODY)
        request.close_connection = True

    server.answers["/file"] = answer
    for _ in range(5):
        assert read(client, f"{server.url}/file") == BODY
        time.sleep(0.02)
    assert server.connections == 5


def test_all_idle_connections_may_have_ended(client: Client, near: Mirror) -> None:
    together = threading.Barrier(4)

    def answer(request: BaseHTTPRequestHandler) -> None:
        together.wait(5)
        near.send(request, BODY)
        request.close_connection = True

    near.answers["/first"] = answer
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: read(client, f"{near.url}/first"), range(4))) == [BODY] * 4
    assert eventually(lambda: near._open == 0)
    assert read(client, f"{near.url}/file") == BODY
    assert near.connections == 5


def test_a_server_that_always_hangs_up_is_asked_once(client: Client, near: Mirror) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True

    near.answers["/mute"] = answer
    assert fault(client, f"{near.url}/mute") == (Kind.CUT, "the connection was cut off")
    assert near.paths() == ["/mute"]


def test_what_comes_after_a_body_is_not_taken_for_an_answer(client: Client, near: Mirror) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        near.send(request, BODY)
        request.wfile.write(b"and more of it")

    near.answers["/longer"] = answer
    assert read(client, f"{near.url}/longer") == BODY
    time.sleep(0.02)
    assert read(client, f"{near.url}/file") == BODY


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("length", [True, False], ids=["with a length", "without"])
def test_a_server_that_closes_each_connection_is_fine(client: Client, near: Mirror, version: str, length: bool) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = version
        request.send_response(200)
        if length:
            request.send_header("Content-Length", str(len(BODY)))
        if version == "HTTP/1.1":
            request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(BODY)
        request.close_connection = True

    near.answers["/file"] = answer
    for _ in range(2):
        with contextlib.closing(client.body(f"{near.url}/file")) as body:
            assert (body.total, rest(body)) == (len(BODY) if length else None, BODY)
    assert near.connections == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_is_never_asked_by_more_than_four_connections(
    made: Made, near: Mirror, secure: Mirror, authority: Authority, scheme: str
) -> None:
    client = made({"cert": str(authority.certificate)})
    server = near if scheme == "http" else secure

    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.003)
        if len(server.asked) % 5:
            server.send(request, BODY)
        else:
            server.send(request, b"busy", status=503)

    server.answers["/file"] = answer

    def ask(number: int) -> bytes:
        if number % 3:
            with contextlib.suppress(Fault):
                assert read(client, f"{server.url}/file") == BODY
            return BODY
        return client.sample(f"{server.url}/file", seconds=20, limit=1 << 20).body or BODY

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(160))) == {BODY}
    assert (len(server.asked), server.most) == (160, 4)


def test_another_host_does_not_wait_for_a_busy_one(made: Made, near: Mirror, far: Mirror) -> None:
    client = made(per_host=1)
    near.files["/big"] = bytes(64 << 20)
    with ThreadPoolExecutor(1) as pool:
        with contextlib.closing(client.body(f"{near.url}/big")):
            assert read(client, f"{far.url}/file") == BODY
            waiting = pool.submit(read, client, f"{near.url}/file")
            time.sleep(0.05)
            assert not waiting.done()
        assert waiting.result(10) == BODY


def test_a_client_that_is_closed_leaves_no_connection(made: Made, near: Mirror) -> None:
    client = made()
    assert read(client, f"{near.url}/page") == PAGE
    late = client.body(f"{near.url}/file")
    client.close()
    assert rest(late) == BODY
    late.close()
    assert eventually(lambda: near._open == 0)


def test_no_descriptor_is_left_behind(made: Made, near: Mirror, secure: Mirror, authority: Authority) -> None:
    near.answers |= {"/half": near.truncated, "/silent": near.silent, "/away": redirecting("http://127.0.0.1:9/")}
    near.files["/half"] = BODY
    assert eventually(lambda: near._open == secure._open == 0)
    before = descriptors()
    for trusted in (True, False):
        client = made({"cert": str(authority.certificate)} if trusted else {})
        for url in (near.url, secure.url):
            for path in ("/file", "/half", "/nothing", "/away"):
                with contextlib.suppress(Fault):
                    read(client, url + path)
        assert sampled(client, f"{near.url}/silent", 0.1)[0].late
        client.body(f"{near.url}/file").close()
        client.close()
    near.closed.set()
    assert eventually(lambda: descriptors() == before)


UNKNOWN = "http://mirror.example/"
BROKEN: dict[str, tuple[Callable[[Mirror], str], Kind, str]] = {
    "a closed port": (lambda near: "http://127.0.0.1:9/", Kind.UNREACHABLE, "no answer (Connection refused)"),
    "an unknown name": (lambda near: UNKNOWN, Kind.UNREACHABLE, "its name is not known (Name or service not known)"),
    "TLS where there is none": (
        lambda near: near.url.replace("http", "https"), Kind.UNREACHABLE, "no TLS (WRONG_VERSION_NUMBER)",
    ),
    "no HTTP": (lambda near: f"{near.url}/no_http", Kind.BROKEN, "does not speak HTTP"),
    "a reset": (lambda near: f"{near.url}/reset", Kind.CUT, "the connection was cut off"),
    "a wrong port": (lambda near: "http://127.0.0.1:99999/", Kind.LOOP, "no address"),
    "no host": (lambda near: "http:///file", Kind.LOOP, "no address"),
    "half an address": (lambda near: "http://[::1/file", Kind.LOOP, "no address"),
    "half a letter": (lambda near: f"{near.url}/\ud800", Kind.LOOP, "no address"),
    "half a letter in a login": (lambda near: f"http://\ud800@{near.url[7:]}/", Kind.LOOP, "no address"),
    "another scheme": (lambda near: "ftp://127.0.0.1/file", Kind.LOOP, "no address"),
}  # fmt: skip


def _unknown(*args: Any, **named: Any) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("name", BROKEN)
def test_what_fails_says_why_and_takes_no_place(
    made: Made, near: Mirror, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = made(per_host=1)
    if name == "an unknown name":
        monkeypatch.setattr(socket, "getaddrinfo", _unknown)
    near.files["/reset"] = BODY
    near.answers |= {
        "/reset": lambda request: faults.reset(near, request, at=0),
        "/no_http": lambda request: faults.no_http(near, request),
    }
    url, kind, text = BROKEN[name]
    for _ in range(3):
        assert fault(client, url(near)) == (kind, text)


def test_a_server_that_says_nothing_is_not_waited_for(
    client: Client, near: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 0.3)
    near.answers |= {"/silent": near.silent, "/stall": lambda request: faults.stall(near, request)}
    near.files["/stall"] = BODY
    for path in ("/silent", "/stall"):
        start = time.monotonic()
        assert fault(client, near.url + path) == (Kind.SILENT, "timed out")
        assert 0.3 <= time.monotonic() - start < 2


# Bodies that go wrong.


def test_half_a_body_is_cut_off(client: Client, near: Mirror) -> None:
    near.answers["/file"] = lambda request: faults.truncated(near, request)
    assert fault(client, f"{near.url}/file") == (Kind.CUT, f"ends {len(BODY) // 2} bytes before its end")
    near.answers["/file"] = lambda request: faults.announced_too_long(near, request)
    assert fault(client, f"{near.url}/file") == (Kind.CUT, "ends 100 bytes before its end")


@pytest.mark.parametrize("end", [b"", b"5\r\n01", b"nonsense\r\n", b"5\r\n01234\r\n"])
def test_half_a_chunked_body_is_cut_off(client: Client, near: Mirror, end: bytes) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"a\r\n0123456789\r\n" + end)
        request.close_connection = True

    near.answers["/file"] = answer
    assert fault(client, f"{near.url}/file") == (Kind.CUT, "the connection was cut off")


def test_bytes_are_handed_on_as_they_come(client: Client, near: Mirror) -> None:
    go_on = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = near.begin(request)
        request.wfile.write(body[:10])
        go_on.wait(5)
        request.wfile.write(body[10:])

    near.answers["/file"] = answer
    flow = Flow()
    with contextlib.closing(client.body(f"{near.url}/file", flow=flow)) as body:
        block = memoryview(bytearray(1 << 20))
        assert (body.read_into(block), flow.received) == (10, 10)
        go_on.set()
        assert rest(body) == BODY[10:]
    assert flow.received == len(BODY)


def test_only_waiting_for_the_server_counts_as_waiting(client: Client, near: Mirror) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        near.send(request, BODY)

    near.answers["/file"] = answer
    flow = Flow()
    with contextlib.closing(client.body(f"{near.url}/file", flow=flow)) as body:
        time.sleep(0.3)
        rest(body)
    assert 0.2 <= flow.waited_s < 0.45


# What servers refuse with.


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (401, Kind.REFUSED, "401 Unauthorized"),
        (403, Kind.BLOCKED, "403: blocked by its firewall"),
        (404, Kind.ABSENT, "404: not there, or not synced yet"),
        (429, Kind.BUSY, "429: too many requests"),
        (503, Kind.BROKEN, "503 Service Unavailable"),
        (204, Kind.REFUSED, "204 No Content"),
        (304, Kind.REFUSED, "304 Not Modified"),
    ],
)
def test_a_status_is_said(client: Client, near: Mirror, code: int, kind: Kind, text: str) -> None:
    near.answers["/file"] = near.status(code)
    assert fault(client, f"{near.url}/file") == (kind, text)
    with pytest.raises(Fault) as caught:
        page(client, f"{near.url}/file")
    assert (caught.value.kind, caught.value.text) == (kind, text)


def test_a_status_line_does_not_reach_the_terminal_as_it_is(client: Client, near: Mirror) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(500, "\x1b[31mred\x1b[0m \x07" + "x" * 1000)
        request.send_header("Content-Length", "0")
        request.end_headers()

    near.answers["/file"] = answer
    kind, text = fault(client, f"{near.url}/file")
    assert (kind, text) == (Kind.BROKEN, "500 [31mred[0m " + "x" * 69)
    assert text.isprintable()


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        (" 7 ", 7, 7),
        ("0", 0, 0),
        ("+600", 500, 600),  # as a date
        ("-600", 0, 0),
        ("-5", 0, 0),
        ("7.5", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0, 0),
        ("Mon, 01 Jan 0000 00:00:00 -0000", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(
    made: Made, near: Mirror, code: int, header: str, least: float, most: float
) -> None:
    client = made(per_host=1)
    if header.endswith("600"):
        header = formatdate(time.time() + float(header), usegmt=True)
    near.answers["/file"] = partial(faults.status(code, {"Retry-After": header}), near)
    for _ in range(2):
        with pytest.raises(Fault) as caught:
            read(client, f"{near.url}/file")
        assert least <= caught.value.wait_s <= most


def test_a_challenge_comes_with_the_refusal(client: Client, near: Mirror) -> None:
    wanted = 'Bearer realm="http://a.example/token",service="b"'
    near.answers["/file"] = partial(faults.status(401, {"WWW-Authenticate": wanted}), near)
    with pytest.raises(Fault) as caught:
        client.body(f"{near.url}/file")
    assert (caught.value.kind, caught.value.challenge) == (Kind.REFUSED, wanted)


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_to_another_host(client: Client, near: Mirror, far: Mirror, status: int) -> None:
    near.answers["/file"] = redirecting(f"{far.url}/file", status)
    with contextlib.closing(client.body(f"{near.url}/file", start=3, end=5)) as body:
        assert (body.url, body.start, rest(body)) == (f"{far.url}/file", 3, BODY[3:5])
    assert shown(far, "Range") == ["bytes=3-4"]
    assert shown(far, "Host") == [far.url.removeprefix("http://")]
    reply = client.page(f"{near.url}/file", seconds=5)
    assert (reply.url, reply.body) == (f"{far.url}/file", BODY)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/b", "/b"),
        ("b", "/a/b"),
        ("../b", "/b"),
        ("../../../b", "/b"),
        ("?b=1&c=2", "/a/file?b=1&c=2"),
        ("b#fragment", "/a/b"),
        ("//HOST/b", "/b"),
        ("HTTP://HOST/b", "/b"),
        ("http://HOST", "/"),
        ("http://HOST?b", "/?b"),
        ("http://HOST//a//b", "/a//b"),
        ("/b c", "/b%20c"),
        ("/b%20c%2Fd", "/b%20c%2Fd"),
        ("/文件?名=一", "/%E6%96%87%E4%BB%B6?%E5%90%8D=%E4%B8%80"),
        ("/b+c=d@e:f;g,h!(i)*'j'$k~[l]", "/b+c=d@e:f;g,h!(i)*'j'$k~[l]"),
        ('/b"<c>|{d}\\^`', "/b%22%3Cc%3E%7C%7Bd%7D%5C%5E%60"),
        ("/b?c=d?e=/f&g=http://h/", "/b?c=d?e=/f&g=http://h/"),
    ],
)
def test_a_redirect_may_be_written_in_many_ways(client: Client, near: Mirror, target: str, path: str) -> None:
    near.answers["/a/file"] = redirecting(target.replace("HOST", near.url.removeprefix("http://")))
    near.answers[path] = lambda request: near.send(request, BODY)
    assert read(client, f"{near.url}/a/file") == BODY
    assert near.paths() == ["/a/file", path]


def test_bytes_of_a_redirect_that_are_no_utf_8_are_what_they_are(client: Client, near: Mirror) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /\xe9\r\n\r\n")

    near.answers |= {"/file": answer, "/%C3%A9": lambda request: near.send(request, BODY)}
    assert read(client, f"{near.url}/file") == BODY


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/hostname", "FILE:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "javascript:1", "http://",
        "https:///x", "http://[::1", "http://[nonsense]/", "http://127.0.0.1:x/", "http://127.0.0.1:99999/",
        "http://127.0.0.1 /", "http://a b/", "http://.a/", "http://a..b/", f"http://{'a' * 64}/",
        "http://\N{FULLWIDTH SOLIDUS}/", "http://a\\b c/", "//", "///x/y:z",
    ],
)  # fmt: skip
@pytest.mark.parametrize("proxied", [False, True], ids=["", "through a proxy"])
def test_a_redirect_to_nonsense_or_to_a_disk_is_refused(
    made: Made, near: Mirror, through: Proxy, target: str, proxied: bool
) -> None:
    client = made({"proxy": through.url} if proxied else {}, per_host=1)
    near.answers["/file"] = redirecting(target)
    for _ in range(2):
        if target == "///x/y:z":  # which is a path
            assert fault(client, f"{near.url}/file") == (Kind.ABSENT, "404: not there, or not synced yet")
        else:
            assert fault(client, f"{near.url}/file") == (Kind.LOOP, "its redirects lead nowhere")
    assert set(through.lines()) <= {f"GET {near.url}/file", f"GET {near.url}/x/y:z"}


@pytest.mark.parametrize("name", ["loop", "endless"])
def test_redirects_without_an_end_are_given_up(made: Made, near: Mirror, name: str) -> None:
    client = made(per_host=1)
    near.answers[""] = lambda request: getattr(faults, name)(near, request)
    assert fault(client, f"{near.url}/file") == (Kind.LOOP, "its redirects lead nowhere")
    assert len(near.asked) == (1 if name == "loop" else 11)
    assert client.sample(f"{near.url}/file", seconds=5, limit=10).fault is not None


def test_redirects_in_a_circle_are_given_up(client: Client, near: Mirror, far: Mirror) -> None:
    near.answers["/file"] = redirecting(f"{far.url}/file")
    far.answers["/file"] = redirecting(f"{near.url}/file")
    assert fault(client, f"{near.url}/file") == (Kind.LOOP, "its redirects lead nowhere")
    assert (len(near.asked), len(far.asked)) == (1, 1)


def test_ten_redirects_are_not_too_many(client: Client, near: Mirror) -> None:
    near.answers |= {f"/{number}": redirecting(f"/{number + 1}") for number in range(10)}
    near.files["/10"] = BODY
    assert read(client, f"{near.url}/0") == BODY


def test_a_redirect_that_leads_nowhere_is_a_refusal(client: Client, near: Mirror) -> None:
    near.answers["/file"] = near.status(302)
    assert fault(client, f"{near.url}/file") == (Kind.REFUSED, "302 Found")


def test_a_long_page_with_a_redirect_is_not_read(client: Client, near: Mirror) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        near.send(request, bytes(1 << 20), {"Location": "/file"}, 302)

    near.answers["/a"] = answer
    assert read(client, f"{near.url}/a") == BODY


# Pages.


def test_a_page_may_come_packed(client: Client, near: Mirror) -> None:
    near.answers["/page"] = lambda request: near.send(
        request, gzip.compress(PAGE), {"Content-Encoding": "gzip", "X-Page": "yes"}
    )
    reply = client.page(f"{near.url}/page", seconds=5, accept="text/html")
    assert (reply.body, reply.status, reply.total) == (PAGE, 200, len(gzip.compress(PAGE)))
    assert (reply.headers["X-Page"], reply.late, reply.fault) == ("yes", False, None)
    assert 0 < reply.first_s <= reply.seconds < 5
    assert (shown(near, "Accept"), shown(near, "Accept-Encoding")) == (["text/html"], ["gzip"])


@pytest.mark.parametrize(
    ("packed", "kind", "text"),
    [
        (gzip.compress(PAGE)[:-20], Kind.CUT, "the connection was cut off"),
        (gzip.compress(PAGE)[:-5] + b"12345", Kind.CORRUPT, "checksum differs"),
        (PAGE, Kind.CORRUPT, "checksum differs"),
    ],
    ids=["half", "damaged", "plain"],
)
def test_a_packed_page_that_cannot_be_unpacked_is_a_fault(
    client: Client, near: Mirror, packed: bytes, kind: Kind, text: str
) -> None:
    near.answers["/page"] = lambda request: near.send(request, packed, {"Content-Encoding": "gzip"})
    with pytest.raises(Fault) as caught:
        page(client, f"{near.url}/page")
    assert (caught.value.kind, caught.value.text) == (kind, text)


def test_a_page_that_unpacks_without_an_end_is_a_fault(
    client: Client, near: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jingxiang.fetch.sampler.PAGE_BYTES", 1 << 16)
    near.answers["/page"] = lambda request: near.send(
        request, gzip.compress(bytes(1 << 20)), {"Content-Encoding": "gzip"}
    )
    with pytest.raises(Fault):
        page(client, f"{near.url}/page")


def test_a_file_is_never_unpacked(client: Client, near: Mirror) -> None:
    packed = gzip.compress(BODY)
    near.answers["/file"] = lambda request: near.send(request, packed, {"Content-Encoding": "gzip"})
    assert read(client, f"{near.url}/file") == packed
    assert client.sample(f"{near.url}/file", seconds=5, limit=100, ranged=True).body == packed[:100]


# Samples: an answer in time, come what may.


def sampled(client: Client, url: str, seconds: float = 0.4, limit: int = 1 << 20) -> tuple[Reply, float]:
    start = time.monotonic()
    return client.sample(url, seconds=seconds, limit=limit), time.monotonic() - start


def test_of_a_large_file_only_the_beginning_is_fetched(client: Client, near: Mirror) -> None:
    near.files["/big"] = bytes(16 << 20)
    for ranged in (True, False):
        reply = client.sample(f"{near.url}/big", seconds=5, limit=1000, ranged=ranged)
        assert (reply.status, reply.body, reply.total) == (206 if ranged else 200, bytes(1000), 16 << 20)
        assert (reply.url, reply.late, reply.fault) == (f"{near.url}/big", False, None)
    assert shown(near, "Range") == ["bytes=0-999", ""]


@pytest.mark.parametrize("name", ["silent", "dripping_headers"])
def test_headers_are_waited_for_so_long_only(client: Client, near: Mirror, name: str) -> None:
    near.answers["/file"] = getattr(near, name)
    reply, seconds = sampled(client, f"{near.url}/file")
    assert (reply.status, reply.body, reply.late) == (0, b"", True)
    assert reply.fault is not None
    assert (reply.fault.kind, reply.fault.text) == (Kind.SILENT, "timed out")
    assert 0.4 <= seconds < 3
    with pytest.raises(Fault, match="timed out"):
        client.page(f"{near.url}/file", seconds=0.2)


@pytest.mark.parametrize("name", ["stall", "dripping"])
def test_of_a_body_that_is_late_what_has_come_is_kept(client: Client, near: Mirror, name: str) -> None:
    near.answers["/file"] = near.dripping if name == "dripping" else lambda request: faults.stall(near, request)
    reply, seconds = sampled(client, f"{near.url}/file")
    assert (reply.status, reply.late, reply.fault) == (200, True, None)
    assert reply.body
    assert BODY.startswith(reply.body)
    assert 0.4 <= seconds < 3
    with pytest.raises(Fault, match="timed out"):
        client.page(f"{near.url}/file", seconds=0.2)


def test_a_slow_name_server_is_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: answered.wait(10) and [])
    reply, seconds = sampled(client, "http://mirror.example/")
    answered.set()
    assert (reply.status, reply.late) == (0, True)
    assert 0.4 <= seconds < 3


def test_a_tls_handshake_without_an_end_is_not_waited_for(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        reply, seconds = sampled(client, f"https://127.0.0.1:{server.getsockname()[1]}/")
    assert (reply.status, reply.late) == (0, True)
    assert 0.4 <= seconds < 3


def test_a_place_at_a_busy_host_is_not_waited_for(made: Made, near: Mirror) -> None:
    client = made(per_host=1)
    near.files["/big"] = bytes(64 << 20)
    with contextlib.closing(client.body(f"{near.url}/big")):
        reply, seconds = sampled(client, f"{near.url}/file")
    assert (reply.status, reply.late) == (0, True)
    assert 0.4 <= seconds < 3
    assert read(client, f"{near.url}/file") == BODY


def test_samples_that_were_late_take_no_place(made: Made, near: Mirror) -> None:
    client = made(per_host=1)
    near.answers |= {"/silent": near.silent, "/dripping": near.dripping}
    for path in ("/silent", "/dripping"):
        assert sampled(client, near.url + path, 0.1)[0].late
    assert read(client, f"{near.url}/file") == BODY


def test_a_sample_says_what_is_wrong(client: Client, near: Mirror) -> None:
    near.answers["/file"] = near.truncated
    for path, status, kind in (("/nothing", 404, Kind.ABSENT), ("/file", 200, Kind.CUT)):
        reply, _ = sampled(client, near.url + path, 5)
        assert reply.fault is not None
        assert (reply.status, reply.fault.kind, reply.late) == (status, kind, False)


def test_our_own_settings_are_no_fault_of_a_server(made: Made, secure: Mirror, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("text")
    client = made({"cert": str(tmp_path / "text.pem")}, per_host=1)
    for _ in range(3):
        with pytest.raises(UsageError, match=r"text\.pem: no certificates"):
            client.sample(f"{secure.url}/file", seconds=5, limit=10)
        with pytest.raises(UsageError, match=r"text\.pem: no certificates"):
            client.body(f"{secure.url}/file")


# Cutting a connection off, from another thread.


def cut_while(client: Client, url: str, ready: Callable[[Flow], object]) -> tuple[Kind, str, float]:
    """What a reader gets that is cut off as soon as it is ready, and how many seconds later."""
    flow = Flow()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, client, url, flow=flow)
        assert eventually(lambda: ready(flow))
        assert not reading.done()
        start = time.monotonic()
        flow.cut(Fault(Kind.STALLED, "too slow"))
        problem = reading.exception(10)
    assert isinstance(problem, Fault)
    return problem.kind, problem.text, time.monotonic() - start


@pytest.mark.parametrize("name", ["silent", "dripping_headers", "dripping", "stall"])
@pytest.mark.parametrize("scheme", ["http", "https", "proxied http", "proxied https"])
def test_a_connection_can_be_cut_off_in_headers_and_body(
    made: Made, near: Mirror, secure: Mirror, authority: Authority, through: Proxy, name: str, scheme: str
) -> None:
    settings = {"cert": str(authority.certificate)} | ({"proxy": through.url} if "proxied" in scheme else {})
    client = made(settings, per_host=1)
    server = secure if scheme.endswith("https") else near
    server.answers["/file"] = (
        (lambda request: faults.stall(server, request)) if name == "stall" else getattr(server, name)
    )
    # Our own proxy hands plain bodies on when they are complete.
    in_body = name in ("dripping", "stall") and scheme != "proxied http"
    kind, text, seconds = cut_while(
        client, f"{server.url}/file", lambda flow: flow.received if in_body else server.asked
    )
    assert (kind, text) == (Kind.STALLED, "too slow")
    assert seconds < 3
    assert page(client, f"{server.url}/page") == PAGE


def test_a_connection_can_be_cut_off_in_the_tls_handshake(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        kind, text, seconds = cut_while(client, url, lambda flow: flow._socket)
    assert (kind, text) == (Kind.STALLED, "too slow")
    assert seconds < 3


def test_a_connection_can_be_cut_off_before_there_is_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        kind, text, seconds = cut_while(client, url, lambda flow: flow.waited_s > 0.1)
    assert (kind, text) == (Kind.STALLED, "too slow")
    assert seconds < 3


def test_what_was_cut_off_on_an_idle_connection_is_not_asked_for_again(client: Client, near: Mirror) -> None:
    assert read(client, f"{near.url}/file") == BODY
    near.answers["/silent"] = near.silent
    kind, text, _ = cut_while(client, f"{near.url}/silent", lambda flow: "/silent" in near.paths())
    assert (kind, text) == (Kind.STALLED, "too slow")
    assert (near.paths(), near.connections) == (["/file", "/silent"], 1)


def test_what_was_cut_off_before_it_began_asks_nobody(client: Client, near: Mirror) -> None:
    flow = Flow()
    flow.cut(Fault(Kind.STALLED, "too slow"))
    assert fault(client, f"{near.url}/file", flow=flow) == (Kind.STALLED, "too slow")
    assert near.asked == []


def test_cutting_off_what_has_ended_hurts_nobody(client: Client, near: Mirror) -> None:
    flow = Flow()
    assert read(client, f"{near.url}/file", flow=flow) == BODY
    flow.cut(Fault(Kind.STALLED, "too slow"))
    assert read(client, f"{near.url}/file") == BODY
    assert near.connections == 1


# Proxies.


def test_plain_requests_go_to_the_proxy_with_their_whole_address(made: Made, near: Mirror, through: Proxy) -> None:
    client = made(HTTP_PROXY=through.url)
    near.files["/a b?c"] = b""
    for _ in range(2):
        assert read(client, f"{near.url}/file#x", start=1, end=9) == BODY[1:9]
    assert through.lines() == [f"GET {near.url}/file"] * 2
    assert [each.headers["Host"] for each in through.passed] == [near.url.removeprefix("http://")] * 2
    assert shown(near, "Range") == ["bytes=1-8"] * 2


def test_a_name_that_only_the_proxy_knows_can_be_asked(made: Made, near: Mirror, through: Proxy) -> None:
    through.names["mirror.example"] = "127.0.0.1"
    port = near.url.rpartition(":")[2]
    client = made(ALL_PROXY=through.url)
    assert read(client, f"http://mirror.example:{port}/file") == BODY
    assert through.lines() == [f"GET http://mirror.example:{port}/file"]
    assert shown(near, "Host") == [f"mirror.example:{port}"]


def test_tls_goes_through_a_tunnel(made: Made, secure: Mirror, through: Proxy, authority: Authority) -> None:
    client = made({"cert": str(authority.certificate)}, https_proxy=through.url)
    for _ in range(2):
        assert read(client, f"{secure.url}/file") == BODY
    assert through.lines() == [f"CONNECT {secure.url.removeprefix('https://')}"]
    assert shown(secure, "Host") == [secure.url.removeprefix("https://")] * 2


def test_the_certificate_in_a_tunnel_is_that_of_the_server(
    made: Made, secure: Mirror, through: Proxy, authority: Authority
) -> None:
    through.names["mirror.example"] = "127.0.0.1"
    client = made({"cert": str(authority.certificate), "proxy": through.url}, per_host=1)
    url = secure.url.replace("127.0.0.1", "mirror.example")
    for _ in range(2):
        assert fault(client, url) == (
            Kind.UNREACHABLE,
            "its certificate is not trusted (Hostname mismatch, certificate is not valid for 'mirror.example'.)",
        )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_gets_its_login_and_servers_do_not(
    made: Made, near: Mirror, secure: Mirror, authority: Authority, scheme: str
) -> None:
    server = near if scheme == "http" else secure
    with proxy.serving("li:p@ss") as through:
        address = through.url.replace("http://", "http://li:p%40ss@")
        client = made({"cert": str(authority.certificate), "proxy": address})
        assert read(client, f"{server.url}/file", authorization="Bearer s3cret") == BODY
        assert [each.headers["Proxy-Authorization"] for each in through.passed] == [basic("li:p@ss")]
        # In a tunnel it does not see what is for the server.
        seen = [each.headers.get("Authorization", "") for each in through.passed]
        assert seen == (["Bearer s3cret"] if scheme == "http" else [""])
    assert shown(server, "Proxy-Authorization") == [""]
    assert shown(server) == ["Bearer s3cret"]


@pytest.mark.parametrize("login", ["", "li:wrong@"])
def test_a_proxy_without_a_login_says_what_it_wants(
    made: Made, near: Mirror, secure: Mirror, authority: Authority, login: str
) -> None:
    with proxy.serving("li:s3cret") as through:
        address = through.url.replace("http://", f"http://{login}")
        client = made({"cert": str(authority.certificate), "proxy": address}, per_host=1)
        for _ in range(2):
            assert fault(client, f"{near.url}/file") == (Kind.REFUSED, "407 Proxy Authentication Required")
            assert fault(client, f"{secure.url}/file") == (
                Kind.UNREACHABLE, "no answer (Tunnel connection failed: 407 Proxy Authentication Required)",
            )  # fmt: skip
    assert near.asked == secure.asked == []


def test_a_proxy_that_is_not_there_is_the_reason(made: Made, near: Mirror) -> None:
    client = made(HTTP_PROXY=f"http://li:s3cret@127.0.0.1:{free_port()}")
    assert fault(client, f"{near.url}/file") == (Kind.UNREACHABLE, "no answer (Connection refused)")


def test_hosts_of_no_proxy_are_asked_directly(made: Made, near: Mirror, far: Mirror) -> None:
    with proxy.serving("li:s3cret") as through:
        client = made(ALL_PROXY=through.url.replace("//", "//li:s3cret@"), NO_PROXY="localhost")
        near.answers["/file"] = redirecting(f"{far.url}/file")
        assert read(client, f"{near.url}/file") == BODY
        assert through.lines() == [f"GET {near.url}/file"]
    assert (shown(near, "Proxy-Authorization"), shown(far, "Proxy-Authorization")) == ([""], [""])


def test_names_in_other_letters_go_through_proxies_too(made: Made, near: Mirror, through: Proxy) -> None:
    port = near.url.rpartition(":")[2]
    through.names["xn--o1qu83hyvq.example"] = "127.0.0.1"
    client = made({"proxy": through.url}, per_host=1)
    assert read(client, f"http://镜像站.example:{port}/file") == BODY
    assert through.lines() == [f"GET http://xn--o1qu83hyvq.example:{port}/file"]


def test_tinyproxy_lets_us_through(
    made: Made, near: Mirror, secure: Mirror, authority: Authority, tmp_path: Path
) -> None:
    with proxy.tinyproxy(tmp_path, "li:s3cret") as address:
        own = address.replace("//", "//li:s3cret@")
        client = made({"cert": str(authority.certificate)}, HTTP_PROXY=own, HTTPS_PROXY=own)
        for server in (near, secure):
            for _ in range(2):
                assert read(client, f"{server.url}/file") == BODY
        stranger = made({"proxy": address})
        assert fault(stranger, f"{near.url}/file") == (Kind.REFUSED, "407 Proxy Authentication Required")
    assert all("tinyproxy" in via for via in shown(near, "Via"))


# Certificates.


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "cert"])
def test_a_private_authority_is_trusted(made: Made, secure: Mirror, authority: Authority, name: str) -> None:
    path = str(authority.certificate)
    client = made({name: path}) if name == "cert" else made(**{name: path})
    assert read(client, f"{secure.url}/file") == BODY
    assert read(client, f"{secure.url.replace('127.0.0.1', 'localhost')}/file") == BODY


CERTIFICATES = {
    "untrusted": "unable to get local issuer certificate",
    "self-signed": "self-signed certificate",
    "expired": "certificate has expired",
    "of another host": "IP address mismatch, certificate is not valid for '127.0.0.1'.",
}


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize("proxied", [False, True], ids=["", "through a proxy"])
def test_a_certificate_that_is_not_good_is_a_fault(
    made: Made, authority: Authority, through: Proxy, name: str, proxied: bool
) -> None:
    makers: dict[str, Callable[[], Path]] = {
        "untrusted": lambda: authority.issue("good"),
        "self-signed": authority.self_signed,
        "expired": lambda: authority.issue("expired", days=-1),
        "of another host": lambda: authority.issue("other", "DNS:mirror.example"),
    }
    certificate = makers[name]()
    settings = {} if name == "untrusted" else {"cert": str(authority.certificate)}
    with tls.serving(certificate) as server:
        server.files["/file"] = BODY
        client = made(settings | ({"proxy": through.url} if proxied else {}), per_host=1)
        for _ in range(2):
            said = (Kind.UNREACHABLE, f"its certificate is not trusted ({CERTIFICATES[name]})")
            assert fault(client, f"{server.url}/file", authorization="Bearer s3cret") == said
        host = server.url.removeprefix("https://")
        for trusted in ("127.0.0.1", host, f"b.example {host}"):
            assert read(made(settings | {"trusted-host": trusted}), f"{server.url}/file") == BODY
        assert fault(made(settings | {"trusted-host": "127.0.0.1:1 localhost"}), f"{server.url}/file") == said
    assert shown(server) == [""] * 3


def test_a_server_may_want_a_certificate(made: Made, authority: Authority, good: Path) -> None:
    own, locked = authority.issue("client"), {"client-cert": ""}
    with tls.serving(good, clients=authority.certificate) as server:
        server.files["/file"] = BODY
        settings = {"cert": str(authority.certificate), "client-cert": str(own)}
        assert read(made(settings), f"{server.url}/file") == BODY
        assert read(made(settings | {"trusted-host": "127.0.0.1"}), f"{server.url}/file") == BODY
        kind, text = fault(made(settings | locked), f"{server.url}/file")
    assert (kind, text) in [
        (Kind.UNREACHABLE, "no TLS (TLSV13_ALERT_CERTIFICATE_REQUIRED)"),
        (Kind.CUT, "the connection was cut off"),  # it is closed before we have read why
    ]


# Logins and tokens: never to another host.


def with_login(url: str, login: str) -> str:
    return url.replace("://", f"://{login}@")


def test_the_login_of_an_address_is_for_all_pages_of_its_host(client: Client, near: Mirror, far: Mirror) -> None:
    assert page(client, with_login(f"{near.url}/page", "li:p%40ss")) == PAGE
    assert page(client, f"{near.url}/page") == PAGE
    assert read(client, f"{near.url}/file") == BODY
    assert read(client, f"{far.url}/file") == BODY
    assert shown(near) == [basic("li:p@ss")] * 3
    assert near.asked[0].headers["Host"] == near.url.removeprefix("http://")
    assert shown(far) == [""]


@pytest.mark.parametrize("given", ["address", "netrc", "token"])
def test_no_login_follows_a_redirect_to_another_host(
    made: Made, near: Mirror, far: Mirror, tmp_path: Path, given: str
) -> None:
    near.answers["/a"] = redirecting(f"{far.url}/b")
    near.answers["/c"] = redirecting("/file")
    far.answers["/b"] = redirecting(f"{near.url}/c")
    if given == "netrc":
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login li password s3cret\n")
    client = made()
    url = with_login(near.url, "li:s3cret") if given == "address" else near.url
    token = {"authorization": "Bearer s3cret"} if given == "token" else {}
    assert read(client, f"{url}/a", **token) == BODY
    assert shown(far) == [""]
    assert shown(near) == ["Bearer s3cret" if token else basic("li:s3cret")] * 3


def test_a_login_does_not_follow_to_another_port_or_scheme(
    made: Made, near: Mirror, secure: Mirror, authority: Authority
) -> None:
    client = made({"cert": str(authority.certificate)})
    secure.answers["/file"] = redirecting(f"{near.url}/file")
    assert read(client, with_login(f"{secure.url}/file", "li:s3cret")) == BODY
    assert read(client, f"{secure.url}/file", authorization="Bearer s3cret") == BODY
    with mirror.serving() as other:  # the same host, another port
        other.files["/file"] = BODY
        near.answers["/other"] = redirecting(f"{other.url}/file")
        assert read(client, f"{near.url}/other", authorization="Bearer s3cret") == BODY
    assert (shown(near), shown(other)) == (["", "", "Bearer s3cret"], [""])


def test_a_token_stands_before_a_login(client: Client, near: Mirror) -> None:
    read(client, with_login(f"{near.url}/file", "li:s3cret"), authorization="Bearer token")
    assert shown(near) == ["Bearer token"]


def test_each_address_has_its_own_login(client: Client, near: Mirror) -> None:
    for login in ("li:one", "wang:two"):
        page(client, with_login(f"{near.url}/page", login))
    page(client, f"{near.url}/page")
    assert shown(near) == [basic("li:one"), basic("wang:two"), basic("li:one")]


def test_a_redirect_cannot_set_the_login_of_another_host(client: Client, near: Mirror, far: Mirror) -> None:
    near.answers["/file"] = redirecting(with_login(f"{far.url}/file", "evil:login"))
    assert read(client, f"{near.url}/file") == BODY
    assert read(client, f"{far.url}/file") == BODY
    assert shown(far) == [basic("evil:login"), ""]


def test_the_file_with_logins_counts_for_its_hosts_alone(made: Made, near: Mirror, far: Mirror, tmp_path: Path) -> None:
    (tmp_path / "logins").write_text("machine localhost login li password s3cret default login a password b\n")
    client = made(NETRC=str(tmp_path / "logins"))
    near.answers["/file"] = redirecting(f"{far.url}/file")
    assert read(client, f"{near.url}/file") == BODY
    assert page(client, with_login(f"{far.url}/page", "wang:own")) == PAGE
    assert page(client, f"{far.url}/page") == PAGE
    assert shown(near) == [""]
    assert shown(far) == [basic("li:s3cret"), basic("wang:own"), basic("wang:own")]


@pytest.mark.parametrize("given", ["address", "token"])
def test_what_goes_wrong_does_not_show_a_login(
    made: Made, near: Mirror, given: str, capfd: pytest.CaptureFixture[str]
) -> None:
    client = made()
    near.answers |= {"/401": near.status(401), "/loop": partial(faults.loop, near), "/cut": near.truncated}
    near.files["/cut"] = BODY
    for path in ("/401", "/loop", "/cut", "/nothing"):
        url = with_login(near.url, "li:s3cret") if given == "address" else near.url
        with pytest.raises(Fault) as caught:
            read(client, url + path, authorization="Bearer s3cret" if given == "token" else "")
        assert "s3cret" not in repr(caught.value) + caught.value.text
    kind, text = fault(client, with_login(f"http://127.0.0.1:{free_port()}/", "li:s3cret"))
    assert (kind, text) == (Kind.UNREACHABLE, "no answer (Connection refused)")
    assert "s3cret" not in "".join(capfd.readouterr())


# Folders.


def test_a_folder_is_a_server_too(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    url = (tmp_path / "file").as_uri()
    for start, end in ((0, None), (5, None), (5, 9), (5, 10**9), (len(BODY), None), (len(BODY) + 5, None)):
        flow = Flow()
        with contextlib.closing(client.body(url, start=start, end=end, flow=flow)) as body:
            assert (body.url, body.start, body.total) == (url, start, len(BODY))
            assert rest(body) == BODY[start:end]
            assert flow.received == len(BODY[start:end])
    reply = client.sample(url, seconds=5, limit=10)
    assert (reply.status, reply.url, reply.body, reply.total) == (200, url, BODY[:10], len(BODY))
    assert (reply.late, reply.fault) == (False, None)


def test_of_a_folder_its_index_is_read(client: Client, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(PAGE)
    for url in (tmp_path.as_uri(), f"{tmp_path.as_uri()}/", f"file://localhost{tmp_path}/index.html"):
        assert page(client, url) == PAGE


@pytest.mark.parametrize("name", ["a b", "文件", "a%20b", "a#b?c", "a+b&c=d", "a'b\"c", "x" * 255])
def test_files_may_have_odd_names(client: Client, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BODY)
    assert read(client, (tmp_path / name).as_uri()) == BODY


def test_an_address_need_not_be_encoded_where_it_is_clear(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a b 文件").write_bytes(BODY)
    assert read(client, f"file://{tmp_path}/a b 文件") == BODY


@pytest.mark.parametrize("path", ["nothing", "nothing/file", "file/below", "folder", "pipe", "a%00b", ""])
def test_what_is_no_file_is_not_there(client: Client, tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    url = f"{tmp_path.as_uri()}/{path}"
    assert fault(client, url) == (Kind.ABSENT, "not there")
    reply = client.sample(url, seconds=5, limit=10)
    assert reply.fault is not None
    assert (reply.status, reply.fault.kind, reply.late) == (0, Kind.ABSENT, False)


def test_a_name_that_no_disk_can_hold_is_a_fault(client: Client, tmp_path: Path) -> None:
    assert fault(client, f"{tmp_path.as_uri()}/{'x' * 300}") == (
        Kind.UNREACHABLE, "no answer (File name too long)",
    )  # fmt: skip


def test_a_file_that_may_not_be_read_is_a_fault(tmp_path: Path) -> None:
    """By somebody else than root, who may read everything."""
    (tmp_path / "file").touch(0o000)
    code = (
        "import os, sys\n"
        "from jingxiang.fetch.client import Client, Fault, Network\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "try:\n"
        "    Client(Network()).body(sys.argv[1])\n"
        "except Fault as fault:\n"
        "    print(fault.kind.name, fault)\n"
    )
    argv = [sys.executable, "-c", code, (tmp_path / "file").as_uri()]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "UNREACHABLE no answer (Permission denied)\n"
