"""Workers as processes of their own, and what is left when they or the app die"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.peers.app import App, serving, suspend, wait_for

pytestmark = pytest.mark.e2e


def worker(app: App) -> psutil.Process:
    (found,) = psutil.Process(app.process.pid).children()
    return found


def status(app: App) -> str:
    return str(json.loads(app.get("/readyz")[1])["status"])


def test_a_killed_worker_s_job_is_begun_once_more(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path) as app:
        app.wait_until_ready()
        number, after = app.post(photo, steps=60).json()["id"], app.post(photo).json()["id"]
        app.running(number, step=3)
        first = worker(app)
        first.kill()
        wait_for(lambda: app.job(number)["state"] == "queued")
        assert app.job(number)["position"] == 0  # it keeps its place
        done = app.ended(number)
        assert (done["state"], app.ended(after)["state"]) == ("done", "done")
        assert worker(app).pid != first.pid
        assert "warning: the worker was killed; most often the machine ran out of memory" in app.log.read_text()
        assert (app.outputs / "videos" / f"{number}.2.mp4").exists()


def test_a_job_that_takes_two_workers_with_it_has_failed(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path) as app:
        app.wait_until_ready()
        number = app.post(photo, steps=100, preset="standard").json()["id"]
        for _ in range(2):
            wait_for(lambda: app.job(number)["state"] == "running" and app.job(number)["step"] > 0)
            worker(app).kill()
            wait_for(lambda: app.job(number)["state"] != "running")
        failed = app.ended(number)
        assert failed["state"] == "failed"
        assert failed["reason"] == "the worker was killed; most often the machine ran out of memory"
        # and the app goes on
        assert app.ended(app.post(photo).json()["id"])["state"] == "done"


def test_a_worker_that_hangs_is_buried_and_lives_on(models: Path, tmp_path: Path, photo: Path) -> None:
    """As one on a machine that was cut off: its beat stands still, the job is queued again, and when it is back what it
    says of the old claim does not count.
    """
    with serving(models, tmp_path) as app:
        app.wait_until_ready()
        hangs = worker(app)  # to look for it takes a while, in which a video may be done
        number = app.post(photo, steps=100).json()["id"]
        app.running(number, step=3)
        suspend(hangs, app.outputs)
        wait_for(lambda: app.job(number)["state"] == "queued", 60)
        assert status(app) != "ready"
        hangs.resume()
        assert app.ended(number)["state"] == "done"
        wait_for(lambda: status(app) == "ready")
        assert [path.name for path in (app.outputs / "videos").glob("*.mp4")] == [f"{number}.2.mp4"]


def test_a_killed_app_goes_on_where_it_was(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path) as app:
        app.wait_until_ready()
        done = app.post(photo).json()["id"]
        app.ended(done)
        running, waiting = (app.post(photo, steps=100).json()["id"] for _ in range(2))
        app.running(running, step=3)
        orphan = worker(app)
        app.process.kill()
        app.process.wait()
        orphan.wait(timeout=30)  # it does not outlive the app
    with serving(models, tmp_path) as again:
        again.wait_until_ready()
        assert again.job(done)["state"] == "done"
        with again.client() as client:
            assert client.get(f"/api/jobs/{done}/video").status_code == 200
        for number in (running, waiting):
            assert again.ended(number, 90)["state"] == "done"


def test_an_app_that_is_stopped_goes_on_where_it_was(models: Path, tmp_path: Path, photo: Path) -> None:
    """And nobody is blamed for it, however often."""
    with serving(models, tmp_path) as app:
        app.wait_until_ready()
        number = app.post(photo, steps=100, preset="standard").json()["id"]
        app.running(number)
        app.process.send_signal(signal.SIGINT)
        app.process.wait(timeout=30)
    for _ in range(2):
        with serving(models, tmp_path) as again:
            again.wait_until_ready()
            again.running(number)
            again.process.send_signal(signal.SIGINT)
            again.process.wait(timeout=30)
    with serving(models, tmp_path) as last:
        last.wait_until_ready()
        assert last.ended(number)["state"] == "done"


def test_a_worker_that_cannot_live_is_tried_again(models: Path, tmp_path: Path) -> None:
    """Its reason is said, and the app stays up."""
    broken = tmp_path / "modules"
    broken.mkdir()
    (broken / "diffusers.py").write_text("import os; os._exit(7)")
    with serving(models, tmp_path, env={"PYTHONPATH": str(broken)}) as app:
        wait_for(lambda: app.log.exists() and app.log.read_text().count("exit code 7") >= 2)
        wait_for(lambda: json.loads(app.get("/readyz")[1])["page"] is True)
        answer = json.loads(app.get("/readyz")[1])
        assert (answer["status"], answer["model_loaded"]) == ("failed", False)
        assert answer["reason"] == "the worker ended with exit code 7; its last words are in the log"


def test_secrets_of_a_store_are_in_no_argument(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path, env={"JINGXIANG_JOBS": f"sqlite:///{tmp_path}/geheim.sqlite3"}) as app:
        app.wait_until_ready()
        processes = [psutil.Process(app.process.pid), worker(app)]
        assert all("geheim" not in " ".join(process.cmdline()) for process in processes)
        assert worker(app).environ()["JINGXIANG_JOBS"].endswith("geheim.sqlite3")
        assert (tmp_path / "geheim.sqlite3").exists()
