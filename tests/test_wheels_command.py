"""jingxiang.commands.wheels, with good and bad mirrors on this machine"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jingxiang import console, locks, mirrors, ranking
from jingxiang.commands import wheels
from jingxiang.errors import JingxiangError
from jingxiang.fetch.report import Unavailable
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import Wheels
from tests.peers import faults
from tests.peers.mirror import Mirror, Wheel, serving, wheel

ONE, TWO, OLD = wheel("one", "1.0", size=1000), wheel("two", "2.0", size=300_000), wheel("one", "0.9")
BUILT = wheel("torchlike", "2.0+cpu", size=2000)
NOBODY = Path("/nowhere/python")  # not run
TIME = re.compile(r" in [0-9.]+ s ")


@dataclass
class Site:
    """A checkout with a lock, a store, and mirrors; `official` is a closed port unless pip is set to another one."""

    places: Places
    serve: Callable[[], Mirror]

    def mirror(self, *listed: Wheel, **options: bool) -> Mirror:
        found = self.serve()
        for each in listed:
            found.add_index(each, **options)  # type: ignore[arg-type]
        return found

    def named(self, **urls: str) -> None:
        """mirrors.toml with these simple indexes."""
        self.tables(**{name: f'pypi = {{ layout = "pep503", url = "{url}/simple" }}' for name, url in urls.items()})

    def tables(self, **spaces: str) -> None:
        text = "[official]\n" + "".join(f"[{name}]\n{table}\n" for name, table in spaces.items())
        (self.places.root / "mirrors.toml").write_text(text)

    def lock(self, *files: Wheel, more: str = "") -> None:
        lines = [f"{each.name}=={each.version} --hash=sha256:{each.sha256}" for each in files]
        (self.places.root / "cpu.txt").write_text("\n".join([*lines, more]))

    def get(
        self, mirror: str = "auto", pip: Path | None = None, meanwhile: wheels.Meanwhile = wheels.nothing
    ) -> Wheels:
        lock, known = locks.read(self.places.root / "cpu.txt"), mirrors.load(self.places.root)
        wanted = wheels.Wanted(lock, "3.11", pip or Path(sys.executable))
        return wheels.get(self.places, known, wanted, mirror=mirror, meanwhile=meanwhile)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in os.environ:
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    (tmp_path / "checkout").mkdir()
    with ExitStack() as stack:
        places = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
        found = Site(places, lambda: stack.enter_context(serving()))
        found.lock(ONE, TWO)
        yield found


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of stderr, without how long it took; stdout is empty."""
    out, err = capsys.readouterr()
    assert out == ""
    return [TIME.sub(" in N s ", line) for line in err.splitlines()]


def size(*files: Wheel) -> str:
    return console.size(sum(len(each.body) for each in files))


def digests(*files: Wheel) -> dict[str, str]:
    return {each.file: each.sha256 for each in files}


