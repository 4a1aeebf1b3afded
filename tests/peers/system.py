"""What tests need from the machine: browsers, Pythons, ports, and the services that `ci/services.sh` starts.

A test that lacks something of this kind is skipped, with the command that provides it. In `ci/check.sh`, which installs
all of it, JINGXIANG_TEST_STRICT=1 makes that a failure: nothing is skipped there without being noticed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

SERVICES = "run `ci/services.sh start DIR`, then `. DIR/environment`"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PYTHONS = tuple(f"3.{minor}" for minor in range(6, 15))
START_S = 60
# As root in a sandbox, and without asking its maker's hosts: a page must not need anything from outside.
CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def require(condition: object, reason: str) -> None:
    """Skip the test unless the condition holds; where everything must be there, fail it."""
    if not condition:
        _missing(reason)


def compiler() -> None:
    """What torch and Triton compile their own programs with."""
    found = shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").is_file()
    require(found, "no C++ compiler, or no Python.h: apt-get install g++ libpython3.11-dev")


def browser() -> str:
    """Path of a Chromium or Chrome that starts, on a machine on which playwright does."""
    driver = subprocess.run([sys.executable, "-m", "playwright", "--version"], capture_output=True, check=False)
    require(driver.returncode == 0, "playwright does not start: apt-get install libatomic1")
    named = os.environ.get("JINGXIANG_TEST_BROWSER", "")
    if named:
        require(_is_browser(named), f"JINGXIANG_TEST_BROWSER={named} is no browser that starts")
        return named
    paths = (shutil.which(name) for name in BROWSERS)
    found = next((path for path in paths if path and _is_browser(path)), "")
    require(found, "no browser: apt-get install chromium, or set JINGXIANG_TEST_BROWSER to one")
    return found


def docker_host() -> str:
    """Address of the tests' own docker engine, as for DOCKER_HOST."""
    return _service("JINGXIANG_TEST_DOCKER_HOST", "docker engine")


def registry() -> str:
    """HOST:PORT of an empty registry that takes pushes over plain HTTP."""
    return _service("JINGXIANG_TEST_REGISTRY", "registry")


def ssh_config() -> Path:
    """Configuration for `ssh -F`, in which the host gpu-1 leads to an ssh server on this machine."""
    return Path(_service("JINGXIANG_TEST_SSH_CONFIG", "ssh server"))


def machine() -> Path:
    """Folder of another host with ssh and docker: its configuration for `ssh -F`, keys, programs."""
    return Path(_service("JINGXIANG_TEST_MACHINE", "machine to deploy to"))


def kubernetes() -> Path:
    """Folder with the programs of a control plane, beside an etcd on PATH."""
    folder = os.environ.get("JINGXIANG_TEST_KUBERNETES", "")
    require(folder, "no control plane for tests (JINGXIANG_TEST_KUBERNETES is not set): `ci/kubernetes.sh DIR`")
    return Path(folder)


@functools.cache
def pythons() -> dict[str, Path]:
    """A Python of each version from 3.6 to 3.14 that this machine has, by version; each has been run."""
    found = ((version, _python(version)) for version in PYTHONS)
    return {version: path for version, path in found if path}


def pip_package() -> Path:
    """The folder of this Python's pip, which is not imported: then setuptools could not be any more in this process."""
    return Path(str(importlib.metadata.distribution("pip").locate_file("pip")))


def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked directly and without a login, whatever the machine is set to."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "NETRC":
            monkeypatch.delenv(name)


def free_port() -> int:
    """A port that nobody listens on now. Prefer port 0 where the server can take it: another may be faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody does on that port of loopback."""
    with socket.socket() as peer:
        return peer.connect_ex(("127.0.0.1", port)) == 0


def _missing(reason: str) -> NoReturn:
    if os.environ.get("JINGXIANG_TEST_STRICT") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _service(variable: str, name: str) -> str:
    value = os.environ.get(variable, "")
    require(value, f"no {name} for tests ({variable} is not set): {SERVICES}")
    return value


@functools.cache
def _is_browser(path: str) -> bool:
    """Whether it says that it is Chromium or Chrome: Ubuntu's `chromium-browser` may only be a hint to install one."""
    return any(name in _output(path, "--version") for name in ("Chromium", "Chrome"))


def _python(version: str) -> Path | None:
    """A Python that says it has this version: a pyenv shim may be on PATH with nothing behind it."""
    code = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"
    for candidate in _candidates(version):
        answer = _output(str(candidate), "-c", code).splitlines()
        if len(answer) == 2 and answer[0] == version:
            return Path(answer[1])
    return None


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    for folder in os.get_exec_path():
        path = Path(folder) / name
        if path.is_file() and os.access(path, os.X_OK):
            yield path
    roots = [Path(os.environ["PYENV_ROOT"])] if os.environ.get("PYENV_ROOT") else []
    for root in (*roots, Path.home() / ".pyenv"):
        yield from sorted(root.glob(f"versions/{version}.*/bin/{name}"), reverse=True)


def _output(*argv: str) -> str:
    """What a program prints; nothing if it cannot be started, fails or hangs."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
