"""Base images: from registries into docker/base.lock, and what is locked into the store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jingxiang import base_images, console, storage
from jingxiang.base_images import BaseImage
from jingxiang.commands import sources
from jingxiang.commands.sources import Sources
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.session import Session
from jingxiang.hubs import registry as registries
from jingxiang.language import tr
from jingxiang.mirrors import Source
from jingxiang.places import Places
from jingxiang.progress import Bar
from jingxiang.store import Store


def relock(places: Places, names: Sequence[str], *, mirror: str) -> None:
    """Write what the registries say now that the images are; they are believed this once.

    Raises `BadReference`, `Unavailable`.
    """
    wanted, path = [base_images.reference(name) for name in names], places.root / base_images.LOCK
    for each in wanted:
        asked = _sources(places, each.registry, mirror)
        with asked.client() as client:
            said, (image, body) = asked.first(str(each), partial(registries.image, client, named=each))
            _keep(places, body)
            images = {**base_images.load(path), str(each): image}
            with storage.writing(path.parent):
                path.parent.mkdir(exist_ok=True)
                path.write_text(base_images.written(images), encoding="utf-8")
            text = tr("{image} is sha256:{digest} as {mirror} says: {count} layers, {size}", image=each,
                      digest=image.manifest.sha256[:12], mirror=said, count=len(image.layers),
                      size=console.size(image.size_bytes))  # fmt: skip
            console.line("lock", text)
            console.more(tr("it is written to {lock}: commit it", lock=base_images.LOCK))


def known(places: Places, name: str) -> BaseImage | None:
    """One image, if it is locked. Raises `BadReference`, `TableError`."""
    return base_images.load(places.root / base_images.LOCK).get(str(base_images.reference(name)))


def locked(places: Places, name: str, *, mirror: str) -> BaseImage:
    """One image, its files and manifest in the store; one that nobody has locked yet is locked now, said loudly.

    Raises `BadReference`, `TableError`, `Unavailable`.
    """
    image = known(places, name)
    if image is None:
        wanted = str(base_images.reference(name))
        console.line("lock", tr("{image}: not locked yet, taking what the registry says", image=wanted))
        relock(places, [name], mirror=mirror)
        image = base_images.load(places.root / base_images.LOCK)[wanted]
    _get(places, [image], mirror=mirror)
    return image


def get(places: Places, *, mirror: str) -> list[BaseImage]:
    """Every locked image, its files and manifest in the store. Raises `Unavailable`."""
    images = list(base_images.load(places.root / base_images.LOCK).values())
    _get(places, images, mirror=mirror)
    return images


def _get(places: Places, images: Sequence[BaseImage], *, mirror: str) -> None:
    for registry in dict.fromkeys(image.reference.registry for image in images):
        _get_from(places, registry, [each for each in images if each.reference.registry == registry], mirror=mirror)


def _get_from(places: Places, registry: str, images: Sequence[BaseImage], *, mirror: str) -> None:
    store = Store(places.store)
    wanted = {blob.sha256: _artifact(image, blob.sha256, blob.size) for image in images for blob in image.blobs}
    missing = [artifact for sha256, artifact in wanted.items() if not store.has(sha256)]
    unnamed = [image for image in images if not store.has(image.manifest.sha256)]
    if missing or unnamed:
        asked = _sources(places, registry, mirror)
        with asked.client() as client:
            for image in unnamed:  # registries have manifests elsewhere than the other files
                ask = partial(_manifest, client, image)
                _keep(places, asked.first(str(image.reference), ask)[1])
        _fetch(store, asked, missing)


def _sources(places: Places, registry: str, mirror: str) -> Sources:
    """The mirrors, and at last the registry itself, unless it is the one that `official` names."""
    asked = sources.of(places, mirror, "oci")
    if registry == base_images.HUB:
        return asked
    own = Source(registry, registry, "oci", "oci", f"{base_images.scheme(registry)}://{{registry}}")
    return replace(asked, order=(*asked.order, own))


def _manifest(client: Client, image: BaseImage, source: Source) -> bytes:
    return registries.manifest(client, source, image.reference, f"sha256:{image.manifest.sha256}").body


def _fetch(store: Store, asked: Sources, missing: Sequence[Artifact]) -> None:
    with Session(store, {"oci": asked.order}, asked.settings) as session, Bar() as bar:
        report = session.fetch(missing, bar)
    for number, line in enumerate(report.lines()):
        console.line("fetch", line) if number == 0 else console.more(line)


def _artifact(image: BaseImage, sha256: str, size: int) -> Artifact:
    return Artifact("oci", f"{image.reference} {sha256[:12]}", (sha256,), size, image.reference.group)


def _keep(places: Places, body: bytes) -> None:
    with tempfile.NamedTemporaryFile(prefix="jingxiang-manifest-") as file:
        file.write(body)
        file.flush()
        Store(places.store).add(Path(file.name))
