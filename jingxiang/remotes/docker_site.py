"""Versions as containers of a docker engine behind ssh, and Caddy in front of them."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from jingxiang import container_plan, proxy_plan
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import Front
from jingxiang.errors import JingxiangError
from jingxiang.host_facts import PROXY
from jingxiang.image_definition import Definition
from jingxiang.language import tr
from jingxiang.remotes.rollout import LOOK_S, SWITCH_S, TAIL, Life, is_finishing
from jingxiang.remotes.ssh import Answer, Connection, get
from jingxiang.remotes.ssh_host import Fronts, Version
from jingxiang.sinks import docker_engine
from jingxiang.sinks.docker_engine import EngineUnavailable

if TYPE_CHECKING:
    from docker import DockerClient

TRIES = 3
CONFLICT = 409
ANSWER_S = 120  # of the engine; creating a container on a slow disk takes long
ROOT_CERTIFICATE = "caddy/pki/authorities/local/root.crt"
T = TypeVar("T")


class EngineRefused(JingxiangError):
    """The engine did not do what it was asked for; its own words."""


class DockerSite:
    """`name`: what the page is called there; see `ssh_host.HostSite`."""

    def __init__(self, link: Connection, endpoint: str, definition: Definition, front: Front, name: str) -> None:
        self.link = link
        self.definition = definition
        self.fronts = Fronts(front)
        self.name = name
        self._endpoint = endpoint.partition("://")[2]

    @property
    def host(self) -> str:
        return self.link.login.host

    @property
    def url(self) -> str:
        """Of the engine, through the connection."""
        return f"unix://{self.link.forward(self._endpoint)}"

    def ask(self, work: Callable[[DockerClient], T]) -> T:
        """Ask the engine; again when the connection was lost. Raises `EngineRefused`, `Unreachable`."""
        from docker.errors import APIError, DockerException
        from requests import RequestException

        said = ""
        for _ in range(TRIES):
            try:
                with docker_engine.at(self.url, timeout_s=ANSWER_S) as client:
                    return work(client)
            except APIError as error:
                reason = str(error.explanation or error)
                raise EngineRefused(tr("{host}: {reason}", host=self.host, reason=reason)) from error
            except (DockerException, RequestException, EngineUnavailable) as error:
                said = str(error)
            self.link.restore()
        raise EngineRefused(tr("{host}: {reason}", host=self.host, reason=said))

    # --- rollout.Site ---

    def start(self, version: str) -> None:
        self.ask(lambda client: api(client).start(container_plan.container(version)))

    def life(self, version: str) -> Life:
        found = self._inspect(container_plan.container(version))
        if found is None:
            return Life(runs=False)
        state = found["State"]
        return Life(bool(state["Running"]), int(state["ExitCode"]))

    def readiness(self, version: str) -> Answer:
        near = self._port(container_plan.container(version), self.definition.port)
        return self._get(near, "/readyz") if near else Answer(0, {}, b"")

    def words(self, version: str) -> list[str]:
        return self.log(version, TAIL)

    def place(self, version: str) -> str:
        return tr("{host}, container {name}", host=self.host, name=container_plan.container(version))

    def finish(self, version: str) -> None:
        """When the answer was lost, it is looked whether the signal came: a second one would end it at once."""
        is_sent = False

        def tell(client: DockerClient) -> None:
            nonlocal is_sent
            if is_sent and is_finishing(self.readiness(version)):
                return
            is_sent = True
            self._signal(client, container_plan.container(version), "SIGTERM")

        self._unless_gone(tell)

    def end(self, version: str) -> None:
        """What did not get ready is kept under another name, for its log, until another one does not."""
        name = container_plan.container(version)
        self._unless_gone(lambda client: api(client).stop(name, timeout=5))
        if self.life(version).code is not None and not self._has_served(version):
            self._remove(container_plan.FAILED)
            self._unless_gone(lambda client: api(client).rename(name, container_plan.FAILED))

    def lead(self, version: str) -> None:
        upstream = f"{container_plan.container(version)}:{self.definition.port}"
        front = self.fronts.of(version)
        self._have_proxy(front, version)
        config = proxy_plan.caddyfile(version, upstream, front, self.name, container_plan.DOORS)
        self.put(PROXY, self.definition.outputs, container_plan.CONFIG, config.encode(), 0o644)
        self._run_proxy()
        end = time.monotonic() + SWITCH_S
        while self._sign() != version:
            if time.monotonic() > end:
                words = self._log(PROXY, TAIL)
                raise EngineRefused(tr("the proxy does not lead to it: {reason}", reason=words[-1] if words else "?"))
            time.sleep(LOOK_S)

    def settle(self, version: str) -> None:
        name = container_plan.container(version)
        self.ask(lambda client: api(client).update_container(name, restart_policy={"Name": "unless-stopped"}))

    # --- what there is ---

    def versions(self) -> list[Version]:
        """The newest first; not the one that failed."""
        found = []
        wanted = {"label": f"{container_plan.ROLE}={container_plan.APP_ROLE}"}
        for each in self.ask(lambda client: api(client).containers(all=True, filters=wanted)):
            labels = each["Labels"]
            if f"/{container_plan.FAILED}" not in each["Names"]:
                settings = Settings.of(labels[container_plan.SETTINGS])
                runs, created = each["State"] == "running", int(each["Created"])
                version, image = labels[container_plan.VERSION], labels[container_plan.IMAGE]
                served = self._has_served(version)
                found.append(Version(version, image, settings, runs, created, served))
        return sorted(found, key=lambda each: each.created, reverse=True)

    def serving(self) -> str:
        """The version that the proxy leads to; empty if there is none."""
        config = self.read(PROXY, f"{self.definition.outputs}/{container_plan.CONFIG}")
        return proxy_plan.serving(config.decode(errors="replace"))

    def present_front(self) -> Front | None:
        """Where the proxy that is there answers."""
        found = self._inspect(PROXY)
        return Front.of(found["Config"]["Labels"][container_plan.SETTINGS]) if found else None

    def secret(self, version: str) -> bytes:
        """The passwords that versions are started with; read through one of them."""
        path = f"{container_plan.SECRETS_FOLDER}/{container_plan.PASSWORDS}"
        return self.read(container_plan.container(version), path)

    def certificate(self) -> str:
        """Of the authority that the proxy has made for itself."""
        return self.read(PROXY, f"{self.definition.outputs}/{ROOT_CERTIFICATE}").decode(errors="replace")

    def log(self, version: str, lines: int) -> list[str]:
        return self._log(_named(version), lines)

    def _log(self, name: str, lines: int) -> list[str]:
        text = self.ask(lambda client: self._logs(client, name, lines))
        return text.decode(errors="replace").splitlines()

    def follow(self, version: str) -> Iterator[str]:
        with docker_engine.at(self.url) as client:
            rest = b""
            for block in api(client).logs(_named(version), stream=True, follow=True, tail=TAIL):
                *whole, rest = (rest + block).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)

    # --- ledger.Records ---

    def hold(self, owner: str) -> str:
        labels = {container_plan.ROLE: container_plan.LOCK_ROLE, container_plan.OWNER: owner}
        self.ask(lambda client: api(client).create_volume(container_plan.LOCK, labels=labels))
        return self._holder()

    def let_go(self, owner: str) -> None:
        if not owner or self._holder() == owner:
            self._unless_gone(partial(_remove_volume, container_plan.LOCK))

    def _holder(self) -> str:
        found = self._unless_gone(lambda client: dict(api(client).inspect_volume(container_plan.LOCK)))
        return str((found["Labels"] or {}).get(container_plan.OWNER, "?")) if found else ""

    def releases(self) -> str:
        return self.read(PROXY, f"{self.definition.outputs}/{container_plan.RELEASES}").decode(errors="replace")

    def write_releases(self, text: str) -> None:
        self.put(PROXY, self.definition.outputs, container_plan.RELEASES, text.encode(), 0o600)

    # --- what is made and removed ---

    def create(self, name: str, config: Mapping[str, Any]) -> None:
        """No harm if it was made before the connection was lost, and the answer did not come."""
        from docker.errors import APIError

        def make(client: DockerClient) -> None:
            if not api(client).networks(names=[container_plan.NETWORK]):
                api(client).create_network(container_plan.NETWORK, check_duplicate=True)
            try:
                api(client).create_container_from_config(dict(config), name)
            except APIError as error:
                if error.response is None or error.response.status_code != CONFLICT:
                    raise

        self.ask(make)

    def _have_proxy(self, front: Front, version: str) -> None:
        """The proxy of this front, out of the image of a version. Another front needs another container."""
        if self.present_front() != front or self._is_outdated():
            self._remove(PROXY)
            found = self._inspect(container_plan.container(version))
            assert found is not None
            self.create(PROXY, container_plan.proxy(found["Image"], front, self.definition))

    def _is_outdated(self) -> bool:
        """Whether the proxy alone keeps an image of gigabytes, and can be replaced without cutting off anybody: while
        the version that it leads to does not run."""
        serving, proxy = self.serving(), self._inspect(PROXY)
        if proxy is None or not serving or self.life(serving).runs:
            return False
        below = [self._layers(each.image)[:-1] for each in self.versions()]  # the last one is the code
        return self._layers(proxy["Image"])[:-1] not in below

    def remove(self, version: str) -> None:
        self._remove(container_plan.container(version))

    def _remove(self, name: str) -> None:
        self._unless_gone(lambda client: api(client).remove_container(name, force=True, v=True))

    def image(self, name: str) -> str:
        """What the engine calls an image: by its configuration, or, where it keeps images in containerd, by its
        manifest."""
        return self.ask(lambda client: str(api(client).inspect_image(name)["Id"]))

    def remove_image(self, image_id: str) -> None:
        """Unless something runs from it."""
        with contextlib.suppress(EngineRefused):
            self._unless_gone(lambda client: api(client).remove_image(image_id, force=True))

    def tidy(self, kept: list[Version]) -> None:
        """Images that were deployed, but for those that are kept, or that something runs from."""
        proxy = self._inspect(PROXY)
        images = {each.image for each in kept} | ({str(proxy["Image"])} if proxy else set())
        for each in self.ask(lambda client: api(client).images(name=container_plan.REPOSITORY)):
            if each["Id"] not in images:
                self.remove_image(each["Id"])

    def _layers(self, image: str) -> list[str]:
        found = self._unless_gone(lambda client: api(client).inspect_image(image))
        return list(found["RootFS"]["Layers"]) if found else []

    def clear(self, *, volumes: bool) -> str:
        for name in (PROXY, container_plan.FAILED):
            self._remove(name)
        self._unless_gone(lambda client: api(client).remove_network(container_plan.NETWORK))
        if volumes:  # else the next deployment finds the layers of the models
            self.tidy([])
        gone = [container_plan.PROXY_DATA, container_plan.SECRETS, *([container_plan.OUTPUTS] if volumes else [])]
        for volume in gone:
            self._unless_gone(partial(_remove_volume, volume))
        return container_plan.OUTPUTS

    def run(self, config: Mapping[str, Any]) -> str:
        """What a container prints that ends by itself, and `rc CODE`."""

        def work(client: DockerClient) -> str:
            made = api(client).create_container_from_config(dict(config))["Id"]
            try:
                api(client).start(made)
                code = api(client).wait(made)["StatusCode"]
                return f"{self._logs(client, made, TAIL).decode(errors='replace')}\nrc {code}"
            finally:
                api(client).remove_container(made, force=True, v=True)

        try:
            return self.ask(work)
        except EngineRefused as error:
            return f"{error.message}\nrc 125"

    def put(self, name: str, folder: str, file: str, body: bytes, mode: int) -> None:
        """A file in a volume of a container, whether that runs or not; it belongs to the user of the image."""
        member = tarfile.TarInfo(file)
        member.size, member.mode, member.uid, member.gid = len(body), mode, self.definition.user, self.definition.user
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.addfile(member, io.BytesIO(body))
        self.ask(lambda client: api(client).put_archive(name, folder, packed.getvalue()))

    def read(self, name: str, path: str) -> bytes:
        """A file of a container; nothing if there is none."""

        def work(client: DockerClient) -> bytes:
            blocks, _ = api(client).get_archive(name, path)
            return b"".join(blocks)

        packed = self._unless_gone(work)
        if not packed:
            return b""
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            return file.read() if file else b""

    # ---

    def _has_served(self, version: str) -> bool:
        found = self._inspect(container_plan.container(version))
        return found is not None and bool(found["HostConfig"]["RestartPolicy"]["Name"] != "no")

    def _run_proxy(self) -> None:
        """Start the proxy, or have it read its configuration again."""

        def work(client: DockerClient) -> None:
            if api(client).inspect_container(PROXY)["State"]["Running"]:
                self._signal(client, PROXY, "SIGUSR1")
            else:
                api(client).start(PROXY)

        self.ask(work)

    def _sign(self) -> str:
        near = self._port(PROXY, container_plan.SIGN)
        return self._get(near, "/").headers.get(proxy_plan.SERVES.lower(), "") if near else ""

    def _port(self, name: str, inside: int) -> str:
        """Where a port of a container is on the host: HOST:PORT."""
        found = self._inspect(name)
        bound = (found["NetworkSettings"]["Ports"] or {}).get(f"{inside}/tcp") if found else None
        return f"127.0.0.1:{bound[0]['HostPort']}" if bound else ""

    def _get(self, far: str, path: str) -> Answer:
        answer = get(self.link.forward(far), path)
        if answer.status == 0:
            self.link.restore()
        return answer

    def _inspect(self, name: str) -> dict[str, Any] | None:
        return self._unless_gone(lambda client: dict(api(client).inspect_container(name)))

    def _unless_gone(self, work: Callable[[DockerClient], T]) -> T | None:
        from docker.errors import NotFound

        def tried(client: DockerClient) -> T | None:
            try:
                return work(client)
            except NotFound:
                return None

        return self.ask(tried)

    def _signal(self, client: DockerClient, name: str, signal: str) -> None:
        if api(client).inspect_container(name)["State"]["Running"]:
            api(client).kill(name, signal)

    def _logs(self, client: DockerClient, name: str, lines: int) -> bytes:
        from docker.errors import NotFound

        try:
            return bytes(api(client).logs(name, tail=lines))
        except NotFound:
            return b""


def api(client: DockerClient) -> Any:
    """The part of the SDK that answers with what the engine says; its types are unfinished."""
    return client.api


def _named(version: str) -> str:
    return container_plan.container(version) if version else container_plan.FAILED


def _remove_volume(name: str, client: DockerClient) -> None:
    api(client).remove_volume(name, force=True)
