"""jingxiang.commands.setup: which environment, from plan to link, with a mirror and cards of its own"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from jingxiang import locks, uv_client
from jingxiang.commands.setup import NotWritable, setup, setup_app
from jingxiang.engines.venv import PythonMissing
from jingxiang.errors import UnknownName, UsageError
from jingxiang.locks import EditedLock, StaleLock
from jingxiang.places import Places
from jingxiang.process import Finished
from jingxiang.profiles import NoneFits
from tests.peers import nvml
from tests.peers.mirror import Mirror, serving, wheel

ONE = {"cpu": wheel("one", "1.0"), "cuda12": wheel("one", "1.2"), "cuda13": wheel("one", "1.3")}


@pytest.fixture
def mirror(no_proxy: None) -> Iterator[Mirror]:
    with serving() as found:
        found.add_index(*ONE.values())
        yield found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Mirror) -> Places:
    """A checkout with a lock of one package for each profile, on a machine without a card."""
    for name in os.environ:
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    nvml.absent(monkeypatch)
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    for profile, each in ONE.items():
        spec = found.root / "envs" / f"{profile}.in"
        spec.write_text("one\n")
        body = f"one=={each.version} --hash=sha256:{each.sha256}\n"
        (found.locks / f"{profile}.txt").write_text(locks.written(spec, body))
    (found.root / "mirrors.toml").write_text(f'[near]\npypi = {{ layout = "pep503", url = "{mirror.url}/simple" }}\n')
    return found


def name(places: Places, profile: str) -> str:
    return f"i2v-{profile}-{locks.read(places.locks / f'{profile}.txt').digest[:8]}"


def linked(places: Places) -> str:
    return places.current.resolve().name


def test_without_a_card_the_cpu_build_is_installed_and_it_is_said_why(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_app(places, mirror="near", profile="auto", dry_run=False, as_json=False)
    out, err = capsys.readouterr()
    assert out == f"{places.environments / name(places, 'cpu')}\n"
    lines = err.splitlines()
    assert lines[:3] == [
        f"plan     environment {name(places, 'cpu')} (1 packages), engine venv: no lock of conda packages",
        "         no NVIDIA GPU: CPU build, no card to use",
        "mirrors  pypi near",
    ]
    assert lines[-1] == f"ready    .env -> ../home/environments/{name(places, 'cpu')}"
    assert linked(places) == name(places, "cpu")


def test_a_card_decides_which_build(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml.answers(monkeypatch, [nvml.L20])
    environment = setup(places, mirror="near")
    assert (environment.profile, linked(places)) == ("cuda12", name(places, "cuda12"))
    words = "NVIDIA L20, driver 550.90.07, 43.9 of 45.0 GiB free: CUDA 12 build, fits driver 550.90.07"
    assert words in capsys.readouterr().err
    nvml.answers(monkeypatch, [nvml.B200])
    assert setup(places, mirror="near").profile == "cuda13"


def test_a_driver_that_does_not_answer_means_the_cpu_build_and_is_told(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml.answers(monkeypatch, init=9)
    assert setup(places, mirror="near").profile == "cpu"
    assert "NVIDIA driver does not answer: Driver Not Loaded: CPU build" in capsys.readouterr().err


def test_a_driver_that_is_too_old_ends_it_before_anything_is_made(
    places: Places, monkeypatch: pytest.MonkeyPatch, mirror: Mirror
) -> None:
    nvml.answers(monkeypatch, [nvml.T4])
    with pytest.raises(NoneFits, match=r"^driver 470\.82\.01 is too old for CUDA 12 \(needs 525\): update it"):
        setup(places, mirror="near")
    assert (places.home.exists(), places.current.exists(), mirror.connections) == (False, False, 0)


def test_another_profile_may_be_asked_for_and_is_warned_about(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml.answers(monkeypatch, [nvml.L20])
    assert setup(places, mirror="near", profile="cuda13").profile == "cuda13"
    words = "driver 550.90.07 is too old for CUDA 13 (needs 580): the app will not see it"
    assert words in capsys.readouterr().err


def test_the_link_goes_back_without_installing_again(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    for profile in ("cpu", "cuda12"):
        setup(places, mirror="near", profile=profile)
    capsys.readouterr()
    setup(places, mirror="near", profile="cpu")
    assert capsys.readouterr().err.splitlines() == [
        f"ready    {name(places, 'cpu')} is in place",
        f"ready    .env -> ../home/environments/{name(places, 'cpu')}",
    ]
    assert linked(places) == name(places, "cpu")
    setup(places, mirror="near", profile="cpu")
    assert capsys.readouterr().err == f"ready    {name(places, 'cpu')} is in place\n"


def test_a_dry_run_says_what_would_be_done_and_makes_nothing(
    places: Places, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_app(places, mirror="near", profile="cpu", dry_run=True, as_json=True)
    out, err = capsys.readouterr()
    digest = locks.read(places.locks / "cpu.txt").digest
    assert json.loads(out) == {
        "environment": name(places, "cpu"), "folder": str(places.environments / name(places, "cpu")), "profile": "cpu",
        "engine": "venv", "engine_reason": "no lock of conda packages", "lock": digest, "packages": 1,
        "in_place": False, "fetch_files": 1, "fetch_bytes": 0, "fetch_unknown": 1, "store_bytes": 0, "install_bytes": 0,
        "free_bytes": ANY,
    }  # fmt: skip
    assert "plan     1 of 1 files to fetch" in err
    assert mirror.paths() == ["/simple/one/"]
    assert (places.environments.exists(), places.current.is_symlink()) == (False, False)


def test_after_it_a_dry_run_has_nothing_to_do(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    setup_app(places, mirror="near", profile="cpu", dry_run=False, as_json=True)
    first = json.loads(capsys.readouterr().out)
    setup_app(places, mirror="near", profile="cpu", dry_run=True, as_json=True)
    out, err = capsys.readouterr()
    assert {**json.loads(out), "free_bytes": 0} == {**first, "free_bytes": 0}  # others write to the disk, too
    assert (first["in_place"], first["fetch_files"]) == (True, 0)
    assert err == f"ready    {name(places, 'cpu')} is in place\n"


def test_an_edited_lock_and_a_stale_one_are_refused(places: Places, mirror: Mirror) -> None:
    path = places.locks / "cpu.txt"
    path.write_text(path.read_text().replace("1.0", "1.2"))
    with pytest.raises(EditedLock) as caught:
        setup(places, mirror="near", profile="cpu")
    assert caught.value.hints == ("python3 tasks.py lock", "git checkout -- envs/locks/cpu.txt")
    (places.root / "envs" / "cuda12.in").write_text("one\ntwo\n")
    with pytest.raises(StaleLock):
        setup(places, mirror="near", profile="cuda12")
    assert mirror.connections == 0


def test_an_unknown_profile_is_refused(places: Places) -> None:
    with pytest.raises(UnknownName, match=r"\(did you mean 'cuda13'\?\)$"):
        setup(places, mirror="near", profile="cuda3")


def test_without_that_python_nothing_is_fetched(
    places: Places, monkeypatch: pytest.MonkeyPatch, mirror: Mirror
) -> None:
    monkeypatch.setattr(uv_client, "find_python", lambda python: Finished(2, "", ""))
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(PythonMissing, match=r"locked for Python 3\.11, which this machine does not have"):
        setup(places, mirror="near", profile="cpu")
    assert mirror.connections == 0


def test_a_python_on_path_that_is_none_is_said(places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is believed until it is used."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.11").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python3.11").chmod(0o755)
    monkeypatch.setattr(uv_client, "find_python", lambda python: Finished(2, "", ""))
    monkeypatch.setattr(uv_client, "make_environment", lambda *_, **__: Finished(2, "", "no Python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(PythonMissing):
        setup(places, mirror="near", profile="cpu")
    assert not list(places.environments.glob("i2v-cpu-*"))


@pytest.mark.parametrize("stamp", ["", "{", "[]", "{}", '{"profile": "cpu"}'])
def test_an_environment_whose_stamp_is_damaged_is_made_again(
    places: Places, stamp: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = setup(places, mirror="near", profile="cpu").folder
    (folder / "jingxiang.json").write_text(stamp)
    capsys.readouterr()
    assert setup(places, mirror="near", profile="cpu").in_place
    assert "install  1 packages" in capsys.readouterr().err


def test_an_environment_that_was_moved_is_made_again(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    folder = setup(places, mirror="near", profile="cpu").folder
    folder.rename(folder.with_name("elsewhere"))
    capsys.readouterr()
    assert setup(places, mirror="near", profile="cpu").in_place
    assert "fetch    all 1 files are in the store" in capsys.readouterr().err


def test_a_home_with_a_blank_in_its_name_is_as_good_as_any(places: Places) -> None:
    spaced = Places(places.root, places.home.with_name("my home"), places.store)
    environment = setup(spaced, mirror="near", profile="cpu")
    shown = subprocess.run([environment.python, "-c", "import one; print(one.version)"], capture_output=True, text=True)
    assert shown.stdout == "1.0\n"


def test_a_home_that_may_not_be_written_is_one_clear_line(places: Places) -> None:
    places.home.write_text("a file where the folder should be")
    with pytest.raises(NotWritable, match=rf"^{places.home}: cannot be written, so no environment can be made in it$"):
        setup(places, mirror="near", profile="cpu")


def test_a_machine_without_a_lock_is_told_so(places: Places, monkeypatch: pytest.MonkeyPatch, mirror: Mirror) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UsageError, match=r"^no lock for linux-aarch64 yet; there is one for linux-x86_64$"):
        setup(places, mirror="near", profile="cpu")
    assert mirror.connections == 0
