"""Another host, as `ci/services.sh` makes it: what tests do to it, and how they get at what it serves."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.peers import system

NAME = "gpu-2"


@dataclass(frozen=True)
class Machine:
    """`folder`: with its ssh configuration, keys, and programs that only it has (`bin`)."""

    folder: Path

    @property
    def address(self) -> str:
        """Where its network is reached from here."""
        line = next(line for line in (self.folder / "config").read_text().splitlines() if "HostName" in line)
        return line.split()[1]

    @property
    def sent_bytes(self) -> int:
        """What has gone there through its cable, of all programs."""
        route = json.loads(subprocess.check_output(["ip", "-json", "route", "get", self.address]))
        return int(Path(f"/sys/class/net/{route[0]['dev']}/statistics/tx_bytes").read_text())

    @property
    def data(self) -> Path:
        """The engine's disk, as the machine sees it."""
        return self.folder / "data"

    def run(self, command: str, *, checks: bool = True) -> str:
        """As root, in a shell there."""
        argv = ["ssh", "-F", str(self.folder / "config"), "-o", "BatchMode=yes", NAME, command]
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=120)
        assert not checks or done.returncode == 0, done.stderr
        return done.stdout

    def program(self, folder: Path, *, config: Path | None = None) -> Path:
        """A folder for PATH whose `ssh` knows the machine: ssh takes its home from the system."""
        real = shutil.which("ssh")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {real} -F {config or self.folder / "config"} "$@"\n')
        (folder / "ssh").chmod(0o755)
        return folder

    def configured(self, file: Path, **changes: str) -> Path:
        """Another ssh configuration, with lines of it changed."""
        lines = (self.folder / "config").read_text().splitlines()
        file.write_text(
            "\n".join(
                next((f"  {name} {value}" for name, value in changes.items() if line.split()[0] == name), line)
                for line in lines
            )
            + "\n"
        )
        return file

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        self.run("pkill -KILL -P $(cat /run/sshd.pid)", checks=False)

    @contextlib.contextmanager
    def filled(self, leaves: int) -> Iterator[None]:
        """Only so many bytes are left on the engine's disk."""
        self.run(f"fallocate -l $(($(df -B1 --output=avail {self.data} | tail -n 1) - {leaves})) {self.data}/filled")
        try:
            yield
        finally:
            self.run(f"rm {self.data}/filled")

    @contextlib.contextmanager
    def listening(self, port: int) -> Iterator[None]:
        """Another program has that port of its loopback."""
        self.run(
            f"setsid python3 -m http.server -b 127.0.0.1 {port} </dev/null >/dev/null 2>&1 & echo $! >/run/other.pid"
        )
        wait_until(lambda: f":{port} " in self.run("ss -ltn"))
        try:
            yield
        finally:
            self.run("kill $(cat /run/other.pid)")

    @contextlib.contextmanager
    def tunnel(self, port: int) -> Iterator[str]:
        """What listens on the machine's loopback, as a URL here."""
        near = system.free_port()
        argv = ["ssh", "-F", str(self.folder / "config"), "-nNT", "-o", "ExitOnForwardFailure=yes", "-L",
                f"{near}:127.0.0.1:{port}", NAME]  # fmt: skip
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: system.listens(near))
                yield f"http://127.0.0.1:{near}"
            finally:
                process.kill()

    def containers(self, *words: str) -> list[str]:
        """Names of containers of a state, the newest first."""
        return self.run(f"docker ps --format '{{{{.Names}}}}' {' '.join(words)}").split()

    def forget(self) -> None:
        """Nothing is deployed there any more; images stay."""
        self.run(
            "docker ps -aq | xargs -r docker rm -fv; docker volume ls -q | xargs -r docker volume rm -f; "
            "docker network rm jingxiang; rm -rf ~/.jingxiang", checks=False,
        )  # fmt: skip

    @contextlib.contextmanager
    def having(self, name: str, text: str) -> Iterator[None]:
        """It has a program of that name meanwhile."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        try:
            yield
        finally:
            path.unlink()

    def restart_engine(self) -> None:
        """What was running runs again, as after a start of the machine."""
        with self.without_engine():
            pass

    @contextlib.contextmanager
    def without_engine(self) -> Iterator[None]:
        self.run("kill $(cat /run/dockerd.pid); while [ -e /run/dockerd.pid ]; do sleep 0.05; done")
        try:
            yield
        finally:
            self.run(f"setsid bash {self.folder / 'dockerd'} </dev/null >/dev/null 2>&1")
            wait_until(lambda: self.run("docker info >/dev/null 2>&1 && echo yes", checks=False) == "yes\n")


def machine() -> Machine:
    """The one of `ci/services.sh`."""
    system.require(shutil.which("ssh"), "no ssh: apt-get install openssh-client")
    return Machine(system.machine())


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
