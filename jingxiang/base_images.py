"""Base images, named by digests, and their lock.

docker/base.lock (JSON), for each image by its full reference: its platform, and of its manifest, its configuration and
each of its layers the digest, media type and size.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang.errors import TableError, UsageError
from jingxiang.language import tr

LOCK = "docker/base.lock"
PLATFORM = "linux/amd64"
HUB = "docker.io"
DIGEST = re.compile("sha256:[0-9a-f]{64}")
# https://distribution.github.io/distribution/spec/api/ and the reference grammar of the same project
PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(f"{PART}(?:/{PART})*")
REGISTRY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")


@dataclass(frozen=True)
class Reference:
    """The name of an image: `registry`/`repository`, with a tag or a digest (`what`)."""

    registry: str
    repository: str
    what: str

    @property
    def group(self) -> str:
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return f"{self.group}{'@' if DIGEST.fullmatch(self.what) else ':'}{self.what}"


@dataclass(frozen=True)
class Blob:
    """A file of an image: manifest, configuration or layer."""

    sha256: str
    media_type: str
    size: int

    def to_json(self) -> dict[str, str | int]:
        """An OCI descriptor."""
        return {"mediaType": self.media_type, "digest": f"sha256:{self.sha256}", "size": self.size}


@dataclass(frozen=True)
class BaseImage:
    """One image for one platform."""

    reference: Reference
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All but the manifest."""
        return (self.config, *self.layers)

    @property
    def size_bytes(self) -> int:
        return sum(blob.size for blob in (self.manifest, *self.blobs))

    def to_json(self) -> dict[str, object]:
        return {
            "platform": PLATFORM,
            "manifest": self.manifest.to_json(),
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }


class BadReference(UsageError):
    """Not the name of an image."""

    def __init__(self, text: str) -> None:
        super().__init__(tr("'{text}' is not the name of an image, such as debian:bookworm-slim", text=text))


class NotAnImage(ValueError):
    """What came is no manifest of an image that we can use; the text says why."""


def reference(text: str) -> Reference:
    """As people write it: without a registry it is Docker Hub's, without a tag `latest`. Raises `BadReference`."""
    name, at, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = HUB, name
    path, colon, tag = path.partition(":")
    if registry in (HUB, "index.docker.io"):
        registry, path = HUB, path if "/" in path else f"library/{path}"
    what = digest if at else tag if colon else "latest"
    good = DIGEST.fullmatch(digest) if at else TAG.fullmatch(what)
    if not (good and REPOSITORY.fullmatch(path) and REGISTRY.fullmatch(registry)):
        raise BadReference(text)
    return Reference(registry, path, what)


def scheme(registry: str) -> str:
    """How a registry is spoken to: on this machine without encryption, as docker does it."""
    host = registry.rpartition(":")[0] or registry
    with contextlib.suppress(ValueError):
        return "http" if ipaddress.ip_address(host.strip("[]")).is_loopback else "https"
    return "http" if host == "localhost" else "https"


def chosen(index: bytes) -> str:
    """The digest of our platform's manifest in an index. Raises `NotAnImage`."""
    system, _, machine = PLATFORM.partition("/")
    try:
        for each in json.loads(index)["manifests"]:
            platform = each.get("platform", {})
            if (platform.get("os"), platform.get("architecture")) == (system, machine):
                return _blob(each).sha256
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotAnImage(tr("not the manifest of an image")) from None
    raise NotAnImage(tr("has no image for {platform}", platform=PLATFORM))


def image(named: Reference, manifest: Blob, body: bytes) -> BaseImage:
    """What a manifest says. Raises `NotAnImage`."""
    try:
        values = json.loads(body)
        found = BaseImage(named, manifest, _blob(values["config"]), tuple(map(_blob, values["layers"])))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotAnImage(tr("not the manifest of an image")) from None
    return found


def load(file: Path) -> dict[str, BaseImage]:
    """The lock, by full reference; nothing is locked where there is none. Raises `TableError`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): _locked(name, entry) for name, entry in values.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TableError(LOCK, "", tr("cannot be read: {reason}", reason=error.strerror)) from error
    except (ValueError, KeyError, TypeError, AttributeError, BadReference) as error:
        raise TableError(LOCK, "", tr("is not a lock of base images")) from error


def written(images: Mapping[str, BaseImage]) -> str:
    """The lock as a file, the same for the same content."""
    return json.dumps({name: each.to_json() for name, each in sorted(images.items())}, indent=1) + "\n"


def _locked(name: str, entry: Mapping[str, Any]) -> BaseImage:
    if entry["platform"] != PLATFORM:
        raise ValueError(name)
    return BaseImage(
        reference(name), _blob(entry["manifest"]), _blob(entry["config"]), tuple(map(_blob, entry["layers"]))
    )


def _blob(descriptor: Mapping[str, Any]) -> Blob:
    digest, size = descriptor["digest"], descriptor["size"]
    if not DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0 or descriptor.get("urls"):
        raise ValueError(digest)
    return Blob(digest.removeprefix("sha256:"), str(descriptor["mediaType"]), size)