def test_it_is_said_who_is_asked_how_much_is_to_come_and_what_came(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.named(good=site.mirror(ONE, TWO).url)
    assert site.get("good") == Wheels(Store(site.places.store), digests(ONE, TWO))
    assert said(capsys) == [
        "mirrors  pypi good, official",
        "plan     2 of 2 files to fetch (how long 2 of them are is not listed)",
        f"fetch    {size(ONE, TWO)} in N s   good {size(ONE, TWO)} (2 files) · every hash checked",
    ]


def test_a_second_run_asks_nobody_not_even_pip(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    good = site.mirror(ONE, TWO)
    site.named(good=good.url)
    first = site.get("good")
    said(capsys)
    good.asked.clear()
    connections = good.connections
    assert site.get("auto", pip=NOBODY) == first
    assert said(capsys) == ["fetch    all 2 files are in the store"]
    assert (good.asked, good.connections) == ([], connections)


def test_the_named_mirror_comes_first_and_the_origin_last(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    peers = {name: site.mirror(ONE, TWO) for name in "abcdef"}
    site.named(**{name: peer.url for name, peer in peers.items()})
    site.get("d")
    assert said(capsys)[0] == "mirrors  pypi d, a, b, c, …"
    assert {name for name, peer in peers.items() if peer.asked} == {"d"}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("403", "403: blocked by its firewall"),
        ("404", "404: not there, or not synced yet"),
        ("503", "503 Service Unavailable"),
        ("page", "200 but HTML: not a mirror of this space"),
        ("loop", "its redirects lead nowhere"),
        ("no_http", "does not speak HTTP"),
    ],
)
def test_a_bad_mirror_is_said_and_passed_over(
    site: Site, capsys: pytest.CaptureFixture[str], fault: str, text: str
) -> None:
    bad, good = site.mirror(ONE, TWO), site.mirror(ONE, TWO)
    bad.answers[""] = faults.always(bad, faults.FAULTS[fault])
    site.named(bad=bad.url, good=good.url)
    assert site.get("bad").complete
    *_, summary, failure = said(capsys)
    assert summary.startswith(f"fetch    {size(ONE, TWO)} in N s   good {size(ONE, TWO)} (2 files) · ")
    # the second file may have been looked for after the first one's failure, and elsewhere
    assert failure in [f"         bad: {text} ({count})" for count in ("1 file", "2 files")]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("corrupt at the middle", "checksum differs"),
        ("shorter", "checksum differs"),
        ("longer", "checksum differs"),
        ("404", "404: not there, or not synced yet"),
    ],
)
def test_a_file_that_is_not_right_is_fetched_elsewhere(
    site: Site, capsys: pytest.CaptureFixture[str], fault: str, text: str
) -> None:
    """The list of the bad mirror is good."""
    bad, good = site.mirror(ONE, TWO), site.mirror(ONE, TWO)
    bad.answers[f"/packages/{ONE.file}"] = faults.always(bad, faults.FAULTS[fault])
    site.named(bad=bad.url, good=good.url)
    found = site.get("bad")
    assert found.complete
    assert found.store.blob(ONE.sha256).read_bytes() == ONE.body
    *_, summary, failure = said(capsys)
    assert summary.endswith(" · files moved on: 1, every hash checked")
    assert failure == f"         bad: {text} (1 file)"


