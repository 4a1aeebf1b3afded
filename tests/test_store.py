"""jingxiang.store, with real files, processes and disks"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jingxiang.digest import sha256_bytes
from jingxiang.file_lock import held
from jingxiang.storage import NOTHING, StoreClosed, StoreFull, Tally
from jingxiang.store import OLD_PARTIAL_S, Damaged, Missing, NotADigest, Pruned, Sizes, Store, Verified

ROOT = Path(__file__).resolve().parent.parent
MB = 1 << 20
HELLO = b"hello"
DIGEST = sha256_bytes(HELLO)

Mount = Callable[[str, int], Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, data: bytes) -> str:
    """Take bytes in as the fetch engine does."""
    digest = sha256_bytes(data)
    with store.incoming(digest) as file:
        file.path.write_bytes(data)
        file.commit()
    return digest


def left(store: Store) -> list[str]:
    """What is in the folder of partial files."""
    return sorted(path.name for path in store.incoming_folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def flip(path: Path) -> None:
    """Damage a file: one bit in its middle."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def child(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Another process, with `store` being the one in its first argument and `digest` its second one."""
    head = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom jingxiang.store import Store\n"
        "store, digest = Store(Path(sys.argv[1])), sys.argv[2]\n"
    )
    argv = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(argv, cwd=ROOT)


def test_a_blob_lies_under_its_digest(store: Store) -> None:
    assert not store.has(DIGEST)
    assert put(store, HELLO) == DIGEST
    assert store.blob(DIGEST) == store.root / "sha256" / DIGEST[:2] / DIGEST
    assert (store.has(DIGEST), store.blob(DIGEST).read_bytes(), left(store)) == (True, HELLO, [])


def test_looking_makes_nothing(store: Store) -> None:
    assert (store.sizes(), store.verify()) == (Sizes(NOTHING, NOTHING, NOTHING), Verified(NOTHING, ()))
    assert (store.prune([]), store.forget(0)) == (Pruned(NOTHING, NOTHING, NOTHING), NOTHING)
    assert not store.root.exists()


@pytest.mark.parametrize(
    "text",
    ["", "abc", DIGEST.upper(), DIGEST[:-1], DIGEST + "0", DIGEST + "\n", "../" * 21 + "x", "g" * 64, "٣" * 64],
)
def test_only_a_digest_names_a_blob(store: Store, text: str) -> None:
    with pytest.raises(NotADigest, match="not a SHA-256 of 64 lower-case hex digits"):
        store.blob(text)
    with pytest.raises(NotADigest), store.incoming(text):
        pytest.fail("came in")
    assert not store.root.exists()


def test_nothing_is_there_before_the_commit(store: Store) -> None:
    with store.incoming(DIGEST) as file:
        file.path.write_bytes(HELLO)
        file.journal.write_text("5")
        assert not store.has(DIGEST)
        assert file.commit() == store.blob(DIGEST)
        assert (store.has(DIGEST), file.path.exists(), file.journal.exists()) == (True, False, False)
    assert left(store) == []


def test_other_bytes_are_refused_and_forgotten(store: Store) -> None:
    with store.incoming(DIGEST) as file:
        file.path.write_bytes(b"hellO")
        file.journal.write_text("5")
        with pytest.raises(Damaged) as caught:
            file.commit()
        assert (file.path.exists(), file.journal.exists()) == (False, False)
    actual = sha256_bytes(b"hellO")
    assert caught.value.message == f"what came as sha256:{DIGEST} is sha256:{actual}; it is not used"
    assert (store.has(DIGEST), left(store)) == (False, [])


def test_a_digest_that_is_known_already_is_believed(store: Store) -> None:
    with store.incoming(DIGEST) as file:
        file.path.write_bytes(b"not read again")
        file.commit(sha256=DIGEST)
    assert store.blob(DIGEST).read_bytes() == b"not read again"
    other = "0" * 64
    with store.incoming(other) as file:
        file.path.write_bytes(HELLO)
        with pytest.raises(Damaged):
            file.commit(sha256=DIGEST)
    assert not store.has(other)


