"""Images as values: layers, a configuration and a manifest, whose digests follow from nothing but their bytes.

https://github.com/opencontainers/image-spec (1.1): image-layout, manifest and config. What the docker engine reads
besides (`Healthcheck`): https://github.com/moby/docker-image-spec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jingxiang.base_images import MANIFESTS, Blob
from jingxiang.digest import canonical_json, sha256_bytes

# The kinds of layers, from below.
BASE, WEIGHTS, ENVIRONMENT, APP, COMPILED = "base", "weights", "environment", "app", "compiled"
TAR = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST, INDEX = MANIFESTS[0], "application/vnd.oci.image.index.v1+json"
PATH = "PATH"
EMPTY = Blob(sha256_bytes(b"{}"), "application/vnd.oci.empty.v1+json", 2)
# Layers of older images: the same bytes under their newer name, because one manifest holds one family of names.
RENAMED = {
    "application/vnd.docker.image.rootfs.diff.tar": TAR,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{TAR}+gzip",
}


class Content(Protocol):
    """Bytes that can be had as often as they are needed."""

    def blocks(self) -> Iterator[bytes]:
        """From the beginning, in blocks of about a megabyte."""


@dataclass(frozen=True)
class Bytes:
    """Content that is in memory."""

    body: bytes

    def blocks(self) -> Iterator[bytes]:
        yield self.body


@dataclass(frozen=True)
class Layer:
    """`kind`: see above; `title`: what people read; `blob`: as the manifest names it; `diff_id`: the SHA-256 of the
    tar, which is that of the blob unless it is compressed; `origin`: the repository that it came from."""

    kind: str
    title: str
    blob: Blob
    diff_id: str
    content: Content = field(compare=False, repr=False)
    origin: str = ""


@dataclass(frozen=True)
class Attachment:
    """A document about an image, for sinks that can keep one beside it."""

    name: str
    media_type: str
    body: bytes


@dataclass(frozen=True)
class Image:
    """What a sink is given. Configuration and manifest are bytes: their digests are the image's names."""

    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes
    attachments: tuple[Attachment, ...] = ()

    @property
    def id(self) -> str:
        """What the docker engine calls it: the configuration's digest."""
        return f"sha256:{sha256_bytes(self.config)}"

    @property
    def digest(self) -> str:
        """What registries and layouts call it: the manifest's digest."""
        return f"sha256:{sha256_bytes(self.manifest)}"

    @property
    def descriptor(self) -> Blob:
        return Blob(sha256_bytes(self.manifest), MANIFEST, len(self.manifest))

    @property
    def config_descriptor(self) -> Blob:
        return Blob(sha256_bytes(self.config), CONFIG, len(self.config))

    @property
    def size_bytes(self) -> int:
        return sum(layer.blob.size for layer in self.layers)


def image(
    base: Mapping[str, Any],
    layers: Sequence[Layer],
    settings: Mapping[str, Any],
    *,
    created: str,
    attachments: Sequence[Attachment] = (),
) -> Image:
    """Put an image together. `base`: the configuration of the base image, whose layers are the first of `layers`;
    `settings`: our part of the configuration, see `merged`; `created`: RFC 3339."""
    added = [layer for layer in layers if layer.kind != BASE]
    of_base = base.get("history") or [{"created_by": layer.title} for layer in layers if layer.kind == BASE]
    config = canonical_json(
        {
            "architecture": base["architecture"],
            "os": base["os"],
            "created": created,
            "config": merged(base.get("config") or {}, settings),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
            "history": [
                *of_base,
                *(
                    {"created": created, "created_by": f"jingxiang {layer.kind} {layer.title}".strip()}
                    for layer in added
                ),
            ],
        }
    )
    return Image(tuple(layers), config, _manifest(layers, config), tuple(attachments))


def part(whole: Image, count: int) -> Image:
    """The image of the first `count` layers alone, for engines that take one layer after the other."""
    config = json.loads(whole.config)
    layers = whole.layers[:count]
    kept = {"architecture": config["architecture"], "os": config["os"], "created": config["created"]}
    diff_ids = [f"sha256:{layer.diff_id}" for layer in layers]
    body = canonical_json({**kept, "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    return Image(tuple(layers), body, _manifest(layers, body))


def merged(base: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a derived image: variables and labels are added to those of its base, all else is replaced. Of
    PATH, ours comes first."""
    variables = {name: value for name, _, value in (each.partition("=") for each in base.get("Env") or ())}
    path = [*ours.get("Env", {}).get(PATH, "").split(":"), *variables.get(PATH, "").split(":")]
    variables |= dict(ours.get("Env", {}))
    if any(path):
        variables[PATH] = ":".join(dict.fromkeys(filter(None, path)))
    labels = {**(base.get("Labels") or {}), **ours.get("Labels", {})}
    rest = {key: value for key, value in ours.items() if key not in ("Env", "Labels")}
    return {**rest, "Env": [f"{name}={value}" for name, value in variables.items()], "Labels": labels}


def referrer(image: Image, attachment: Attachment) -> bytes:
    """The manifest that says that a document is about an image (image-spec 1.1, guidelines for artifacts)."""
    blob = Blob(sha256_bytes(attachment.body), attachment.media_type, len(attachment.body))
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": attachment.media_type,
            "config": EMPTY.to_json(),
            "layers": [{**blob.to_json(), "annotations": {"org.opencontainers.image.title": attachment.name}}],
            "subject": image.descriptor.to_json(),
        }
    )


def _manifest(layers: Sequence[Layer], config: bytes) -> bytes:
    described = Blob(sha256_bytes(config), CONFIG, len(config))
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described.to_json(),
            "layers": [
                {**layer.blob.to_json(), "mediaType": RENAMED.get(layer.blob.media_type, layer.blob.media_type)}
                for layer in layers
            ],
        }
    )
