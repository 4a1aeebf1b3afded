"""jingxiang.commands.store"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from jingxiang.commands.store import KINDS, FilesDamaged, store
from jingxiang.digest import sha256_bytes, sha256_file
from jingxiang.errors import TableError
from jingxiang.places import Places
from jingxiang.store import Store
from tests.peers import channel, conda

ROOT = Path(__file__).resolve().parent.parent
WHEEL, OTHER, LINKED = b"wheel", b"of another checkout", b"of its environment"
VERIFY = {"verify": True, "prune": False, "as_json": False}
PRUNE = {"verify": False, "prune": True, "as_json": False}
LOOK = {"verify": False, "prune": False, "as_json": False}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A checkout with two locks, and a store with a wheel of one of them, and two files that it does not know."""
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    (found.locks / "cpu.txt").write_text(f"numpy==2.4.6 --hash=sha256:{'a' * 64} --hash=sha256:{sha256_bytes(WHEEL)}\n")
    (found.locks / "dev.txt").write_text(f"pytest==9.2.0 --hash=sha256:{'b' * 64}\n")
    for data in (WHEEL, OTHER, LINKED):
        (tmp_path / "file").write_bytes(data)
        Store(found.store).add(tmp_path / "file")
    Store(found.store).view(tmp_path / "environment", {"file": sha256_bytes(LINKED)})
    return found


def holds(places: Places) -> list[bytes]:
    return [data for data in (WHEEL, OTHER, LINKED) if Store(places.store).has(sha256_bytes(data))]


def derive(places: Places) -> None:
    """What an installation leaves in the store besides blobs."""
    for folder, text in (("unpacked", "four"), ("bytecode", "pyc")):
        (Store(places.store).derived / folder).mkdir(parents=True)
        (Store(places.store).derived / folder / "file").write_text(text)


def damage(places: Places, data: bytes) -> str:
    digest = sha256_bytes(data)
    path = Store(places.store).blob(digest)
    path.chmod(0o644)
    path.write_bytes(data[::-1])
    return digest


