"""`deploy` and its kin: an image on a target, from a check to a page that answers."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from jingxiang import (
    base_images,
    console,
    findings,
    image_contents,
    image_definition,
    mirrors,
    models,
    profiles,
    remotes,
    sinks,
    targets,
    weights,
)
from jingxiang.commands import build_image, bundle, engines, image_parts
from jingxiang.commands.image_parts import Recipe
from jingxiang.deploy_plan import AUTO, PAGE, TLS, Deployed, Front, NotReady, Order, Status, has_problem
from jingxiang.digest import short
from jingxiang.errors import UsageError
from jingxiang.gpu import Gpus
from jingxiang.images import Image
from jingxiang.language import tr
from jingxiang.models import Catalog
from jingxiang.places import Places, here
from jingxiang.remotes.base import Choice, Pack, Remote
from jingxiang.sinks.base import Sink

ALLOCATOR = 1.9  # times the memory that a model computes with is what it takes at most, see `models.Memory.peak_bytes`
TOOLS = ("tasks.py", "mirrors.toml", "envs", "docker")  # what `setup` needs besides the code


def order(
    strategy: str = AUTO, transfer: str = AUTO, registry: str = "", port: int = 0, public: bool = False,
    domain: str = "", password_file: str = "", timeout: int = 600, break_lock: bool = False, yes: bool = False,
) -> Order:  # fmt: skip
    """What was asked for, as flags have it. Raises `UsageError`, `UnknownName`."""
    passwords = Path(password_file).absolute() if password_file else None
    if passwords is not None and not os.access(passwords, os.R_OK):
        raise UsageError(tr("{file}: cannot be read", file=password_file))
    front = Front(port or (TLS if public else PAGE), public, domain)
    return Order(strategy, transfer, registry, front, passwords, timeout, break_lock, yes)


@dataclass(frozen=True)
class Source:
    """Images made from this checkout, as `build-image` makes them."""

    places: Places
    model: str = ""
    profile: str = profiles.AUTO
    engine: str = engines.AUTO
    base: str = ""
    mirror: str = "auto"

    def choose(self, cards: Gpus) -> Choice:
        """The card of the target decides, not the one of this machine."""
        profile = profiles.choose(self.profile, cards).profile
        spec = self._catalog.choose(self.model, gpu=bool(cards.cards) and profile is not profiles.CPU)
        lock = weights.load(self.places.root / weights.LOCK).get(spec.name)
        needed = spec.memory.peak_bytes(spec.preset("standard"), 1) * ALLOCATOR if profile.oldest_driver else 0
        return Choice(spec.name, profile.name, round(needed), lock.size_bytes if lock else 0)

    def make(self, choice: Choice) -> Image:
        definition = image_definition.load(self.places.root)
        image_parts.created()
        spec = self._catalog.model(choice.model)
        recipe = Recipe(definition, (spec,), self.base or definition.base, choice.profile, self.engine, self.mirror)
        return image_parts.made(self.places, recipe)[1]

    def pack(self, choice: Choice) -> Pack:
        root, folder = self.places.root, self.places.home / "deploy" / choice.profile
        spec = self._catalog.model(choice.model)
        engine = bundle.write(
            self.places, folder, mirror=self.mirror, profile=choice.profile, engine=self.engine,
            models=[spec.name] if spec.weights else [],
        )  # fmt: skip
        tools = [root / name for name in TOOLS]
        listed = [path for each in tools for path in (each.rglob("*") if each.is_dir() else [each]) if path.is_file()]
        code, others = (
            {path.relative_to(root).as_posix(): path for path in found} for found in (image_contents.code(root), listed)
        )
        return Pack(folder, code, others, engine)

    def put(self, image: Image, sink: Sink) -> int:
        held = sink.held(image.layers)
        sink.room(image.layers, held).check(sink.name)
        return build_image.send(sink, image, held).size_bytes

    def push(self, image: Image, repository: str) -> str:
        group = base_images.reference(repository).group
        to = sinks.Address(sinks.REGISTRY, f"{group}:{short(image.digest.removeprefix('sha256:'))}")
        with build_image.open_sink(self.places, to, "", "") as sink:
            sink.check()
            self.put(image, sink)
        return f"{group}@{image.digest}"

    @property
    def _catalog(self) -> Catalog:
        return models.load(self.places.root / models.FILE)


def deploy(address: str, source: Source, order: Order, *, plan: bool = False, as_json: bool = False) -> None:
    """Have a target serve the app; where goes to stdout, or with `plan` what would be done."""
    remote = _remote(address)
    if plan:
        console.data(remote.plan(order, source))
        return
    _deployed(remote.deploy(order, source), as_json=as_json)


def check(address: str, source: Source, order: Order, *, as_json: bool = False) -> None:
    """Everything that would be in the way of a deployment. Raises `NotReady`."""
    found = _remote(address).check(order, source)
    if as_json:
        console.data_json({"target": address, "findings": [asdict(each) for each in found]})
    else:
        findings.show(found)
    if has_problem(found):
        raise NotReady(address, found)


def status(address: str, *, as_json: bool = False) -> None:
    found = _remote(address).status()
    if as_json:
        console.data_json(found.to_json())
        return
    console.line("serving", _serving(found))
    if found.kept:
        console.line("kept", ", ".join(found.kept))
    for each in found.releases:
        console.more(f"{each.at}  {each.version}  {each.how}  {each.by}")
    for name, value in found.more.items():
        console.more(f"{name}: {value}")
    if found.url:
        console.data(found.url)


def logs(address: str, *, follows: bool = False, failed: bool = False) -> None:
    for line in _remote(address).logs(follows=follows, failed=failed):
        console.data(line)


def rollback(address: str, order: Order, *, version: str = "", as_json: bool = False) -> None:
    _deployed(_remote(address).rollback(order, version), as_json=as_json)


def destroy(address: str, order: Order, *, volumes: bool = False) -> None:
    _remote(address).destroy(order, volumes=volumes)


def _remote(address: str) -> Remote:
    places = here()

    def tools(name: str) -> Path:
        return engines.tools(places, mirrors.chosen(places.root, mirrors.AUTO), mirror=mirrors.AUTO, name=name)

    return remotes.of(targets.parse(address), address, tools)


def _deployed(done: Deployed, *, as_json: bool) -> None:
    console.line("ready", ": ".join(filter(None, (done.url, done.hint))))
    if as_json:
        console.data_json(done.to_json())
    else:
        console.data(done.url)


def _serving(found: Status) -> str:
    states = {
        "ready": tr("ready"), "loading": tr("loading"), "stopped": tr("stopped"), "absent": tr("nothing is deployed"),
    }  # fmt: skip
    parts = [found.version, states.get(found.state, found.state)]
    if found.running is not None:
        parts.append(tr("{running} running, {queued} waiting", running=found.running, queued=found.queued))
    return ", ".join(filter(None, parts))
