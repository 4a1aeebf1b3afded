"""Cookies of a request."""

from __future__ import annotations


def values(header: str, name: str) -> list[str]:
    """What a Cookie header (RFC 6265) holds under a name: one for each folder of the host that has set it, that of the
    innermost folder first. What is no cookie is passed over.
    """
    pairs = (part.partition("=") for part in header.split(";"))
    return [value.strip() for key, equals, value in pairs if equals and key.strip() == name]
