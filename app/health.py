"""`health`: whether the app answers, for a container engine's health check. It runs all the time: it needs little."""

from __future__ import annotations

import socket

from app.texts import tr
from jingxiang.errors import JingxiangError

TIMEOUT_S = 4.0  # engines give the check 5 s; its own message says more than theirs
LINE_BYTES = 1024


class Unhealthy(JingxiangError):
    """The app does not answer, or not with 200."""


def check(host: str, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
    """Ask for /healthz once; raises `Unhealthy`. Not with http.client: importing it takes longer than all the rest."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/healthz"
    asked = f"GET /healthz HTTP/1.1\r\nHost: {shown}:{port}\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(asked.encode())
            while b"\r\n" not in answer and len(answer) < LINE_BYTES:
                received = connection.recv(LINE_BYTES)
                if not received:
                    break
                answer += received
    except TimeoutError as error:
        raise Unhealthy(tr("{url}: no answer within {seconds:g} s", url=url, seconds=timeout_s)) from error
    except (OSError, OverflowError, UnicodeError) as error:  # no such port number; not a host name
        raise Unhealthy(f"{url}: {getattr(error, 'strerror', None) or error}") from error
    status = answer.partition(b"\r\n")[0].decode("latin-1").split()
    if len(status) < 2 or not status[0].startswith("HTTP/"):
        raise Unhealthy(tr("{url}: whatever answers there is not the app", url=url))
    if status[1] != "200":
        raise Unhealthy(f"{url}: {' '.join(status[1:])}")