def test_there_is_a_table_for_people_and_the_folder_for_scripts(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(places.store).incoming("c" * 64) as file:
        file.path.write_bytes(bytes(1500))
    derive(places)
    store(places, **LOOK)
    out, err = capsys.readouterr()
    assert out == f"{places.store}\n"
    assert err.splitlines() == [
        "kind                   files  size",
        "Python packages        1      5 B",
        "conda packages         0      0 B",
        "base images            0      0 B",
        "model weights          0      0 B",
        "other                  2      37 B",
        "half fetched           1      1.5 kB",
        "of all, linked         1      18 B",
        "unpacked and compiled  2      7 B",
    ]


def test_it_speaks_chinese(places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    store(places, verify=True, prune=True, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "校验     3 个文件，42 B",
        "清理     已删除：1 个文件，19 B",
        "         不在本代码目录的锁文件中，但已保留：1 个文件，18 B",
        "         （已链接到本代码目录或其他代码目录的环境中，或正在下载）",
        "种类          文件数  大小",
        "Python 包     1       5 B",
        "conda 包      0       0 B",
        "基础镜像      0       0 B",
        "模型权重      0       0 B",
        "其他          1       18 B",
        "未下载完      0       0 B",
        "其中已链接    1       18 B",
        "已解包和编译  0       0 B",
    ]


def test_looking_at_a_store_that_is_not_there_makes_none(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(Places(places.root, places.home, tmp_path / "absent"), verify=True, prune=True, as_json=False)
    assert capsys.readouterr().out == f"{tmp_path}/absent\n"
    assert not (tmp_path / "absent").exists()


def test_prune_keeps_what_the_locks_name_and_what_is_linked_and_says_so(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    store(places, **PRUNE)
    assert holds(places) == [WHEEL, LINKED]
    assert capsys.readouterr().err.splitlines()[:3] == [
        "prune    removed: 1 files, 19 B",
        "         not in this checkout's locks, but kept: 1 files, 18 B",
        "         (linked into environments, of this checkout or another, or being fetched now)",
    ]


@pytest.mark.parametrize("how", [VERIFY, PRUNE])
def test_what_can_be_made_again_is_removed_too(places: Places, how: dict[str, bool]) -> None:
    derive(places)
    store(places, **how)
    assert list(Store(places.store).derived.iterdir()) == []


def test_a_broken_lock_ends_it_before_anything_is_removed(places: Places) -> None:
    (places.locks / "dev.txt").write_text("pytest\n")
    with pytest.raises(TableError, match=r"envs/locks/dev\.txt: line 1: not NAME==VERSION"):
        store(places, **PRUNE)
    assert holds(places) == [WHEEL, OTHER, LINKED]


def test_verify_passes_a_sound_store_and_fails_a_damaged_one_once(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    store(places, **VERIFY)
    assert capsys.readouterr().err.splitlines()[0] == "verify   3 files, 42 B"
    digest = damage(places, WHEEL)
    with pytest.raises(FilesDamaged) as caught:
        store(places, **VERIFY)
    assert caught.value.message == (
        f"1 damaged files are in quarantine now; the next fetch gets them again\n       sha256:{digest}"
    )
    assert caught.value.exit_code == 1
    assert holds(places) == [OTHER, LINKED]
    store(places, **VERIFY)


def test_json_is_one_object_that_says_all(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    digest = damage(places, OTHER)
    with pytest.raises(FilesDamaged):
        store(places, verify=True, prune=True, as_json=True)
    out, err = capsys.readouterr()
    none, wheel, linked = ({"files": files, "size_bytes": size} for files, size in ((0, 0), (1, 5), (1, 18)))
    assert json.loads(out) == {
        "store": str(places.store),
        "kinds": {"packages": wheel, "conda": none, "bases": none, "weights": none, "other": linked},
        "sizes": {
            "blobs": {"files": 2, "size_bytes": 23},
            "linked": linked,
            "partial": none,
            "derived": none,
            "quarantine": none,
        },
        "verified": {"checked": {"files": 3, "size_bytes": 42}, "damaged": [digest]},
        "pruned": {"removed": {"files": 1, "size_bytes": 19}, "partial": none, "stayed": linked},
    }
    assert err == ""
    store(places, verify=False, prune=False, as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert (plain["verified"], plain["pruned"]) == (None, None)


def test_every_hash_of_the_real_locks_is_of_a_kind(places: Places) -> None:
    named = {kind.name: kind.digests(Places(ROOT, places.home, places.store)) for kind in KINDS}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "envs" / "locks").glob("*.txt")]
    assert len(named["packages"]) > 100
    assert all(sum(text.count(digest) for text in texts) for digest in named["packages"])
    assert sum(text.count("--hash=sha256:") for text in texts) >= len(named["packages"])


def test_the_task_ends_with_1_if_anything_was_damaged(places: Places) -> None:
    def run(*flags: str) -> tuple[int, str]:
        argv = [str(ROOT / ".venv/bin/python"), "tasks.py", "store", *flags]
        env = {**os.environ, "JINGXIANG_STORE": str(places.store)}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert run("--verify") == (0, f"{places.store}\n")
    damage(places, WHEEL)
    assert run("--verify") == (1, f"{places.store}\n")
    assert run("--verify", "--prune") == (0, f"{places.store}\n")
    assert holds(places) == [LINKED]


def test_what_a_lock_of_conda_names_is_kept(places: Places, tmp_path: Path) -> None:
    package = channel.package(tmp_path / "conda-forge", "tool")
    conda.lock(places.root / "envs", [package], micromamba=package)
    (tmp_path / "program").write_bytes(b"micromamba")
    for path in (package, tmp_path / "program"):
        Store(places.store).add(path)
    store(places, **PRUNE)
    found = Store(places.store)
    assert (found.has(sha256_file(package)), found.has(sha256_bytes(b"micromamba"))) == (True, False)
    assert KINDS[1].digests(places) == {sha256_file(package)}
