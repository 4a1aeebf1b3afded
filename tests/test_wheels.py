"""jingxiang.wheels, with a real mirror on this machine"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jingxiang import wheels
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import MirrorReport, Report, Unavailable
from jingxiang.fetch.resolve import Target
from jingxiang.fetch.schedule import Progress
from jingxiang.fetch.session import Session
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import Source
from jingxiang.storage import StoreClosed
from jingxiang.store import Store
from jingxiang.wheels import Wheels
from tests.peers.mirror import Mirror, Wheel, serving, wheel

ONE, TWO = wheel("one", "1.0", size=1000), wheel("two", "2.0", size=2000)
HERE = Target("3.11", ("py3-none-any",))


def locked(*files: Wheel) -> list[LockedPackage]:
    """As a lock names them: with the hash of another file of the same version."""
    return [LockedPackage(each.name, each.version, "", ("0" * 64, each.sha256)) for each in files]


def digests(*files: Wheel) -> dict[str, str]:
    return {each.file: each.sha256 for each in files}


@dataclass
class Site:
    """A mirror with two wheels, and a store."""

    mirror: Mirror
    store: Store
    planned: list[Artifact] = field(default_factory=list)
    shown: list[Progress] = field(default_factory=list)

    def fetched(self, packages: Sequence[LockedPackage], target: Target = HERE) -> tuple[Wheels, Report]:
        source = Source("near", "near", "pypi", "pep503", f"{self.mirror.url}/simple")
        with Session(self.store, {"pypi": [source]}) as session:
            return wheels.fetched(
                session, self.store, packages, target, planned=self.planned.extend, show=self.shown.append
            )

    def notes(self) -> list[Path]:
        return sorted((self.store.root / wheels.NOTES).iterdir())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with serving() as mirror:
        for each in (ONE, TWO):
            mirror.add_index(each)
        yield Site(mirror, Store(tmp_path / "store"))


def test_wheels_are_found_and_fetched_into_the_store(site: Site) -> None:
    found, report = site.fetched(locked(ONE, TWO))
    assert found == Wheels(site.store, digests(ONE, TWO))
    assert found.complete
    for each in (ONE, TWO):
        assert site.store.blob(each.sha256).read_bytes() == each.body
    size = len(ONE.body) + len(TWO.body)
    mirror = MirrorReport("near", 2, size, {})
    assert report == Report({x: x for x in (ONE.sha256, TWO.sha256)}, 2, size, report.seconds, 0, (mirror,))


def test_what_is_going_to_be_fetched_is_heard_before_it_is(site: Site) -> None:
    site.fetched(locked(TWO))
    assert site.planned == [Artifact("pypi", TWO.file, (TWO.sha256,), None, "two", "2.0")]
    assert site.shown
    assert site.mirror.paths() == ["/simple/two/", f"/packages/{TWO.file}"]


def test_how_far_it_is_never_goes_back_where_no_list_says_how_long_files_are(site: Site) -> None:
    def after_the_first(request: BaseHTTPRequestHandler) -> None:
        while not site.store.has(ONE.sha256):
            time.sleep(0.01)
        time.sleep(0.5)
        site.mirror.send(request, TWO.body)

    site.mirror.answers[f"/packages/{TWO.file}"] = after_the_first
    site.fetched(locked(ONE, TWO))
    assert (1, len(ONE.body)) in [(each.done_files, each.done_bytes) for each in site.shown]
    for done in ([each.done_bytes for each in site.shown], [each.total_bytes for each in site.shown]):
        assert done == sorted(done)


def test_a_file_whose_hash_no_list_says_is_known_by_the_one_that_it_has(site: Site) -> None:
    site.mirror.add_index(ONE, hashes=False)
    assert site.fetched(locked(ONE))[0].digests == digests(ONE)
    assert wheels.known(site.store, locked(ONE), HERE) == Wheels(site.store, digests(ONE))


def test_the_folder_holds_links_under_the_files_names_and_is_gone_afterwards(site: Site, tmp_path: Path) -> None:
    found, _ = site.fetched(locked(ONE, TWO))
    folder = tmp_path / "deep" / "wheels"
    (folder / "of a killed process").mkdir(parents=True)
    with found.folder(folder):
        links = {path.name: path.readlink() for path in folder.iterdir()}
        assert (folder / ONE.file).read_bytes() == ONE.body
    assert links == {each.file: site.store.blob(each.sha256) for each in (ONE, TWO)}
    assert list(folder.parent.iterdir()) == []


def test_one_process_at_a_time_has_the_folder(site: Site, tmp_path: Path) -> None:
    found, _ = site.fetched(locked(ONE, TWO))
    only = Wheels(site.store, digests(TWO))
    seen: list[list[str]] = []

    def second() -> None:
        with only.folder(tmp_path / "wheels"):
            seen.append(sorted(path.name for path in (tmp_path / "wheels").iterdir()))

    other = threading.Thread(target=second)
    with found.folder(tmp_path / "wheels"):
        other.start()
        other.join(0.2)
        seen.append(sorted(path.name for path in (tmp_path / "wheels").iterdir()))
    other.join()
    assert seen == [[ONE.file, TWO.file], [TWO.file]]


def test_what_one_run_has_found_the_next_one_knows_without_any_server(site: Site) -> None:
    site.fetched(locked(ONE, TWO))
    site.mirror.asked.clear()
    found = wheels.known(Store(site.store.root), locked(ONE, TWO), HERE)
    assert found == Wheels(site.store, digests(ONE, TWO))
    assert found.complete
    assert site.mirror.asked == []


def test_nothing_is_known_of_other_packages_or_another_python(site: Site) -> None:
    site.fetched(locked(ONE, TWO))
    for packages, target in (
        (locked(ONE), HERE),
        (locked(TWO, ONE), HERE),
        ([LockedPackage("one", "1.0", "", (ONE.sha256,)), *locked(TWO)], HERE),
        (locked(ONE, TWO), Target("3.12", HERE.tags)),
        (locked(ONE, TWO), Target("3.11", ("cp311-cp311-linux_x86_64", *HERE.tags))),
    ):
        assert wheels.known(site.store, packages, target) is None


@pytest.mark.parametrize("left", [b"", b"{", b'{"one-1.0', b"[]", b"1", b"\xff\xfe"])
def test_a_note_that_is_not_whole_is_none(site: Site, left: bytes) -> None:
    site.fetched(locked(ONE))
    (note,) = site.notes()
    note.write_bytes(left)
    assert wheels.known(site.store, locked(ONE), HERE) is None
    wheels.forget(site.store)  # does not stumble over it
    site.fetched(locked(ONE))
    assert wheels.known(site.store, locked(ONE), HERE) == Wheels(site.store, digests(ONE))


def test_what_has_left_the_store_is_fetched_again_and_nothing_else(site: Site) -> None:
    site.fetched(locked(ONE, TWO))
    site.store.blob(TWO.sha256).unlink()
    found = wheels.known(site.store, locked(ONE, TWO), HERE)
    assert found == Wheels(site.store, digests(ONE, TWO))
    assert not found.complete
    site.mirror.asked.clear()
    found, report = site.fetched(locked(ONE, TWO))
    assert found.complete
    assert report.fetched_files == 1
    assert [path for path in site.mirror.paths() if path.startswith("/packages/")] == [f"/packages/{TWO.file}"]


def test_notes_of_files_that_have_left_the_store_are_forgotten_and_the_others_stay(site: Site) -> None:
    wheels.forget(site.store)  # where there is none
    site.fetched(locked(ONE, TWO))
    site.fetched(locked(ONE))
    site.store.blob(TWO.sha256).unlink()
    wheels.forget(site.store)
    assert wheels.known(site.store, locked(ONE, TWO), HERE) is None
    assert wheels.known(site.store, locked(ONE), HERE) == Wheels(site.store, digests(ONE))
    assert len(site.notes()) == 1


def test_a_run_that_fails_notes_nothing_and_keeps_what_has_come(site: Site) -> None:
    site.mirror.answers[f"/packages/{TWO.file}"] = site.mirror.status(404)
    with pytest.raises(Unavailable, match=r"^two-2\.0-py3-none-any\.whl could not be had from any of 1 mirrors\n"):
        site.fetched(locked(ONE, TWO))
    assert wheels.known(site.store, locked(ONE, TWO), HERE) is None
    assert site.store.has(ONE.sha256)


def test_many_at_once_disturb_nobody(site: Site) -> None:
    """Two checkouts with the same lock, or two users."""
    site.fetched(locked(ONE, TWO))
    errors: list[BaseException] = []
    together = threading.Barrier(8)

    def fetch() -> None:
        together.wait(10)
        try:
            for _ in range(5):
                site.fetched(locked(ONE, TWO))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert [note.suffix for note in site.notes()] == [".json"]


def test_a_store_that_cannot_hold_notes_is_said(site: Site) -> None:
    site.store.root.mkdir()
    (site.store.root / wheels.NOTES).write_text("a file where the folder should be")
    with pytest.raises(StoreClosed, match="cannot be written: File exists"):
        site.fetched(locked(ONE))
