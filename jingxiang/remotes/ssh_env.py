"""A host without docker behind ssh, such as a rented container: a bundle is sent, and set up without a network."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from jingxiang import console, env_plan, host_check, process
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import NOT_SENT, DeployError, Front, Order
from jingxiang.digest import canonical_json, sha256_bytes, sha256_file, short
from jingxiang.errors import JingxiangError
from jingxiang.fetch.schedule import Progress
from jingxiang.findings import Finding
from jingxiang.host_check import Need
from jingxiang.host_facts import Facts
from jingxiang.language import tr
from jingxiang.process import ProcessFailed
from jingxiang.progress import Bar
from jingxiang.remotes.base import Choice, Images, Pack
from jingxiang.remotes.env_site import EnvSite, ScriptFailed
from jingxiang.remotes.ssh import Connection, Login, Unreachable, hostname
from jingxiang.remotes.ssh_host import Brought, HostSite, Looked, SshHost, Version
from jingxiang.sinks.base import OnSent
from jingxiang.targets import SshEnvTarget

SENDINGS = 3
PAGES = ("index.html", "repodata.json", "bundle.json", "index.json", "oci-layout")  # may change in place


class _Read(io.BufferedIOBase):
    """A file that tells how much of it is read."""

    def __init__(self, file: BinaryIO, on_sent: OnSent) -> None:
        self._file, self._on_sent = file, on_sent

    def read(self, size: int | None = -1, /) -> bytes:
        block = self._file.read(-1 if size is None else size)
        self._on_sent(len(block))
        return block


class SshEnv(SshHost):
    def __init__(self, target: SshEnvTarget, address: str) -> None:
        super().__init__(address, Login(target.host, target.user, target.port))

    def site(self, link: Connection, facts: Facts, front: Front) -> EnvSite:
        return EnvSite(link, facts.home, front, hostname(self.login))

    def findings(self, facts: Facts, need: Need, order: Order) -> tuple[Finding, ...]:
        return host_check.bare_findings(self.login.host, facts, need, order)

    def prepare(self, choice: Choice, images: Images) -> Pack:
        return images.pack(choice)

    def bring(self, site: HostSite, looked: Looked, prepared: object, images: Images, order: Order) -> Brought:
        assert isinstance(site, EnvSite)
        assert isinstance(prepared, Pack)
        assert looked.choice
        files = {path.relative_to(prepared.bundle).as_posix(): path
                 for path in sorted(prepared.bundle.rglob("*")) if path.is_file()}  # fmt: skip
        size = sum(path.stat().st_size for path in files.values())
        try:
            sent = self._send(site, files, size)
            code = {**prepared.code, **prepared.tools}
            site.run(env_plan.WIPE)
            self._stream(site, code, "toolkit", lambda _: None)
            environment = self._set_up(site, looked.choice, prepared)
        except (ScriptFailed, ProcessFailed, Unreachable) as error:
            raise DeployError(NOT_SENT, error.message, error.hints) from error
        listed = {path: sha256_file(file) for path, file in sorted(code.items())}
        image = sha256_bytes(
            canonical_json({"files": listed, "environment": environment, "model": looked.choice.model})
        )
        version = self._version(site, image, environment, looked.choice, order)
        return Brought(version, sent, size)

    def _send(self, site: EnvSite, files: Mapping[str, Path], size: int) -> int:
        """What of the bundle the host lacks; gives the bytes, of all attempts. What is there is checked by its hash
        when it is used."""
        begun, sent = time.monotonic(), 0

        def on_sent(count: int) -> None:
            nonlocal sent
            sent += count
            bar(Progress(sent, total, 0, 0))

        for number in range(SENDINGS):
            there = dict(line.split("\t") for line in site.run(env_plan.LIST).splitlines())
            missing = {
                path: file for path, file in files.items()
                if file.name in PAGES or there.get(path) != str(file.stat().st_size)
            }  # fmt: skip
            total = sent + sum(file.stat().st_size for file in missing.values())
            try:
                with Bar("send") as bar:
                    self._stream(site, missing, "bundle", on_sent)
                break
            except JingxiangError:
                if number == SENDINGS - 1 or site.link.is_alive:
                    raise
                console.line("send", tr("the connection was lost; it goes on with what is missing"))
        site.run(env_plan.WEED, given="".join(f"{path}\n" for path in files))
        text = tr("{sent} of {size} in {seconds:.1f} s: the host has the rest", sent=console.size(sent),
                  size=console.size(size), seconds=time.monotonic() - begun)  # fmt: skip
        console.line("send", text)
        return sent

    def _stream(self, site: EnvSite, files: Mapping[str, Path], folder: str, on_sent: OnSent) -> None:
        site.link.restore()
        with (
            process.fed(site.link.command(env_plan.UNPACK, folder), name="ssh") as pipe,
            tarfile.open(fileobj=pipe, mode="w|", dereference=True) as archive,
        ):
            for path, file in files.items():
                member = archive.gettarinfo(file, path)
                with file.open("rb") as opened:
                    archive.addfile(member, _Read(opened, on_sent))

    def _set_up(self, site: EnvSite, choice: Choice, pack: Pack) -> str:
        """The environment, and the model; gives the environment's folder there."""
        begun = time.monotonic()
        words = ["setup", "--profile", choice.profile, "--engine", pack.engine]
        environment = site.run(env_plan.TASK, *words).splitlines()[-1].strip()
        if choice.weights_bytes:
            site.run(env_plan.TASK, "fetch", "--model", choice.model, "--accept-license")
        console.line("install", tr("{name} in {seconds:.1f} s", name=Path(environment).name,
                                   seconds=time.monotonic() - begun))  # fmt: skip
        return environment

    def _version(self, site: EnvSite, image: str, environment: str, choice: Choice, order: Order) -> Version:
        settings = Settings(bool(choice.needed_bytes), order.passwords is not None, label=order.front.public)
        given = order.passwords.read_text(encoding="utf-8") if order.passwords else ""
        same = not given or site.passwords() == given
        versions = site.versions()
        for each in versions:
            if (each.image, each.settings) == (image, settings) and same:
                return each
        if not same:
            site.write_passwords(given)
        name, number = short(image), 2
        while any(each.name == name for each in versions):
            name, number = f"{short(image)}-{number}", number + 1
        site.create(name, image, settings, environment, choice.model)
        return Version(name, image, settings, runs=False, created=0)
