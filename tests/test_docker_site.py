"""jingxiang.remotes.docker_site and ssh_docker, with an engine that is made up: lost answers, and containerd's names"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from docker.errors import APIError, NotFound
from requests import ConnectionError as Lost

from jingxiang import container_plan, host_facts, image_definition, images
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import NOT_SENT, DeployError, Front, Order
from jingxiang.host_facts import PROXY
from jingxiang.images import Image
from jingxiang.remotes import docker_site
from jingxiang.remotes.base import Choice
from jingxiang.remotes.docker_site import DockerSite
from jingxiang.remotes.ssh import Answer, Connection, Login
from jingxiang.remotes.ssh_docker import SshDocker
from jingxiang.remotes.ssh_host import Looked, Version
from jingxiang.sinks import docker_engine
from jingxiang.sinks.base import Room, Sink
from jingxiang.sinks.docker_load import DockerLoad
from jingxiang.targets import SshTarget
from tests.peers.images import Versions

ROOT = Path(__file__).resolve().parent.parent
FRONT = Front(7860)


class Engine:
    """The part of an engine's API that is asked. `lost`: answers that do not come, by what was asked."""

    def __init__(self) -> None:
        self.containers_: dict[str, dict[str, Any]] = {}
        self.images_: dict[str, list[str]] = {}
        self.tags: dict[str, str] = {}
        self.volumes: dict[str, dict[str, str]] = {}
        self.lost: list[str] = []
        self.signals: list[str] = []
        self.removed: list[str] = []

    def _answers(self, name: str) -> None:
        if name in self.lost:
            self.lost.remove(name)
            raise Lost("connection aborted")

    def run(self, version: str, image: str, *, runs: bool = True) -> None:
        labels = {container_plan.VERSION: version, container_plan.IMAGE: image,
                  container_plan.SETTINGS: Settings(gpus=False, passwords=False).text}  # fmt: skip
        self.add(container_plan.container(version), image, labels, runs=runs)

    def add(self, name: str, image: str, labels: dict[str, str], *, runs: bool = True) -> None:
        self.containers_[name] = {
            "Names": [f"/{name}"], "Labels": labels, "Created": 1, "Image": image, "Config": {"Labels": labels},
            "State": {"Running": runs, "ExitCode": 0}, "NetworkSettings": {"Ports": {}},
            "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
        }  # fmt: skip

    def inspect_container(self, name: str) -> dict[str, Any]:
        if name not in self.containers_:
            raise NotFound(name)
        return self.containers_[name]

    def containers(self, **_: object) -> list[dict[str, Any]]:
        apps = [each for name, each in self.containers_.items() if name != PROXY]
        return [{**each, "State": "running" if each["State"]["Running"] else "exited"} for each in apps]

    def networks(self, names: list[str]) -> list[str]:
        return names

    def create_container_from_config(self, config: dict[str, Any], name: str) -> None:
        self._answers("create")
        self.add(name, config["Image"], config["Labels"], runs=False)

    def kill(self, name: str, signal: str) -> None:
        self.signals.append(signal)
        self._answers("kill")

    def inspect_image(self, name: str) -> dict[str, Any]:
        self._answers("inspect_image")
        found = self.tags.get(name, name)
        if found not in self.images_:
            raise NotFound(name)
        return {"Id": found, "RootFS": {"Layers": self.images_[found]}}

    def images(self, name: str) -> list[dict[str, str]]:
        assert name == container_plan.REPOSITORY
        return [{"Id": each} for each in self.images_]

    def remove_image(self, name: str, force: bool) -> None:
        if name not in self.images_:
            raise NotFound(name)
        del self.images_[name]
        self.removed.append(name)

    def remove_container(self, name: str, **_: object) -> None:
        self.containers_.pop(name)

    def create_volume(self, name: str, labels: dict[str, str]) -> None:
        self.volumes.setdefault(name, labels)
        self._answers("create_volume")

    def inspect_volume(self, name: str) -> dict[str, Any]:
        if name not in self.volumes:
            raise NotFound(name)
        return {"Labels": self.volumes[name]}

    def remove_volume(self, name: str, force: bool) -> None:
        del self.volumes[name]


class Link:
    """A connection of which the answers of the engine come at once."""

    login = Login("gpu-1")
    is_alive = False

    def __init__(self) -> None:
        self.restored = 0

    def forward(self, far: str) -> Path:
        return Path(far)

    def restore(self) -> None:
        self.restored += 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    found = Engine()

    @contextlib.contextmanager
    def at(url: str, *, timeout_s: int = 0) -> Iterator[Any]:
        yield SimpleNamespace(api=found)

    monkeypatch.setattr(docker_engine, "at", at)
    return found


@pytest.fixture
def site(engine: Engine) -> DockerSite:
    link = cast(Connection, Link())
    return DockerSite(link, "unix:///var/run/docker.sock", image_definition.load(ROOT), FRONT, "gpu-1")


