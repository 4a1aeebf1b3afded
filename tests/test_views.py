"""jingxiang.views, through the store"""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jingxiang.storage import NOTHING, StoreFull, Tally
from jingxiang.store import Missing, NotADigest, Store
from jingxiang.views import BadName, NotAFolder, View

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["a-1.0-py3-none-any.whl", "models/unet/config.json", "models/unet/weights.safetensors", "models/模型.txt"]

Mount = Callable[[str, int], Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def filled(store: Store, names: list[str], source: Path) -> dict[str, str]:
    """A blob for each name: its name, in bytes."""
    files = {}
    for name in names:
        source.write_text(name, encoding="utf-8")
        files[name] = store.add(source)
    return files


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files}


def tally(names: list[str]) -> Tally:
    return Tally(len(names), sum(len(name.encode()) for name in names))


def test_a_view_has_names_for_blobs_and_no_bytes_of_its_own(store: Store, tmp_path: Path) -> None:
    files = filled(store, NAMES, tmp_path / "source")
    target = tmp_path / "deep" / "view"
    assert store.view(target, files) == View(linked=tally(NAMES))
    assert content(target) == {name: name for name in NAMES}
    assert all((target / name).samefile(store.blob(digest)) for name, digest in files.items())
    assert [path.name for path in target.parent.iterdir()] == ["view"]


def test_a_view_that_is_right_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    files = filled(store, NAMES, tmp_path / "source")
    store.view(tmp_path / "view", files)
    before = (tmp_path / "view").stat()
    assert store.view(tmp_path / "view", files) == View(kept=tally(NAMES))
    assert (tmp_path / "view").stat() == before


def add_file(view: Path) -> None:
    (view / "models/more").write_text("x")


def add_folder(view: Path) -> None:
    (view / "empty").mkdir()


def remove(view: Path) -> None:
    (view / NAMES[1]).unlink()


def replace(view: Path) -> None:
    (view / NAMES[1]).unlink()
    (view / NAMES[1]).write_text("x" * len(NAMES[1]))
    (view / NAMES[1]).chmod(0o444)


def lead_away(view: Path) -> None:
    (view / NAMES[1]).unlink()
    (view / NAMES[1]).symlink_to(view.parent / "source")


@pytest.mark.parametrize("change", [add_file, add_folder, remove, replace, lead_away])
def test_a_view_that_was_changed_is_made_again(store: Store, tmp_path: Path, change: Callable[[Path], None]) -> None:
    files = filled(store, NAMES, tmp_path / "source")
    store.view(tmp_path / "view", files)
    change(tmp_path / "view")
    assert store.view(tmp_path / "view", files) == View(linked=tally(NAMES))
    assert content(tmp_path / "view") == {name: name for name in NAMES}
    assert not (tmp_path / "view/empty").exists()


def test_another_view_takes_its_place(store: Store, tmp_path: Path, mounted: Mount) -> None:
    """Also when sizes are the same and all came at the same moment, as links and as copies."""
    files = filled(store, ["1", "2", "3"], tmp_path / "source")
    for target in (tmp_path / "view", mounted("tmpfs", 2) / "view"):
        store.view(target, {"a": files["1"], "b": files["2"]})
        store.view(target, {"a": files["2"], "b/c": files["3"]})
        assert content(target) == {"a": "2", "b/c": "3"}
        store.view(target, {"a": files["3"], "b/c": files["2"]})
        assert content(target) == {"a": "3", "b/c": "2"}
        store.view(target, {})
        assert content(target) == {}
        assert (target.is_dir(), [path.name for path in target.parent.glob("*view*")]) == (True, ["view"])


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "..", "../out", "a/../../out", "a/..", ".", "./a", "a/./b", "", "a//b", "a/", "a\0b", "file/below"],
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_made(
    store: Store, tmp_path: Path, name: str
) -> None:
    (digest,) = filled(store, ["x"], tmp_path / "source").values()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadName, match="not the name of a file below a folder"):
        store.view(tmp_path / "new" / "view", {"file": digest, "fine": digest, name: digest})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_digest_that_is_none_or_not_there_is_refused_before_anything_is_made(store: Store, tmp_path: Path) -> None:
    (digest,) = filled(store, ["x"], tmp_path / "source").values()
    with pytest.raises(NotADigest):
        store.view(tmp_path / "view", {"a": digest, "b": "../../x"})
    with pytest.raises(Missing) as caught:
        store.view(tmp_path / "view", {"a": digest, "b": "1" * 64, "c": "0" * 64, "d": "0" * 64})
    assert caught.value.digests == ("0" * 64, "1" * 64)
    assert not (tmp_path / "view").exists()