def test_auto_measures_and_takes_what_has_the_locked_version(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    stale, good = site.mirror(OLD), site.mirror(ONE, TWO)
    site.named(stale=stale.url, good=good.url)
    assert site.get("auto").complete
    assert said(capsys)[0] == "mirrors  pypi good, stale, official"
    assert stale.paths() in (["/simple/one/"], ["/simple/two/"])  # when it was measured
    assert ranking.fresh(site.places.home, time.time())["pypi"].names == ("good",)


def test_the_order_is_kept_for_the_next_lock(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    other, good = site.mirror(ONE, TWO), site.mirror(ONE, TWO)
    site.named(other=other.url, good=good.url)
    ranking.keep(site.places.home, {"pypi": ("good",)}, time.time() - 60)
    assert site.get("auto").complete
    assert said(capsys)[0] == "mirrors  pypi good, other, official"
    assert other.asked == []


def test_official_is_what_pip_is_set_to(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An index with a login for the one, a folder for the other."""
    company = site.mirror(ONE)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / TWO.file).write_bytes(TWO.body)
    monkeypatch.setenv("PIP_INDEX_URL", company.url.replace("http://", "http://li:p%40ss@") + "/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    site.named()
    assert site.get("official").digests == digests(ONE, TWO)
    assert {request.headers["Authorization"] for request in company.asked} == {"Basic bGk6cEBzcw=="}  # li:p@ss


def test_several_hashes_and_none_in_the_list_is_no_obstacle(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of the locked files it is shows when it is here; the next run knows it."""
    bad, good = site.mirror(TWO, hashes=False), site.mirror(TWO, hashes=False)
    for each in (bad, good):
        each.files["/simple/two/"] += b'<a href="/two-2.0.tar.gz">two-2.0.tar.gz</a>'
    bad.files[f"/packages/{TWO.file}"] = TWO.body[:-1] + b"x"
    site.named(bad=bad.url, good=good.url)
    (site.places.root / "cpu.txt").write_text(f"two==2.0 --hash=sha256:{'0' * 64} --hash=sha256:{TWO.sha256}\n")
    assert site.get("bad") == Wheels(Store(site.places.store), digests(TWO))
    assert said(capsys)[-1] == "         bad: checksum differs (1 file)"
    site.get("bad", pip=NOBODY)
    assert said(capsys) == ["fetch    all 1 files are in the store"]


@pytest.mark.parametrize("layout", ["pep503", "flat"])
@pytest.mark.parametrize("hashes", [True, False])
def test_pytorchs_builds_come_from_their_own_space(
    site: Site, capsys: pytest.CaptureFixture[str], layout: str, hashes: bool
) -> None:
    good, builds = site.mirror(ONE), site.serve()
    builds.add_index(BUILT, form="flat" if layout == "flat" else "html", root="/whl/cpu", hashes=hashes)
    site.tables(
        good=f'pypi = {{ layout = "pep503", url = "{good.url}/simple" }}',
        builds=f'torch = {{ layout = "{layout}", url = "{builds.url}/whl/{{build}}/" }}',
    )
    site.lock(ONE, BUILT)
    assert site.get("good").digests == digests(ONE, BUILT)
    assert said(capsys)[0] == "mirrors  pypi good, official · torch builds, official"
    assert [path for path in good.paths() if "torch" in path] == []
    assert builds.paths()[-1] == f"/packages/{BUILT.file}"


def test_pips_own_folder_of_links_serves_pytorch_first(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even if the index that pip is set to is a closed port."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / BUILT.file).write_bytes(BUILT.body)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    good, far = site.mirror(ONE), site.serve()
    site.tables(
        good=f'pypi = {{ layout = "pep503", url = "{good.url}/simple" }}',
        far=f'torch = {{ layout = "flat", url = "{far.url}/" }}',
    )
    site.lock(ONE, BUILT)
    assert site.get("good").digests == digests(ONE, BUILT)
    assert said(capsys) == [
        "mirrors  pypi good, official · torch official, far",
        f"plan     2 of 2 files to fetch, {size(BUILT)} (how long 1 of them are is not listed)",
        f"fetch    {size(ONE, BUILT)} in N s   good {size(ONE)} (1 file) · official {size(BUILT)} (1 file) "
        "· every hash checked",
    ]


def test_what_the_python_does_not_want_is_not_fetched(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    good = site.mirror(ONE)
    site.named(good=good.url)
    site.lock(ONE, more=f'tomli==2.0 ; python_version < "3.11" --hash=sha256:{"1" * 64}\n')
    assert site.get("good").digests == digests(ONE)
    assert [path for path in good.paths() if "tomli" in path] == []


def test_what_has_left_the_store_comes_again_and_nothing_else(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.named(good=site.mirror(ONE, TWO).url)
    found = site.get("good")
    found.store.blob(ONE.sha256).unlink()
    said(capsys)
    assert site.get("good").complete
    assert said(capsys)[1:] == [
        f"plan     1 of 2 files to fetch (how long 1 of them are is not listed); {size(TWO)} in the store",
        f"fetch    {size(ONE)} in N s   good {size(ONE)} (1 file) · every hash checked",
    ]


def test_files_that_are_here_are_used_while_others_are_still_coming(site: Site) -> None:
    good, used = site.mirror(ONE, TWO), threading.Event()
    site.named(good=good.url)
    calls: list[dict[str, str]] = []

    def late(request: BaseHTTPRequestHandler) -> None:
        used.wait(10)
        good.send(request, TWO.body)

    @contextlib.contextmanager
    def meanwhile(store: Store) -> Iterator[Callable[[Wheels], None]]:
        def use(found: Wheels) -> None:
            assert found.complete
            calls.append(dict(found.digests))
            used.set()

        yield use
        calls.append({})  # the end comes after the last use

    good.answers[f"/packages/{TWO.file}"] = late
    assert site.get("good", meanwhile=meanwhile).digests == digests(ONE, TWO)
    assert calls[0] == digests(ONE)
    assert calls[-1] == {}


def test_what_fails_meanwhile_ends_nothing(site: Site) -> None:
    """It is done again afterwards, and says then what is wrong."""
    site.named(good=site.mirror(ONE, TWO).url)

    @contextlib.contextmanager
    def meanwhile(store: Store) -> Iterator[Callable[[Wheels], None]]:
        def use(found: Wheels) -> None:
            raise JingxiangError("no room")

        yield use

    assert site.get("good", meanwhile=meanwhile).complete


def test_a_fetch_that_fails_ends_what_goes_on_meanwhile(site: Site) -> None:
    good, ended = site.mirror(ONE, TWO), threading.Event()
    good.answers[f"/packages/{TWO.file}"] = good.status(404)
    site.named(good=good.url)

    @contextlib.contextmanager
    def meanwhile(store: Store) -> Iterator[Callable[[Wheels], None]]:
        try:
            yield lambda found: None
        finally:
            ended.set()

    with pytest.raises(Unavailable):
        site.get("good", meanwhile=meanwhile)
    assert ended.is_set()
    assert [thread.name for thread in threading.enumerate() if thread.name == "meanwhile"] == []


def test_a_file_that_nobody_has_right_is_an_error_that_names_everybody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt, missing, company = site.mirror(ONE, TWO), site.mirror(ONE, TWO), site.mirror()
    monkeypatch.setenv("PIP_INDEX_URL", f"{company.url}/simple")
    spoilt.files[f"/packages/{TWO.file}"] = TWO.body[:-1] + b"x"
    del missing.files[f"/packages/{TWO.file}"]
    site.named(spoilt=spoilt.url, missing=missing.url)
    with pytest.raises(Unavailable) as caught:
        site.get("spoilt")
    assert caught.value.message.splitlines() == [
        f"{TWO.file} could not be had from any of 3 mirrors",
        "       spoilt   checksum differs",
        "       missing  404: not there, or not synced yet",
        "       official 404: not there, or not synced yet",
        "       what was fetched is kept",
    ]
    assert caught.value.hints == ("python3 tasks.py mirrors --probe", "the same command with --mirror NAME")
    assert [Store(site.places.store).has(each.sha256) for each in (ONE, TWO)] == [True, False]


def test_a_version_that_nobody_lists_is_an_error_before_anything_is_fetched(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = site.mirror(OLD, TWO)
    site.named(stale=stale.url)
    with pytest.raises(Unavailable) as caught:
        site.get("stale")
    assert caught.value.message.splitlines()[:2] == [
        "one 1.0 could not be had from any of 2 mirrors",
        "       stale    stale: one 1.0 not there yet",
    ]
    assert [path for path in stale.paths() if path.startswith("/packages/")] == []
    assert said(capsys) == ["mirrors  pypi stale, official"]


def test_a_password_in_an_address_is_never_shown(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    good = site.mirror(ONE)
    site.named(own=good.url.replace("http://", "http://li:verysecret@"))
    with pytest.raises(Unavailable) as caught:
        site.get("own")
    assert "verysecret" not in caught.value.message + "".join(said(capsys))


def test_it_speaks_chinese(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    bad, good = site.mirror(ONE, TWO), site.mirror(ONE, TWO)
    bad.answers[""] = bad.status(404)
    site.named(bad=bad.url, good=good.url)
    site.get("bad")
    site.get("bad", pip=NOBODY)
    lines = said(capsys)
    assert len(lines) == 5
    words = {word for line in lines for word in re.findall("[A-Za-z]{3,}", line)}
    assert words == {"pypi", "bad", "good", "official"}