def says(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    monkeypatch.setattr(DockerSite, "readiness", lambda *_: Answer(503, {}, f'{{"status": "{status}"}}'.encode()))


@pytest.mark.parametrize(("status", "signals"), [("draining", 1), ("ready", 2)])
def test_a_signal_whose_answer_was_lost_is_sent_again_only_if_it_did_not_come(
    engine: Engine, site: DockerSite, monkeypatch: pytest.MonkeyPatch, status: str, signals: int
) -> None:
    engine.run("v1", "sha256:1")
    engine.lost = ["kill"]
    says(monkeypatch, status)
    site.finish("v1")
    assert engine.signals == ["SIGTERM"] * signals


def test_what_does_not_run_gets_no_signal(engine: Engine, site: DockerSite) -> None:
    engine.run("v1", "sha256:1", runs=False)
    site.finish("v1")
    site.finish("gone")
    assert engine.signals == []


def test_the_lock_is_a_volume_and_belongs_to_whoever_came_first(engine: Engine, site: DockerSite) -> None:
    engine.lost = ["create_volume"]
    assert site.hold("li") == "li", "also when the answer was lost"
    assert site.hold("wang") == "li"
    site.let_go("wang")
    assert site.hold("wang") == "li"
    site.let_go("")
    assert engine.volumes == {}
    assert site.hold("wang") == "wang"
    site.let_go("wang")
    site.let_go("wang")
    assert engine.volumes == {}


def test_images_of_versions_that_are_kept_stay_and_that_of_the_proxy(engine: Engine, site: DockerSite) -> None:
    engine.images_ = {name: [] for name in ("sha256:1", "sha256:2", "sha256:3")}
    engine.add(PROXY, "sha256:1", {container_plan.SETTINGS: FRONT.text})
    kept = Version("v2", "sha256:2", Settings(gpus=False, passwords=False), runs=True, created=1)
    site.tidy([kept])
    assert engine.removed == ["sha256:3"]


@pytest.mark.parametrize(("runs", "image"), [(True, "sha256:old"), (False, "sha256:new")])
def test_a_proxy_that_keeps_an_old_environment_is_made_anew_only_while_nothing_runs_behind_it(
    engine: Engine, site: DockerSite, monkeypatch: pytest.MonkeyPatch, runs: bool, image: str
) -> None:
    engine.images_ = {"sha256:old": ["base", "old", "code"], "sha256:new": ["base", "new", "code"]}
    engine.run("v1", "sha256:new", runs=runs)
    engine.add(PROXY, "sha256:old", {container_plan.SETTINGS: FRONT.text})
    monkeypatch.setattr(DockerSite, "serving", lambda _: "v1")
    site._have_proxy(FRONT, "v1")
    assert engine.containers_[PROXY]["Image"] == image


class Sent(Versions):
    """What arrives is called by its manifest, as engines with containerd do. `cuts`: how often the connection ends."""

    def __init__(self, engine: Engine, cuts: int = 0) -> None:
        super().__init__()
        self.engine, self.cuts = engine, cuts

    def put(self, image: Image, sink: Sink) -> int:
        if self.cuts:
            self.cuts -= 1
            raise Lost("connection aborted")
        self.engine.images_[image.digest] = []
        self.engine.tags[sink.called] = image.digest
        return 7


def brought(site: DockerSite, monkeypatch: pytest.MonkeyPatch, sent: Sent) -> tuple[Image, Version, int]:
    monkeypatch.setattr(DockerLoad, "held", lambda *_: frozenset())
    monkeypatch.setattr(DockerLoad, "room", lambda *_: Room(0, None))
    host = SshDocker(SshTarget("gpu-1"), "ssh://gpu-1")
    image = Image((), b"the configuration", b"the manifest")
    assert image.id != image.digest
    looked = Looked(host_facts.facts("", now_s=0), Choice("smoke", "cpu", 0, 0), ())
    done = host.bring(site, looked, image, sent, Order())
    return image, done.version, done.sent_bytes


def test_a_version_is_made_of_the_image_as_the_engine_calls_it(
    engine: Engine, site: DockerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, version, _ = brought(site, monkeypatch, Sent(engine))
    container = engine.containers_[container_plan.container(version.name)]
    assert version.image == container["Image"] == container["Labels"][container_plan.IMAGE] == image.digest
    site.tidy(site.versions())
    assert list(engine.images_) == [image.digest]
    again = brought(site, monkeypatch, Sent(engine))[1]
    assert again.name == version.name, "it is there already"


def test_a_connection_that_is_cut_while_it_is_asked_what_is_there_is_found_again(
    engine: Engine, site: DockerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.lost = ["inspect_image", "create"]
    assert brought(site, monkeypatch, Sent(engine, cuts=2))[2] == 7
    with pytest.raises(DeployError, match="connection aborted") as caught:
        brought(site, monkeypatch, Sent(engine, cuts=9))
    assert caught.value.exit_code == NOT_SENT


def test_what_the_engine_refuses_is_said_with_the_host(engine: Engine, site: DockerSite) -> None:
    def refused(_: object) -> None:
        raise APIError("no", explanation="port is already allocated")

    with pytest.raises(docker_site.EngineRefused, match="gpu-1: port is already allocated"):
        site.ask(refused)


def test_parts_of_an_image_go_whatever_the_engine_calls_them(
    engine: Engine, site: DockerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(DockerSite, "remove_image", lambda _, name: names.append(name))
    parts = [Image((), b"part", b"part's manifest")]
    monkeypatch.setattr(images, "part", lambda image, count: parts[count - 1])
    host = SshDocker(SshTarget("gpu-1"), "ssh://gpu-1")
    monkeypatch.setattr(DockerLoad, "held", lambda *_: frozenset())
    monkeypatch.setattr(DockerLoad, "room", lambda *_: Room(0, None))
    image = Image(cast(Any, (None, None)), b"whole", b"its manifest")
    sent = Sent(engine)
    host._send(site, host_facts.facts("", now_s=0), image, sent, Order(), "jingxiang:x")
    assert names == [parts[0].id, parts[0].digest]
