"""What mirrors do wrong, and what follows from each of it."""

from __future__ import annotations

import http.client
import socket
import ssl
from enum import Enum

from jingxiang.language import tr

CUT_OFF = (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead, ssl.SSLEOFError)
WORDS = 80  # characters of what a server says


class Kind(Enum):
    """Ways to fail. `again`: the same file may be had there a little later. `weight`: how much it speaks against the
    mirror as a whole: one that does not have a file yet may have all others."""

    UNREACHABLE = ("unreachable", True, 1.0)
    SILENT = ("no answer", True, 1.0)
    STALLED = ("stalled", True, 1.0)
    CUT = ("cut off", True, 1.0)
    BUSY = ("429", True, 1.0)
    BROKEN = ("5xx", True, 1.0)
    BLOCKED = ("403", False, 1.0)
    ABSENT = ("404", False, 0.3)
    STALE = ("not in its index", False, 0.3)
    REFUSED = ("refused", False, 1.0)
    LENGTH = ("wrong length", False, 1.0)
    PAGE = ("a web page", False, 1.0)
    CORRUPT = ("checksum differs", False, 1.0)
    LOOP = ("redirects", False, 1.0)

    def __init__(self, _: str, again: bool, weight: float) -> None:
        self.again = again
        self.weight = weight


class Fault(Exception):
    """One source failed for one file; the text says how, in a few words.

    `wait_s`: how long it asks to be left alone. `challenge`: what it wants to see first (WWW-Authenticate).
    """

    def __init__(self, kind: Kind, text: str, *, wait_s: float = 0.0, challenge: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.wait_s = wait_s
        self.challenge = challenge


def of_status(code: int, words: str, *, wait_s: float = 0.0, challenge: str = "") -> Fault:
    """What a status other than 200 and 206 means."""
    if code == 403:
        return Fault(Kind.BLOCKED, tr("403: blocked by its firewall"))
    if code in (404, 410):
        return Fault(Kind.ABSENT, tr("{code}: not there, or not synced yet", code=code))
    if code == 416:
        return Fault(Kind.LENGTH, tr("416: its file is shorter"))
    if code == 429:
        return Fault(Kind.BUSY, tr("429: too many requests"), wait_s=wait_s)
    if code >= 500:
        return Fault(Kind.BROKEN, f"{code} {_plain(words)}".strip(), wait_s=wait_s)
    return Fault(Kind.REFUSED, f"{code} {_plain(words)}".strip(), challenge=challenge)


def of_body(status: int, body: bytes) -> Fault:
    """What it means that something else came than what was asked for, by its beginning."""
    if body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return Fault(Kind.PAGE, tr("{status} but HTML: not a mirror of this space", status=status))
    if not body:
        return Fault(Kind.PAGE, tr("{status} but empty", status=status))
    return Fault(Kind.PAGE, tr("{status} but not what was asked for", status=status))


def of_error(error: Exception) -> Fault:
    """What the system, TLS or HTTP says when a connection cannot be made or breaks."""
    if isinstance(error, TimeoutError):
        return Fault(Kind.SILENT, tr("timed out"))
    if isinstance(error, ssl.SSLCertVerificationError):
        return Fault(Kind.UNREACHABLE, tr("its certificate is not trusted ({reason})", reason=error.verify_message))
    if isinstance(error, CUT_OFF):
        return Fault(Kind.CUT, tr("the connection was cut off"))
    if isinstance(error, ssl.SSLError):
        return Fault(Kind.UNREACHABLE, tr("no TLS ({reason})", reason=error.reason or error))
    if isinstance(error, socket.gaierror):
        return Fault(Kind.UNREACHABLE, tr("its name is not known ({reason})", reason=error.strerror))
    if isinstance(error, http.client.HTTPException):
        return Fault(Kind.BROKEN, tr("does not speak HTTP"))
    reason = getattr(error, "strerror", "") or str(error)
    return Fault(Kind.UNREACHABLE, tr("no answer ({reason})", reason=_plain(reason)))


def _plain(words: str) -> str:
    """A server's own words, which a terminal will show."""
    return "".join(filter(str.isprintable, words))[:WORDS].strip()
