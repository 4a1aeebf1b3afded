"""app.logs: what is written, what is never written, and that nothing of it can stop the app"""

from __future__ import annotations

import contextlib
import json
import logging.config
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from app import logs
from jingxiang import file_lock
from jingxiang.errors import JingxiangError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _stopped() -> Iterator[None]:
    yield
    logs.stop()


def lines(outputs: Path, name: str = "server") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outputs / "logs" / f"{name}.jsonl").read_text("utf-8").split("\n") if line]


def names(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / "logs").iterdir() if not path.name.startswith("."))


def raised(error: Exception) -> Exception:
    """With a trace, as it comes from somewhere."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_line_is_an_object_with_time_process_and_what_happened(tmp_path: Path) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    logs.start(tmp_path, "server")
    logs.event(logs.DONE, job="a1", model="smoke", seconds=1.23456, peak_bytes=5, rung="offload")
    first, second = lines(tmp_path)
    assert (first.pop("version"), first["event"], first["level"]) == ("0.1.0", "started", "info")
    time = datetime.fromisoformat(second.pop("time"))
    assert before <= time <= datetime.now(timezone.utc)
    assert second == {
        "level": "info", "event": "done", "process": "server", "pid": os.getpid(), "job": "a1", "model": "smoke",
        "seconds": 1.235, "peak_bytes": 5, "rung": "offload",
    }  # fmt: skip


def test_nothing_is_written_before_it_is_started_or_after_it_is_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.event(logs.FAILED, error=ValueError("x"))
    logs.start(tmp_path, "server")
    logs.stop()
    logs.event(logs.FAILED, error=ValueError("x"))
    assert [line["event"] for line in lines(tmp_path)] == ["started"]
    assert capfd.readouterr() == ("", "")


def test_an_error_has_its_class_what_it_says_and_where_it_was_raised(tmp_path: Path) -> None:
    logs.start(tmp_path, "worker-0")
    logs.event(logs.FAILED, job="a1", error=raised(RuntimeError("CUDA out of memory")))
    logs.event(logs.FAILED, job="a2", error=raised(JingxiangError("the prompt is empty")))
    _, crash, own = lines(tmp_path, "worker-0")
    assert (crash["level"], crash["error"], crash["reason"]) == ("error", "RuntimeError", "CUDA out of memory")
    assert crash["trace"].startswith(f"{__file__}:")
    assert crash["trace"].endswith(" raised")
    assert (own["error"], own["reason"], "trace" in own) == ("JingxiangError", "the prompt is empty", False)


def test_no_secrets_and_no_names_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/alice")
    logs.start(tmp_path, "server")
    token = "hf_" + "a" * 30
    logs.event(logs.TROUBLE, reason=f"GET https://alice:secret@example.org/x with {token}: /srv/people/alice/models")
    logs.event(logs.TROUBLE, error=raised(OSError("/home/bob/pictures/a.jpg and /Users/carol/b.jpg")))
    text = (tmp_path / "logs" / "server.jsonl").read_text("utf-8")
    assert not any(each in text for each in ("alice", "secret", token, "bob", "carol"))
    assert "https://…@example.org/x with …: ~/models" in text
    assert "/home/…/pictures/a.jpg and /Users/…/b.jpg" in text


def test_prompts_are_left_out_also_of_the_errors_of_libraries(tmp_path: Path) -> None:
    logs.start(tmp_path, "server")
    prompt = 'my secret plan\nwith "quotes" 和中文'
    with logs.hiding(prompt, "cat"):
        logs.event(logs.FAILED, error=raised(ValueError(f"cannot read {prompt}")))
        logs.event(logs.FAILED, error=raised(KeyError(prompt)))
    logs.event(logs.FAILED, error=raised(ValueError("a cat, catalog")))
    assert [line.get("reason") for line in lines(tmp_path)][1:] == ["cannot read …", "'…'", "a cat, catalog"]


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2000)
    logs.start(tmp_path, "server")
    for number in range(200):
        logs.event(logs.DONE, job=str(number), model="smoke")
    assert names(tmp_path) == ["server.jsonl", "server.jsonl.1", "server.jsonl.2", "server.jsonl.3"]
    assert all((tmp_path / "logs" / name).stat().st_size <= 2000 for name in names(tmp_path))
    jobs = [int(entry.fields["job"]) for entry in logs.read(tmp_path)]
    assert jobs == list(range(jobs[0], 200))
    assert len(jobs) > 20


def test_processes_of_one_name_have_a_file_each(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from app import logs\n"
        "logs.start(Path(sys.argv[1]), 'worker-0')\n"
        "print(flush=True); sys.stdin.readline()\n"
        "for number in range(300): logs.event(logs.DONE, job=f'{sys.argv[2]}-{number}', model='smoke')\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        for name in "abc"
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        worker.communicate(b"\n")
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert names(tmp_path) == ["worker-0-2.jsonl", "worker-0-3.jsonl", "worker-0.jsonl"]
    found = [entry for entry in logs.read(tmp_path) if entry.event == "done"]
    assert len({entry.fields["job"] for entry in found}) == 900
    assert len({(entry.process, str(entry.fields["job"])[0]) for entry in found}) == 3
    logs.start(tmp_path, "worker-0")  # the name is free again
    assert len(names(tmp_path)) == 3


def test_a_library_that_sets_up_its_own_logging_takes_nothing_away(tmp_path: Path) -> None:
    logs.start(tmp_path, "server")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as uvicorn does; closes all handlers
    logs.event(logs.DONE, job="a1")
    assert [line["event"] for line in lines(tmp_path)] == ["started", "done"]
    with file_lock.held(tmp_path / "logs" / ".server.lock", wait=False) as is_free:
        assert not is_free


def test_a_full_disk_is_said_once_and_the_log_goes_on_when_there_is_room(
    mounted: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = mounted("tmpfs", 1)
    filling = outputs / "filling"
    with contextlib.ExitStack() as stack:
        stack.callback(logs.stop)  # before the disk goes
        logs.start(outputs, "server")
        with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        for number in range(200):
            logs.event(logs.DONE, job=f"lost-{number}", model="x" * 100)
        assert capsys.readouterr().err == "warning: logs: cannot be written: No space left on device\n"
        filling.unlink()
        logs.event(logs.DONE, job="kept")
        assert logs.read(outputs)[-1].fields["job"] == "kept"
        assert logs.read(outputs)[0].event == "started"
        assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start(Path("/proc/none"), "server")
    logs.event(logs.DONE, job="a")
    assert capsys.readouterr().err == "warning: logs: cannot be written: No such file or directory\n"


def test_text_that_is_no_unicode_is_written_too(tmp_path: Path) -> None:
    logs.start(tmp_path, "server")
    logs.event(logs.TROUBLE, reason="a\udcffb\u2028c\nd")
    assert logs.read(tmp_path)[-1].fields["reason"] == "a\udcffb\u2028c\nd"


def test_what_ends_a_process_is_written(tmp_path: Path) -> None:
    logs.start(tmp_path, "server")
    with pytest.raises(ZeroDivisionError), logs.recorded():
        raise ZeroDivisionError("oh")
    with pytest.raises(KeyboardInterrupt), logs.recorded():
        raise KeyboardInterrupt
    assert [(line["event"], line.get("error")) for line in lines(tmp_path)] == [
        ("started", None), ("trouble", "ZeroDivisionError"), ("stopped", None), ("stopped", None),
    ]  # fmt: skip


def test_reading_passes_over_what_is_no_line_and_sorts_by_time(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    line = '{"time": "2026-01-02T03:04:0%d+00:00", "level": "info", "event": "done", "process": "p", "job": "%d"}\n'
    (folder / "a.jsonl").write_text(
        line % (5, 5) + '{"time": "2026-01\n\n[]\nnull\n{}\n' + "[" * 9999 + "\n" + line % (1, 1)
    )
    (folder / "b.jsonl.1").write_bytes(
        (line % (3, 3)).encode() + b'\xff\xfe\n{"time": "2026-01-02T03:04:05", "level": 1}'
    )
    (folder / "c.jsonl").mkdir()
    (folder / "other.txt").write_text(line % (2, 2))
    assert [entry.fields["job"] for entry in logs.read(tmp_path)] == ["1", "3", "5"]
    assert logs.read(tmp_path / "none") == []


def test_the_last_lines_for_people_and_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.start(tmp_path, "server")
    logs.event(logs.DONE, job="a1", model="smoke")
    logs.event(logs.FAILED, reason="two\nlines and \033[31mred")
    capsys.readouterr()
    logs.show(tmp_path, count=2, as_json=False)
    done, failed = capsys.readouterr().out.splitlines()
    assert done.endswith("  server    done      job=a1  model=smoke")
    assert failed.endswith("  server    failed    reason=two lines and  [31mred")
    logs.show(tmp_path, count=50, as_json=True)
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["started", "done", "failed"]
    logs.show(tmp_path, count=0, as_json=False)
    assert capsys.readouterr() == ("", "")
    logs.show(tmp_path / "none", count=5, as_json=False)
    assert capsys.readouterr() == ("", f"log      {tmp_path}/none/logs holds none yet\n")
