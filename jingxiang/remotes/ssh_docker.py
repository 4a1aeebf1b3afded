"""A host with docker behind ssh: images are sent layer by layer, versions are containers."""

from __future__ import annotations

from jingxiang import console, container_plan, findings, host_check, image_definition, images
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import AUTO, BAD_CHECK, NOT_SENT, REGISTRY, DeployError, Front, Order
from jingxiang.digest import short
from jingxiang.errors import JingxiangError
from jingxiang.findings import PROBLEM, Finding
from jingxiang.host_check import Need
from jingxiang.host_facts import Facts
from jingxiang.images import Image
from jingxiang.language import tr
from jingxiang.places import here
from jingxiang.remotes.base import Choice, Images
from jingxiang.remotes.docker_site import DockerSite, EngineRefused, api
from jingxiang.remotes.ssh import Connection, Login, Unreachable, hostname
from jingxiang.remotes.ssh_host import Brought, HostSite, Looked, SshHost, Version
from jingxiang.sinks.base import SinkFull
from jingxiang.sinks.docker_load import DockerLoad
from jingxiang.targets import SshTarget

SENDINGS = 3  # a transfer that breaks off goes on from the layers that are there


class SshDocker(SshHost):
    """`login`: how to get there, where that is not what the target says."""

    def __init__(self, target: SshTarget, address: str, login: Login | None = None) -> None:
        super().__init__(address, login or Login(target.host, target.user, target.port))
        self.definition = image_definition.load(here().root)

    def site(self, link: Connection, facts: Facts, front: Front) -> DockerSite:
        return DockerSite(link, facts.endpoint, self.definition, front, hostname(self.login))

    def findings(self, facts: Facts, need: Need, order: Order) -> tuple[Finding, ...]:
        return host_check.findings(self.login.host, facts, need, order)

    def prepare(self, choice: Choice, images: Images) -> Image:
        return images.make(choice)

    def bring(self, site: HostSite, looked: Looked, prepared: object, images: Images, order: Order) -> Brought:
        assert isinstance(site, DockerSite)
        assert isinstance(prepared, Image)
        tag = f"{container_plan.REPOSITORY}:{short(prepared.id.removeprefix('sha256:'))}"
        sent = self._send(site, looked.facts, prepared, images, order, tag)
        image_id = site.image(tag)
        gpus = bool(looked.choice and looked.choice.needed_bytes)
        if gpus and looked.facts.probe is None:  # there was no image to try it with before
            found = host_check.probed(site.run(container_plan.gpu_probe(image_id)))
            if found.state == PROBLEM:
                findings.show([found])
                text = tr("{host}: the image is there, but no container gets a GPU: {reason}; what serves there was "
                          "not touched", host=self.login.host, reason=found.text)  # fmt: skip
                raise DeployError(BAD_CHECK, text, (found.fix,))
        version = self._version(site, image_id, Settings(gpus, order.passwords is not None), order)
        return Brought(version, sent, prepared.size_bytes)

    def _send(
        self, site: DockerSite, facts: Facts, image: Image, source: Images, order: Order, tag: str
    ) -> int:  # fmt: skip
        """Have the image on the host, under a name of ours; gives the bytes that were sent."""
        try:
            site.ask(lambda _: self._room(DockerLoad(site.url, tag, name=self.login.host), facts, image))
        except (EngineRefused, Unreachable) as error:
            raise DeployError(NOT_SENT, error.message, error.hints) from error
        if order.registry and order.transfer in (AUTO, REGISTRY) and self._pulled(site, image, source, order, tag):
            return 0
        sent = self._sent(site, image, source, tag)
        for count in range(1, len(image.layers)):  # what earlier attempts have left
            part = images.part(image, count)
            for name in (part.id, part.digest):
                site.remove_image(name)
        return sent

    def _sent(self, site: DockerSite, image: Image, source: Images, tag: str) -> int:
        from docker.errors import DockerException
        from requests import RequestException

        for number in range(SENDINGS):
            try:
                return source.put(image, DockerLoad(site.url, tag, name=self.login.host))
            except (JingxiangError, DockerException, RequestException) as error:
                known = error if isinstance(error, JingxiangError) else JingxiangError(f"{self.login.host}: {error}")
                if isinstance(error, SinkFull) or site.link.is_alive or number == SENDINGS - 1:
                    raise DeployError(NOT_SENT, known.message, known.hints) from error
                console.line("send", tr("the connection was lost; it goes on with what is missing"))
            try:
                site.link.restore()
            except Unreachable as error:
                raise DeployError(NOT_SENT, error.message, error.hints) from error
        raise AssertionError

    def _room(self, sink: DockerLoad, facts: Facts, image: Image) -> None:
        needed = sink.room(image.layers, sink.held(image.layers)).needed_bytes
        if needed > facts.free_bytes:
            text = tr("{host}: {free} of disk free, and the image needs {needed} while it is taken in",
                      host=self.login.host, free=console.size(facts.free_bytes),
                      needed=console.size(needed))  # fmt: skip
            raise DeployError(BAD_CHECK, text, (tr("docker system prune there"),))

    def _pulled(self, site: DockerSite, image: Image, source: Images, order: Order, tag: str) -> bool:
        """Through a registry. Where that does not work, and need not, it goes over ssh."""
        try:
            name = source.push(image, order.registry)
            repository, _, digest = name.partition("@")
            site.ask(lambda client: api(client).pull(repository, tag=digest))
            if site.image(name) not in (image.id, image.digest):
                raise EngineRefused(tr("{name} is another image there", name=name))
            site.ask(lambda client: api(client).tag(name, *tag.split(":"), force=True))
        except JingxiangError as error:
            if order.transfer == REGISTRY:
                raise DeployError(NOT_SENT, error.message, error.hints) from error
            console.warn(tr("{reason}: over ssh instead", reason=error.message))
            return False
        console.line("send", tr("through {registry}", registry=order.registry))
        return True

    def _version(self, site: DockerSite, image_id: str, settings: Settings, order: Order) -> Version:
        """The image, run in that way: a container that is there, or a new one."""
        versions = site.versions()
        given = order.passwords.read_bytes() if order.passwords else b""
        for each in versions:
            if (each.image, each.settings) == (image_id, settings) and (not given or site.secret(each.name) == given):
                return each
        name = container_plan.version(image_id, {each.name for each in versions})
        container = container_plan.container(name)
        site.create(container, container_plan.app(name, image_id, settings, self.definition))
        if given:
            site.put(container, container_plan.SECRETS_FOLDER, container_plan.PASSWORDS, given, 0o600)
        return Version(name, image_id, settings, runs=False, created=0)