def test_a_blob_that_is_there_is_not_replaced(store: Store) -> None:
    put(store, HELLO)
    before = store.blob(DIGEST).stat()
    put(store, HELLO)
    assert store.blob(DIGEST).stat().st_ino == before.st_ino
    assert left(store) == []


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_blob_is_read_only_and_readable_to_its_owner_whatever_the_umask(
    store: Store, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        put(store, HELLO)
        (tmp_path / "file").write_bytes(b"secret")
        added = store.add(tmp_path / "file")
        store.view(tmp_path / "view", {"a/b": added})
    finally:
        os.umask(before)
    assert [mode(store.blob(digest)) for digest in (DIGEST, added)] == [0o444, 0o444]
    folders = [store.root, store.blob(DIGEST).parent, store.incoming_folder, tmp_path / "view/a"]
    assert [mode(folder) for folder in folders] == [0o777 & ~mask] * 4


def test_what_has_come_is_kept_for_the_next_process(store: Store) -> None:
    code = """
with store.incoming(digest) as file:
    file.path.write_bytes(b"he")
    file.journal.write_text("2")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert child(code, store.root, DIGEST).wait(30) == -9
    assert left(store) == [DIGEST, f"{DIGEST}.journal", f"{DIGEST}.lock"]
    with store.incoming(DIGEST) as file:
        assert (file.path.read_bytes(), file.journal.read_text()) == (b"he", "2")
        with file.path.open("ab") as stream:
            stream.write(b"llo")
        file.commit()
    assert (store.has(DIGEST), left(store)) == (True, [])


def test_two_processes_fetch_a_blob_once(store: Store, tmp_path: Path) -> None:
    code = """
with store.incoming(digest) as file:
    if not store.has(digest):
        with open(sys.argv[3], "a") as log: log.write("fetched\\n")
        time.sleep(0.5)
        file.path.write_bytes(b"hello")
        file.commit()
sys.exit(not store.has(digest))
"""
    processes = [child(code, store.root, DIGEST, tmp_path / "log") for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"
    assert left(store) == []


def test_a_kill_at_any_step_of_the_commit_leaves_the_whole_blob_or_none(tmp_path: Path) -> None:
    """Python tells an audit hook of every call to the system before it is made; the n-th one is our end."""
    code = """
steps = int(sys.argv[3])
def count(event, arguments):
    global steps
    if event == "open" or event.startswith("os."):
        steps -= 1
        if steps == -1: os.kill(os.getpid(), signal.SIGKILL)
with store.incoming(digest) as file:
    file.path.write_bytes(b"hello")
    file.journal.write_text("5")
    sys.addaudithook(count)
    file.commit()
"""
    outcomes = set()
    for steps in range(100):
        store = Store(tmp_path / str(steps))
        code_ = child(code, store.root, DIGEST, steps).wait(30)
        whole = store.has(DIGEST)
        outcomes.add(whole)
        if whole:
            assert (store.blob(DIGEST).read_bytes(), mode(store.blob(DIGEST))) == (HELLO, 0o444)
        with store.incoming(DIGEST) as file:
            assert file.path.exists() is not whole
            if not whole:
                assert mode(file.path) & 0o200  # the next process may go on writing
                file.commit()
        assert (store.blob(DIGEST).read_bytes(), left(store)) == (HELLO, [])
        if code_ == 0:
            break
        assert code_ == -9
    else:
        pytest.fail("never came to its end")
    assert (outcomes, steps > 8) == ({True, False}, True)


def test_files_of_any_size_come_in_whole_and_once(store: Store, tmp_path: Path) -> None:
    chance = random.Random(5)  # the same sizes in every run
    sizes = [0, 1, MB - 1, MB, MB + 1, *(chance.randrange(3 * MB) for _ in range(20))]
    added = {}
    for size in sizes:
        path, data = tmp_path / "file", chance.randbytes(size)
        path.write_bytes(data)
        digest = store.add(path)
        assert store.add(path) == digest  # a second time it is already there
        added[digest] = data
    assert {digest: store.blob(digest).read_bytes() for digest in added} == added
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in added.items())
    total = Tally(len(sizes), sum(sizes))
    assert (store.sizes(), store.verify()) == (Sizes(total, NOTHING, NOTHING), Verified(total, ()))
    assert (left(store), path.read_bytes()) == ([], data)


def test_a_file_that_cannot_be_read_is_not_blamed_on_the_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        store.add(tmp_path / "absent")
    assert caught.value.filename == str(tmp_path / "absent")
    assert not store.root.exists()


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_file_system_that_can_shares_the_blocks(mounted: Mount, kind: str) -> None:
    disk = mounted(kind, 320)
    store, source = Store(disk / "store"), disk / "file"
    source.write_bytes(random.Random(1).randbytes(64 * MB))
    os.sync()
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    digest = store.add(source)
    os.sync()
    used = free - os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    assert (store.verify(), used < 16 * MB) == (Verified(Tally(1, 64 * MB), ()), True)
    with source.open("r+b") as file:
        file.write(b"changed afterwards")
    assert store.verify() == Verified(Tally(1, 64 * MB), ())
    assert digest != sha256_bytes(source.read_bytes())


def test_a_full_disk_is_said_in_one_line_and_nothing_stays(mounted: Mount, tmp_path: Path) -> None:
    store = Store(mounted("tmpfs", 2) / "store")
    put(store, HELLO)
    (tmp_path / "large").write_bytes(bytes(5_000_000))
    with pytest.raises(StoreFull) as caught:
        store.add(tmp_path / "large")
    assert caught.value.message == f"{store.root}: the disk is full: 5.0 MB needed, 2.1 MB free"
    assert caught.value.hints == ("make room, or set JINGXIANG_STORE to a folder on a larger disk",)
    assert (left(store), store.verify()) == ([], Verified(Tally(1, 5), ()))


def test_a_full_disk_can_be_pruned(mounted: Mount) -> None:
    disk = mounted("tmpfs", 2)
    store = Store(disk / "store")
    digest = put(store, bytes(MB))
    with pytest.raises(OSError, match="No space left"), (disk / "rest").open("wb") as file:
        file.write(bytes(2 * MB))
    assert store.prune([]) == Pruned(Tally(1, MB), NOTHING, NOTHING)
    assert not store.has(digest)


def test_a_read_only_disk_is_said_in_one_line(mounted: Mount, tmp_path: Path) -> None:
    disk = mounted("tmpfs", 2)
    store = Store(disk / "store")
    put(store, HELLO)
    other = "0" * 64
    (tmp_path / "file").write_bytes(b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    said = f"{store.root}: cannot be written: Read-only file system"
    with pytest.raises(StoreClosed) as caught, store.incoming(other):
        pytest.fail("came in")
    assert (caught.value.message, caught.value.hints) == (said, ("set JINGXIANG_STORE to a folder of your own",))
    with pytest.raises(StoreClosed, match=said):
        store.add(tmp_path / "file")
    with pytest.raises(StoreClosed, match=said):
        store.prune([])
    assert store.verify() == Verified(Tally(1, 5), ())  # reading is all that a sound store needs


def test_a_file_where_the_store_should_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreClosed, match="file/store: cannot be written: Not a directory"):
        put(Store(tmp_path / "file/store"), HELLO)


def test_an_error_of_the_fetch_passes_and_keeps_what_has_come(store: Store) -> None:
    def fetch() -> None:
        with store.incoming(DIGEST) as file:
            file.path.write_bytes(b"he")
            raise PermissionError("firewall")  # of a connection: not to be taken for the store's

    with pytest.raises(PermissionError, match="firewall"):
        fetch()
    assert left(store) == [DIGEST]


def test_verify_finds_a_flipped_bit_and_the_next_fetch_puts_it_right(store: Store, tmp_path: Path) -> None:
    good = [put(store, bytes([number]) * 1000) for number in range(20)]
    victim = good[7]
    store.view(tmp_path / "view", {"file": victim})
    flip(store.blob(victim))
    assert store.verify() == Verified(Tally(20, 20_000), (victim,))
    assert [digest for digest in good if not store.has(digest)] == [victim]
    assert store.verify() == Verified(Tally(19, 19_000), ())
    with pytest.raises(Missing) as caught:
        store.view(tmp_path / "view", {"file": victim})
    assert caught.value.message == f"1 files are not in the store, sha256:{victim} first"
    assert put(store, bytes([7]) * 1000) == victim
    assert store.view(tmp_path / "view", {"file": victim}).linked == Tally(1, 1000)
    assert (tmp_path / "view/file").read_bytes() == bytes([7]) * 1000


def test_what_is_no_blob_is_left_alone(store: Store) -> None:
    put(store, HELLO)
    for name in ("sha256/README", f"sha256/00/{DIGEST}", f"sha256/{DIGEST[:2]}/{DIGEST}.orig", "incoming/note"):
        (store.root / name).parent.mkdir(exist_ok=True)
        (store.root / name).write_text("mine")
    assert store.sizes().blobs == Tally(1, 5)
    assert (store.verify().damaged, store.prune([]).removed) == ((), Tally(1, 5))
    assert store.forget(0) == NOTHING
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 4


def test_prune_keeps_what_is_wanted_and_what_is_linked(store: Store, tmp_path: Path) -> None:
    wanted, linked, neither = (put(store, data) for data in (b"1", b"22", b"333"))
    store.view(tmp_path / "view", {"file": linked})
    assert store.sizes() == Sizes(Tally(3, 6), Tally(1, 2), NOTHING)
    assert store.prune([wanted]) == Pruned(Tally(1, 3), NOTHING, Tally(1, 2))
    assert [store.has(digest) for digest in (wanted, linked, neither)] == [True, True, False]
    (tmp_path / "view/file").unlink()
    assert store.prune([wanted]) == Pruned(Tally(1, 2), NOTHING, NOTHING)
    assert left(store) == []


def test_prune_leaves_a_blob_alone_that_is_being_worked_on(store: Store) -> None:
    put(store, HELLO)
    with store.incoming(DIGEST):
        assert store.prune([]) == Pruned(NOTHING, NOTHING, Tally(1, 5))
    assert store.has(DIGEST)
    assert store.prune([]).removed == Tally(1, 5)


def test_prune_and_verify_agree_with_a_plain_model(store: Store, tmp_path: Path) -> None:
    chance = random.Random(11)
    blobs: dict[str, bytes] = {}
    for round_ in range(15):
        for _ in range(chance.randrange(8)):
            data = chance.randbytes(chance.choice([1, 100, 5000]))
            blobs[put(store, data)] = data
        keep = {digest for digest in blobs if chance.random() < 0.5}
        linked = {digest for digest in blobs if chance.random() < 0.3}
        store.view(tmp_path / "view", {f"{round_}/{digest[:9]}": digest for digest in linked})
        store.prune(keep)
        blobs = {digest: data for digest, data in blobs.items() if digest in keep | linked}
        assert {blob.sha256: store.blob(blob.sha256).read_bytes() for blob in store.blobs()} == blobs
        assert {blob.sha256 for blob in store.blobs() if blob.linked} == linked
        assert store.verify() == Verified(Tally(len(blobs), sum(map(len, blobs.values()))), ())


def test_old_partial_files_are_forgotten_unless_somebody_has_them(store: Store) -> None:
    old, young, busy, journal, lock = (sha256_bytes(bytes([number])) for number in range(5))
    for digest in (old, young, busy):
        with store.incoming(digest) as file:
            file.path.write_bytes(b"123")
            file.journal.write_text("3")
    (store.incoming_folder / f"{journal}.journal").write_text("3")
    (store.incoming_folder / f"{lock}.lock").write_text("")  # of a process that was killed
    before = time.time() - 2 * OLD_PARTIAL_S
    for path in store.incoming_folder.iterdir():
        if not path.name.startswith(young):
            os.utime(path, (before, before))
    assert store.sizes().partial == Tally(3, 9)
    with store.incoming(busy):
        assert store.prune([]).partial == Tally(1, 3)
        assert left(store) == sorted([busy, f"{busy}.journal", f"{busy}.lock", young, f"{young}.journal"])
    assert store.forget(OLD_PARTIAL_S) == Tally(1, 3)
    assert left(store) == sorted([young, f"{young}.journal"])
    assert store.forget(0) == Tally(1, 3)
    assert left(store) == []


def test_a_partial_file_whose_journal_is_young_is_kept(store: Store) -> None:
    with store.incoming(DIGEST) as file:
        file.path.write_bytes(b"he")
        os.utime(file.path, (1, 1))
        file.journal.write_text("2")
    assert (store.forget(60), left(store)) == (NOTHING, [DIGEST, f"{DIGEST}.journal"])


def test_adding_leaves_nothing_behind_that_forget_does_not_find(store: Store, tmp_path: Path) -> None:
    """Killed while it copies: the file has no name yet, but looks like any other partial file."""
    os.mkfifo(tmp_path / "pipe")
    process = child("store.add(Path(sys.argv[2]))", store.root, tmp_path / "pipe")
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(b"x")
        pipe.flush()
        limit = time.monotonic() + 30
        while not (store.incoming_folder.exists() and len(left(store)) == 2) and time.monotonic() < limit:
            time.sleep(0.01)
        assert store.forget(0) == NOTHING  # it is at work
        process.kill()
        process.wait(30)
    assert (len(left(store)), store.forget(0).files, left(store)) == (2, 1, [])


def test_the_lock_of_a_blob_is_not_that_of_another(store: Store) -> None:
    with store.incoming(DIGEST), store.incoming("0" * 64), held(store.incoming_folder / "x", wait=False) as ours:
        assert ours
