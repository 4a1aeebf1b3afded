"""Files that cross the network, by their hash, and their addresses at the mirrors. Pure."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from dataclasses import dataclass

from jingxiang.digest import canonical_json
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.language import tr
from jingxiang.mirrors import Source

# Where a file lies below the folder of files, at the default index and at every mirror of it: by its BLAKE2 hash.
TAIL = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+$")
REGISTRY = "docker.io"
# Projects whose wheels are hundreds of megabytes: PyTorch, and what NVIDIA publishes for it.
HEAVY, HEAVY_BYTES = ("torch", "triton", "nvidia-"), 200_000_000


@dataclass(frozen=True)
class Artifact:
    """One file of a space.

    `hashes`: the SHA-256 that its bytes must have; several where a lock names all files of a version and no list says
    which of them this one is. `size_bytes` None: not known before it comes. The rest says where it is, in the terms of
    its space:

    space   group                     version    path
    pypi    project                   version    xx/yy/…/NAME, empty where unknown
    torch   project                   version    empty
    conda   channel                   -          SUBDIR/NAME
    hub     ORG/REPOSITORY            revision   path in the repository
    oci     REGISTRY/REPOSITORY       -          -  (the hash is the address)
    apt     archive                   -          path in the archive
    """

    space: str
    name: str
    hashes: tuple[str, ...]
    size_bytes: int | None
    group: str
    version: str = ""
    path: str = ""

    @property
    def key(self) -> str:
        """What the store calls it while it comes: its hash, or as many digits that stand for any of several."""
        if len(self.hashes) == 1:
            return self.hashes[0]
        return hashlib.sha256(canonical_json([self.name, *sorted(self.hashes)])).hexdigest()

    @property
    def counted(self) -> str:
        """What failures for it are counted by: of a wheel its project, which may fail before any file is known."""
        return self.group if self.space in ("pypi", "torch") else self.key

    @property
    def expected_bytes(self) -> int:
        """How long it is, or, where no list says it, whether it is one of the few that are very long."""
        return self.size_bytes if self.size_bytes is not None else HEAVY_BYTES * self.group.startswith(HEAVY)

    @property
    def is_pure(self) -> bool:
        """A wheel of Python alone, which whoever installs it has more to do with than it takes to fetch it."""
        return self.name.endswith("-none-any.whl")

    @property
    def build(self) -> str:
        """torch: `cpu` of `2.13.0+cpu`."""
        return self.version.partition("+")[2]


def address(source: Source, artifact: Artifact) -> str:
    """Where a source has, or would have, an artifact; empty where only its index can tell.

    Raises `Fault` if the source does not offer such files.
    """
    return _ADDRESSES[artifact.space](source, artifact)


def _pypi(source: Source, artifact: Artifact) -> str:
    return f"{source.files.rstrip('/')}/{artifact.path}" if source.files and artifact.path else ""


def _torch(source: Source, artifact: Artifact) -> str:
    return ""


def _conda(source: Source, artifact: Artifact) -> str:
    return _joined(source.address(channel=artifact.group), artifact.path)


def _hub(source: Source, artifact: Artifact) -> str:
    repository = source.repository(artifact.group)
    if source.layout == "modelscope":  # its revisions have other names: only the hash says that it is the same file
        return _joined(source.url, f"models/{repository}/resolve/master/{artifact.path}")
    return _joined(source.url, f"{repository}/resolve/{artifact.version}/{artifact.path}")


def manifest(source: Source, group: str, what: str) -> str:
    """Where a source has the manifest of an image by tag or digest; empty if that cannot be asked of a layout.

    Raises `Fault` if the source does not offer such images.
    """
    if _is_layout(source):
        _, _, digest = what.rpartition("sha256:")
        return _blob(source, group, digest) if digest != what else ""
    return _registry(source, group, f"manifests/{what}")


def _oci(source: Source, artifact: Artifact) -> str:
    digest = artifact.hashes[0]
    if _is_layout(source):
        return _blob(source, artifact.group, digest)
    return _registry(source, artifact.group, f"blobs/sha256:{digest}")


def _is_layout(source: Source) -> bool:
    """Whether it is a folder of blobs, on this machine or behind a plain web server, and no registry."""
    return source.layout == "oci-layout" or source.url.startswith("file://")


def _blob(source: Source, group: str, digest: str) -> str:
    """OCI image layout: whatever image a blob belongs to, its digest is its name."""
    return _joined(source.address(registry=group.partition("/")[0]), f"blobs/sha256/{digest}")


def _registry(source: Source, group: str, path: str) -> str:
    """OCI distribution-spec, end-2 and end-3."""
    registry, _, repository = group.partition("/")
    if registry != REGISTRY and "{registry}" not in source.url:
        raise Fault(Kind.ABSENT, tr("has only images of {registry}", registry=REGISTRY))
    parts = urllib.parse.urlsplit(source.address(registry=registry))
    path = "/".join(filter(None, ("v2", parts.path.strip("/"), repository, path)))
    return f"{parts.scheme}://{parts.netloc}/{path}"


def _apt(source: Source, artifact: Artifact) -> str:
    if not source.url:  # what apt on this machine is configured with: it knows better than we do
        raise Fault(Kind.ABSENT, tr("no address"))
    return _joined(source.address(archive=artifact.group), artifact.path)


def _joined(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{urllib.parse.quote(path)}"


_ADDRESSES = {"pypi": _pypi, "torch": _torch, "conda": _conda, "hub": _hub, "oci": _oci, "apt": _apt}
