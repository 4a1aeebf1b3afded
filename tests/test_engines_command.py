"""jingxiang.commands.engines and setup: which engine, from the mirrors to an environment that is in place"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang import environments, locks, mirrors
from jingxiang.commands import engines
from jingxiang.commands.bundle import bundle
from jingxiang.commands.setup import NotEmpty, PathTooLong, setup, setup_app
from jingxiang.commands.verify import Differs, verify
from jingxiang.digest import sha256_file
from jingxiang.engines.venv import PythonMissing, Venv
from jingxiang.errors import UnknownName
from jingxiang.fetch.report import Unavailable
from jingxiang.locks import EditedLock, StaleLock
from jingxiang.places import Places
from jingxiang.store import Store
from tests.peers import channel, conda, nvml
from tests.peers.mirror import Mirror, serving, wheel

ONE = wheel("one", "1.0")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("channel") / "conda-forge"
    certificates = {"ssl/cacert.pem": channel.File(b"certificate\n")}
    return [channel.python(root), channel.write(root, "ca-certificates", "1.0", certificates, subdir="noarch")]


@pytest.fixture
def micromamba(tmp_path: Path) -> Path:
    """A package with a program that does not run here."""
    program = channel.File(conda.BROKEN, executable=True)
    return channel.write(tmp_path / "conda-forge", "micromamba", "2.9.0", {"bin/micromamba": program}, old=True)


@pytest.fixture
def mirror(no_proxy: None, packages: list[Path], micromamba: Path) -> Iterator[Mirror]:
    """One that has all of it."""
    with serving() as found:
        found.add_index(ONE)
        for path in packages:
            found.files[f"/cloud/conda-forge/{path.parent.name}/{path.name}"] = path.read_bytes()
        found.files[f"/cloud/conda-forge/linux-64/{micromamba.name}"] = micromamba.read_bytes()
        yield found


@pytest.fixture
def places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Mirror, packages: list[Path], micromamba: Path
) -> Places:
    """A checkout with a lock of one wheel and of the conda packages; the tools for these are those of the tests."""
    for name in os.environ:
        if name.startswith("PIP_") or name == engines.OWN:
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(engines, "tools", lambda places, known, mirror: Path(sys.executable))
    nvml.absent(monkeypatch)
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    spec = found.root / "envs" / "cpu.in"
    spec.write_text("one\n")
    (found.locks / "cpu.txt").write_text(locks.written(spec, f"one==1.0 --hash=sha256:{ONE.sha256}\n"))
    conda.lock(found.root / "envs", packages, micromamba=micromamba)
    (found.root / "mirrors.toml").write_text(
        f'[near]\npypi = {{ layout = "pep503", url = "{mirror.url}/simple" }}\n'
        f'conda = {{ layout = "conda", url = "{mirror.url}/cloud/{{channel}}" }}\n'
    )
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def shown(folder: Path) -> str:
    words = [str(folder / "bin" / "python"), "-c", "import one, sys; print(one.version, sys.prefix)"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_rattler_brings_a_python_from_the_mirror(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    setup_app(places, mirror="near", profile="cpu", engine="rattler", as_json=True)
    out, err = capsys.readouterr()
    found, folder = json.loads(out), places.current.resolve()
    assert (found["engine"], found["engine_reason"], found["packages"]) == ("rattler", "as asked for", 3)
    assert found["folder"] == str(folder)
    assert shown(folder) == f"1.0 {folder}\n"
    words = err.splitlines()
    assert words[0] == f"plan     environment {folder.name} (2 + 1 packages), engine rattler: as asked for"
    assert "mirrors  conda near · pypi near" in words
    assert any(word.startswith("install  3 packages in ") for word in words)
    verify(places, as_json=False)


def test_where_micromamba_does_not_run_py_rattler_takes_its_place(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = setup(places, mirror="near", profile="cpu")
    stamp = environments.stamped(environment.folder)
    assert stamp
    assert stamp.engine == "rattler"
    words = lines(capsys)
    assert words[0] == f"plan     environment {environment.name} (2 + 1 packages), engine mamba: conda: near answers"
    (instead,) = [word for word in words if "instead" in word]
    binary = next((places.home / "tools").iterdir())
    assert instead == f"plan     engine rattler instead: {binary}: does not run here: this kernel is too old"


def test_where_micromamba_cannot_be_had_py_rattler_takes_its_place(
    places: Places, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    del mirror.files["/cloud/conda-forge/linux-64/micromamba-2.9.0-0.tar.bz2"]
    environment = setup(places, mirror="near", profile="cpu")
    assert environment.in_place
    assert any("engine rattler instead: micromamba-2.9.0-0.tar.bz2 could not be had" in word for word in lines(capsys))


def test_a_micromamba_that_was_asked_for_and_does_not_run_is_an_error(places: Places) -> None:
    with pytest.raises(engines.CannotRun) as caught:
        setup(places, mirror="near", profile="cpu", engine="mamba")
    assert caught.value.hints == ("python3 tasks.py setup --engine rattler",)
    assert not places.environments.exists()


def test_a_package_that_holds_another_program_is_refused(places: Places) -> None:
    path = places.locks / "micromamba.toml"
    table = path.read_text()
    path.write_text(table.replace(table[table.index("binary_sha256") :], f'binary_sha256 = "{"1" * 64}"\n'))
    with pytest.raises(engines.NotMicromamba, match=r"^micromamba-2\.9\.0-0\.tar\.bz2: does not hold the micromamba"):
        setup(places, mirror="near", profile="cpu", engine="mamba")


def test_a_micromamba_of_the_users_own_is_taken(
    places: Places, monkeypatch: pytest.MonkeyPatch, mirror: Mirror
) -> None:
    monkeypatch.setenv(engines.OWN, str(places.root / "own"))
    with pytest.raises(engines.CannotRun, match=r"own: does not run here: .*No such file"):
        setup(places, mirror="near", profile="cpu", engine="mamba")
    assert not [path for path in mirror.paths() if "micromamba" in path]


def test_without_a_mirror_of_conda_it_is_this_machines_python(
    places: Places, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [path for path in mirror.files if path.startswith("/cloud/")]:
        mirror.answers[path] = mirror.html
    environment = setup(places, mirror="near", profile="cpu")
    assert environment.conda is None
    first = lines(capsys)[0]
    assert first == f"plan     environment {environment.name} (1 packages), engine venv: no mirror of conda answers now"
    mirror.answers.clear()  # conda is there again
    assert setup(places, mirror="near", profile="cpu").folder == environment.folder
    assert lines(capsys) == [f"ready    {environment.name} is in place"]
    other = setup(places, mirror="near", profile="cpu", engine="rattler")
    assert other.folder != environment.folder
    assert places.current.resolve() == other.folder


def test_what_is_in_the_store_needs_no_mirror(places: Places, packages: list[Path], micromamba: Path) -> None:
    store = Store(places.store)
    for path in (*packages, micromamba):
        store.add(path)
    (places.root / "mirrors.toml").write_text("")
    cpu, known = locks.read(places.locks / "cpu.txt"), mirrors.load(places.root)
    choice, _ = engines.choose(places, known, "auto", lambda lock: environments.plan(places, "cpu", cpu, lock),
                               mirror="auto")  # fmt: skip
    assert (choice.name, choice.reason) == ("mamba", "all that it installs is in the store")


def test_a_dry_run_fetches_nothing_and_says_what_mamba_would_need(
    places: Places, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_app(places, mirror="near", profile="cpu", dry_run=True, as_json=True)
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["engine"], found["engine_reason"]) == ("mamba", "conda: near answers")
    assert (found["packages"], found["fetch_files"]) == (3, 4)  # and micromamba
    assert not Store(places.store).root.exists()
    assert " free\n" in err


def test_another_engine_that_is_asked_for_makes_it_again(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    first = setup(places, mirror="near", profile="cpu", engine="rattler")
    stamp = first.folder / "jingxiang.json"
    stamp.write_text(stamp.read_text().replace('"engine": "rattler"', '"engine": "mamba"'))
    lines(capsys)
    setup(places, mirror="near", profile="cpu")
    assert lines(capsys) == [f"ready    {first.name} is in place"]
    setup(places, mirror="near", profile="cpu", engine="rattler")
    assert any(word.startswith("install") for word in lines(capsys))


def test_an_edited_and_a_stale_lock_of_conda_are_refused(places: Places, mirror: Mirror) -> None:
    path = places.locks / "conda-lock.yml"
    whole = path.read_text()
    path.write_text(whole.replace("linux-64/python", "linux-64/pithon"))
    with pytest.raises(EditedLock):
        setup(places, mirror="near", profile="cpu")
    path.write_text(whole)
    (places.root / "envs" / "i2v.yml").write_text("channels: [conda-forge]\ndependencies: [python=3.12]\n")
    with pytest.raises(StaleLock):
        setup(places, mirror="near", profile="cpu", engine="mamba")
    assert mirror.connections == 0


def test_an_unknown_engine_is_refused(places: Places) -> None:
    with pytest.raises(UnknownName, match=r"^no engine named 'mambo'; .* \(did you mean 'mamba'\?\)$"):
        setup(places, mirror="near", profile="cpu", engine="mambo")


def test_a_python_that_is_not_the_locked_one_leads_to_the_engines_that_bring_it(places: Places) -> None:
    with pytest.raises(PythonMissing) as caught:
        Venv("3.99").check()
    assert caught.value.hints[0] == "python3 tasks.py setup --engine mamba"


def test_no_mirror_has_a_package(places: Places, mirror: Mirror, packages: list[Path]) -> None:
    del mirror.files[f"/cloud/conda-forge/noarch/{packages[1].name}"]
    with pytest.raises(Unavailable, match=r"^ca-certificates-1\.0-0\.conda could not be had"):
        setup(places, mirror="near", profile="cpu", engine="rattler")
    assert (places.environments.exists(), places.current.is_symlink()) == (False, False)


# A folder of the user's own.


@pytest.mark.parametrize("engine", ["rattler", "venv"])
def test_an_environment_in_a_folder_of_ones_own_leaves_the_apps_alone(
    places: Places, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "on a disk" / "of mine"
    setup_app(places, mirror="near", profile="cpu", engine=engine, prefix=str(folder))
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == (f"{folder}\n", f"ready    {folder}")
    assert (shown(folder), places.current.is_symlink()) == (f"1.0 {folder}\n", False)
    setup(places, mirror="near", profile="cpu", engine=engine, prefix=str(folder))
    assert lines(capsys) == [f"ready    {folder.name} is in place", f"ready    {folder}"]
    verify(places, as_json=False, prefix=str(folder))
    (folder / "lib" / "newcomer").write_text("")
    with pytest.raises(Differs):
        verify(places, as_json=False, prefix=str(folder))
    assert capsys.readouterr().out == "added    lib/newcomer\n"


def test_an_empty_folder_is_taken_and_one_with_something_in_it_is_not(places: Places, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    setup(places, mirror="near", profile="cpu", engine="venv", prefix=str(folder))
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    for path in (other, other / "letter.txt"):
        with pytest.raises(NotEmpty, match="is not empty and no environment; choose another folder"):
            setup(places, mirror="near", profile="cpu", engine="venv", prefix=str(path))
    assert (other / "letter.txt").read_text() == "dear"


def test_an_environment_that_was_moved_is_found_to_differ(places: Places, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    setup(places, mirror="near", profile="cpu", engine="rattler", prefix=str(folder))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Differs):
        verify(places, as_json=False, prefix=str(tmp_path / "elsewhere"))


def test_a_path_that_no_conda_package_can_carry_is_refused_at_once(places: Places, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["deep" * 20] * 4)
    with pytest.raises(PathTooLong, match="at most 255"):
        setup(places, mirror="near", profile="cpu", engine="rattler", prefix=str(folder))


def test_two_at_once_install_once(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            setup(places, mirror="near", profile="cpu", engine="rattler")
        except BaseException as error:
            failed.append(error)

    both = [threading.Thread(target=run) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [traceback.format_exception(each) for each in failed] == []
    assert sum(word.startswith("verify") for word in lines(capsys)) == 1
    verify(places, as_json=False)


# In a bundle.


@pytest.fixture
def made(places: Places, tmp_path: Path) -> Path:
    spec = places.root / "envs" / "toolkit.in"
    spec.write_text("one\n")
    for name in ("toolkit", "conda"):
        (places.locks / f"{name}.txt").write_text(locks.written(spec, f"one==1.0 --hash=sha256:{ONE.sha256}\n"))
    bundle(places, out=str(tmp_path / "bundle"), mirror="near", profile="cpu", engine="rattler")
    return tmp_path / "bundle"


def elsewhere(places: Places, tmp_path: Path) -> Places:
    """Another machine with the same checkout, where no mirror can be reached."""
    other = Places(tmp_path / "away", tmp_path / "away" / "home", tmp_path / "away" / "store")
    shutil.copytree(places.root, other.root)
    gone = '[gone]\nconda = { layout = "conda", url = "http://127.0.0.1:9/{channel}" }\n'
    (other.root / "mirrors.toml").write_text(gone)
    return other


def test_a_bundle_holds_a_channel_that_conda_clients_read(made: Path, packages: list[Path]) -> None:
    root = made / "conda" / "conda-forge"
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    files = {f"{path.parent.name}/{path.name}" for path in packages}
    own = {"linux-64/micromamba-2.9.0-0.tar.bz2", "linux-64/repodata.json", "noarch/repodata.json"}
    assert names == files | own
    words = (
        "import asyncio, sys; from rattler import solve; "
        "found = asyncio.run(solve([sys.argv[1]], ['python 3.11.*', 'ca-certificates'])); "
        "print(sorted((each.file_name, each.sha256.hex()) for each in found), flush=True); import os; os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", words, root.as_uri()], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sorted((path.name, sha256_file(path)) for path in packages)}\n"


def test_from_a_bundle_nobody_else_is_asked(
    places: Places, made: Path, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mirror.connections
    lines(capsys)
    environment = setup(elsewhere(places, tmp_path), mirror=made.as_uri(), profile="cpu")
    assert environment.conda
    assert mirror.connections == before
    words = lines(capsys)
    assert f"engine mamba: conda: {made.as_uri()} answers" in words[0]
    assert not [word for word in words if "gone" in word and not word.startswith("mirrors")]


def test_a_bundle_without_conda_packages_says_so(
    places: Places, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(capsys)
    bundle(places, out=str(made), mirror="near", profile="cpu", engine="venv")
    assert "plan     no conda packages in it: as asked for" in lines(capsys)
    assert not (made / "conda").exists()
