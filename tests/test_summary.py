"""app.summary: what somebody copies into a question"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import logs, summary
from tests.peers import nvml

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    nvml.absent(monkeypatch)
    yield
    logs.stop()


def worked(outputs: Path) -> None:
    """A server's log with five videos, and errors of three kinds."""
    logs.start(outputs, "server")
    for number in range(5):
        logs.event(logs.DONE, job=str(number), model="smoke", seconds=1)
    logs.event(logs.FAILED, job="5", error=RuntimeError("something new"))
    for number in range(3):
        logs.event(logs.FAILED, job=str(number), error=RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    logs.event(logs.TROUBLE, error=OSError(28, "No space left on device"))


def test_it_counts_jobs_and_tells_errors_with_cause_and_next_step(tmp_path: Path) -> None:
    worked(tmp_path)
    found = summary.collect(tmp_path)
    assert (found.done, found.failed, bool(found.started)) == (5, 4, True)
    assert [(each.error, each.count, each.cause, each.fix) for each in found.troubles] == [
        ("OSError", 1, "the disk is full",
         "delete videos that nobody needs, or put them on another disk: JINGXIANG_OUTPUTS"),
        ("RuntimeError", 3, "the memory of the card is full",
         "fewer frames or a smaller size; nvidia-smi shows which other programs hold some"),
        ("RuntimeError", 1, "", ""),
    ]  # fmt: skip
    assert found.troubles[2].text == "something new"


def test_a_job_that_two_processes_tell_of_is_one(tmp_path: Path) -> None:
    for name in ("server", "worker-0"):
        logs.start(tmp_path, name)
        logs.event(logs.DONE, job="a", model="smoke")
        logs.event(logs.DONE, job=name, model="smoke")
    assert summary.collect(tmp_path).done == 3


def test_it_is_plain_text_in_the_language_asked_for(tmp_path: Path) -> None:
    worked(tmp_path)
    english, chinese = summary.text(tmp_path, "en"), summary.text(tmp_path, "zh")
    rows = dict(line.split(maxsplit=1) for line in english.split("\n\n")[0].splitlines())
    assert list(rows) == ["jingxiang", "python", "system", "memory", "packages", "gpu", "disk", "server", "jobs"]
    assert rows["packages"].startswith("torch 2.")
    assert ", diffusers 0." in rows["packages"]
    assert ", transformers " in rows["packages"]
    assert ", gradio 6." in rows["packages"]
    assert (rows["gpu"], rows["server"].endswith(", 0.0 hours ago")) == ("no GPU", True)
    assert rows["jobs"].startswith("5 done, 4 failed since 20")
    said = english.split("\n\n")[1].splitlines()
    assert said[0].endswith("  OSError: [Errno 28] No space left on device")
    assert said[1:3] == [
        "    likely cause: the disk is full",
        "    -> delete videos that nobody needs, or put them on another disk: JINGXIANG_OUTPUTS",
    ]
    assert said[3].endswith(" (3x)  RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert said[-1].endswith("  RuntimeError: something new")
    assert "没有显卡" in chinese
    assert "    可能的原因：显存不足" in chinese.splitlines()
    assert "\033" not in english + chinese


def test_the_cards_are_told_with_driver_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.answers(monkeypatch, [nvml.H200, nvml.L20])
    assert summary.collect(tmp_path).cards == (
        "NVIDIA H200, driver 570.86.15: 150 GB of 151 GB free", "NVIDIA L20, driver 570.86.15: 47.2 GB of 48.3 GB free",
    )  # fmt: skip
    nvml.answers(monkeypatch, init=9)
    assert summary.collect(tmp_path).cards[0].startswith("NVIDIA driver does not answer: ")


def test_an_app_that_never_ran_has_a_summary_too(tmp_path: Path) -> None:
    text = summary.text(tmp_path / "none", "en")
    assert text.splitlines()[-3:] == ["jobs       none in the log", "", "no errors in the log"]
    assert "server     no start in the log" in text.splitlines()


def test_nobody_s_name_and_no_escape_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "logs").mkdir()
    line = {"time": "2026-01-02T03:04:05+00:00", "level": "error", "event": "failed", "process": "old", "error": "E",
            "reason": f"{tmp_path}/a\033[31m\nb https://u:p@h/ /home/alice/x {'y' * 900}"}  # fmt: skip
    (tmp_path / "logs" / "old.jsonl").write_text(json.dumps(line) + "\n")
    text = summary.text(tmp_path, "en")
    assert not any(each in text for each in (str(tmp_path), "alice", "u:p@", "\033"))
    assert "E: ~/a [31m b https://…@h/ /home/…/x yyy" in text
    assert max(len(each) for each in text.splitlines() if each.startswith("20")) < 400


def test_the_command_gives_it_on_stdout_and_imports_nothing_heavy(tmp_path: Path) -> None:
    worked(tmp_path)
    command = [sys.executable, "-m", "app", "logs", "--outputs", str(tmp_path)]

    def said(*words: str) -> str:
        done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=ROOT, env=os.environ, check=True)
        assert done.stderr == ""
        return done.stdout

    assert said("--summary").startswith("jingxiang  0.1.0\n")
    assert json.loads(said("--summary", "--json"))["done"] == 5
    assert len(said("-n", "3").splitlines()) == 3
    assert [json.loads(line)["event"] for line in said("--json", "-n", "2").splitlines()] == ["failed", "trouble"]
    code = (
        "import sys; from pathlib import Path; from app import summary\n"
        "summary.text(Path(sys.argv[1]), 'en')\n"
        "print([name for name in ('torch', 'diffusers', 'gradio', 'transformers', 'av') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"


def test_lines_that_are_no_number_are_wrong_use(tmp_path: Path) -> None:
    for text in ("x", "-1", ""):
        done = subprocess.run(
            [sys.executable, "-m", "app", "logs", f"-n{text}" if text else "-n="],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: argument -n: invalid _count value: ")
