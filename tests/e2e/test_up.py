"""What a newcomer does: `up` in a fresh checkout, the page in a real browser, `generate`, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import psutil
import pytest
from playwright.sync_api import expect

from tests.peers import checkout
from tests.peers.browser import CHINESE, ENGLISH, Chromium, chromium
from tests.peers.checkout import Checkout
from tests.peers.page import LONG_MS, cards, fill, opened, plays

pytestmark = pytest.mark.e2e
PYTHON = getattr(sys, "_base_executable", sys.executable)


@dataclass(frozen=True)
class Up:
    """A running `up`."""

    checkout: Checkout
    process: subprocess.Popen[str]
    url: str
    log: Path


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`python3 tasks.py up` in a checkout where nothing was made before."""
    copied = checkout.copy(tmp_path_factory.mktemp("up") / "checkout")
    log = copied.folder.parent / "up.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [PYTHON, "tasks.py", "up", "--port", "0"], cwd=copied.folder, env=copied.environment(), text=True,
            stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    ready = re.fullmatch(r"READY (http://127\.0\.0\.1:\d+)\n", first)
    assert ready, log.read_text()
    yield Up(copied, process, ready[1], log)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as started:
        yield started


def test_the_steps_are_said(up: Up) -> None:
    said = up.log.read_text()
    for words in (
        "toolkit  making .venv",
        "plan     environment i2v-cpu-",
        "install  ",
        "every hash checked",
        "model    ",
    ):
        assert words in said
    assert (up.checkout.folder / ".env" / "bin" / "python").exists()


def test_a_newcomer_makes_a_video_in_the_browser(up: Up, browser: Chromium, photo: Path) -> None:
    with browser.visitor(ENGLISH) as visitor:
        page = opened(visitor, up.url)
        expect(page.locator("#header")).to_contain_text("Pictures are noise: this model only proves")
        fill(page, photo)
        page.click("#standard")
        expect(page.locator("#jobs .state")).to_have_text(re.compile(r"Step \d+ of 10"), timeout=LONG_MS)
        card = cards(page, "done")
        plays(page, card)
        video = card.locator("video").evaluate("each => [each.videoWidth, each.videoHeight, each.duration]")
        assert video == [128, 128, 2]
        assert visitor.hosts() == {up.url.split("/")[2]}


def test_a_chinese_browser_sees_chinese_errors_included(up: Up, browser: Chromium) -> None:
    with browser.visitor(CHINESE) as visitor:
        page = opened(visitor, up.url)
        text = page.inner_text("body")
        for words in ("冒烟测试模型", "画面只是噪声", "提示词（英文）", "快速预览", "系统", "日志摘要"):
            assert words in text
        page.click("#standard")
        expect(page.get_by_text("请先选择一张图片")).to_be_visible()


