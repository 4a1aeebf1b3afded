"""app.warming, `python -m app warm` and jingxiang.commands.warm"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app import cards, warming
from app.artifacts import Key, Shelf
from app.warming import NotKept
from jingxiang import models as catalog
from jingxiang import process
from jingxiang.commands import app as app_command
from jingxiang.commands import fetch
from jingxiang.commands import warm as command
from jingxiang.compiled import NoGpu, NotWanted
from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.models import ModelSpec, Preset
from jingxiang.places import Places
from tests.peers import compiler, nvml
from tests.peers.app import wait_for

ROOT = Path(__file__).resolve().parent.parent
SPEC = catalog.load(ROOT / catalog.FILE).model("smoke")
FAST, STANDARD = SPEC.preset("fast"), SPEC.preset("standard")


class Fake:
    """`tests.peers.compiler` in this process. `made`: what it was asked for; `fails`: after the first part."""

    def __init__(self) -> None:
        self.made: list[Key] = []
        self.fails = False
        self.code = "c0de"

    def key(self, spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str) -> Key | None:
        return replace(compiler.key(spec, folder, preset, dtype=dtype), code=self.code)

    def make(
        self, spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str, into: Path, tell: Callable[[int, int], None]
    ) -> Key:
        made = compiler.make(spec, folder, preset, dtype=dtype, into=into, tell=tell)
        if self.fails:
            raise JingxiangError("out of memory")
        self.made.append(made)
        return replace(made, code=self.code)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "artifacts")


@pytest.fixture
def fake() -> Fake:
    return Fake()


def warm(fake: Fake, shelf: Shelf, *presets: Preset, as_json: bool = False) -> None:
    folder = Path("models", "smoke")
    warming.warm(SPEC, folder, presets, shelf=shelf, dtype="fp16", as_json=as_json, compiler=fake)


def test_what_is_missing_is_made_and_what_is_there_is_said(
    fake: Fake, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    warm(fake, shelf, FAST)
    out, err = capsys.readouterr()
    digest, shape, *size, seconds, unit = out.split()
    assert (digest, shape, " ".join(size), unit) == (shelf.all()[0].key.digest, "64x64x8", "91 B", "s")
    assert float(seconds) >= 0
    lines = err.splitlines()
    assert lines[0] == "compile  Smoke model, 64x64x8: takes some minutes"
    assert lines[1].startswith("compiled 64x64x8: 3 files, 91 B in ")
    assert len(lines) == 2
    warm(fake, shelf, STANDARD, FAST)
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == ["128x128x16", "64x64x8"]
    assert out.splitlines()[1].endswith(" 0.0 s")
    assert "compiled 64x64x8: there already\n" in err
    assert [each.shape for each in fake.made] == ["64x64x8", "128x128x16"]


def test_programs_get_one_object(fake: Fake, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    warm(fake, shelf, FAST, replace(FAST, steps=9), as_json=True)
    (found,) = json.loads(capsys.readouterr().out)["artifacts"]  # steps make no difference
    key = shelf.all()[0].key
    assert found == {"digest": key.digest, "key": vars_of(key), "files": 3, "bytes": 91, "seconds": found["seconds"]}


def vars_of(key: Key) -> dict[str, object]:
    return {"model": "smoke", "architecture": "sm_00", "torch": "2.0", "cuda": "0", "code": "c0de", "width": 64,
            "height": 64, "frames": 8, "dtype": key.dtype}  # fmt: skip


def test_what_fails_leaves_nothing_behind(fake: Fake, shelf: Shelf) -> None:
    fake.fails = True
    with pytest.raises(JingxiangError, match="out of memory"):
        warm(fake, shelf, FAST)
    assert list(shelf.folder.iterdir()) == []


def test_what_was_made_from_older_code_goes(fake: Fake, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    warm(fake, shelf, FAST, STANDARD)
    before = {each.key.shape: each.key for each in shelf.all()}
    fake.code = "newer"
    warm(fake, shelf, FAST)
    assert {(each.key.shape, each.key.code) for each in shelf.all()} == {("64x64x8", "newer"), ("128x128x16", "c0de")}
    said = f"removed  {before['64x64x8'].digest[:8]}, which was made from older code"
    assert said in capsys.readouterr().err


def test_what_was_left_aside_is_made_anew_and_goes_with_older_code(
    fake: Fake, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    warm(fake, shelf, FAST)
    (key,) = (each.key for each in shelf.all())
    with pytest.raises(ZeroDivisionError), shelf.adopting(key):
        raise ZeroDivisionError
    capsys.readouterr()
    warm(fake, shelf, FAST)
    assert len(fake.made) == 2
    assert "left aside" not in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), shelf.adopting(key):
        raise ZeroDivisionError
    fake.code = "newer"
    warm(fake, shelf, FAST)
    assert [each.key.code for each in shelf.own()] == ["newer"]


def test_of_sizes_that_no_preset_has_the_newest_are_kept(
    fake: Fake, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    warm(fake, shelf, FAST, STANDARD)
    sizes = [replace(FAST, width=72 + 8 * number) for number in range(warming.ODD + 2)]
    for number, each in enumerate(sizes):
        warm(fake, shelf, each)
        for place in shelf.folder.glob("*/manifest.json"):  # they are made within one tick of some file systems' clocks
            if json.loads(place.read_text())["key"]["width"] == each.width:
                os.utime(place, (number, number))
    kept = {each.key.width for each in shelf.own()}
    assert kept == {FAST.width, STANDARD.width, *(each.width for each in sizes[-warming.ODD :])}
    assert "removed  72x64x8, a size that no preset has; the newest are kept\n" in capsys.readouterr().err


def test_what_an_image_has_needs_no_place_to_write(fake: Fake, shelf: Shelf, tmp_path: Path) -> None:
    warm(fake, shelf, FAST)
    (tmp_path / "file").touch()
    own = Shelf(tmp_path / "file" / "artifacts", shelf.folder)
    warm(fake, own, FAST)
    with pytest.raises(NotKept, match="artifacts: what is compiled cannot be kept there: Not a directory"):
        warm(fake, own, STANDARD)
    assert len(fake.made) == 1


def test_without_a_gpu_it_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.absent(monkeypatch)
    monkeypatch.setattr(cards, "is_cpu_build", lambda: False)
    with pytest.raises(NoGpu, match="compiling is for NVIDIA GPUs"):
        warming.number("auto")
    monkeypatch.setenv("JINGXIANG_COMPILE", "always")
    assert (warming.number("auto"), warming.number("bf16")) == ("fp32", "bf16")
    nvml.answers(monkeypatch, [nvml.H200])
    monkeypatch.delenv("JINGXIANG_COMPILE")
    assert warming.number("auto") == "fp16"
    monkeypatch.setattr(cards, "is_cpu_build", lambda: True)
    with pytest.raises(NoGpu):
        warming.number("auto")
    monkeypatch.setenv("JINGXIANG_COMPILE", "never")
    with pytest.raises(NotWanted, match="nothing is compiled"):
        warming.number("auto")
    monkeypatch.setenv("JINGXIANG_COMPILE", "sometimes")
    with pytest.raises(UsageError, match=r"JINGXIANG_COMPILE must be auto \| never \| always, not 'sometimes'"):
        warming.number("auto")


def run(*arguments: str, program: tuple[str, ...] = compiler.PROGRAM, **env: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*program, "warm", *arguments], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_makes_the_presets_that_are_named_or_two(models: Path, tmp_path: Path) -> None:
    where = ("--models", str(models), "--artifacts", str(tmp_path / "a"))
    code, out, err = run(*where, JINGXIANG_COMPILE="always")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines()] == ["128x128x16", "64x64x8"]
    code, out, err = run(*where, "--preset", "fast", "--width=72", "--frames=6", "--json", JINGXIANG_COMPILE="always")
    (found,) = json.loads(out)["artifacts"]
    assert (found["key"]["width"], found["key"]["height"], found["key"]["frames"]) == (72, 64, 6)
    assert found["key"]["dtype"] == "fp32"
    assert len(Shelf(tmp_path / "a").all()) == 3


def test_what_is_baked_into_an_image_is_found_beside_the_volume(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variables of docker/image.toml: the home is where the image's files are."""
    monkeypatch.setenv("JINGXIANG_COMPILE", "always")
    monkeypatch.setenv("JINGXIANG_HOME", str(tmp_path / "opt"))
    asked = ("--models", str(models), "--preset", "fast")
    code, out, err = run(*asked, "--artifacts", str(tmp_path / "opt" / "artifacts"))
    assert code == 0, err
    code, again, err = run(*asked, JINGXIANG_ARTIFACTS=str(tmp_path / "outputs" / "artifacts"))
    assert again.split()[:4] == out.split()[:4]
    assert err == "compiled 64x64x8: there already\n"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "fats"], "no preset named 'fats'"),
        (["--width", "71"], "width"),
        (["--width", "0"], "argument --width"),
        (["--model", "smok"], "no model named 'smok'"),
    ],
)
def test_wrong_use_of_the_command(models: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, out, err = run("--models", str(models), "--artifacts", str(tmp_path), *arguments, JINGXIANG_COMPILE="always")
    assert (code, out) == (2, "")
    assert said in err


def test_sigterm_ends_all_that_it_has_started(models: Path, tmp_path: Path) -> None:
    file, shelf = tmp_path / "pids", tmp_path / "a"
    env = {"JINGXIANG_COMPILE": "always", "FAKE_COMPILER": "hangs", "FAKE_COMPILER_PIDS": str(file)}
    argv = [*compiler.PROGRAM, "warm", "--models", str(models), "--artifacts", str(shelf), "--preset", "fast"]
    with subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **env}) as running:
        wait_for(lambda: file.exists() and len(file.read_text().split()) == 2)
        own = int(file.read_text().split()[1])
        running.terminate()
    assert running.returncode == 143
    assert not Path(f"/proc/{own}").exists() or "Z" in Path(f"/proc/{own}/stat").read_text().split()
    assert list(shelf.iterdir()) == []


