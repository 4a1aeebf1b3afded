"""jingxiang.commands.doctor"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pynvml
import pytest

from jingxiang import __version__, disk, locks, ranking
from jingxiang.commands.doctor import ProblemsFound, doctor
from jingxiang.digest import short
from jingxiang.places import Places
from tests.peers import nvml
from tests.peers.mirror import Mirror, serving, wheel

SUBJECTS = ["python", "system", "memory", "gpu", "disk", "docker", "mirrors", "environment"]
DIGEST = "a" * 64
INVOKE = wheel("invoke", "3.0.3")
ENGINE = {"Version": "27.5.1", "ApiVersion": "1.47", "MinAPIVersion": "1.24"}

NO_ENGINE = {
    "subject": "docker",
    "state": "note",
    "text": "no engine; images for a registry or a folder need none",
    "fix": "apt-get install docker.io",
}

Answers = dict[str, bytes]


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], int]]:
    """Serves fixed answers by the end of the path; returns the port."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = next((body for end, body in answers.items() if self.path.endswith(end)), None)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", "application/json" if self.path.endswith("n") else "text/html")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def near() -> Iterator[Mirror]:
    """A good mirror."""
    with serving() as mirror:
        mirror.add_index(INVOKE)
        yield mirror


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: Mirror) -> Places:
    """A checkout and a home below the user's folder, on a machine without GPU and docker, with one good mirror."""
    for name in os.environ:
        if name.startswith(("DOCKER_", "PIP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    nvml.absent(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(disk, "measure", functools.partial(disk.measure, sample_bytes=disk.BLOCK_BYTES))
    found = Places(tmp_path / "checkout", tmp_path / "jx", tmp_path / "store")
    found.locks.mkdir(parents=True)
    (found.root / "envs" / "cpu.in").write_text("numpy\n")
    (found.locks / "cpu.txt").write_text(
        locks.written(found.root / "envs" / "cpu.in", f"numpy==2.4.6 --hash=sha256:{DIGEST}\n")
    )
    (found.locks / "toolkit.txt").write_text(f"invoke==3.0.3 --hash=sha256:{INVOKE.sha256}\n")
    (found.root / "mirrors.toml").write_text(
        f'[near]\npypi = {{ layout = "pep503", url = "{near.url}/simple" }}\n'
        f'[dead]\npypi = {{ layout = "pep503", url = "{near.url}/gone" }}\n'
    )
    return found


def environment_name(places: Places) -> str:
    return f"i2v-cpu-{short(locks.read(places.locks / 'cpu.txt').digest)}"


Findings = dict[str, dict[str, str]]


def report(places: Places, capsys: pytest.CaptureFixture[str]) -> Findings:
    """The findings by subject; stdout held one JSON object and nothing else."""
    try:
        doctor(places, as_json=True)
    finally:
        out, err = capsys.readouterr()
    whole: dict[str, Any] = json.loads(out)
    assert (list(whole), whole["version"], err) == (["version", "findings"], __version__, "")
    assert [list(each) for each in whole["findings"]] == [["subject", "state", "text", "fix"]] * len(whole["findings"])
    return {each["subject"]: each for each in whole["findings"]}


def failed(places: Places, capsys: pytest.CaptureFixture[str]) -> tuple[str, Findings]:
    """The error of a report with problems, and the report."""
    with pytest.raises(ProblemsFound) as caught:
        doctor(places, as_json=True)
    found = json.loads(capsys.readouterr().out)["findings"]
    assert caught.value.exit_code == 1
    return caught.value.message, {each["subject"]: each for each in found}


def test_each_subject_has_one_line_and_a_known_state(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(places, capsys)
    assert list(found) == SUBJECTS
    assert {each["state"] for each in found.values()} <= {"ok", "note"}
    assert found["python"]["text"] == f"{platform.python_version()} ({sys.executable})"
    assert found["system"]["text"].endswith(f", {platform.release()}, x86_64")
    assert found["gpu"] == {"subject": "gpu", "state": "note", "text": "no NVIDIA GPU: CPU build", "fix": ""}
    assert found["docker"] == NO_ENGINE
    assert found["environment"] == {
        "subject": "environment",
        "state": "note",
        "text": f"{environment_name(places)} is not installed yet",
        "fix": "python3 tasks.py setup",
    }
    assert found["mirrors"]["state"] == "ok"
    head, _, tail = found["mirrors"]["text"].partition(" ms")
    assert (head.rpartition(" ")[0], tail) == ("pypi: near", "; not now: dead")


def test_the_users_folder_is_not_in_the_report(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    places.home.mkdir()
    doctor(places, as_json=True)
    out = capsys.readouterr().out
    assert (str(Path.home()) in out, "~/store: writes " in out) == (False, True)
    doctor(places, as_json=False)
    assert str(Path.home()) not in capsys.readouterr().err


def test_people_get_a_table_with_a_fix_below_its_line(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    doctor(places, as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line[7:18].strip() for line in lines if line[:5].strip()] == SUBJECTS
    assert lines[-2:] == [
        f"note   environment  {environment_name(places)} is not installed yet",
        "                    -> python3 tasks.py setup",
    ]


def test_the_report_speaks_chinese(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JINGXIANG_LANG", "zh")
    doctor(places, as_json=False)
    assert "\n提示   显卡    没有 NVIDIA 显卡：使用 CPU 版本\n" in capsys.readouterr().err


def test_what_a_machine_has_is_ok(
    places: Places,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Answers], int],
) -> None:
    nvml.answers(monkeypatch, [nvml.H200])
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{serve({'/version': json.dumps(ENGINE).encode()})}")
    for source, target in ((places.locks / "cpu.txt", "cuda12.txt"), (places.root / "envs" / "cpu.in", "cuda12.in")):
        shutil.copy(source, source.with_name(target))
    folder = places.environments / environment_name(places).replace("cpu", "cuda12")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("")
    lock = locks.read(places.locks / "cuda12.txt").digest
    stamp = {"profile": "cuda12", "engine": "venv", "lock": lock, "python": "3.11.7", "tag": "", "files": {}}
    (folder / "jingxiang.json").write_text(json.dumps(stamp))
    found = report(places, capsys)
    summary = {
        subject: (found[subject]["state"], found[subject]["text"]) for subject in ("gpu", "docker", "environment")
    }
    assert summary == {
        "gpu": ("ok", "NVIDIA H200, driver 570.86.15, 139.6 of 140.4 GiB free: CUDA 12 build"),
        "docker": ("ok", "engine 27.5.1"),
        "environment": ("ok", f"{folder.name} is in place"),
    }


def test_a_socket_that_an_engine_left_behind_is_no_engine(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(places.home.parent / "docker.sock"))  # nobody listens
        assert report(places, capsys)["docker"] == NO_ENGINE


def test_an_engine_elsewhere_that_does_not_answer_is_said_in_the_words_of_its_sdk(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken but not listened on, so nobody answers there
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{closed.getsockname()[1]}")
        found = report(places, capsys)["docker"]
    assert (found["state"], found["fix"]) == ("note", "docker info")
    assert "Connection refused" in found["text"]


def test_a_broken_mirrors_file_is_a_problem_with_a_fix(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    (places.root / "mirrors.toml").write_text("[tuna]\npipy = 1\n")
    message, found = failed(places, capsys)
    assert message == "to be put right first: mirrors"
    assert found["mirrors"] == {
        "subject": "mirrors",
        "state": "problem",
        "text": "mirrors.toml: tuna.pipy: no key named 'pipy'; there is apt, conda, domain, hub, oci, pypi, torch "
        "(did you mean 'pypi'?)",
        "fix": "correct the file",
    }


def test_no_mirror_that_answers_is_a_problem_with_a_fix(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    text = (places.root / "mirrors.toml").read_text()
    (places.root / "mirrors.toml").write_text(text.replace("/simple", "/gone"))
    message, found = failed(places, capsys)
    assert message == "to be put right first: mirrors"
    assert found["mirrors"]["text"] == "none of near, dead answers"
    assert found["mirrors"]["fix"] == "check the network and the proxy (HTTPS_PROXY)"


def test_a_mirror_that_gives_wrong_bytes_is_none(
    places: Places, near: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    near.files[f"/packages/{INVOKE.file}"] = INVOKE.body[:-1] + b"x"
    assert failed(places, capsys)[1]["mirrors"]["text"] == "none of near, dead answers"


def test_what_was_measured_is_kept_for_the_next_setup(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    report(places, capsys)
    assert ranking.fresh(places.home, time.time())["pypi"].names == ("near",)


def test_a_home_that_cannot_be_written_does_not_end_the_report(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    places.home.write_text("a file where the folder should be")
    assert report(Places(places.root, places.home / "deep", places.store), capsys)["mirrors"]["state"] == "ok"


def test_a_stale_lock_is_a_problem_with_a_fix(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    (places.root / "envs" / "cpu.in").write_text("numpy\npillow\n")
    message, found = failed(places, capsys)
    assert message == "to be put right first: environment"
    assert found["environment"] == {
        "subject": "environment",
        "state": "problem",
        "text": "envs/locks/cpu.txt: is older than envs/cpu.in; what it would install is not what the spec asks for",
        "fix": "python3 tasks.py lock",
    }


def test_a_missing_lock_is_a_problem(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    (places.locks / "cpu.txt").unlink()
    assert failed(places, capsys)[0] == "to be put right first: environment"


def test_a_driver_that_fails_is_a_problem_with_a_fix(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.answers(monkeypatch, init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    message, found = failed(places, capsys)
    assert message == "to be put right first: gpu"
    assert found["gpu"]["text"] == "NVIDIA driver does not answer: Driver Not Loaded"
    assert found["gpu"]["fix"] == "reinstall or load the NVIDIA driver, then try: nvidia-smi"


def test_a_driver_that_is_too_old_is_a_problem_with_a_fix(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.answers(monkeypatch, [nvml.T4])
    message, found = failed(places, capsys)
    assert message == "to be put right first: gpu"
    words = "Tesla T4, driver 470.82.01, 14.6 of 14.8 GiB free; driver 470.82.01 is too old for CUDA 12 (needs 525)"
    assert (found["gpu"]["text"], found["gpu"]["fix"]) == (words, "update the NVIDIA driver")


def test_a_full_disk_is_a_problem_with_a_fix(
    places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "SAMPLE_BYTES", 1 << 60)
    message, found = failed(places, capsys)
    assert message == "to be put right first: disk"
    assert found["disk"]["text"].startswith("~")
    assert found["disk"]["text"].endswith(" free")
    assert found["disk"]["fix"] == "set JINGXIANG_STORE to a folder on a larger or faster local disk"


def test_the_disk_that_is_measured_is_that_of_the_store_which_may_yet_be_made(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = Places(places.root, places.home, places.store / "not" / "made" / "yet")
    assert report(deep, capsys)["disk"]["text"].startswith("~/store/not/made/yet: writes ")
    assert not places.store.exists()


def test_a_home_on_another_disk_is_measured_too(
    places: Places,
    mounted: Callable[[str, int], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    other = mounted("tmpfs", 64)
    monkeypatch.setattr(disk, "SAMPLE_BYTES", 1 << 20)
    doctor(Places(places.root, other / "jx", places.store), as_json=True)
    found = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["subject"] == "disk"]
    assert [each["text"].partition(":")[0] for each in found] == ["~/store", f"~/{other.name}/jx"]
    assert found[1]["fix"] == "set JINGXIANG_HOME to a folder on a larger or faster local disk"  # 64 MB are too little


def test_all_problems_are_named_at_once(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    (places.root / "mirrors.toml").write_text("[tuna\n")
    (places.root / "envs" / "cpu.in").write_text("pillow\n")
    assert failed(places, capsys)[0] == "to be put right first: mirrors, environment"
