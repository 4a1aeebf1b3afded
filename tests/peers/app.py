"""A running app, as a user starts it, and the questions that tests ask it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.peers.system import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
ENDS = ("done", "failed", "cancelled")


@dataclass
class App:
    """`log` is its stderr; jobs in it are asked for and about through its HTTP API."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    outputs: Path

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        asked = urllib.request.Request(self.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"READY {self.url}\n", self.log.read_text()

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def post(self, photo: Path, **form: object) -> httpx.Response:
        """Hand in a job: by default a short one."""
        data = {name: str(value) for name, value in ({"prompt": "a cat", "preset": "fast"} | form).items()}
        with self.client() as client:
            return client.post("/api/jobs", files={"image": (photo.name, photo.read_bytes())}, data=data)

    def job(self, number: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.get(f"/api/jobs/{number}")[1])
        return answer

    def ended(self, number: str, seconds: float = 60) -> dict[str, Any]:
        """A job when it has ended."""
        wait_for(lambda: self.job(number)["state"] in ENDS, seconds)
        return self.job(number)

    def running(self, number: str, step: int = 1) -> dict[str, Any]:
        """A job when it is being made, and some steps are done."""
        wait_for(lambda: self.job(number)["state"] == "running" and self.job(number)["step"] >= step)
        return self.job(number)


@contextlib.contextmanager
def guarded(models: Path, folder: Path) -> Iterator[App]:
    """An app with passwords: li is in charge, wang and zhao are not; each one's is NAME-password."""
    passwords = folder / "passwords"
    passwords.write_text("".join(f"{name}:{name}-password\n" for name in ("li", "wang", "zhao")))
    passwords.chmod(0o600)
    with serving(models, folder, "--password-file", str(passwords)) as started:
        started.wait_until_ready()
        yield started


def suspend(worker: psutil.Process, outputs: Path) -> None:
    """Stop a worker until it is resumed; never within a transaction, in which it would lock out everybody else."""
    with contextlib.closing(sqlite3.connect(outputs / "jobs.sqlite3", timeout=1, isolation_level=None)) as jobs:
        while True:
            worker.suspend()
            wait_for(lambda: worker.status() == psutil.STATUS_STOPPED)
            try:
                jobs.execute("BEGIN IMMEDIATE")
                jobs.execute("ROLLBACK")
            except sqlite3.OperationalError:
                worker.resume()
                time.sleep(0.02)
            else:
                return


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def serving(
    models: Path,
    folder: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    port: int | None = None,
) -> Iterator[App]:
    """An app that has just been started; ended with Ctrl-C if the test has not ended it."""
    port = port or free_port()
    log = folder / "app.log"
    argv = [sys.executable, "-m", "app", "serve", "--models", str(models), "--outputs", str(folder / "outputs")]
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [*argv, "--port", str(port), *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        yield App(process, f"http://127.0.0.1:{port}", log, folder / "outputs")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
