"""Versions as processes of a host without docker, and Caddy in front of them; a shell script keeps each running."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

from jingxiang import env_plan, proxy_plan
from jingxiang.container_plan import DRAIN_S, Settings
from jingxiang.deploy_plan import Front
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.proxy_plan import Doors
from jingxiang.remotes.rollout import LOOK_S, SWITCH_S, TAIL, Life
from jingxiang.remotes.ssh import Answer, Connection, get
from jingxiang.remotes.ssh_host import Fronts, Version

PROXY = "proxy"
SETUP_S = 3600.0  # installing gigabytes on a slow disk
FOLLOW_S = 1.0


class ScriptFailed(JingxiangError):
    """A script did not do on the host what it should have."""


class EnvSite:
    """`home`: the login's own folder there; `name`: what the page is called there; see `ssh_host.HostSite`."""

    def __init__(self, link: Connection, home: str, front: Front, name: str) -> None:
        self.link = link
        self.fronts = Fronts(front)
        self.name = name
        self.folder = f"{home}/{env_plan.FOLDER}"

    def run(self, script: str, *arguments: str, given: str = "", timeout_s: float = SETUP_S) -> str:
        """What a script prints; it is run again when the connection was lost, and does no harm by that. Raises
        `ScriptFailed`, `Unreachable`."""
        done = self.link.repeat(script, *arguments, given=given, timeout_s=timeout_s)
        if done.code:
            raise ScriptFailed(tr("{host}: {reason}", host=self.host, reason=done.tail or done.code))
        return done.stdout

    @property
    def host(self) -> str:
        return self.link.login.host

    # --- rollout.Site ---

    def start(self, version: str) -> None:
        self.run(env_plan.START, env_plan.version(version))

    def life(self, version: str) -> Life:
        said = self.run(env_plan.LIFE, env_plan.version(version)).strip()
        return Life(said == "runs", int(said) if said.isdigit() else None)

    def readiness(self, version: str) -> Answer:
        port = self._read(f"{env_plan.version(version)}/port").strip()
        return get(self.link.forward(f"127.0.0.1:{port}"), "/readyz") if port else Answer(0, {}, b"")

    def words(self, version: str) -> list[str]:
        return self.log(version, TAIL)

    def place(self, version: str) -> str:
        return f"{self.host}, ~/{env_plan.FOLDER}/{env_plan.version(version)}"

    def finish(self, version: str) -> None:
        self.run(env_plan.FINISH, env_plan.version(version))

    def end(self, version: str) -> None:
        self.run(env_plan.END, env_plan.version(version))

    def lead(self, version: str) -> None:
        upstream = f"127.0.0.1:{self._read(f'{env_plan.version(version)}/port').strip()}"
        front = self.fronts.of(version)
        self._have_proxy(front, version)
        http = proxy_plan.HTTP if front.public else front.port
        doors = Doors(http, front.port, f"{self.folder}/{PROXY}/sign", loopback=True)
        config = proxy_plan.caddyfile(version, upstream, front, self.name, doors)
        self.run(env_plan.WRITE, f"{PROXY}/src/Caddyfile", given=config)
        self.run(env_plan.LEAD)
        end = time.monotonic() + SWITCH_S
        while self._sign() != version:
            if time.monotonic() > end:
                words = self.run(env_plan.LOG, PROXY, "1").strip()
                raise ScriptFailed(tr("the proxy does not lead to it: {reason}", reason=words or "?"))
            time.sleep(LOOK_S)

    def settle(self, version: str) -> None:
        self.run(env_plan.SETTLE, env_plan.version(version))

    # --- ssh_host.HostSite ---

    def versions(self) -> list[Version]:
        found = []
        for line in self.run(env_plan.VERSIONS).splitlines():
            name, image, settings, state, created, served = line.split("\t")
            runs = state == "runs"
            found.append(Version(name, image, Settings.of(settings), runs, float(created), served == "served"))
        return sorted(found, key=lambda each: each.created, reverse=True)

    def serving(self) -> str:
        return proxy_plan.serving(self._read(f"{PROXY}/src/Caddyfile"))

    def present_front(self) -> Front | None:
        text = self._read(f"{PROXY}/front").strip()
        return Front.of(text) if text else None

    def _have_proxy(self, front: Front, version: str) -> None:
        """The proxy of this front, out of the environment of a version."""
        present = self.present_front()
        if present == front:
            return
        if present:
            self.run(env_plan.END, PROXY)
        words = [f'XDG_DATA_HOME="{self.folder}/{PROXY}/data"', f'"{self.folder}/{PROXY}/caddy"', "run", "--config",
                 "Caddyfile", "--adapter", "caddyfile"]  # fmt: skip
        self.run(env_plan.PROXY, version, given=env_plan.kept_running(["env", *words]))
        self.run(env_plan.WRITE, f"{PROXY}/front", given=front.text)

    def log(self, version: str, lines: int) -> list[str]:
        return self.run(env_plan.LOG, env_plan.version(version), str(lines)).splitlines()

    def follow(self, version: str) -> Iterator[str]:
        folder, known, rest = env_plan.version(version), 0, ""
        while True:
            size, _, more = self.run(env_plan.MORE, folder, str(known)).partition("\n")
            rest = rest if int(size) >= known else ""
            known = int(size)
            *whole, rest = (rest + more).split("\n")
            yield from whole
            time.sleep(FOLLOW_S)

    def remove(self, version: str) -> None:
        self.run(env_plan.REMOVE, version)

    def tidy(self, kept: list[Version]) -> None:
        if self.run(env_plan.TIDY).strip():
            self.run(env_plan.PRUNE)

    def clear(self, *, volumes: bool) -> str:
        self.run(env_plan.END, PROXY)
        self.run(env_plan.CLEAR_ALL if volumes else env_plan.CLEAR)
        return f"{self.folder}/outputs"

    def certificate(self) -> str:
        return self._read(f"{PROXY}/data/caddy/pki/authorities/local/root.crt")

    # --- ledger.Records ---

    def hold(self, owner: str) -> str:
        return self.run(env_plan.HOLD, owner).strip()

    def let_go(self, owner: str) -> None:
        self.run(env_plan.LET_GO, owner)

    def releases(self) -> str:
        return self._read("releases.json")

    def write_releases(self, text: str) -> None:
        self.run(env_plan.WRITE, "releases.json", given=text)

    # --- what is made ---

    def passwords(self) -> str:
        return self._read("passwords")

    def write_passwords(self, text: str) -> None:
        self.run(env_plan.WRITE, "passwords", given=text)

    def create(self, name: str, image: str, settings: Settings, environment: str, model: str) -> None:
        """A version out of the code that the toolkit there has."""
        words = [
            "env", "FORWARDED_ALLOW_IPS=127.0.0.1", f"JINGXIANG_DRAIN_S={DRAIN_S}", f"{environment}/bin/python", "-m",
            "app", "serve", "--model", model, "--models", f"{self.folder}/home/models", "--outputs",
            f"{self.folder}/outputs", "--host", "127.0.0.1",
            *(["--password-file", f"{self.folder}/passwords"] if settings.passwords else []),
            *(["--label", "on"] if settings.label else []),
        ]  # fmt: skip
        quoted = [*(shlex.quote(word) for word in words), "--port", '"$(cat port)"']
        self.run(env_plan.CREATE, name, image, settings.text, environment, given=env_plan.kept_running(quoted))

    def _read(self, path: str) -> str:
        return self.run(env_plan.READ, path)

    def _sign(self) -> str:
        near = self.link.forward(f"{self.folder}/{PROXY}/sign")
        return get(near, "/").headers.get(proxy_plan.SERVES.lower(), "")
