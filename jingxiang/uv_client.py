"""uv as a client of mirrors: it locks and installs, always with hashes, configured through its environment alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jingxiang import process
from jingxiang.mirrors import OFFICIAL, Source

# pip's settings and what uv calls them. pip separates several addresses by blanks; uv does so for indexes, and wants
# commas between places of links.
FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def binary() -> Path:
    """The uv of the Python that runs us."""
    from uv import find_uv_bin

    return Path(find_uv_bin())


def environment(source: Source, pip_settings: Mapping[str, str], *, build: str = "") -> dict[str, str]:
    """What a child uv needs to ask one source: an index, a page of links, or (`official`) what pip is set up with.

    Addresses may hold a password, so they travel here and never as arguments.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or name == "UV_CACHE_DIR"}
    env.pop("VIRTUAL_ENV", None)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env |= {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "15"}
    # Every file is named by its hash, so the first index that has it is as good as any: no dependency confusion.
    env["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    local = ("cert", "proxy") if source.mirror != OFFICIAL else (*FROM_PIP, "proxy")
    for key in local:
        if value := pip_settings.get(key):
            if key == "proxy":
                env |= {"HTTPS_PROXY": value, "HTTP_PROXY": value}
            else:
                env[FROM_PIP[key]] = value.replace(" ", ",") if key == "find-links" else value
    if source.layout == "flat":
        env["UV_FIND_LINKS"] = source.address(build)
    elif source.url:
        env["UV_DEFAULT_INDEX"] = source.address(build)
    return env


def find_python(python: str) -> process.Finished:
    """Whether this machine has a Python such as `3.11`, by its exit code."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}
    return process.run([binary(), "python", "find", "--quiet", "--no-project", "--system", python], env=env)


def python(version: str) -> Path:
    """The program of this machine's Python such as `3.11`; raises `ProcessFailed` if there is none."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}
    argv: list[str | Path] = [binary(), "python", "find", "--no-project", "--system", version]
    return Path(process.check(argv, name="uv python find", env=env).stdout.strip()).resolve()


def make_environment(folder: Path, python: str, *, cache: Path) -> process.Finished:
    """An empty virtual environment that may be renamed afterwards, from a Python of this machine such as `3.11`."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(cache)}
    argv: list[str | Path] = [binary(), "venv", "--quiet", "--relocatable", "--no-project", "--python", python, folder]
    return process.run(argv, env=env)


def install(requirements: Path, python: Path, *, links: Path, cache: Path, show: bool) -> process.Finished:
    """Install exact versions with hashes from a folder of wheels. Never asks a network.

    Files are linked from the cache where the disk allows it. Their bytecode is another's business (`bytecode`).
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    for name in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"):
        kept.pop(name, None)
    env = {**kept, "UV_NO_CONFIG": "1", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(cache), "UV_PYTHON_DOWNLOADS": "never"}
    if _disk(cache) != _disk(python.parent):
        env["UV_LINK_MODE"] = "copy"  # else it warns the user that it cannot link
    argv: list[str | Path] = [
        binary(), "pip", "install", "--python", python, "--require-hashes", "--no-deps", "--no-build", "--no-index",
        "--find-links", links, "--requirements", requirements,
        "--break-system-packages",  # a Python of conda may say that another manager is in charge; in our folders we are
    ]  # fmt: skip
    return process.run(argv, env=env, show=show)


def _disk(folder: Path) -> int:
    """The disk that a folder, which need not be there yet, is or will be on."""
    return next(each for each in (folder, *folder.parents) if each.exists()).stat().st_dev


def compile_lock(spec: Path, output: Path, options: Sequence[str], env: Mapping[str, str]) -> process.Finished:
    """Resolve a spec into exact versions with the hashes of all their files."""
    argv: list[str | Path] = [
        binary(), "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate",
        "--no-emit-index-url", *options, "--output-file", output, spec,
    ]  # fmt: skip
    return process.run(argv, env=env)
