"""The fetch engine, killed, interrupted, beside another process, on full disks and without a network"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.download import JOURNAL_BYTES
from jingxiang.fetch.report import Unavailable
from jingxiang.storage import StoreFull
from jingxiang.store import Store
from tests.peers import faults, mirror, system
from tests.peers.mirror import RANGE, Mirror
from tests.peers.site import MB, Site, data

pytestmark = pytest.mark.usefixtures("no_proxy")
ROOT = Path(__file__).resolve().parent.parent
Mount = Callable[[str, int], Path]
# Fetches the files that its standard input describes; prints the report, or the error.
CHILD = """
import json, sys
from pathlib import Path
from jingxiang.errors import JingxiangError
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.session import Session
from jingxiang.mirrors import Source
from jingxiang.store import Store

asked = json.loads(sys.argv[1])
sources = [Source(name, name, "hub", "hf", url) for name, url in asked["sources"].items()]
wanted = [Artifact("hub", name, (sha256,), size, "org/model", "0" * 40, name) for name, sha256, size in asked["files"]]
try:
    with Session(Store(Path(asked["store"])), {"hub": sources}) as session:
        report = session.fetch(wanted)
    print(json.dumps([report.fetched_files, report.fetched_bytes]))
except JingxiangError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


def child(found: Site, *wanted: Artifact, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The same in a process of its own, which can be killed."""
    asked = {
        "sources": {each.mirror: each.url for each in found.sources()},
        "store": str(found.store.root),
        "files": [(each.name, each.key, each.size_bytes) for each in wanted],
    }
    argv = [*prefix, sys.executable, "-c", CHILD, json.dumps(asked)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Counting:
    """Sends files at a limited speed, and counts the bytes that went out."""

    def __init__(self, mirror: Mirror, bytes_per_s: int) -> None:
        self.sent = 0
        self._mirror = mirror
        self._pause_s = (64 << 10) / bytes_per_s

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        body = self._mirror.begin(request)
        for start in range(0, len(body), 64 << 10):
            part = body[start : start + (64 << 10)]
            request.wfile.write(part)
            self.sent += len(part)
            if self._mirror.closed.wait(self._pause_s):
                return


def wait_until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_moment_costs_at_most_eight_megabytes_a_connection(single: Site, seed: int) -> None:
    """Killed twice, somewhere in the middle, and once more while the second half comes."""
    chance = random.Random(seed)
    size = 90 * MB + chance.randrange(MB)
    wanted = single.add("weights.bin", data(size))
    only = single.mirrors["only"]
    counting = only.answers[""] = Counting(only, chance.choice([6_000_000, 12_000_000]))
    kept = 0
    for _ in range(2):
        counting.sent = 0
        process = child(single, wanted)
        enough = chance.randrange(36 * MB, 44 * MB)
        wait_until(lambda enough=enough: counting.sent > enough)  # type: ignore[misc]
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        process.communicate()
        kept += max(0, counting.sent - 4 * 8 * MB)
    only.answers[""] = Counting(only, 200_000_000)
    report = single.fetch(wanted)
    assert single.has(wanted)
    assert report.fetched_bytes <= size - kept
    assert report.fetched_bytes < size - 20 * MB  # in fact, most was of use


def test_the_journal_is_written_often_enough() -> None:
    assert JOURNAL_BYTES + MB <= 8 * MB


def interrupted(single: Site, wanted: Artifact) -> None:
    """Leave half of a file behind, with its journal: the mirror cuts it off, and then it is gone."""
    only = single.mirrors["only"]
    cut = faults.once(only, faults.truncated)

    def answer(request: BaseHTTPRequestHandler) -> None:
        (faults.always(only, faults.status(404)) if only.asked[1:] else cut)(request)

    only.asked.clear()
    only.answers[""] = answer
    with pytest.raises(Unavailable, match="404"):
        single.fetch(wanted)
    assert single.left() == [wanted.key, f"{wanted.key}.journal"]
    del only.answers[""]
    only.asked.clear()


def ranges(mirror: Mirror) -> list[int]:
    """From where on each request asked."""
    found = (RANGE.fullmatch(each.headers.get("Range", "")) for each in mirror.asked)
    return sorted(int(match[1]) if match else 0 for match in found)


def test_what_is_there_is_not_asked_for_again(single: Site) -> None:
    wanted = single.add("weights.bin", data(6 * MB))
    interrupted(single, wanted)
    report = single.fetch(wanted)
    assert single.has(wanted)
    assert report.fetched_bytes == 3 * MB
    assert min(ranges(single.mirrors["only"])) == 3 * MB


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone", "longer"])
def test_a_partial_file_that_was_tampered_with_is_noticed(single: Site, damage: str) -> None:
    wanted = single.add("weights.bin", data(6 * MB))
    interrupted(single, wanted)
    partial = single.store.incoming_folder / wanted.key
    if damage == "changed":
        with partial.open("r+b") as file:
            file.seek(MB)
            file.write(b"something else")
    elif damage == "shorter":
        os.truncate(partial, MB)
    elif damage == "longer":
        os.truncate(partial, 40 * MB)
    else:
        partial.unlink()
    report = single.fetch(wanted)
    assert single.has(wanted)
    assert report.mirrors[0].failures == {}  # nobody is blamed for it


@pytest.mark.parametrize(
    "journal",
    ["", "6291456", "6291456\n0 ", "6291456\n0 99999999\n", "6291456\n5 3\n", "x\n", "\n\n", "1 2 3\n", "\x00" * 50,
     "12\n0 12\n", "6291456\n0 1 2\n", "-1\n"],
)  # fmt: skip
def test_a_journal_that_makes_no_sense_is_none(single: Site, journal: str) -> None:
    wanted = single.add("weights.bin", data(6 * MB))
    interrupted(single, wanted)
    (single.store.incoming_folder / f"{wanted.key}.journal").write_text(journal)
    single.fetch(wanted)
    assert single.has(wanted)


def test_the_last_line_of_a_journal_may_be_torn(single: Site) -> None:
    wanted = single.add("weights.bin", data(6 * MB))
    interrupted(single, wanted)
    journal = single.store.incoming_folder / f"{wanted.key}.journal"
    with journal.open("a") as file:
        file.write("3145728 629")
    assert single.fetch(wanted).fetched_bytes == 3 * MB
    assert single.has(wanted)


def test_a_file_of_unknown_length_goes_on_as_well(single: Site) -> None:
    wanted = single.add("weights.bin", data(6 * MB), size_known=False)
    interrupted(single, wanted)
    assert single.fetch(wanted).fetched_bytes == 3 * MB
    assert single.has(wanted)


def test_another_length_than_that_of_yesterday_is_believed(single: Site) -> None:
    wanted = single.add("weights.bin", data(6 * MB), size_known=False)
    interrupted(single, wanted)
    partial = single.store.incoming_folder / wanted.key
    partial.with_name(f"{wanted.key}.journal").write_text(f"{20 * MB}\n0 {3 * MB}\n")
    single.fetch(wanted)
    assert single.has(wanted)


def test_two_processes_do_the_work_once(single: Site) -> None:
    wanted = [single.add(f"{number}.bin", data(MB, number)) for number in range(12)]
    only = single.mirrors["only"]
    counting = only.answers[""] = Counting(only, 4_000_000)
    processes = [child(single, *wanted) for _ in range(3)]
    results = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert single.has(*wanted)
    assert sum(files for files, _ in results) == 12
    assert counting.sent == 12 * MB
    assert len(only.asked) == 12


def test_who_waits_takes_over_from_a_process_that_is_killed(single: Site) -> None:
    wanted = single.add("weights.bin", data(40 * MB))
    only = single.mirrors["only"]
    counting = only.answers[""] = Counting(only, 5_000_000)
    first = child(single, wanted)
    wait_until(lambda: counting.sent > 22 * MB)
    second = child(single, wanted)
    time.sleep(1)
    assert second.poll() is None
    first.kill()
    first.communicate()
    only.answers[""] = Counting(only, 100_000_000)
    files, count = json.loads(second.communicate(timeout=60)[0])
    assert files == 1
    assert count < 40 * MB
    assert single.has(wanted)


def test_a_disk_without_room_is_said_before_the_first_byte(mounted: Mount) -> None:
    with mirror.serving() as peer:
        found = Site({"only": peer}, Store(mounted("tmpfs", 4) / "store"))
        wanted = [found.add("weights.bin", data(3 * MB)), found.add("more.bin", data(3 * MB, 2))]
        with pytest.raises(StoreFull) as caught:
            found.fetch(*wanted)
        assert caught.value.message == f"{found.store.root}: the disk is full: 6.3 MB needed, 4.2 MB free"
        assert peer.asked == []


def test_a_disk_that_fills_up_ends_in_one_line_and_a_second_run_goes_on(mounted: Mount) -> None:
    disk = mounted("tmpfs", 24)
    with mirror.serving() as peer:
        found = Site({"only": peer}, Store(disk / "store"))
        wanted = found.add("weights.bin", data(20 * MB))
        counting = peer.answers[""] = Counting(peer, 10_000_000)
        process = child(found, wanted)
        wait_until(lambda: counting.sent > 6 * MB)
        (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - 5 * MB))  # somebody else needs the room
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert out.startswith(f"{found.store.root}: the disk is full: ")
        assert (len(out.splitlines()), err) == (1, "")
        (disk / "other").unlink()
        report = found.fetch(wanted)
        assert found.has(wanted)
        assert report.fetched_bytes < 16 * MB


def test_room_that_a_partial_file_takes_already_is_not_asked_for_again(mounted: Mount) -> None:
    with mirror.serving() as peer:
        found = Site({"only": peer}, Store(mounted("tmpfs", 24) / "store"))
        wanted = found.add("weights.bin", data(20 * MB))
        interrupted(found, wanted)
        found.fetch(wanted)
        assert found.has(wanted)


def test_partial_files_of_last_week_are_removed(single: Site) -> None:
    old, other = single.add("old.bin", data(6 * MB)), single.add("other.bin", data(1000, 2))
    interrupted(single, old)
    for each in single.store.incoming_folder.iterdir():
        os.utime(each, (time.time() - 8 * 24 * 3600,) * 2)
    single.fetch(other)
    assert single.left() == []


def test_without_a_network_the_reason_is_said_at_once(single: Site) -> None:
    there, missing = single.add("there.bin", data(1000)), single.add("missing.bin", data(1000, 2))
    single.fetch(there)
    system.require(shutil.which("unshare"), "no unshare: apt-get install util-linux")
    offline = ("unshare", "-rn") if os.geteuid() else ("unshare", "-n")
    system.require(not subprocess.run([*offline, "true"], capture_output=True).returncode, "may not unshare")
    process = child(single, there, prefix=offline)
    assert json.loads(process.communicate(timeout=30)[0]) == [0, 0]
    start = time.monotonic()
    process = child(single, there, missing, prefix=offline)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert (process.returncode, err) == (1, "")
    assert out.splitlines()[:2] == [
        "missing.bin could not be had from any of 1 mirrors",
        "       only     no answer (Network is unreachable)",
    ]
