"""app.server and app.page: the real process, asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from gradio_client import Client

from app import logs
from tests.peers.app import App, serving, suspend, wait_for

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(r"model    Smoke model loaded in \d+\.\d s\n")


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with serving(models, tmp_path_factory.mktemp("app")) as started:
        started.wait_until_ready()
        yield started


def test_the_port_answers_first_then_the_page_then_the_model(models: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    with serving(models, tmp_path, "--open", env={"BROWSER": f"{browser} %s"}) as starting:
        status = 0
        deadline = time.monotonic() + 60
        while status != 200 and time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError):
                status, body = starting.get("/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        # what is not there yet is said, in the browser's language
        assert starting.get("/readyz") == (
            503,
            json.dumps(
                {"status": "loading", "page": False, "model": "smoke", "model_loaded": False, "queued": 0, "running": 0}
            ),
        )
        code, page = starting.get("/", accept_language="zh-CN,zh")
        assert (code, "页面正在启动" in page, 'http-equiv="refresh"' in page) == (503, True, True)
        assert "The page is starting" in starting.get("/", accept_language="en")[1]
        assert starting.process.stdout is not None
        assert starting.process.stdout.readline() == f"READY {starting.url}\n"
        ready = {"status": "ready", "page": True, "model": "smoke", "model_loaded": True, "queued": 0, "running": 0}
        assert starting.get("/readyz") == (200, json.dumps(ready))
        assert starting.get("/")[0] == 200
        wait_for(lambda: (tmp_path / "opened").exists())
        wait_for(lambda: (tmp_path / "opened").read_text() == f"{starting.url}\n")

        # Ctrl-C: the exit code of an interrupted program, no child left, the port free, no traceback
        children = psutil.Process(starting.process.pid).children(recursive=True)
        assert len(children) == 1
        starting.process.send_signal(signal.SIGINT)
        assert starting.process.wait(timeout=20) == 130
        assert not any(child.is_running() for child in children)
        with socket.create_server(("127.0.0.1", int(starting.url.rpartition(":")[2]))):
            pass
        assert LOADED.fullmatch(starting.log.read_text())


def test_the_server_s_own_process_never_loads_torch(app: App) -> None:
    (worker,) = psutil.Process(app.process.pid).children()
    assert "libtorch" not in Path(f"/proc/{app.process.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{worker.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("language", "form", "message"),
    [
        ("en", {"prompt": " "}, "the prompt is empty: say in English what should move and how"),
        ("zh-CN,zh;q=0.9", {"prompt": ""}, "提示词为空：请用英文描述什么在动、怎样动"),
        ("zh", {"prompt": "a cat", "seed": "99999999999"}, "随机种子必须在 0 到 4294967295 之间"),
    ],
)
def test_wrong_input_is_said_in_the_language_of_whoever_asks(
    app: App, photo: Path, language: str, form: dict[str, str], message: str
) -> None:
    with app.client(**{"accept-language": language}) as client:
        answer = client.post("/api/jobs", files={"image": photo.read_bytes()}, data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, message)


def test_a_broken_picture_is_said(app: App, photo: Path) -> None:
    with app.client() as client:
        answer = client.post("/api/jobs", files={"image": photo.read_bytes()[:3000]}, data={"prompt": "a cat"})
    assert answer.status_code == 400
    assert "cannot be read: " in answer.json()["error"]


def test_no_file_is_served_by_its_path(app: App, photo: Path) -> None:
    number = app.ended(app.post(photo).json()["id"])["id"]  # others' videos have names that can be guessed
    assert (app.outputs / "videos" / f"{number}.mp4").exists()
    names = ("jobs.sqlite3", "jobs.sqlite3-wal", "logs/server.jsonl", f"videos/{number}.mp4")
    inside = (str(app.outputs / name) for name in names)
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), str(app.outputs / ".." / "app.log"), *inside):
        assert app.get(f"/gradio_api/file={path}")[0] in (403, 404)


def test_a_large_upload_is_refused(app: App) -> None:
    boundary = "x"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + bytes(21 << 20) + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    asked = urllib.request.Request(f"{app.url}/gradio_api/upload", body, {"Content-Type": kind})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked, timeout=60)
    with caught.value as error:
        assert error.code == 413


def run(*arguments: str, lang: str = "C.UTF-8") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "LANG": lang},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_taken_port_is_named_with_its_owner_and_in_the_log(models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = run("serve", "--models", str(models), "--port", str(port), "--outputs", str(tmp_path))
    assert (code, out) == (2, "")
    owner = re.escape(psutil.Process().name())
    assert re.match(rf"error: port {port} of 127\.0\.0\.1 is taken by {owner} \(pid {os.getpid()}\)\n", err)
    assert "--port 0" in err
    assert [(entry.event, entry.fields.get("error")) for entry in logs.read(tmp_path)] == [
        ("started", None), ("trouble", "PortTaken"), ("stopped", None),
    ]  # fmt: skip


def test_a_model_that_cannot_be_loaded_leaves_the_app_up_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "models" / "smoke"
    broken.mkdir(parents=True)
    (broken / "model_index.json").write_text("{}")
    with serving(tmp_path / "models", tmp_path) as started:
        deadline = time.monotonic() + 60
        state: dict[str, Any] = {}
        while time.monotonic() < deadline and (state.get("status"), state.get("page")) != ("failed", True):
            with contextlib.suppress(urllib.error.URLError):
                state = json.loads(started.get("/readyz")[1])
            time.sleep(0.1)
        assert started.get("/healthz")[0] == 200
        assert started.get("/readyz")[0] == 503
        assert "does not hold a model that can be loaded" in state["reason"]
        assert "error: " in started.log.read_text()


def ready(app: App) -> psutil.Process:
    """Wait until it is; gives its worker."""
    app.wait_until_ready()
    (worker,) = psutil.Process(app.process.pid).children()
    return worker


@contextlib.contextmanager
def paused(app: App, worker: psutil.Process, photo: Path) -> Iterator[None]:
    """A video of which the first step is done, and no other one will be until the test goes on."""
    app.running(app.post(photo, steps=100).json()["id"])
    suspend(worker, app.outputs)
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.resume()


def stops(app: App, seconds: float) -> int:
    """The exit code of an app that stops within that time, and leaves no worker."""
    try:
        return app.process.wait(timeout=seconds)
    finally:
        assert not [each for each in psutil.process_iter(["cmdline"]) if str(app.outputs.parent) in
                    " ".join(each.info["cmdline"] or [])]  # fmt: skip


def test_sigterm_lets_who_follows_a_job_hear_of_its_end(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path) as app:
        worker = ready(app)
        running, waiting = (app.post(photo, seed=seed).json()["id"] for seed in (1, 2))
        app.running(running)
        suspend(worker, app.outputs)
        with app.client() as client, client.stream("GET", f"/api/jobs/{running}/events") as stream:
            app.process.send_signal(signal.SIGTERM)
            wait_for(lambda: app.get("/readyz")[0] == 503)
            assert app.post(photo).status_code == 503
            assert app.get(f"/api/jobs/{waiting}/events")[1].count("event: queued") == 1  # and that is the end of it
            worker.resume()
            assert "event: done" in list(stream.iter_lines())[-3:]
        assert stops(app, 20) == 0


def test_sigterm_lets_a_page_hear_of_the_end_and_fetch_the_video(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path, "--drain", "300") as app:
        worker = ready(app)
        number = app.post(photo).json()["id"]
        app.running(number)
        suspend(worker, app.outputs)
        with app.client() as client, client.stream("GET", "/api/events") as stream:
            lines = stream.iter_lines()
            next(line for line in lines if '"draining":false' in line)
            app.process.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGTERM)  # what is sent to the whole group of processes reaches it, too
            next(line for line in lines if '"draining":true' in line)
            worker.resume()
            next(line for line in lines if '"state":"done"' in line)
            assert client.get(f"/api/jobs/{number}/video").status_code == 200
            assert all(not line or line.startswith((":", "event:", "data:")) for line in lines)  # to an ordinary end
        assert stops(app, 20) == 0
        log = app.log.read_text()
        assert log.endswith("video    one is being made: the server stops after it, or after 300 s\n")
        assert LOADED.match(log)
        assert log.count("\n") == 2


def test_sigterm_without_a_video_stops_soon_although_a_page_is_open(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path) as app:
        ready(app)
        with open_heartbeat(app):
            app.process.send_signal(signal.SIGTERM)
            assert stops(app, 10) == 0
        assert LOADED.fullmatch(app.log.read_text())


@contextlib.contextmanager
def open_heartbeat(app: App) -> Iterator[None]:
    """The stream that every open page keeps."""
    with urllib.request.urlopen(f"{app.url}/gradio_api/heartbeat/abcdefgh", timeout=20) as stream:
        assert stream.readline() == b"data: ALIVE\n"
        yield
        assert stream.read() in (b"\n", b"\ndata: ALIVE\n\n")  # an ordinary end, not a broken connection


def test_gradio_keeps_its_files_with_the_videos_and_not_in_a_folder_of_all_users(models: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving(models, tmp_path, env={"TMPDIR": str(temporary), "GRADIO_TEMP_DIR": ""}) as app:
        ready(app)
        assert (app.outputs / ".gradio").is_dir()
    assert not (temporary / "gradio").exists()


def test_sigterm_before_the_page_is_there_stops_at_once(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path) as app:
        wait_for(lambda: answers(app))
        app.process.send_signal(signal.SIGTERM)
        assert stops(app, 60) == 0  # gradio may be in the middle of being imported


def answers(app: App) -> bool:
    try:
        return app.get("/healthz")[0] == 200
    except urllib.error.URLError:
        return False


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(models: Path, tmp_path: Path, photo: Path, second: int, code: int) -> None:
    with serving(models, tmp_path) as app:
        worker = ready(app)
        with paused(app, worker, photo):
            app.process.send_signal(signal.SIGTERM)
            wait_for(lambda: app.get("/readyz")[0] == 503)
            app.process.send_signal(second)
            assert stops(app, 4) == code
        assert list(app.outputs.glob("videos/*.mp4")) == []


def test_a_video_that_takes_too_long_is_not_waited_for(models: Path, tmp_path: Path, photo: Path) -> None:
    with serving(models, tmp_path, env={"JINGXIANG_DRAIN_S": "1.5"}) as app:
        worker = ready(app)
        with paused(app, worker, photo):
            app.process.send_signal(signal.SIGTERM)
            start = time.monotonic()
            assert stops(app, 8) == -signal.SIGTERM
            assert time.monotonic() - start > 1.4
        assert "warning: stopped before the video was done: the 2 s are over" in app.log.read_text()


def test_others_need_a_password_which_is_made_if_there_is_none(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path, "--public") as public:
        wait_for(lambda: "login" in public.log.read_text())
        found = re.search(r"^login    user jingxiang, password (\S{16})$", public.log.read_text(), re.MULTILINE)
        assert found is not None
        assert public.process.stdout is not None
        assert public.process.stdout.readline() == f"READY http://0.0.0.0:{public.url.rpartition(':')[2]}\n"
        assert public.get("/api/queue")[0] == 401
        assert public.get("/api/queue", authorization=f"Bearer {found[1]}")[0] == 200
        assert public.get("/healthz")[0] == public.get("/readyz")[0] == 200
        with pytest.raises(ValueError, match="login"):
            Client(public.url, verbose=False)
        client = Client(public.url, headers={"authorization": f"Bearer {found[1]}"}, verbose=False)
        client.close()


def test_public_and_no_password_is_a_contradiction(models: Path) -> None:
    code, out, err = run("serve", "--models", str(models), "--public", "--no-password")
    assert (code, out, err) == (2, "", "error: --public needs a password: leave out --no-password\n")


def test_that_there_is_no_password_is_warned_of(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path, "--host", "0.0.0.0", "--no-password") as open_to_all:
        wait_for(lambda: "warning: there is no password: everybody who can reach" in open_to_all.log.read_text())


def test_paths_are_those_of_the_folder_that_it_was_started_in(models: Path, tmp_path: Path, photo: Path) -> None:
    """The worker runs in another one."""
    relative = Path("own-models")
    (tmp_path / relative).symlink_to(models)
    places = ["--jobs", "sqlite:///own.sqlite3", "--media", "own-media"]
    with serving(relative, tmp_path, *places, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as app:
        app.wait_until_ready()
        done = app.ended(app.post(photo).json()["id"])
        assert done["state"] == "done"
        assert (tmp_path / "own-media" / "videos" / f"{done['id']}.mp4").stat().st_size == done["bytes"]
        assert (tmp_path / "own.sqlite3").exists()
        assert not (app.outputs / "jobs.sqlite3").exists()


def test_outputs_that_cannot_be_written_are_said_before_anybody_waits_for_a_video(models: Path) -> None:
    code, out, err = run("serve", "--models", str(models), "--outputs", "/proc/videos")
    assert (code, out) == (2, "")
    assert err.startswith("error: /proc/videos: cannot be written: ")
    assert err.endswith("--outputs FOLDER\n")


def test_a_model_that_cannot_be_made_here_is_one_line(tmp_path: Path, photo: Path) -> None:
    words = ["--image", str(photo), "--prompt", "a cat", "--out", str(tmp_path / "a.mp4")]
    code, out, err = run("generate", "--models", "/proc/models", *words)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: /proc/models: cannot be written: ")


def test_unknown_arguments_are_one_line(models: Path) -> None:
    code, out, err = run("serve", "--prot", "1")
    assert (code, out, err) == (2, "", "error: unrecognized arguments: --prot 1\n")
    assert run("serve", "--model", "smok")[::2] == (
        2,
        "error: app/models.toml: no model named 'smok'; there is animatediff, i2vgen-xl, smoke, svd-xt "
        "(did you mean 'smoke'?)\n",
    )
