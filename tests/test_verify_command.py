"""jingxiang.commands.verify, with a real environment"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang import locks
from jingxiang.commands.setup import setup
from jingxiang.commands.verify import Differs, NoEnvironment, OtherLock, verify
from jingxiang.places import Places
from jingxiang.store import Store
from tests.peers.mirror import Mirror, serving, wheel


@pytest.fixture
def mirror(no_proxy: None) -> Iterator[Mirror]:
    with serving() as found:
        yield found


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Mirror) -> Places:
    """A checkout whose environment, of one package, is set up."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    (found.root / "mirrors.toml").write_text(f'[near]\npypi = {{ layout = "pep503", url = "{mirror.url}/simple" }}\n')
    lock(found, mirror, "1.0")
    setup(found, mirror="near", profile="cpu")
    return found


def lock(places: Places, mirror: Mirror, version: str) -> None:
    file = wheel("one", version)
    mirror.add_index(file)
    spec = places.root / "envs" / "cpu.in"
    spec.write_text(f"one=={version}\n")
    text = locks.written(spec, f"one=={version} --hash=sha256:{file.sha256}\n")
    (places.locks / "cpu.txt").write_text(text)


def site(places: Places) -> Path:
    return places.current / "lib" / "python3.11" / "site-packages"


def replaced(path: Path, text: str) -> None:
    """Another file in its place: it is read only, and linked to where it was unpacked."""
    path.unlink()
    path.write_text(text)


def test_what_was_just_made_is_as_locked(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    verify(places, as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("verify   ")
    assert err.endswith(" files as locked\n")


def test_what_was_added_changed_and_lost_is_listed(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(site(places) / "one.py", "x = 1\n")
    replaced(site(places) / "__pycache__" / "one.cpython-311.pyc", "x")
    (site(places) / "new.py").write_text("")
    (places.current / "bin" / "activate").unlink()
    capsys.readouterr()
    with pytest.raises(Differs) as caught:
        verify(places, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "missing  bin/activate",
        "changed  lib/python3.11/site-packages/__pycache__/one.cpython-311.pyc",
        "added    lib/python3.11/site-packages/new.py",
        "changed  lib/python3.11/site-packages/one.py",
    ]
    name = places.current.resolve().name
    assert (caught.value.exit_code, caught.value.message) == (1, f"{name}: 4 differences from the lock")
    assert caught.value.hints == ("python3 tasks.py setup --fresh",)


def test_making_it_again_puts_it_right_even_if_the_shared_files_were_edited(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    path = site(places) / "one.py"
    path.chmod(0o644)
    path.write_text("x = 1\n")  # through the link: where it was unpacked it is changed, too
    with pytest.raises(Differs):
        verify(places, as_json=False)
    setup(places, mirror="near", profile="cpu", fresh=True)
    verify(places, as_json=False)
    assert "version" in (site(places) / "one.py").read_text()


def test_a_new_environment_is_not_made_of_files_that_were_edited_in_another(places: Places) -> None:
    path = site(places) / "one.py"
    path.chmod(0o644)
    path.write_text("x = 1\n")
    elsewhere = Places(places.root, places.home.with_name("other"), places.store)
    setup(elsewhere, mirror="near", profile="cpu")
    verify(elsewhere, as_json=False)


def test_json_is_one_object(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    (site(places) / "new.py").write_text("")
    capsys.readouterr()
    with pytest.raises(Differs):
        verify(places, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["environment"], found["wheels"]) == (places.current.resolve().name, True)
    assert found["differences"] == [{"path": "lib/python3.11/site-packages/new.py", "kind": "added"}]


def test_without_the_wheels_its_own_lists_are_compared_and_the_packages_with_the_lock(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(places.store)
    for blob in list(store.blobs()):
        store.blob(blob.sha256).unlink()
    capsys.readouterr()
    verify(places, as_json=False)
    words = "not all of its packages are in the store: compared with its own lists, bytecode left out"
    assert words in capsys.readouterr().err
    replaced(site(places) / "one.py", "x = 1\n")
    info = site(places) / "two-2.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("two-2.0.dist-info/RECORD,,\n")
    with pytest.raises(Differs):
        verify(places, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "added    two==2.0", "changed  lib/python3.11/site-packages/one.py"
    ]  # fmt: skip


def test_of_another_lock_it_says_so(places: Places, mirror: Mirror) -> None:
    lock(places, mirror, "2.0")
    with pytest.raises(OtherLock) as caught:
        verify(places, as_json=False)
    assert caught.value.hints == ("python3 tasks.py setup",)


def test_without_an_environment_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoEnvironment) as caught:
        verify(Places(tmp_path, tmp_path / "home", tmp_path / "store"), as_json=False)
    assert (caught.value.exit_code, caught.value.hints) == (2, ("python3 tasks.py setup",))
