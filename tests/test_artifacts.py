"""app.artifacts and jingxiang.compiled"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from app.artifacts import Hindered, Key, Shelf, Unusable
from jingxiang import compiled
from jingxiang.compiled import Damaged

ROOT = Path(__file__).resolve().parent.parent
KEY = Key("svd-xt", "sm_90", "2.13.0+cu130", "13.0", "c0de", 1024, 576, 25, "fp16")
PARTS = {"down.0": b"\x7fELF one", "decoder": b"\x7fELF two"}


def put(shelf: Shelf, key: Key = KEY, parts: dict[str, bytes] = PARTS) -> Path:
    """The folder of an artifact that was made as `warm` makes one."""
    with shelf.draft() as into:
        assert list(into.iterdir()) == []
        for name, body in parts.items():
            (into / name).write_bytes(body)
        return shelf.put(key, into).folder


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "artifacts")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_key_has_one_digest_and_every_part_of_it_counts() -> None:
    assert KEY.digest == replace(KEY).digest
    assert compiled.NAME.fullmatch(KEY.digest)
    changes: list[dict[str, Any]] = [
        {name: value + 1 if isinstance(value, int) else f"{value}x"} for name, value in asdict(KEY).items()
    ]
    others = [replace(KEY, **each) for each in changes]
    assert len({KEY.digest, *(each.digest for each in others)}) == 1 + len(asdict(KEY))


def test_what_was_put_is_found_by_its_key_alone(shelf: Shelf) -> None:
    assert shelf.find(KEY) is None
    folder = put(shelf)
    found = shelf.find(KEY)
    assert found is not None
    assert (found.key, found.folder, found.files) == (KEY, folder, ("decoder", "down.0"))
    assert found.size_bytes == sum(map(len, PARTS.values()))
    assert {name: (found.folder / name).read_bytes() for name in found.files} == PARTS
    assert shelf.find(replace(KEY, frames=24)) is None
    assert shelf.all() == [found]
    assert names(shelf.folder) == [KEY.digest]


def test_what_is_put_takes_the_place_of_what_was_there(shelf: Shelf) -> None:
    put(shelf)
    put(shelf, parts={"other": b"new"})
    found = shelf.find(KEY)
    assert found is not None
    assert found.files == ("other",)
    shelf.remove(KEY)
    assert (shelf.find(KEY), names(shelf.folder)) == (None, [])
    shelf.remove(KEY)


def test_what_an_image_brings_is_found_and_not_changed(tmp_path: Path) -> None:
    baked = Shelf(tmp_path / "baked")
    folder = put(baked)
    before = [path.stat().st_mtime_ns for path in (baked.folder, folder, *folder.iterdir())]
    own = Shelf(tmp_path / "own", baked.folder)
    found = own.find(KEY)
    assert found is not None
    assert found.folder == folder
    put(own)
    found = own.find(KEY)
    assert found is not None
    assert found.folder.parent == own.folder, "the own one comes first"
    assert [each.folder.parent for each in own.all()] == [own.folder]
    own.remove(KEY)
    assert [path.stat().st_mtime_ns for path in (baked.folder, folder, *folder.iterdir())] == before


def manifest(folder: Path, **changes: object) -> None:
    file = folder / compiled.MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def linked(path: Path) -> None:
    """It is somewhere else now, whole."""
    path.symlink_to(path.rename(path.parent.parent / f"other-{path.name}"))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "another byte": (lambda folder: (folder / "decoder").write_bytes(b"\x7fELF TWO"), "decoder has another SHA-256"),
    "cut off": (lambda folder: (folder / "decoder").write_bytes(b"\x7f"), "decoder has 1 bytes instead of 8"),
    "lost": (lambda folder: (folder / "decoder").unlink(), "decoder is missing"),
    "added": (lambda folder: (folder / "sitecustomize.py").touch(), "sitecustomize.py is not in its manifest"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: cannot be read: No such file"),
    "no JSON": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff{"), "manifest.json is none of ours"),
    "no object": (lambda folder: (folder / "manifest.json").write_text("[" * 9000), "manifest.json is none of ours"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is none of ours"),
    "a later one": (lambda folder: manifest(folder, format=2), r"made by another version of jingxiang \(format 2\)"),
    "no key": (lambda folder: manifest(folder, key={"model": "svd-xt"}), "manifest.json is none of ours"),
    "odd key": (lambda folder: manifest(folder, key=asdict(KEY) | {"frames": "25"}), "manifest.json is none of ours"),
    "other key": (lambda folder: manifest(folder, key=asdict(KEY) | {"frames": 24}), "it was made for something else"),
    "no files": (lambda folder: manifest(folder, files=None), "manifest.json is none of ours"),
    "leads out": (
        lambda folder: manifest(folder, files={"../x": {"bytes": 0, "sha256": "0" * 64}}),
        "manifest.json is none of ours",
    ),
    "renamed": (lambda folder: (folder / "decoder").rename(folder / "decoder2"), "decoder2 is not in its manifest"),
    "everybody's": (lambda folder: (folder / "decoder").chmod(0o646), "others may write to decoder; chmod go-w"),
    "a group's": (lambda folder: (folder / "decoder").chmod(0o664), "others may write to decoder; chmod go-w"),
    "a group's folder": (lambda folder: folder.chmod(0o775), "others may write to [0-9a-f]{64}; chmod go-w"),
    "half a character": (lambda folder: manifest(folder, key=asdict(KEY) | {"model": "\ud800"}), "none of ours"),
    "half a name": (
        lambda folder: manifest(folder, files={"\ud800": {"bytes": 0, "sha256": "0" * 64}}),
        "manifest.json is none of ours",
    ),
    "a link": (lambda folder: linked(folder / "decoder"), "decoder is a link"),
    "linked folder": (lambda folder: (folder / "more").symlink_to("/"), "more is a link"),
    "linked as a whole": (lambda folder: linked(folder), "[0-9a-f]{64} is a link"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_not_whole_is_one_line_and_not_used(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    do, said = HARM[harm]
    folder = put(shelf)
    do(folder)
    assert [shelf.find(KEY) for _ in range(3)] == [None] * 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: {folder}: this compiled artifact is not used: ")
    assert re.search(said, lines[0])
    put(shelf)
    assert shelf.find(KEY) is not None, "one that is made anew is looked at anew"
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_another_user_could_have_written_is_not_run(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(shelf)
    os.chown(folder / "decoder", 4321, 4321)
    assert shelf.find(KEY) is None
    assert "decoder belongs to another user (4321)" in capsys.readouterr().err
    assert shelf.all() == []


def test_nor_is_what_others_can_put_in_its_place(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    put(shelf)
    shelf.folder.chmod(0o775)
    assert (shelf.find(KEY), shelf.all()) == (None, [])
    assert "others may write to artifacts; chmod go-w" in capsys.readouterr().err
    shelf.folder.chmod(0o755)
    assert Shelf(shelf.folder).find(KEY) is not None


def test_what_is_made_is_ours_alone_whatever_the_umask_is(shelf: Shelf) -> None:
    before = os.umask(0)
    try:
        with shelf.draft() as into:
            (into / "below").mkdir()
            (into / "below" / "part").write_bytes(b"part")
            shelf.put(KEY, into)
    finally:
        os.umask(before)
    assert shelf.find(KEY) is not None


def test_a_file_in_an_artifact_s_place_is_one_line(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.folder.mkdir()
    (shelf.folder / KEY.digest).write_text("no folder")
    assert shelf.find(KEY) is None
    assert "this compiled artifact is not used" in capsys.readouterr().err
    assert shelf.all() == []


def test_the_second_shelf_helps_where_the_first_one_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baked = put(Shelf(tmp_path / "baked"))
    own = Shelf(tmp_path / "own", tmp_path / "baked")
    (put(own) / "decoder").unlink()
    found = own.find(KEY)
    assert found is not None
    assert found.folder == baked
    assert "decoder is missing" in capsys.readouterr().err


def test_an_artifact_that_torch_does_not_take_is_left_aside_until_it_is_made_anew(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    put(shelf)
    said = "what was compiled for 1024x576x25 cannot be loaded: no such symbol"
    with pytest.raises(Unusable, match=said), shelf.adopting(KEY):
        raise Unusable(KEY, "no such symbol")
    assert [shelf.find(KEY), shelf.find(KEY), Shelf(shelf.folder).find(KEY)] == [None] * 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "once in each process"
    assert "1024x576x25: what was compiled is left aside" in lines[0]
    assert (shelf.all(), [each.key for each in shelf.own()]) == ([], [KEY])
    put(shelf)
    assert shelf.find(KEY) is not None
    assert names(shelf.folder) == [KEY.digest]


DYING = """
import os, signal, sys
from pathlib import Path
from app.artifacts import Shelf
from tests.test_artifacts import KEY
shelf = Shelf(Path(sys.argv[1]))
assert shelf.find(KEY)
with shelf.adopting(KEY):
    print("adopting", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def die(shelf: Shelf, how: str = "os.kill(os.getpid(), signal.SIGSEGV)") -> int:
    """Of loading it, in a process of its own; what that ended with."""
    code = DYING.replace("os.kill(os.getpid(), signal.SIGSEGV)", how)
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(shelf.folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"adopting\n"
        assert shelf.find(KEY) is not None, "it is alive"
        child.stdin.close()
    return child.returncode


def test_what_processes_die_of_is_left_aside_and_what_one_is_at_is_not(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    put(shelf)
    assert die(shelf) == -signal.SIGSEGV
    assert shelf.find(KEY) is not None, "it may have died of anything"
    assert die(shelf) == -signal.SIGSEGV
    assert shelf.find(KEY) is None
    assert "left aside, because a worker could not use it; python3 tasks.py warm" in capsys.readouterr().err
    put(shelf)
    assert shelf.find(KEY) is not None


def test_a_death_is_forgotten_when_it_could_be_loaded_after_all(shelf: Shelf) -> None:
    put(shelf)
    die(shelf)
    with shelf.adopting(KEY):
        pass
    die(shelf)
    assert shelf.find(KEY) is not None
    shelf.remove(KEY)
    assert names(shelf.folder) == []


def test_a_worker_that_is_told_to_end_at_once_is_no_death(shelf: Shelf) -> None:
    put(shelf)
    for _ in range(3):
        assert die(shelf, "import app.artifacts; app.artifacts.forget_marks(); os._exit(0)") == 0
    assert shelf.find(KEY) is not None
    assert names(shelf.folder) == [KEY.digest]


def test_an_artifact_is_not_to_blame_for_what_the_machine_lacks(shelf: Shelf) -> None:
    put(shelf)
    said = "what was compiled for 1024x576x25 cannot be loaded here now: no space left"
    for _ in range(3):
        with pytest.raises(Hindered, match=said), shelf.adopting(KEY):
            raise Hindered(KEY, "no space left")
    assert shelf.find(KEY) is not None
    assert names(shelf.folder) == [KEY.digest]


def test_workers_that_load_it_at_the_same_time_are_not_taken_for_dead(shelf: Shelf) -> None:
    put(shelf)

    def load() -> None:
        for _ in range(100):
            with shelf.adopting(KEY):
                pass
            shelf.is_aside(KEY)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shelf.is_aside(KEY)
    assert names(shelf.folder) == [KEY.digest]


SCRATCH = """
import os, signal, sys
from pathlib import Path
from app.artifacts import Shelf
shelf = Shelf(Path(sys.argv[1]))
(shelf.scratch() / "library").touch()
assert shelf.scratch() == shelf.scratch()
print(shelf.scratch(), flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["usual", "killed"])
def test_a_process_s_own_folder_goes_with_it(shelf: Shelf, end: str) -> None:
    argv = [sys.executable, "-c", SCRATCH, str(shelf.folder), end]
    place = Path(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip())
    assert place.parent == shelf.folder
    with shelf.draft():
        assert not place.exists()
    assert names(shelf.folder) == []


def test_where_nothing_can_be_written_it_is_among_temporary_ones(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    argv = [sys.executable, "-c", SCRATCH, str(tmp_path / "file" / "artifacts"), "usual"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path
    assert names(tmp_path) == ["file"]


def test_an_image_s_artifact_is_left_aside_too(tmp_path: Path) -> None:
    put(Shelf(tmp_path / "baked"))
    own = Shelf(tmp_path / "own", tmp_path / "baked")
    with pytest.raises(ZeroDivisionError), own.adopting(KEY):
        raise ZeroDivisionError
    assert own.find(KEY) is None
    assert own.all() == []


def test_adopting_leaves_nothing_behind(shelf: Shelf) -> None:
    put(shelf)
    with shelf.adopting(KEY):
        assert len(names(shelf.folder)) == 2
    assert names(shelf.folder) == [KEY.digest]


def test_where_nothing_can_be_written_artifacts_are_used_all_the_same(tmp_path: Path) -> None:
    """As in a container whose file system is read-only."""
    put(Shelf(tmp_path / "baked"))
    (tmp_path / "file").touch()
    own = Shelf(tmp_path / "file" / "artifacts", tmp_path / "baked")
    assert not own.is_writable
    found = own.find(KEY)
    assert found is not None
    with own.adopting(KEY):
        pass
    own.remove(KEY)
    assert own.all() == [found]


KILLED = """
import os, signal, sys
from pathlib import Path
from app.artifacts import Shelf
with Shelf(Path(sys.argv[1])).draft() as into:
    (into / "half").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_making_goes_with_the_next_one(shelf: Shelf) -> None:
    with shelf.draft():
        subprocess.run([sys.executable, "-c", KILLED, str(shelf.folder)], cwd=ROOT, check=False)
        drafts = [name for name in names(shelf.folder) if name.startswith("draft-")]
        assert len(drafts) == 2
        assert (shelf.find(KEY), shelf.all()) == (None, [])
        with shelf.draft():
            assert len(list(shelf.folder.glob("draft-*"))) == 2, "this one and the one that is alive"
    assert names(shelf.folder) == []


def test_two_that_make_the_same_do_it_one_after_the_other(shelf: Shelf) -> None:
    order: list[str] = []

    def second() -> None:
        with shelf.making(KEY):
            order.append("second")

    with shelf.making(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        with shelf.making(replace(KEY, frames=24)):  # others do not wait
            order.append("other")
        order.append("first")
    thread.join(10)
    assert order == ["other", "first", "second"]


def test_a_manifest_is_the_same_wherever_it_is_written(tmp_path: Path) -> None:
    manifests = []
    for name in ("one", "two"):
        shelf = Shelf(tmp_path / name)
        with shelf.draft() as into:
            for part in PARTS if name == "one" else reversed(PARTS):
                (into / part).write_bytes(PARTS[part])
            (into / "below").mkdir()
            (into / "below" / "part").write_bytes(b"three")
            manifests.append((shelf.put(KEY, into).folder / compiled.MANIFEST).read_bytes())
        found = shelf.find(KEY)
        assert found is not None
        assert found.files == ("below/part", "decoder", "down.0")
    assert manifests[0] == manifests[1]


def test_names_and_sizes_alone_tell_much_of_what_is_wrong(shelf: Shelf) -> None:
    folder = put(shelf)
    (folder / "decoder").write_bytes(b"\x7fELF TWO")
    assert [each.key for each in shelf.all()] == [KEY]
    with pytest.raises(Damaged):
        compiled.read(folder)
    (folder / "decoder").unlink()
    assert shelf.all() == []
