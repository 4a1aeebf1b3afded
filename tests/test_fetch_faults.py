"""jingxiang.fetch.faults: what is said of what mirrors do wrong"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl

import pytest

from jingxiang.fetch import faults
from jingxiang.fetch.faults import Kind


@pytest.mark.parametrize(
    ("code", "words", "kind", "text", "waits", "challenged"),
    [
        (400, "Bad Request", Kind.REFUSED, "400 Bad Request", False, True),
        (401, "Unauthorized", Kind.REFUSED, "401 Unauthorized", False, True),
        (403, "Forbidden", Kind.BLOCKED, "403: blocked by its firewall", False, False),
        (404, "Not Found", Kind.ABSENT, "404: not there, or not synced yet", False, False),
        (410, "Gone", Kind.ABSENT, "410: not there, or not synced yet", False, False),
        (416, "", Kind.LENGTH, "416: its file is shorter", False, False),
        (418, "", Kind.REFUSED, "418", False, True),
        (429, "Too Many Requests", Kind.BUSY, "429: too many requests", True, False),
        (500, "", Kind.BROKEN, "500", True, False),
        (503, "Service Unavailable", Kind.BROKEN, "503 Service Unavailable", True, False),
        (599, "\x1b]0;title\x07 \r\n", Kind.BROKEN, "599 ]0;title", True, False),
        (302, "x" * 5000, Kind.REFUSED, f"302 {'x' * 80}", False, True),
    ],
)
def test_a_status_has_a_kind_and_a_text(
    code: int, words: str, kind: Kind, text: str, waits: bool, challenged: bool
) -> None:
    found = faults.of_status(code, words, wait_s=7, challenge="Basic")
    assert (found.kind, found.text, str(found)) == (kind, text, text)
    assert (found.wait_s, found.challenge) == (7 if waits else 0, "Basic" if challenged else "")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "200 but empty"),
        (b"<html>", "200 but HTML: not a mirror of this space"),
        (b" \r\n<!DOCTYPE HTML><html>", "200 but HTML: not a mirror of this space"),
        (b"<htm", "200 but not what was asked for"),
        (b"PK\x03\x04", "200 but not what was asked for"),
        (b" " * 600 + b"<html>", "200 but not what was asked for"),
    ],
)
def test_what_came_instead_of_a_file_is_told_by_its_beginning(body: bytes, text: str) -> None:
    found = faults.of_body(200, body)
    assert (found.kind, found.text) == (Kind.PAGE, text)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (TimeoutError("timed out"), Kind.SILENT, "timed out"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Kind.CUT, "the connection was cut off"),
        (socket.gaierror(-2, "Name or service not known"), Kind.UNREACHABLE,
         "its name is not known (Name or service not known)"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Kind.CUT, "the connection was cut off"),
        (BrokenPipeError(errno.EPIPE, "pipe"), Kind.CUT, "the connection was cut off"),
        (http.client.RemoteDisconnected("closed"), Kind.CUT, "the connection was cut off"),
        (http.client.IncompleteRead(b""), Kind.CUT, "the connection was cut off"),
        (http.client.BadStatusLine("220 ftp"), Kind.BROKEN, "does not speak HTTP"),
        (http.client.LineTooLong("header line"), Kind.BROKEN, "does not speak HTTP"),
        (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), Kind.UNREACHABLE,
         "no answer (Connection refused)"),
        (OSError("Tunnel connection failed: 403 \x1b[31mForbidden"), Kind.UNREACHABLE,
         "no answer (Tunnel connection failed: 403 [31mForbidden)"),
    ],
)  # fmt: skip
def test_an_error_has_a_kind_and_a_text(error: Exception, kind: Kind, text: str) -> None:
    found = faults.of_error(error)
    assert (found.kind, found.text) == (kind, text)


def test_only_what_may_pass_is_tried_again() -> None:
    assert {kind.name for kind in Kind if kind.again} == {
        "UNREACHABLE", "SILENT", "STALLED", "CUT", "BUSY", "BROKEN",
    }  # fmt: skip
    assert {kind.name for kind in Kind if kind.weight < 1} == {"ABSENT", "STALE"}
