"""`build-image`: environment, weights and app as an image whose digest follows from the locks and the code alone."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jingxiang import base_images, console, gpu, image_definition, models, pip_client, profiles, sinks
from jingxiang.commands import engines, image_parts
from jingxiang.commands.image_parts import Part, Recipe
from jingxiang.digest import short
from jingxiang.errors import UnknownName, UsageError
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.fetch.network import Network
from jingxiang.fetch.schedule import Progress
from jingxiang.images import APP, BASE, COMPILED, ENVIRONMENT, WEIGHTS, Image, Layer
from jingxiang.language import tr
from jingxiang.places import Places
from jingxiang.progress import Bar
from jingxiang.sinks import Address, docker_engine
from jingxiang.sinks.base import Sink, missing
from jingxiang.sinks.docker_load import DockerLoad
from jingxiang.sinks.layout import Layout
from jingxiang.sinks.rootfs import RootFs

REPOSITORY = "jingxiang"


@dataclass(frozen=True)
class Sent:
    """What went to a sink, and how long it took."""

    size_bytes: int
    seconds: float


def build_image(
    places: Places,
    *,
    names: Sequence[str],
    profile: str = profiles.AUTO,
    engine: str = engines.AUTO,
    base: str = "",
    mirror: str = "auto",
    tag: str = "",
    to: str = sinks.DOCKER,
    plan: bool = False,
    as_json: bool = False,
) -> None:
    """Make the image and send it; its digest (or one JSON object) is what goes to stdout.

    `plan`: only say what would be done; nothing is fetched, made or sent.
    """
    address = _address(to, tag)
    recipe = _recipe(places, names, profile, engine, _base(places, address, base), mirror)
    with _reachable(places, recipe, address, tag) as url:
        if plan:
            looked, known = image_parts.looked(places, recipe)
            with open_sink(places, address, _tag(recipe, known, tag), url) as sink:
                _planned(looked, known, sink, as_json=as_json)
            return
        parts, image = image_parts.made(places, recipe)
        with open_sink(places, address, _tag(recipe, image, tag), url) as sink:
            held = sink.held(image.layers)
            sink.room(image.layers, held).check(sink.name)
            _show(parts, held)
            sent = send(sink, image, held)
    console.line("image", sink.called)
    if as_json:
        rows = [_row(part, held) for part in parts]
        console.data_json({"digest": image.digest, "id": image.id, "name": sink.called, "parts": rows,
                           "size_bytes": image.size_bytes, "sent_bytes": sent.size_bytes,
                           "seconds": round(sent.seconds, 2)})  # fmt: skip
    else:
        console.data(image.digest)


def _recipe(places: Places, names: Sequence[str], profile: str, engine: str, base: str, mirror: str) -> Recipe:
    """What was asked for, checked before anything is done. Raises `UsageError` in its kinds."""
    profiles.check(profile)
    if engine not in (engines.AUTO, *engines.ENGINES):
        raise UnknownName("engine", engine, (engines.AUTO, *engines.ENGINES))
    catalog = models.load(places.root / models.FILE)
    specs = tuple(catalog.model(name) for name in dict.fromkeys(names))
    specs = specs or (catalog.choose("", gpu=bool(gpu.detect().cards)),)
    image_parts.created()
    return Recipe(image_definition.load(places.root), specs, base, profile, engine, mirror)


def _base(places: Places, to: Address, base: str) -> str:
    """The image below ours; none below files alone. Raises `BadReference`."""
    if to.kind == sinks.ROOTFS:
        if base:
            raise UsageError(tr("--to rootfs:FOLDER is without a base: leave out --base"))
        return ""
    found = base or image_definition.load(places.root).base
    base_images.reference(found)
    return found


def _address(to: str, tag: str) -> Address:
    """Raises `BadAddress`, `BadReference`."""
    found = sinks.address(to)
    if tag and base_images.DIGEST.fullmatch(base_images.reference(tag).what):
        raise UsageError(tr("--tag {tag}: should be NAME or NAME:TAG; the digest follows from what is in it", tag=tag))
    return found


@contextlib.contextmanager
def _reachable(places: Places, recipe: Recipe, to: Address, tag: str) -> Iterator[str]:
    """Where the engine is, if one is to get the image; what keeps an image out is said before gigabytes are fetched."""
    with docker_engine.reachable() if to.kind == sinks.DOCKER else contextlib.nullcontext("") as url:
        with open_sink(places, to, _tag(recipe, None, tag), url) as sink:
            sink.check()
        yield url


def _tag(recipe: Recipe, image: Image | None, tag: str) -> str:
    """NAME:TAG of the image: as asked for, else by its first model and its digest, if that is known already."""
    _, colon, version = tag.rpartition(":")
    if tag:
        return tag if colon and "/" not in version else f"{tag}:latest"
    return f"{REPOSITORY}/{recipe.specs[0].name}:{short(image.digest.removeprefix('sha256:')) if image else 'latest'}"


@contextlib.contextmanager
def open_sink(places: Places, to: Address, tag: str, url: str) -> Iterator[Sink]:
    """The sink behind an address; `url`: of the engine, where it is one."""
    if to.kind == sinks.DOCKER:
        yield DockerLoad(url, tag)
    elif to.kind == sinks.OCI:
        yield Layout(to.folder, tag)
    elif to.kind == sinks.ROOTFS:
        yield RootFs(to.folder)
    else:
        from jingxiang.sinks.registry import Registry

        client = Client(_network(to.rest.partition("/")[0]))
        try:
            yield Registry.of(to.rest, tag, client=client, note=places.images / "registries.json")
        finally:
            client.close()


def _network(registry: str) -> Network:
    """The way to a registry. No proxy has ours for one of this machine, so none is asked, as docker does it."""
    if base_images.scheme(registry) == "http":
        return Network()
    return network.of(pip_client.settings(Path(sys.executable)))


def send(sink: Sink, image: Image, held: frozenset[str]) -> Sent:
    """Have it in a sink that holds so much of it already, and show how that goes."""
    start = time.monotonic()
    if sink.has(image):
        console.line("send", tr("{sink} has it already", sink=sink.name))
        return Sent(0, time.monotonic() - start)
    total = sum(layer.blob.size for layer in missing(image.layers, held))
    sent, lock = 0, threading.Lock()

    def on_sent(count: int) -> None:
        nonlocal sent
        with lock:
            sent += count
            bar(Progress(sent, total, 0, 0))

    with Bar("send") as bar:
        sink.put(image, held, on_sent)
    seconds = time.monotonic() - start
    console.line(
        "send", tr("{size} in {seconds:.1f} s to {sink}", size=console.size(sent), seconds=seconds, sink=sink.name)
    )
    return Sent(sent, seconds)


def _planned(parts: Sequence[Part], image: Image | None, sink: Sink, *, as_json: bool) -> None:
    """What is known before anything is made: of a layer that is not made yet, only what it will be made of."""
    known = list(image.layers if image else _lowest(parts))
    held = sink.held(known)
    room = sink.room(known, held)
    _show(parts, held)
    free = tr("{size} free", size=console.size(room.free_bytes)) if room.free_bytes is not None else ""
    needed = tr("{size} of disk at most", size=console.size(room.needed_bytes))
    if image:
        console.line("plan", ", ".join(filter(None, (f"{sink.name}: {needed}", free))))
    else:
        console.line("plan", tr("more is known when everything is fetched and made; nothing was changed"))
    if as_json:
        console.data_json({
            "digest": image.digest if image else None, "parts": [_row(part, held) for part in parts],
            "size_bytes": image.size_bytes if image else None,
            "send_bytes": sum(each.blob.size for each in missing(known, held)) if image else None,
            "needed_bytes": room.needed_bytes if image else None, "free_bytes": room.free_bytes,
        })  # fmt: skip
    elif image:
        console.data(image.digest)


def _lowest(parts: Sequence[Part]) -> Iterator[Layer]:
    """The lowest layers, up to the first that is not made yet."""
    for part in parts:
        if part.layers is None:
            return
        yield from part.layers


def _show(parts: Sequence[Part], held: frozenset[str]) -> None:
    verbs = {
        BASE: tr("base"), WEIGHTS: tr("weights"), ENVIRONMENT: tr("env"), APP: tr("app"), COMPILED: tr("compiled"),
    }  # fmt: skip
    rows = []
    for part in parts:
        count = "" if part.layers is None else _count(len(part.layers))
        size = "" if part.bytes is None else console.size(part.bytes)
        rows.append((verbs[part.kind], part.title, count, size, _state(part, held)))
    console.lines(rows)


def _count(number: int) -> str:
    return tr("1 layer") if number == 1 else tr("{count} layers", count=number)


def _state(part: Part, held: frozenset[str]) -> str:
    if part.layers is None:
        if part.size_bytes is None:
            return tr("not made yet") if part.kind in (ENVIRONMENT, APP) else tr("not here yet")
        if part.kind == COMPILED:
            return tr("compiled on this machine")
        return tr("{size} in the store", size=console.size(part.here_bytes))
    there = sum(layer.blob.sha256 in held for layer in part.layers)
    if there == len(part.layers):
        return tr("there already")
    return tr("{new} new, {held} there already", new=len(part.layers) - there, held=there) if there else tr("new")


def _row(part: Part, held: frozenset[str]) -> dict[str, object]:
    layers = None
    if part.layers is not None:
        layers = [
            {"title": layer.title, "digest": f"sha256:{layer.blob.sha256}", "size_bytes": layer.blob.size,
             "held": layer.blob.sha256 in held}
            for layer in part.layers
        ]  # fmt: skip
    return {"kind": part.kind, "title": part.title, "size_bytes": part.bytes, "here_bytes": part.here_bytes,
            "layers": layers}  # fmt: skip
