"""Several machines with one queue: two web processes and three workers over PostgreSQL, and pictures in a bucket"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer

from tests.peers import postgres
from tests.peers.app import ENDS, ROOT, App, serving, wait_for

pytestmark = pytest.mark.e2e
MANY = ["--waiting", "50", "--workers", "0"]


@contextlib.contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """What those who use it need in their environment."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    address = f"http://{host}:{port}"
    boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    ).create_bucket(Bucket="jingxiang")
    try:
        yield {**keys, "AWS_ENDPOINT_URL": address, "JINGXIANG_MEDIA": "s3://jingxiang/e2e"}
    finally:
        server.stop()


@contextlib.contextmanager
def worker(models: Path, name: str, env: dict[str, str]) -> Iterator[psutil.Process]:
    """A worker alone, as on another machine."""
    argv = [sys.executable, "-m", "app", "worker", "--name", name, "--models", str(models), "--batch", "1"]
    with subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **env}) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(process.pid).resume()
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture
def env(no_proxy: None) -> Iterator[dict[str, str]]:
    with postgres.database() as jobs, bucket() as keys:
        yield {**keys, "JINGXIANG_JOBS": jobs, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def cluster(models: Path, folder: Path, env: dict[str, str]) -> Iterator[tuple[list[App], list[psutil.Process]]]:
    """Two web processes and three workers that are ready."""
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(models, f"w{number}", env)) for number in range(3)]
        apps = []
        for number in range(2):
            (folder / str(number)).mkdir()
            apps.append(stack.enter_context(serving(models, folder / str(number), *MANY, env=env)))
        for app in apps:
            app.wait_until_ready()
        wait_for(lambda: len(able(apps[0])) == 3)
        yield apps, workers


def able(app: App) -> list[str]:
    with app.client() as client:
        workers = client.get("/api/queue").json()["workers"]
    return [each["name"] for each in workers if each["state"] in ("ready", "busy")]


def all_ended(app: App, numbers: list[str]) -> Counter[str]:
    wait_for(lambda: all(app.job(number)["state"] in ENDS for number in numbers), 180)
    return Counter(app.job(number)["state"] for number in numbers)


def test_two_web_processes_and_three_workers(models: Path, tmp_path: Path, photo: Path, env: dict[str, str]) -> None:
    with cluster(models, tmp_path, env) as (apps, workers):
        # what is handed in here is seen there, and its video, too
        numbers = [apps[number % 2].post(photo, seed=number, id=f"job-{number}").json()["id"] for number in range(12)]
        assert all_ended(apps[1], numbers) == {"done": 12}
        with apps[1].client() as client:
            videos = {client.get(f"/api/jobs/{number}/video").content for number in numbers}
        assert len(videos) == 12
        assert all(b"avc1" in video for video in videos)

        # a machine that is cut off in the middle of a job: it is finished exactly once, elsewhere
        number = apps[0].post(photo, steps=100).json()["id"]
        apps[0].running(number, step=2)
        (cut_off,) = [each for each in workers if holder(env, number) == name_of(each)]
        cut_off.suspend()
        wait_for(lambda: apps[1].job(number)["state"] == "done", 120)
        assert holder(env, number) != name_of(cut_off)
        cut_off.resume()
        wait_for(lambda: len(able(apps[0])) == 3)
        done = apps[1].job(number)
        with apps[0].client() as client:
            assert len(client.get(done["video"]).content) == done["bytes"]
        assert keys(env, f"videos/{number}") == [f"videos/{number}.2.json", f"videos/{number}.2.mp4"]

        # the database is restarted in the middle of jobs: none is lost
        numbers = [apps[number % 2].post(photo, seed=number, steps=40).json()["id"] for number in range(6)]
        apps[0].running(numbers[0])
        postgres.stop()
        assert apps[0].get("/api/queue")[0] == 503
        assert apps[0].get("/healthz")[0] == 200
        postgres.start()
        assert all_ended(apps[0], numbers) == {"done": 6}

        # a web process is killed: the other goes on, and so do the workers
        number = apps[0].post(photo, steps=40).json()["id"]
        apps[0].process.kill()
        assert apps[1].ended(number)["state"] == "done"


def name_of(process: psutil.Process) -> str:
    words = process.cmdline()
    return words[words.index("--name") + 1]


def holder(env: dict[str, str], number: str) -> str:
    """The worker that has a job, or had it last."""
    from app.jobs.database import Database
    from app.jobs.store import JobStore

    store = JobStore(Database(env["JINGXIANG_JOBS"]))
    try:
        return store.job(number).worker
    finally:
        store.close()


def keys(env: dict[str, str], prefix: str) -> list[str]:
    client = boto3.client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], region_name="us-east-1", aws_access_key_id="k",
        aws_secret_access_key="s",
    )  # fmt: skip
    listed = client.list_objects_v2(Bucket="jingxiang", Prefix=f"e2e/{prefix}").get("Contents", [])
    return sorted(each["Key"].removeprefix("e2e/") for each in listed)
