"""The docker engine as a sink: only the layers that it lacks are streamed to it, one while it takes in another.

An engine keeps layers by the chain of the layers below them. It takes an archive in which the tars of layers that it
has are missing (moby#18727), so each layer goes as an image of its own, made of the layers up to it. The list of an
archive comes last: while one waits for that, the layer before it is put in place. Engines that keep images in
containerd read the archive as an OCI layout, and do the same with blobs.
"""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jingxiang import images, layers
from jingxiang.digest import canonical_json
from jingxiang.errors import JingxiangError
from jingxiang.images import Image, Layer
from jingxiang.language import tr
from jingxiang.sinks import base, docker_engine
from jingxiang.sinks.base import OnSent, Room, SinkFull

if TYPE_CHECKING:
    from docker import DockerClient

LOOK_S = 0.1  # how often to look whether another archive has failed
AT_ONCE = 2  # archives: one comes while another is put in place
SMALL_BYTES = 32_000_000  # layers below that go with the next one
CONTAINERD = "io.containerd.snapshotter.v1"
FULL = "no space left on device"
HUB = "docker.io"  # what the engine calls images without a registry, when it is asked for their whole names


class LoadFailed(JingxiangError):
    """The engine did not take the image."""

    def __init__(self, reason: str) -> None:
        super().__init__(tr("docker: the image was not taken: {reason}", reason=reason))


class _Stopped(Exception):
    """Another archive has failed, so this one must not be finished."""


@dataclass(frozen=True)
class Step:
    """One archive: the image of the first `count` layers, with the tars of `sent`."""

    count: int
    sent: tuple[Layer, ...]


