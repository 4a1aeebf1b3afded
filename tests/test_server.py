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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class App:
    """A running app; `log` is its stderr."""

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


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def serving(
    models: Path, folder: Path, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[App]:
    """An app that has just been started; ended with Ctrl-C if the test has not ended it."""
    port = free_port()
    log = folder / "app.log"
    argv = [sys.executable, "-m", "app", "serve", "--models", str(models), "--outputs", str(folder / "outputs")]
    with log.open("w") as stderr:
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


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with serving(models, tmp_path_factory.mktemp("app")) as started:
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == f"READY {started.url}\n"
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
            json.dumps({"status": "loading", "page": False, "model": "smoke", "model_loaded": False}),
        )
        code, page = starting.get("/", accept_language="zh-CN,zh")
        assert (code, "页面正在启动" in page, 'http-equiv="refresh"' in page) == (503, True, True)
        assert "The page is starting" in starting.get("/", accept_language="en")[1]
        assert starting.process.stdout is not None
        assert starting.process.stdout.readline() == f"READY {starting.url}\n"
        ready = {"status": "ready", "page": True, "model": "smoke", "model_loaded": True}
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
        assert starting.log.read_text() == ""


def test_the_server_s_own_process_never_loads_torch(app: App) -> None:
    (worker,) = psutil.Process(app.process.pid).children()
    assert "libtorch" not in Path(f"/proc/{app.process.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{worker.pid}/maps").read_text()


def test_a_video_through_the_api(app: App, photo: Path) -> None:
    client = Client(app.url, verbose=False)
    try:
        video, settings = client.predict(handle_file(str(photo)), "a cat", "fast", "5", api_name="/generate")
    finally:
        client.close()
    made = json.loads(settings)
    assert (made["model"], made["prompt"], made["seed"], made["preset"]) == ("smoke", "a cat", 5, "fast")
    data = Path(video["video"] if isinstance(video, dict) else video).read_bytes()
    assert b"avc1" in data
    assert data in [path.read_bytes() for path in app.outputs.glob("*.mp4")]


@pytest.mark.parametrize(
    ("language", "prompt", "preset", "seed", "message"),
    [
        ("en", " ", "fast", "", "the prompt is empty: say in English what should move and how"),
        ("zh-CN,zh;q=0.9", "", "fast", "", "提示词为空：请用英文描述什么在动、怎样动"),
        ("en", "a cat", "fast", "soon", "the seed must be a whole number, not 'soon'"),
        ("zh", "a cat", "fast", "99999999999", "随机种子必须在 0 到 4294967295 之间"),
    ],
)
def test_wrong_input_is_said_in_the_browser_s_language(
    app: App, photo: Path, language: str, prompt: str, preset: str, seed: str, message: str
) -> None:
    assert failure(app, language, handle_file(str(photo)), prompt, preset, seed) == message


def test_a_missing_and_a_broken_picture_are_said(app: App, tmp_path: Path, photo: Path) -> None:
    assert failure(app, "zh", None, "a cat", "fast", "") == "请先选择一张图片"
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:3000])
    assert failure(app, "en", handle_file(str(cut)), "a cat", "fast", "").startswith("cut.jpg: cannot be read: ")


def failure(app: App, language: str, *inputs: Any) -> str:
    client = Client(app.url, headers={"accept-language": language}, verbose=False)
    try:
        with pytest.raises(AppError) as caught:
            client.predict(*inputs, api_name="/generate")
    finally:
        client.close()
    return str(caught.value)


def test_only_outputs_are_served(app: App) -> None:
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), str(app.outputs / ".." / "app.log")):
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


def test_a_taken_port_is_named_with_its_owner(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = run("serve", "--models", str(models), "--port", str(port))
    assert (code, out) == (2, "")
    owner = re.escape(psutil.Process().name())
    assert re.match(rf"error: port {port} of 127\.0\.0\.1 is taken by {owner} \(pid {os.getpid()}\)\n", err)
    assert "--port 0" in err


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


def test_listening_to_others_is_warned_of(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path, "--host", "0.0.0.0") as open_to_all:
        wait_for(lambda: "warning: the page has no password: everybody who can reach" in open_to_all.log.read_text())


def test_unknown_arguments_are_one_line(models: Path) -> None:
    code, out, err = run("serve", "--prot", "1")
    assert (code, out, err) == (2, "", "error: unrecognized arguments: --prot 1\n")
    assert run("serve", "--model", "smok")[::2] == (
        2,
        "error: app/models.toml: no model named 'smok'; there is animatediff, i2vgen-xl, smoke, svd-xt "
        "(did you mean 'smoke'?)\n",
    )
