"""TCP connections that a dead name server or a broken IPv6 route cannot hold up."""

from __future__ import annotations

import errno
import itertools
import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable

from jingxiang.language import tr

# RFC 8305, section 5: how long an address may keep the next one waiting.
HEAD_START_S = 0.25

Address = tuple[socket.AddressFamily, tuple[object, ...]]


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """A connected socket. Tries every address of the host, IPv6 and IPv4 in turn, each a little after the one before.

    Raises OSError: `TimeoutError` after `timeout_s` in all, `socket.gaierror` for an unknown name, else what the last
    address answered.
    """
    deadline = time.monotonic() + timeout_s
    waiting = deque(_alternating(_resolved(host, port, timeout_s)))
    error: OSError = socket.gaierror(socket.EAI_NONAME, tr("no address"))
    next_start = 0.0
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    raise TimeoutError(tr("timed out"))
                if waiting and (now >= next_start or not selector.get_map()):
                    next_start = now + HEAD_START_S
                    try:
                        selector.register(_started(*waiting.popleft()), selectors.EVENT_WRITE)
                    except OSError as problem:  # no route: the next one at once
                        error = problem
                    continue
                for key, _ in selector.select(min(deadline, next_start if waiting else deadline) - now):
                    opened = key.fileobj
                    assert isinstance(opened, socket.socket)
                    selector.unregister(opened)
                    if code := opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        opened.close()
                        error = _error(code)
                        next_start = 0.0
                        continue
                    opened.setblocking(True)
                    return opened
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
    raise error


def _resolved(host: str, port: int, timeout_s: float) -> list[Address]:
    """The addresses of a host. A lookup cannot be interrupted: its thread is left behind if need be."""
    answers: queue.SimpleQueue[list[Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, address) for family, _, _, _, address in found])
        except UnicodeError:  # not a name that can be asked for
            answers.put(socket.gaierror(socket.EAI_NONAME, tr("no address")))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(tr("timed out")) from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _alternating(addresses: Iterable[Address]) -> list[Address]:
    """The same addresses, one family after the other, beginning with that of the first."""
    families: dict[socket.AddressFamily, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    return [address for group in itertools.zip_longest(*families.values()) for address in group if address]


def _started(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = opened.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise _error(code)
    except BaseException:
        opened.close()
        raise
    return opened


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
