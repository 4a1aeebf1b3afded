"""`python -m app generate`: the engine without the page."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import av
import pytest

from tests.peers import checkout, tiny_models

ROOT = Path(__file__).resolve().parent.parent


def generate(models: Path, *arguments: str, lang: str = "C.UTF-8", cwd: Path = ROOT) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "app", "generate", "--models", str(models), *arguments],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "LANG": lang},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_video_and_its_path(models: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    code, stdout, stderr = generate(
        models, "--image", str(photo), "--prompt", "a cat", "--negative", "blurry", "--out", str(out),
        "--preset", "fast", "--seed", "3",
    )  # fmt: skip
    assert (code, stdout) == (0, f"{out}\n"), stderr
    lines = stderr.splitlines()
    assert lines[0] == "model    Smoke model: Pictures are noise: this model only proves that everything works."
    assert lines[1].startswith("load     ")
    assert lines[2].startswith("video    64x64, 8 frames, 4 steps, seed 3, in ")
    assert len(lines) == 3  # no bar and no library's chatter without a terminal
    with av.open(str(out)) as container:
        assert container.streams.video[0].frames == 8
        settings = json.loads(container.metadata["comment"])["settings"]
        assert (settings["prompt"], settings["negative_prompt"]) == ("a cat", "blurry")


@pytest.mark.parametrize(
    ("model", "prompt", "said"),
    [
        ("svd-xt", "", "model    Stable Video Diffusion XT\nload     #\nvideo    #\n"),
        (
            "svd-xt", "a cat",
            "prompt   Stable Video Diffusion XT takes none: it is ignored\n"
            "model    Stable Video Diffusion XT\nload     #\nvideo    #\n",
        ),
        (
            "animatediff", "x" * 75 + " and more",
            "model    AnimateDiff\nadvice   steps 3: better from 10 to 50\nload     #\n"
            "prompt   the prompt is too long; the model did not read: and more\nvideo    #\n",
        ),
    ],
    ids=["none", "ignored", "too long"],
)  # fmt: skip
def test_a_video_of_each_other_model(tmp_path: Path, photo: Path, model: str, prompt: str, said: str) -> None:
    tiny_models.make(tmp_path / "models")
    copied = checkout.copy(tmp_path / "checkout").folder
    tiny_models.shrink(copied / "app" / "models.toml")
    out = tmp_path / "out.mp4"
    words = ["--model", model, "--image", str(photo), "--out", str(out), "--preset", "fast", "--seed", "3"]
    code, stdout, stderr = generate(tmp_path / "models", *words, *(["--prompt", prompt] if prompt else []), cwd=copied)
    assert (code, stdout) == (0, f"{out}\n"), stderr
    assert re.sub(r"(?m)^(load|video) .*", lambda found: f"{found[1]:<9}#", stderr) == said
    with av.open(str(out)) as container:
        made = json.loads(container.metadata["comment"])
        assert (made["model"], "prompt" in made["settings"]) == (model, model != "svd-xt")
        assert container.streams.video[0].frames == 6


def test_a_terminal_sees_a_bar(models: Path, photo: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # a bar needs a width
    words = ["--image", str(photo), "--prompt", "a cat", "--out", str(tmp_path / "o.mp4"), "--preset", "fast"]
    with subprocess.Popen(
        [sys.executable, "-m", "app", "generate", "--models", str(models), *words],
        stdout=subprocess.DEVNULL, stderr=theirs, cwd=ROOT,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while block := os.read(ours, 4096):
                shown += block
    os.close(ours)
    assert process.returncode == 0
    assert re.search(r"steps:.*\b\d/4 \[", shown.decode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--image": "{folder}/none.jpg"}, "error: {folder}/none.jpg: no such file"),
        ({"--prompt": " "}, "error: the prompt is empty: say in English what should move and how"),
        ({"--preset": "quick"}, "error: app/models.toml: smoke: no preset named 'quick'; there is fast, standard"),
        ({"--out": "{folder}/o.avi"}, "error: {folder}/o.avi: the output must end in .mp4"),
        ({"--out": "{folder}/none/o.mp4"}, "error: {folder}/none/o.mp4: cannot be written: No such file or directory"),
        ({"--out": "/proc/o.mp4"}, "error: /proc/o.mp4: cannot be written: No such file or directory"),
        (
            {"--model": "wan"},
            "error: app/models.toml: no model named 'wan'; there is animatediff, i2vgen-xl, smoke, svd-xt",
        ),
        ({"--seed": "-1"}, "error: the seed must be between 0 and 4294967295"),
        ({"--seed": "x"}, "error: argument --seed: invalid int value: 'x'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    models: Path, photo: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    options = {"--image": str(photo), "--prompt": "a cat", "--out": str(tmp_path / "o.mp4"), **changes}
    words = [f"{name}={value.format(folder=tmp_path)}" for name, value in options.items()]
    code, stdout, stderr = generate(models, *words)
    assert (code, stdout, stderr) == (2, "", message.format(folder=tmp_path) + "\n")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_messages_are_in_chinese_for_a_chinese_locale(models: Path, photo: Path, tmp_path: Path) -> None:
    words = ["--image", str(photo), "--prompt", "", "--out", str(tmp_path / "o.mp4")]
    assert generate(models, *words, lang="zh_CN.UTF-8") == (2, "", "错误：提示词为空：请用英文描述什么在动、怎样动\n")