@pytest.mark.skipif(not cards.is_cpu_build(), reason="there may be a GPU")
def test_the_command_without_a_gpu_says_so_before_torch_is_imported(models: Path, tmp_path: Path) -> None:
    """The app's own command, which has nothing to compile with here."""
    own = (sys.executable, "-X", "importtime", "-m", "app")
    code, out, err = run("--models", str(models), "--artifacts", str(tmp_path / "a"), program=own)
    assert (code, out) == (2, "")
    assert "error: compiling is for NVIDIA GPUs: the app can use none here" in err
    assert "| torch\n" not in err
    assert not (tmp_path / "a").exists()


def task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **options: object) -> list[str]:
    """What `invoke warm` becomes, the environment and the weights being there."""
    became: list[list[str]] = []

    class Environment:
        python = Path("/env/bin/python")

    def replaced(argv: list[str | Path]) -> None:
        became.append([str(word) for word in argv])

    monkeypatch.setattr(app_command, "setup", lambda *_, **__: Environment)
    monkeypatch.setattr(fetch, "ready", lambda *_, **__: None)
    monkeypatch.setattr(process, "replace", replaced)
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {
        "model": "", "presets": (), "mirror": "auto", "profile": "auto", "as_json": False, **options
    }  # fmt: skip
    become: Callable[..., object] = command.warm
    become(Places(ROOT, tmp_path / "home", tmp_path / "store"), **values)
    return became[0]