@dataclass(frozen=True)
class DockerLoad:
    """`url`: of the engine, see `docker_engine.reachable`; `tag`: NAME:TAG."""

    url: str
    tag: str
    name: str = "docker"

    @property
    def called(self) -> str:
        return self.tag

    def check(self) -> None:
        with docker_engine.at(self.url) as client:
            client.ping()

    def held(self, layers: Sequence[Layer]) -> frozenset[str]:
        with docker_engine.at(self.url) as client:
            count = 0
            wanted = [f"sha256:{layer.diff_id}" for layer in layers]
            for each in client.api.images(quiet=True):
                count = max(count, _common(wanted, _chain(client, each)))
        return frozenset(layer.blob.sha256 for layer in layers[:count])

    def room(self, layers: Sequence[Layer], held: frozenset[str]) -> Room:
        """The engine unpacks an archive beside its layers, and then puts the layer in place."""
        sizes = [layer.blob.size for layer in base.missing(layers, held)]
        with docker_engine.at(self.url) as client:
            info = client.info()
            twice = _keeps_in_containerd(client)
        needed = 2 * sum(sizes) if twice else sum(sizes) + max(sizes, default=0)
        root = Path(info["DockerRootDir"])
        near = self.url == docker_engine.address() and self.url.startswith("unix://") and root.is_dir()
        return Room(needed, shutil.disk_usage(root).free if near else None)

    def has(self, image: Image) -> bool:
        with docker_engine.at(self.url) as client:
            return self._named(client) in (image.id, image.digest)

    def put(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        from docker.errors import DockerException
        from requests import RequestException

        before = self._images()
        try:
            try:
                self._load(image, held, on_sent)
            except (DockerException, RequestException, LoadFailed) as error:
                if not held or FULL in str(error):
                    raise
                self._load(image, frozenset(), on_sent)  # it does not have what it has said that it has
        except (DockerException, RequestException, LoadFailed) as error:
            self._forget(image, before)
            if FULL in str(error):
                raise SinkFull(self.name, FULL) from error
            raise error if isinstance(error, LoadFailed) else LoadFailed(_reason(error)) from error
        except BaseException:
            self._forget(image, before)
            raise
        self._forget(image, before, keep=(image.id, image.digest))

    def _load(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        """Send the archives, `AT_ONCE` at a time, each finished after the one before it. The first error counts."""
        plan = steps(image, held)
        done, failed = [threading.Event() for _ in plan], threading.Event()

        def ready(number: int) -> None:
            """Wait until the layers below are in place."""
            while number and not done[number - 1].wait(LOOK_S) and not failed.is_set():
                pass
            if failed.is_set():
                raise _Stopped

        def load(number: int) -> None:
            step = plan[number]
            whole = step.count == len(image.layers)
            part = image if whole else images.part(image, step.count)
            try:
                with docker_engine.at(self.url) as client:
                    stream = archive(part, step.sent, self.tag if whole else "", partial(ready, number), on_sent)
                    for line in _api(client).load_image(stream, quiet=True):
                        if line.get("error"):
                            raise LoadFailed(str(line["error"]))
            except BaseException:
                failed.set()
                raise
            done[number].set()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            running = [pool.submit(load, number) for number in range(len(plan))]
        errors = [error for each in running if (error := each.exception())]
        for error in sorted(errors, key=lambda each: isinstance(each, _Stopped)):
            raise error
        if not self.has(image):  # containerd takes an archive without a word whose parts do not fit
            raise LoadFailed(tr("it is not there afterwards"))

    def _images(self) -> frozenset[str]:
        with docker_engine.at(self.url) as client:
            return frozenset(client.api.images(quiet=True, all=True))

    def _forget(self, image: Image, before: frozenset[str], keep: Sequence[str] = ()) -> None:
        """Remove the images of parts that we have made on the way; layers that another image has stay."""
        from docker.errors import APIError

        parts = (image, *(images.part(image, count) for count in range(1, len(image.layers))))
        mine = {name for each in parts for name in (each.id, each.digest)}
        with docker_engine.at(self.url) as client:
            for each in sorted(mine - before - set(keep)):
                with contextlib.suppress(APIError):  # it never came to be
                    client.api.remove_image(each, force=True)

    def _named(self, client: DockerClient) -> str:
        from docker.errors import NotFound

        try:
            return str(_api(client).inspect_image(self.tag)["Id"])
        except NotFound:
            return ""


def steps(image: Image, held: frozenset[str]) -> list[Step]:
    """Which layers go in which archive. An image whose layers are all there is one archive without any."""
    found: list[Step] = []
    waiting: list[Layer] = []
    for count, layer in enumerate(image.layers, 1):
        if layer.blob.sha256 not in held:
            waiting.append(layer)
        if sum(each.blob.size for each in waiting) >= SMALL_BYTES:
            found.append(Step(count, tuple(waiting)))
            waiting = []
    if waiting or not found or found[-1].count < len(image.layers):
        found.append(Step(len(image.layers), tuple(waiting)))
    return found


def archive(
    image: Image, sent: Sequence[Layer], tag: str, ready: Callable[[], None], on_sent: OnSent
) -> Iterator[bytes]:
    """What `docker load` reads, with the tars of `sent` only: both docker's own list of it, and an OCI layout.

    `ready` is called before the lists, which make an image of it; it may wait, or raise.
    """
    names = set()
    for layer in sent:
        if layer.blob.sha256 not in names:  # an archive holds a name once
            names.add(layer.blob.sha256)
            yield from _member(_blob(layer.blob.sha256), layer.blob.size)
            for block in layer.content.blocks():  # the engine compares them with the digest
                on_sent(len(block))
                yield block
            yield bytes(-layer.blob.size % tarfile.BLOCKSIZE)
    ready()
    listed = [
        {
            "Config": _blob(image.config_descriptor.sha256),
            "RepoTags": [tag] if tag else None,
            "Layers": [_blob(layer.blob.sha256) for layer in image.layers],
        }
    ]
    named = {"io.containerd.image.name": _whole_name(tag), "org.opencontainers.image.ref.name": tag.rpartition(":")[2]}
    entry = {**image.descriptor.to_json(), **({"annotations": named} if tag else {})}
    index = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": [entry]}
    for name, body in (
        (_blob(image.config_descriptor.sha256), image.config),
        (_blob(image.descriptor.sha256), image.manifest),
        ("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"})),
        ("index.json", canonical_json(index)),
        ("manifest.json", canonical_json(listed)),
    ):
        yield from _member(name, len(body))
        yield body + bytes(-len(body) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, size: int) -> Iterator[bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, layers.TIME_S
    yield member.tobuf(tarfile.GNU_FORMAT)


def _blob(sha256: str) -> str:
    return f"blobs/sha256/{sha256}"


def _whole_name(tag: str) -> str:
    first, slash, _ = tag.partition("/")
    registry = slash and ("." in first or ":" in first or first == "localhost")
    return tag if registry else f"{HUB}/{tag}" if slash else f"{HUB}/library/{tag}"


def _chain(client: DockerClient, image: str) -> list[str]:
    """The digests of an image's tars; none if it has gone meanwhile."""
    from docker.errors import NotFound

    try:
        return list(_api(client).inspect_image(image)["RootFS"].get("Layers") or ())
    except NotFound:
        return []


def _common(wanted: Sequence[str], there: Sequence[str]) -> int:
    """How many of the first of both are the same."""
    pairs = zip(wanted, there, strict=False)
    return next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(wanted), len(there)))


def _keeps_in_containerd(client: DockerClient) -> bool:
    return any(CONTAINERD in each for each in client.info().get("DriverStatus") or ())


def _reason(error: Exception) -> str:
    return str(getattr(error, "explanation", "") or error)


def _api(client: DockerClient) -> Any:
    """The part of the SDK that answers with what the engine says; its types are unfinished."""
    return client.api
