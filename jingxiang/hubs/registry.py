"""Manifests from registries, and the tokens that registries give to anybody who asks.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md (end-3),
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from jingxiang import base_images
from jingxiang.base_images import BaseImage, Blob, NotAnImage, Reference
from jingxiang.digest import sha256_bytes
from jingxiang.fetch import artifacts, faults
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.locations import granted
from jingxiang.language import tr
from jingxiang.mirrors import Source

TIMEOUT_S = 20.0
ACCEPT = ", ".join((*base_images.INDEXES, *base_images.MANIFESTS))


@dataclass(frozen=True)
class Manifest:
    """A manifest as it came, and its type."""

    media_type: str
    body: bytes

    @property
    def blob(self) -> Blob:
        return Blob(sha256_bytes(self.body), self.media_type, len(self.body))


def image(client: Client, source: Source, named: Reference) -> tuple[BaseImage, bytes]:
    """The image that a source has by that name for our platform, with its manifest. Raises `Fault`."""
    try:
        found = manifest(client, source, named, named.what)
        if found.media_type in base_images.INDEXES:
            found = manifest(client, source, named, f"sha256:{base_images.chosen(found.body)}")
        if found.media_type not in base_images.MANIFESTS:
            raise NotAnImage(tr("not the manifest of an image"))
        return base_images.image(named, found.blob, found.body), found.body
    except NotAnImage as error:
        raise Fault(Kind.ABSENT, str(error)) from error


def manifest(client: Client, source: Source, named: Reference, what: str) -> Manifest:
    """By tag or digest; one that was asked for by digest is the one. Raises `Fault`."""
    url = artifacts.manifest(source, named.group, what)
    if not url:
        raise Fault(Kind.ABSENT, tr("has only what is locked already"))
    try:
        reply = client.page(url, seconds=TIMEOUT_S, accept=ACCEPT)
    except Fault as fault:
        authorization = f"Bearer {granted(client, fault)}"
        reply = client.page(url, seconds=TIMEOUT_S, accept=ACCEPT, authorization=authorization)
    if what.startswith("sha256:") and sha256_bytes(reply.body) != what.removeprefix("sha256:"):
        raise Fault(Kind.CORRUPT, tr("checksum differs"))
    try:
        kind = json.loads(reply.body).get("mediaType")
    except (ValueError, AttributeError):
        raise faults.of_body(reply.status, reply.body) from None
    return Manifest(str(kind or (reply.headers.get("Content-Type") or "").partition(";")[0].strip()), reply.body)