def test_the_task_without_a_gpu_installs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml.absent(monkeypatch)
    with pytest.raises(NoGpu, match="compiling is for NVIDIA GPUs: this machine has none") as caught:
        task(monkeypatch, tmp_path)
    assert caught.value.exit_code == 2
    assert caught.value.hints
    monkeypatch.setenv("JINGXIANG_COMPILE", "always")
    assert task(monkeypatch, tmp_path)[:6] == ["/env/bin/python", "-m", "app", "warm", "--model", "smoke"]


def test_the_task_becomes_the_app_s_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml.answers(monkeypatch, [nvml.H200])
    assert task(monkeypatch, tmp_path, presets=["fast", "24gb"], as_json=True) == [
        "/env/bin/python", "-m", "app", "warm", "--model", "i2vgen-xl", "--models", str(tmp_path / "home" / "models"),
        "--preset=fast", "--preset=24gb", "--json",
    ]  # fmt: skip
    with pytest.raises(UnknownName, match="no preset named 'fats'"):
        task(monkeypatch, tmp_path, presets=["fats"])
    with pytest.raises(NoGpu, match="--profile cpu uses none"):
        task(monkeypatch, tmp_path, profile="cpu")


@pytest.mark.parametrize(("mode", "said"), [("never", "nothing is compiled"), ("off", "must be auto | never | always")])
def test_the_task_installs_nothing_where_the_app_would_refuse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str, said: str
) -> None:
    nvml.answers(monkeypatch, [nvml.H200])
    monkeypatch.setenv("JINGXIANG_COMPILE", mode)
    with pytest.raises(UsageError, match=re.escape(said)):
        task(monkeypatch, tmp_path)


@pytest.mark.parametrize("action", ["serve", "worker"])
def test_a_wrong_wish_is_said_at_the_start(models: Path, tmp_path: Path, action: str) -> None:
    argv = [sys.executable, "-m", "app", action, "--models", str(models), "--outputs", str(tmp_path / "outputs")]
    env = {**os.environ, "JINGXIANG_COMPILE": "off"}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: JINGXIANG_COMPILE must be auto | never | always, not 'off'\n"
    assert not (tmp_path / "outputs").exists()
