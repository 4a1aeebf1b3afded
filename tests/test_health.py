"""app.health: against real servers, and what the check costs"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import health
from app.health import Unhealthy

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def answering(*parts: bytes, pause_s: float = 0.0) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives this answer, part by part, to whoever comes; its port, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        asked.append(connection.recv(4096))
                        for part in parts:
                            connection.sendall(part)
                            time.sleep(pause_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def problem(port: int, *, timeout_s: float = 4.0, host: str = "127.0.0.1") -> str:
    with pytest.raises(Unhealthy) as caught:
        health.check(host, port, timeout_s=timeout_s)
    assert caught.value.exit_code == 1
    return caught.value.message


def test_200_is_well_however_it_arrives() -> None:
    with answering(b"HTT", b"P/1.1 20", b"0 OK\r\ncontent-length: 2\r\n\r\n{}", pause_s=0.01) as (port, asked):
        health.check("127.0.0.1", port)
    assert asked[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503 Service Unavailable"),
        (b"HTTP/1.1 404\r\n\r\n", "404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "whatever answers there is not the app"),
        (b"x" * 5000, "whatever answers there is not the app"),
        (b"", "whatever answers there is not the app"),
    ],
)
def test_another_answer_is_said(answer: bytes, words: str) -> None:
    with answering(answer) as (port, _):
        assert problem(port) == f"http://127.0.0.1:{port}/healthz: {words}"


def test_a_server_that_says_nothing_is_not_waited_for_long() -> None:
    with answering(pause_s=0) as (_, _), socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        assert problem(port, timeout_s=0.3) == f"http://127.0.0.1:{port}/healthz: no answer within 0.3 s"
        assert time.monotonic() - start < 2


def test_where_nothing_can_be_asked_the_reason_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert problem(port) == f"http://127.0.0.1:{port}/healthz: Connection refused"
    assert problem(70000).startswith("http://127.0.0.1:70000/healthz: ")
    assert problem(80, host="nowhere.invalid").startswith("http://nowhere.invalid:80/healthz: ")
    assert problem(80, host="::ffff:300").startswith("http://[::ffff:300]:80/healthz: ")


def run(port: int) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "app", "health"], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "JINGXIANG_PORT": str(port), "JINGXIANG_HOST": "0.0.0.0"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_is_silent_or_one_line() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as (port, _):
        assert run(port) == (0, "", "")
    assert run(port) == (1, "", f"error: http://127.0.0.1:{port}/healthz: Connection refused\n")


def test_it_costs_next_to_nothing() -> None:
    """It runs every few seconds as long as a container lives. The best of five: other programs run here, too."""

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as (port, _):
        spent = []
        for _ in range(5):
            before = cpu_s()
            assert run(port)[0] == 0
            spent.append(cpu_s() - before)
    assert min(spent) < 0.15
