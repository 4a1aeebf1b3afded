"""olah, a mirror of model hubs that others have made and people run: a real one, before a hub of ours."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from jingxiang import mirrors
from jingxiang.commands import engines
from jingxiang.places import here
from tests.peers import system

START_S = 60


@contextlib.contextmanager
def serving(folder: Path, upstream: str) -> Iterator[str]:
    """Its address; what it keeps, and its log, are in `folder`. Its environment is made once, from its own lock."""
    port, host = system.free_port(), urlsplit(upstream).netloc
    python = engines.tools(here(), mirrors.load(here().root), mirror="auto", name="peers")
    argv: list[str | Path] = [
        python.with_name("olah-cli"), "--host", "127.0.0.1", "--port", str(port), "--repos-path", folder / "repos",
        "--hf-scheme", "http", "--hf-netloc", host, "--hf-lfs-netloc", host,
        "--mirror-scheme", "http", "--mirror-netloc", f"127.0.0.1:{port}", "--mirror-lfs-netloc", f"127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "olah.log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _await(f"http://127.0.0.1:{port}/", process, folder / "olah.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return