def test_generate_uses_the_same_environment_from_any_folder(up: Up, photo: Path) -> None:
    tasks = up.checkout.folder / "tasks.py"
    words = ["generate", "--image", photo.name, "--prompt", "a cat; echo $HOME", "--preset", "fast", "--seed", "3"]
    made = [up.checkout.run(PYTHON, tasks, *words, "--out", f"{name}.mp4", cwd=photo.parent) for name in ("one", "two")]
    assert [(each.code, each.stdout) for each in made] == [
        (0, f"{photo.parent}/one.mp4\n"), (0, f"{photo.parent}/two.mp4\n"),
    ]  # fmt: skip
    assert "Pictures are noise" in made[0].stderr
    assert (photo.parent / "one.mp4").read_bytes() == (photo.parent / "two.mp4").read_bytes()
    with av.open(str(photo.parent / "one.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


PICTURE = ["generate", "--image", "README.md", "--prompt", "b", "--out", "c.mp4"]
WRONG = {
    "error: no task named 'upp'; there is bench, build-image, bundle, calibrate, check, ": ["upp"],
    "error: app/models.toml: no model named 'smok'; there is animatediff, i2vgen-xl, smoke, svd-xt "
    "(did you mean 'smoke'?)": ["up", "--model", "smok"],
    "error: mirrors.toml: no mirror named 'tunna'; there is ": ["up", "--mirror", "tunna"],
    "error: a whole number was expected, not 'x'": ["up", "--port", "x"],
    "error: port 70000 is not between 0 and 65535": ["up", "--port", "70000"],
    "error: no address for host 'nowhere.invalid': ": ["up", "--host", "nowhere.invalid"],
    "error: up: no flag '--prot' (did you mean '--port'?)": ["up", "--prot", "1"],
    "error: app/models.toml: smoke: no preset named 'fats'; there is fast, standard (did you mean 'fast'?)": [
        *PICTURE, "--preset", "fats",
    ],
    "error: none.jpg: no such file": ["generate", "--image", "none.jpg", "--prompt", "b", "--out", "c.mp4"],
    "error: README.md: is not a picture (taken are JPEG, PNG, ": PICTURE,
    "error: the prompt is empty": ["generate", "--image", "README.md", "--prompt", " ", "--out", "c.mp4"],
    "error: the prompt is empty: say in English": ["generate", "--image", "README.md", "--out", "c.mp4"],
    "error: 'generate' did not receive required": ["generate", "--image", "README.md", "--prompt", "b"],
    "error: the seed must be a whole number, not 'x'": [*PICTURE, "--seed", "x"],
    "error: no profile named 'cuda11'; there is auto, cpu, cuda12, cuda13": ["setup", "--profile", "cuda11"],
    "error: ftp://host: should begin with https://, http:// or file://": ["setup", "--mirror", "ftp://host"],
    "error: nothing to run: python3 tasks.py run -- COMMAND": ["run"],
    "error: envs/locks: no package named 'gradioo'; there is ": ["lock", "--upgrade", "numpy", "--upgrade", "gradioo"],
    "error: 'Debian' is not the name of an image, such as debian:bookworm-slim": ["lock", "--base", "Debian"],
    "error: app/models.toml: no model named 'svd'; there is ": ["lock", "--models", "smoke", "--models", "svd"],
    "error: smoke: is made on this machine; there is nothing to fetch": ["verify", "--model", "smoke"],
    "error: which model? one or more names, or --all": ["fetch"],
    "error: ci/bench: no bench named 'speed'; there is deploy, engine, faults, fetch, ": ["bench", "speed"],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(up: Up, message: str) -> None:
    done = up.checkout.run(PYTHON, "tasks.py", *WRONG[message])
    shown = [line for line in done.stderr.splitlines() if not line.startswith(("ready ", "try:", "       "))]
    assert (done.code, done.stdout, len(shown)) == (2, "", 1), done
    assert shown[0].startswith(message)


def test_the_app_has_changed_nothing_in_its_environment(up: Up) -> None:
    done = up.checkout.run(PYTHON, "tasks.py", "verify")
    assert (done.code, done.stdout) == (0, ""), done
    assert re.fullmatch(r"verify   [0-9,]{5,} files as locked\n", done.stderr)


def test_words_after_two_dashes_are_the_programs_own(up: Up) -> None:
    code = "import sys, torch; print(sys.argv[1:], torch.__version__); sys.exit(7)"
    words = ["a b", "--lang", "zh", "--mirror", "x", "--", "$HOME"]
    done = up.checkout.run(PYTHON, "tasks.py", "run", "--", "python", "-c", code, *words)
    assert (done.code, done.stdout, done.stderr) == (7, f"{words} 2.13.0+cpu\n", "")


def test_a_taken_port_is_named_before_anything_is_done(up: Up) -> None:
    port = up.url.rpartition(":")[2]
    done = up.checkout.run(PYTHON, "tasks.py", "up", "--port", port)
    assert done.code == 2
    assert done.stderr.splitlines()[0] == f"error: port {port} of 127.0.0.1 is taken by python (pid {up.process.pid})"


def test_it_listens_on_this_machine_alone(up: Up) -> None:
    port = int(up.url.rpartition(":")[2])
    listening = [
        each.laddr for each in psutil.Process(up.process.pid).net_connections("tcp") if each.status == "LISTEN"
    ]
    assert [(each[0], each[1]) for each in listening] == [("127.0.0.1", port)]


def test_ctrl_c_ends_it_with_its_children(up: Up) -> None:
    """The last test of this module. A terminal sends Ctrl-C to the whole group."""
    family = [psutil.Process(up.process.pid), *psutil.Process(up.process.pid).children(recursive=True)]
    assert len(family) == 2
    os.killpg(up.process.pid, signal.SIGINT)
    assert up.process.wait(timeout=20) == 130
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)
    with socket.create_server(("127.0.0.1", int(up.url.rpartition(":")[2]))):
        pass
    assert "Traceback" not in up.log.read_text()


def test_a_second_start_installs_nothing(up: Up) -> None:
    with subprocess.Popen(
        [PYTHON, "tasks.py", "up", "--port", "0"], cwd=up.checkout.folder, env=up.checkout.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("READY http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        stderr = process.stderr.read()
    assert process.returncode == 130
    assert re.fullmatch(r"ready    i2v-cpu-[0-9a-f]{8} is in place\nmodel    Smoke model loaded in [0-9.]+ s\n", stderr)
