"""The ways in which mirrors fail, as answers of a `Mirror`.

Where bytes go wrong, `at` says where: 0 is the beginning of the body, 1 its end.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler

from tests.peers.mirror import PAGE, Mirror

Answer = Callable[[BaseHTTPRequestHandler], None]
Fault = Callable[[Mirror, BaseHTTPRequestHandler], None]


def point(body: bytes, at: float) -> int:
    return min(int(len(body) * at), max(len(body) - 1, 0))


def truncated(mirror: Mirror, request: BaseHTTPRequestHandler, at: float = 0.5) -> None:
    """The connection ends before the body does."""
    body = mirror.begin(request)
    request.wfile.write(body[: point(body, at)])
    request.close_connection = True


def reset(mirror: Mirror, request: BaseHTTPRequestHandler, at: float = 0.5) -> None:
    """The same, with RST instead of FIN."""
    body = mirror.begin(request)
    request.wfile.write(body[: point(body, at)])
    request.wfile.flush()
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
    request.close_connection = True


def corrupt(mirror: Mirror, request: BaseHTTPRequestHandler, at: float = 0.5) -> None:
    """One byte is another one; everything else is right."""
    body = bytearray(mirror.begin(request))
    if body:
        body[point(bytes(body), at)] ^= 0xFF
    request.wfile.write(body)


def stall(mirror: Mirror, request: BaseHTTPRequestHandler, at: float = 0.5) -> None:
    """Headers, some bytes, then silence."""
    body = mirror.begin(request)
    request.wfile.write(body[: point(body, at)])
    request.wfile.flush()
    mirror.closed.wait(60)
    request.close_connection = True


def crawl(mirror: Mirror, request: BaseHTTPRequestHandler, at: float = 0.5) -> None:
    """Headers, some bytes, then two kilobytes a second: never silent, and never done."""
    body = mirror.begin(request)
    place = point(body, at)
    request.wfile.write(body[:place])
    while place < len(body) and not mirror.closed.wait(0.1):
        request.wfile.write(body[place : place + 200])
        place += 200


def silent(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """Takes the request and says nothing."""
    mirror.closed.wait(60)
    request.close_connection = True


def status(code: int, headers: dict[str, str] | None = None) -> Fault:
    def answer(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
        mirror.start(request, b"<html>no</html>", {"Content-Type": "text/html", **(headers or {})}, code)
        request.wfile.write(b"<html>no</html>")

    return answer


def page(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """200 and a web page, called one."""
    mirror.html(request)


def hidden_page(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """200 and a web page that says it is a file."""
    request.headers.replace_header("Range", "") if "Range" in request.headers else None
    mirror.send(request, PAGE, {"Content-Type": "application/octet-stream"})


def empty(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """200 and nothing."""
    request.send_response(200)
    request.send_header("Content-Length", "0")
    request.end_headers()


def longer(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """A file that goes on after its end."""
    mirror.send(request, mirror.files[request.path] + b"more")


def shorter(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """A file that lacks its end, and says so."""
    mirror.send(request, mirror.files[request.path][:-4])


def announced_too_long(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """The right bytes after a wrong Content-Length."""
    body = mirror.files[request.path]
    body = mirror.begin(request, length=len(body) + 100)
    request.wfile.write(body)
    request.close_connection = True


def loop(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """Redirects to itself."""
    mirror.redirect(request, request.path)


def endless(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """Redirects to ever new addresses."""
    path, _, number = request.path.partition("?")
    mirror.redirect(request, f"{path}?{int(number or 0) + 1}")


def no_http(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"220 ftp ready\r\n")
    request.close_connection = True


def unranged(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """The whole file, whatever part is asked for; not a fault, but it has to be noticed."""
    del request.headers["Range"]
    mirror.send(request, mirror.files[request.path])


def chunked(mirror: Mirror, request: BaseHTTPRequestHandler) -> None:
    """The whole file without saying how long it is; not a fault either."""
    body = mirror.files[request.path]
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for start in range(0, len(body), 10_000):
        part = body[start : start + 10_000]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    request.wfile.write(b"0\r\n\r\n")


PLACES = {"start": 0.0, "middle": 0.5, "end": 1.0}
# Those of single answers, by name. The ones of whole servers (closed port, unknown name, bad certificate) need none.
FAULTS: dict[str, Fault] = {
    **{f"{fault.__name__} at the {place}": partial(fault, at=at)
       for fault in (truncated, reset, corrupt, stall, crawl) for place, at in PLACES.items()
       if (fault, place) != (crawl, "end")},
    **{str(code): status(code) for code in (400, 401, 403, 404, 410, 416, 500, 502, 503)},
    "429": status(429, {"Retry-After": "3600"}),
    **{fault.__name__: fault for fault in (
        silent, page, hidden_page, empty, longer, shorter, announced_too_long, loop, endless, no_http)},
}  # fmt: skip


def once(mirror: Mirror, fault: Fault) -> Answer:
    """The fault at the first request of each file; after that all is well."""
    failed: set[str] = set()

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        if path in failed:
            mirror.send(request, mirror.files[request.path])
        else:
            failed.add(path)
            fault(mirror, request)

    return answer


def always(mirror: Mirror, fault: Fault) -> Answer:
    return lambda request: fault(mirror, request)
