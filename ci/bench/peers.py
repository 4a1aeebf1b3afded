"""The tools that people use today, as clients of two mirrors, the first of which may be bad.

Each is set up as well as it can be for that; each function says whether every file arrived, byte for byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from jingxiang import uv_client
from tests.peers.stocks import REPOSITORY, Stock

LIMIT_S = 90
# What a machine has configured must not help or hinder.
CLEAN = {
    name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    and not name.startswith(("PIP_", "UV_", "HF_"))
}  # fmt: skip


def pip(stock: Stock, bad: str, good: str, folder: Path) -> bool:
    """pip takes a file from the last index that lists it, so the bad one is given last."""
    argv: list[str | Path] = [
        sys.executable, "-m", "pip", "download", "--isolated", "--no-cache-dir", "--disable-pip-version-check", "-q",
        "--require-hashes", "--no-deps", "--retries", "1", "--timeout", "10", "--index-url", f"{good}/simple/",
        "--extra-index-url", f"{bad}/simple/", "-d", folder / "files", "-r", _requirements(stock, folder),
    ]  # fmt: skip
    return _ran(argv, {"PIP_CONFIG_FILE": os.devnull}) and _same(stock, (folder / "files").iterdir())


def uv(stock: Stock, bad: str, good: str, folder: Path) -> bool:
    """uv has no `download`: what counts is that it installs, with hashes required."""
    argv: list[str | Path] = [
        uv_client.binary(), "pip", "install", "-q", "--require-hashes", "--no-deps", "--target", folder / "target",
        "--index", f"{bad}/simple/", "--default-index", f"{good}/simple/", "-r", _requirements(stock, folder),
    ]  # fmt: skip
    env = {
        "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(folder / "cache"), "UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "10",
        "UV_PYTHON": sys.executable,
    }  # fmt: skip
    return _ran(argv, env)


HUB = """
import sys
from huggingface_hub import snapshot_download
repository, revision, folder, *endpoints = sys.argv[1:]
for endpoint in endpoints:
    try:
        snapshot_download(repository, revision=revision, endpoint=endpoint, local_dir=folder)
    except Exception as error:
        print(endpoint, repr(error), file=sys.stderr)
    else:
        sys.exit(0)
sys.exit(1)
"""


def huggingface_hub(stock: Stock, bad: str, good: str, folder: Path) -> bool:
    """It knows one endpoint: the good one is tried when it has failed with the bad one."""
    revision = stock.artifacts[0].version
    argv: list[str | Path] = [sys.executable, "-c", HUB, REPOSITORY, revision, folder / "files", bad, good]
    env = {
        "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    found = (path for path in (folder / "files").rglob("*") if path.is_file() and ".cache" not in path.parts)
    return _ran(argv, env) and _same(stock, found)


def rattler(stock: Stock, bad: str, good: str, folder: Path) -> bool:
    """py-rattler with its own retries and its own list of mirrors."""
    return _ran([sys.executable, "-m", "ci.bench.peers", "rattler", bad, good, folder], {})


def aria2c(stock: Stock, bad: str, good: str, folder: Path) -> bool:
    """aria2c takes several addresses of a file, and its checksum."""
    lines = []
    for path in stock.payload:
        digest = hashlib.sha256(stock.files[path]).hexdigest()
        lines.append(f"{bad}{path}\t{good}{path}\n  out={digest}\n  checksum=sha-256={digest}\n")
    (folder / "list").write_text("".join(lines))
    argv: list[str | Path] = [
        "aria2c", "-q", "--no-conf", "-i", folder / "list", "-d", folder / "files", "-j4", "-x4", "--timeout=10",
        "--connect-timeout=5", "--max-tries=2", "--lowest-speed-limit=20K", "--allow-overwrite=true",
    ]  # fmt: skip
    return _ran(argv, {}) and _same(stock, (folder / "files").iterdir())


def has_aria2c() -> bool:
    return shutil.which("aria2c") is not None


def _requirements(stock: Stock, folder: Path) -> Path:
    path = folder / "requirements.txt"
    path.write_text("".join(f"{package.line()}\n" for package in stock.packages))
    return path


def _ran(argv: list[str | Path], env: Mapping[str, str]) -> bool:
    try:
        done = subprocess.run(
            argv, env={**CLEAN, **env}, capture_output=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _same(stock: Stock, found: Iterable[Path]) -> bool:
    wanted = sorted(hashlib.sha256(stock.files[path]).hexdigest() for path in stock.payload)
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()) == wanted


async def _solve_and_install(bad: str, good: str, folder: Path) -> None:
    from rattler import Channel, Gateway, install, solve
    from rattler.networking import Client, MirrorMiddleware, RetryMiddleware

    canonical = "https://conda.anaconda.org/conda-forge"
    mirrors = {f"{canonical}/": [f"{bad}/conda-forge", f"{good}/conda-forge"]}
    client = Client([RetryMiddleware(3), MirrorMiddleware(mirrors)])
    gateway = Gateway(cache_dir=folder / "cache", client=client)
    specs = [f"pack{number}" for number in range(6)]
    records = await solve([Channel(canonical)], specs, gateway=gateway, platforms=["linux-64", "noarch"])
    await install(records, folder / "prefix", cache_dir=folder / "packages", client=client)
    assert len(records) == len(specs)


if __name__ == "__main__":
    name, bad_url, good_url, scratch = sys.argv[1:]
    assert name == "rattler"
    asyncio.run(_solve_and_install(bad_url, good_url, Path(scratch)))