def test_what_is_not_a_folder_is_not_replaced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link"):
        with pytest.raises(NotAFolder, match=f"{name}: is there already and is not a folder"):
            store.view(tmp_path / name, {})
    assert ((tmp_path / "file").read_text(), (tmp_path / "link").is_symlink()) == ("mine", True)


def test_on_another_disk_the_bytes_are_copied_once(store: Store, tmp_path: Path, mounted: Mount) -> None:
    files = filled(store, NAMES, tmp_path / "source")
    target = mounted("tmpfs", 2) / "view"
    assert store.view(target, files) == View(copied=tally(NAMES))
    assert content(target) == {name: name for name in NAMES}
    assert {stat.S_IMODE((target / name).stat().st_mode) for name in NAMES} == {0o444}
    assert store.view(target, files) == View(kept=tally(NAMES))
    assert store.sizes().linked == NOTHING


def test_where_nothing_can_be_linked_the_blocks_are_shared(tmp_path: Path, mounted: Mount) -> None:
    """Two subvolumes of one btrfs: links do not reach across, clones do."""
    disk = mounted("btrfs", 320)
    for name in ("one", "two"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(disk / name)], check=True)
    store = Store(disk / "one" / "store")
    files = filled(store, NAMES, tmp_path / "source")
    assert store.view(disk / "two" / "view", files) == View(cloned=tally(NAMES))
    assert content(disk / "two" / "view") == {name: name for name in NAMES}
    assert store.view(disk / "two" / "view", files) == View(kept=tally(NAMES))


def test_a_full_disk_leaves_the_old_view(store: Store, tmp_path: Path, mounted: Mount) -> None:
    disk = mounted("tmpfs", 2)
    files = filled(store, NAMES, tmp_path / "source")
    store.view(disk / "view", files)
    (tmp_path / "large").write_bytes(random.Random(1).randbytes(5_000_000))
    with pytest.raises(StoreFull) as caught:
        store.view(disk / "view", {**files, "large": store.add(tmp_path / "large")})
    assert caught.value.message.startswith(f"{disk}: the disk is full: 5.0 MB needed, ")
    assert content(disk / "view") == {name: name for name in NAMES}
    assert [path.name for path in disk.iterdir()] == ["view"]


def test_a_kill_at_any_step_leaves_a_whole_view_or_none(store: Store, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from jingxiang.store import Store
store, target, steps = Store(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
def count(event, arguments):
    global steps
    if event == "open" or event.startswith("os."):
        steps -= 1
        if steps == -1: os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
store.view(target, dict(word.split("=") for word in sys.argv[4:]))
"""
    files = filled(store, ["a", "b/c"], tmp_path / "source")
    words = [f"{name}={digest}" for name, digest in files.items()]
    before, after, seen = {"a": "a"}, {"a": "a", "b/c": "b/c"}, []
    for steps in range(100):
        target = tmp_path / str(steps) / "view"
        store.view(target, {"a": files["a"]})
        argv = [sys.executable, "-c", code, str(store.root), str(target), str(steps), *words]
        ended = subprocess.run(argv, cwd=ROOT, check=False).returncode
        seen.append(content(target) if target.exists() else None)
        assert seen[-1] in (before, None, after)
        store.view(target, files)
        assert content(target) == after
        assert os.listdir(target.parent) == ["view"]  # noqa: PTH208
        if ended == 0:
            break
        assert ended == -9
    assert (seen[0], seen[-1], len(seen) > 10) == (before, after, True)


def test_processes_that_come_together_make_one_view(store: Store, tmp_path: Path) -> None:
    files = filled(store, [f"{number}/{number}" for number in range(200)], tmp_path / "source")
    (tmp_path / "files.json").write_text(json.dumps(files), encoding="utf-8")
    code = """
import json, sys, time
from pathlib import Path
from jingxiang.store import Store
here = Path(sys.argv[1])
files = json.loads((here / "files.json").read_text(encoding="utf-8"))
(here / f"{sys.argv[2]}.ready").touch()
while not (here / "go").exists(): pass
(here / f"{sys.argv[2]}.linked").write_text(str(Store(here / "store").view(here / "view", files).linked.files))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), each], cwd=ROOT) for each in "abc"]
    limit = time.monotonic() + 30
    while len(list(tmp_path.glob("*.ready"))) < 3 and time.monotonic() < limit:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert sorted(int(path.read_text()) for path in tmp_path.glob("*.linked")) == [0, 0, 200]
    assert content(tmp_path / "view") == {name: name for name in files}
