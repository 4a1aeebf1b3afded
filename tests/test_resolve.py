"""jingxiang.fetch.resolve, against real indexes on this machine"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from packaging import tags

from jingxiang.fetch import network, resolve
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.indexes import Configured, Indexes
from jingxiang.fetch.report import Missed, Unavailable
from jingxiang.fetch.resolve import Resolver, Target
from jingxiang.fetch.standings import Standings
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import Source
from tests.peers import system
from tests.peers.mirror import Mirror, serving

pytestmark = pytest.mark.usefixtures("no_proxy")

ROOT = Path(__file__).resolve().parent.parent
HERE = Target("3.11", ("cp311-cp311-manylinux_2_17_x86_64", "cp311-abi3-manylinux_2_17_x86_64", "py3-none-any"))
# Files of one version, the best for that target first; nothing fits of the last three.
FAST = "x-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
STABLE = "x-1-cp311-abi3-manylinux_2_17_x86_64.whl"
PURE = "x-1-py3-none-any.whl"
LATER, ARM, SOURCES = "x-1-cp312-cp312-manylinux_2_17_x86_64.whl", "x-1-cp311-cp311-linux_aarch64.whl", "x-1.tar.gz"
ALL = (SOURCES, PURE, LATER, STABLE, ARM, FAST)
NOWHERE = Configured((), ())
TAIL = f"aa/bb/{'c' * 60}/"


def sha(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()


def locked(*files: str, name: str = "x", version: str = "1", marker: str = "") -> LockedPackage:
    return LockedPackage(name, version, marker, tuple(sha(file) for file in files))


def html(files: Sequence[str], *, hashes: bool = True) -> bytes:
    links = (f"/f/{TAIL}{file}" + (f"#sha256={sha(file)}" if hashes else "") for file in files)
    return "".join(f'<a href="{link}">x</a>' for link in links).encode()


@pytest.fixture
def serve() -> Iterator[Callable[..., Mirror]]:
    """A mirror that lists these files of x, or nothing."""
    with ExitStack() as stack:

        def start(*files: str, hashes: bool = True) -> Mirror:
            mirror = stack.enter_context(serving())
            if files:
                mirror.files["/simple/x/"] = html(files, hashes=hashes)
            return mirror

        yield start


@pytest.fixture
def client() -> Iterator[Client]:
    found = Client(network.of({}))
    yield found
    found.close()


def source(name: str, url: str, layout: str = "pep503", space: str = "pypi") -> Source:
    return Source(name, name, space, layout, url)


class Run:
    """One run over sources, by default the indexes of mirrors, called `a`, `b`, …"""

    def __init__(self, client: Client, *sources: Source | Mirror, official: Configured = NOWHERE) -> None:
        found = [
            each if isinstance(each, Source) else source(name, f"{each.url}/simple")
            for name, each in zip("abcdef", sources, strict=False)
        ]
        self.standings = Standings({each.space: found for each in found})
        self._resolver = Resolver(Indexes(client, official), self.standings, HERE)

    def __call__(self, *packages: LockedPackage) -> tuple[Artifact, ...]:
        return self._resolver.resolve(packages)

    def missed(self, *packages: LockedPackage) -> tuple[Missed, ...]:
        with pytest.raises(Unavailable) as caught:
            self(*packages)
        return caught.value.missed

    def failures(self) -> dict[str, list[str]]:
        """What each mirror is blamed for."""
        return {each.mirror: list(each.reasons.values()) for each in self.standings.all() if each.reasons}


def of_x(file: str, size_bytes: int | None = None) -> Artifact:
    return Artifact("pypi", file, (sha(file),), size_bytes, "x", "1", TAIL + file)


# The machine.


def test_a_target_has_the_tags_of_its_python() -> None:
    python = f"{tags.interpreter_version()[0]}.{tags.interpreter_version()[1:]}"
    assert resolve.target(python) == Target(python, tuple(str(tag) for tag in tags.sys_tags()))


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_every_python_finds_the_same_tags_for_another_one(version: str) -> None:
    """The toolkit may run on any of them, the app's environment is of 3.11.

    Only where the tags without a manylinux belong is not agreed on by all versions of `packaging`.
    """
    pythons = system.pythons()
    if version not in pythons:
        pytest.skip(f"no Python {version} on this machine")
    code = "from jingxiang.fetch.resolve import target; print(*target('3.11').tags)"
    done = subprocess.run([pythons[version], "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    theirs, ours = (
        [tag for tag in found if not tag.endswith("-linux_x86_64")]
        for found in (done.stdout.split(), resolve.target("3.11").tags)
    )
    assert [tag for tag in ours if tag in theirs] == [tag for tag in theirs if tag in ours]
    assert {"cp311-abi3-manylinux_2_17_x86_64", "cp311-none-any", "py3-none-any"} <= {*theirs} & {*ours}


@pytest.mark.parametrize(
    ("marker", "wanted"),
    [
        ("", True),
        ('python_version < "3.11"', False),
        ('python_version >= "3.11"', True),
        ('python_full_version < "3.11.1"', True),
        ('sys_platform == "win32"', False),
        ('sys_platform == "linux" and platform_machine == "x86_64"', True),
    ],
)
def test_a_marker_is_that_of_the_target(marker: str, wanted: bool) -> None:
    assert HERE.wants(locked(PURE, marker=marker)) is wanted


@pytest.mark.parametrize(
    ("file", "rank"),
    [(FAST, 0), (STABLE, 1), (PURE, 2), (LATER, None), (ARM, None), (SOURCES, None), ("x-1.whl", None), ("", None)],
)
def test_a_wheel_is_ranked_by_its_name(file: str, rank: int | None) -> None:
    assert HERE.rank(file) == rank


# The choice.


@pytest.mark.parametrize("files", [ALL, ALL[::-1]])
def test_the_best_wheel_is_chosen_in_whatever_order_they_are_listed(
    serve: Callable[..., Mirror], client: Client, files: Sequence[str]
) -> None:
    assert Run(client, serve(*files))(locked(*files)) == (of_x(FAST),)


def test_what_the_lock_does_not_name_is_not_chosen(serve: Callable[..., Mirror], client: Client) -> None:
    """A wheel that was uploaded after the lock was made."""
    assert Run(client, serve(*ALL))(locked(PURE, SOURCES)) == (of_x(PURE),)


def test_packages_come_in_their_order_and_are_counted(serve: Callable[..., Mirror], client: Client) -> None:
    mirror = serve(PURE)
    wanted = [locked(f"{name}-1-py3-none-any.whl", name=name) for name in "zyxwvutsrqponm"]
    for package in wanted:
        mirror.files[f"/simple/{package.name}/"] = html([f"{package.name}-1-py3-none-any.whl"])
    counted: list[int] = []
    standings = Standings({"pypi": [source("a", f"{mirror.url}/simple")]})
    found = Resolver(Indexes(client, NOWHERE), standings, HERE).resolve(wanted, counted.append)
    assert [each.group for each in found] == [package.name for package in wanted]
    assert counted == list(range(1, len(wanted) + 1))


def test_json_says_the_length_too(serve: Callable[..., Mirror], client: Client) -> None:
    mirror = serve()
    files = [{"url": f"/f/{TAIL}{file}", "hashes": {"sha256": sha(file)}, "size": len(file)} for file in ALL]
    mirror.files["/simple/x/"] = json.dumps({"files": files}).encode()
    assert Run(client, mirror)(locked(*ALL)) == (of_x(FAST, len(FAST)),)


def test_a_list_without_hashes_leaves_all_that_the_lock_names(serve: Callable[..., Mirror], client: Client) -> None:
    (found,) = Run(client, serve(*ALL, hashes=False))(locked(*ALL))
    assert found == Artifact("pypi", FAST, tuple(map(sha, ALL)), None, "x", "1", TAIL + FAST)


@pytest.mark.parametrize("layout", ["pep503", "flat"])
def test_builds_of_pytorch_come_from_an_index_or_a_flat_page(
    serve: Callable[..., Mirror], client: Client, layout: str
) -> None:
    mirror, file = serve(), "torch-2.0%2Bcpu-cp311-cp311-manylinux_2_17_x86_64.whl"
    page = "/whl/cpu/torch/" if layout == "pep503" else "/whl/cpu/"
    mirror.files[page] = html([file, file.replace("cpu", "cu128"), "vision-1%2Bcpu-py3-none-any.whl"])
    package = locked(file, name="torch", version="2.0+cpu")
    run = Run(client, source("a", f"{mirror.url}/whl/{{build}}/", layout, "torch"))
    name = file.replace("%2B", "+")
    assert run(package) == (Artifact("torch", name, (sha(file),), None, "torch", "2.0+cpu", TAIL + file),)
    assert mirror.paths() == [page]


# Lists that are old, lie, or are not whole.


def test_a_mirror_that_is_old_is_passed_over(serve: Callable[..., Mirror], client: Client) -> None:
    run = Run(client, serve("x-0.9-py3-none-any.whl"), serve(PURE))
    assert run(locked(PURE)) == (of_x(PURE),)
    assert run.failures() == {"a": ["stale: x 1 not there yet"]}


def test_a_mirror_that_lies_is_passed_over(serve: Callable[..., Mirror], client: Client) -> None:
    liar = serve()
    liar.files["/simple/x/"] = html([PURE]).replace(sha(PURE).encode(), b"0" * 64)
    run = Run(client, liar, serve(PURE))
    assert run(locked(PURE)) == (of_x(PURE),)
    assert run.failures() == {"a": ["checksum differs in its index"]}


def test_a_mirror_without_a_wheel_for_this_machine_is_passed_over(serve: Callable[..., Mirror], client: Client) -> None:
    run = Run(client, serve(ARM, LATER, SOURCES), serve(*ALL))
    assert run(locked(*ALL)) == (of_x(FAST),)
    assert run.failures() == {"a": ["has no wheel for Python 3.11 on this machine"]}


def test_a_list_that_lacks_files_of_the_lock_is_not_the_last_word(serve: Callable[..., Mirror], client: Client) -> None:
    """A mirror may have got the pure wheel by now, and the fast one not yet."""
    run = Run(client, serve(PURE, SOURCES), serve(SOURCES, PURE, STABLE), serve(*ALL))
    assert run(locked(*ALL)) == (of_x(FAST),)
    assert run.failures() == {}


def test_a_list_that_names_all_is_the_last_word(serve: Callable[..., Mirror], client: Client) -> None:
    first, second = serve(*ALL), serve(*ALL)
    Run(client, first, second)(locked(*ALL))
    assert second.asked == []


def test_of_lists_of_which_none_names_all_three_are_read(serve: Callable[..., Mirror], client: Client) -> None:
    peers = [serve(PURE), serve(PURE), serve(STABLE), serve(FAST)]
    assert Run(client, *peers)(locked(*ALL)) == (of_x(STABLE),)
    assert [len(peer.asked) for peer in peers] == [1, 1, 1, 0]


def test_a_hash_that_one_list_lacks_is_taken_from_another(serve: Callable[..., Mirror], client: Client) -> None:
    run = Run(client, serve(PURE, hashes=False), serve(PURE, SOURCES))
    assert run(locked(PURE, SOURCES)) == (of_x(PURE),)


def test_a_web_page_is_no_list(serve: Callable[..., Mirror], client: Client) -> None:
    wall = serve()
    wall.files["/simple/x/"] = b'<html><body>Blocked. <a href="/appeal">Why?</a></body></html>'
    run = Run(client, wall, serve(PURE))
    assert run(locked(PURE)) == (of_x(PURE),)
    assert run.failures() == {"a": ["200 but HTML: not a mirror of this space"]}


# Other places.


def test_a_folder_is_a_mirror(client: Client, tmp_path: Path) -> None:
    """As `bundle` writes it: a page for each project, or just its files."""
    (tmp_path / "pages" / "x").mkdir(parents=True)
    (tmp_path / "pages" / "x" / "index.html").write_bytes(html(ALL))
    assert Run(client, source("a", (tmp_path / "pages").as_uri()))(locked(*ALL)) == (of_x(FAST),)
    (tmp_path / "files" / "x").mkdir(parents=True)
    for file in (PURE, SOURCES):
        (tmp_path / "files" / "x" / file).write_bytes(b"1234")
    found = Run(client, source("a", (tmp_path / "files").as_uri()))(locked(*ALL))
    assert found == (Artifact("pypi", PURE, tuple(map(sha, ALL)), 4, "x", "1"),)


def test_official_is_every_place_that_pip_is_set_to(
    serve: Callable[..., Mirror], client: Client, tmp_path: Path
) -> None:
    index, extra = serve(PURE), serve(STABLE)
    (tmp_path / "y-1-py3-none-any.whl").write_bytes(b"1")
    places = Configured((f"{index.url}/simple", f"{extra.url}/simple"), (str(tmp_path),))
    run = Run(client, source("official", ""), official=places)
    y = locked("y-1-py3-none-any.whl", name="y")
    assert run(locked(PURE, STABLE), y) == (
        of_x(STABLE),
        Artifact("pypi", "y-1-py3-none-any.whl", y.hashes, 1, "y", "1"),
    )


def test_one_broken_place_of_pips_does_no_harm(serve: Callable[..., Mirror], client: Client) -> None:
    index = serve(PURE)
    places = Configured(("http://127.0.0.1:9/simple", f"{index.url}/simple"), ("/nowhere",))
    run = Run(client, source("official", ""), official=places)
    assert run(locked(PURE)) == (of_x(PURE),)
    assert run.failures() == {}


def test_a_file_that_a_place_of_pips_has_built_anew_does_not_hide_the_locked_one(
    serve: Callable[..., Mirror], client: Client
) -> None:
    anew, extra = serve(), serve(PURE)
    anew.files["/simple/x/"] = html([PURE]).replace(sha(PURE).encode(), b"0" * 64)
    places = Configured((f"{anew.url}/simple", f"{extra.url}/simple"), ())
    assert Run(client, source("official", ""), official=places)(locked(PURE)) == (of_x(PURE),)


# When all have failed.


def test_what_nobody_has_is_said_with_what_each_mirror_did(serve: Callable[..., Mirror], client: Client) -> None:
    blocked, liar = serve(), serve()
    blocked.answers[""] = blocked.status(403)
    liar.files["/simple/x/"] = html([PURE]).replace(sha(PURE).encode(), b"0" * 64)
    peers = (blocked, liar, serve("x-0.9-py3-none-any.whl"), serve(ARM), serve())
    assert Run(client, *peers).missed(locked(PURE, ARM)) == (
        Missed(
            "x 1",
            (
                ("a", "403: blocked by its firewall"),
                ("b", "checksum differs in its index"),
                ("c", "stale: x 1 not there yet"),
                ("d", "has no wheel for Python 3.11 on this machine"),
                ("e", "404: not there, or not synced yet"),
            ),
        ),
    )


def test_all_that_is_missing_is_said_at_once(serve: Callable[..., Mirror], client: Client) -> None:
    missing = [locked(PURE, name=name) for name in "yz"]
    reasons = (("a", "404: not there, or not synced yet"),)
    missed = Run(client, serve(PURE)).missed(missing[0], locked(PURE), missing[1])
    assert missed == (Missed("y 1", reasons), Missed("z 1", reasons))


def test_where_no_mirror_offers_the_space_that_is_said(client: Client) -> None:
    missed = Run(client).missed(locked(PURE))
    assert missed == (Missed("x 1", ()),)
    assert "x 1: no mirror offers such files" in Unavailable(missed).message


def test_a_hiccup_is_asked_again(serve: Callable[..., Mirror], client: Client) -> None:
    mirror = serve(PURE)

    def hiccup(request: BaseHTTPRequestHandler) -> None:
        mirror.answers.clear()
        request.send_error(502)

    mirror.answers["/simple/x/"] = hiccup
    assert Run(client, mirror)(locked(PURE)) == (of_x(PURE),)
    assert mirror.paths() == ["/simple/x/"] * 2


def test_a_mirror_that_blocks_us_is_not_asked_for_every_package(serve: Callable[..., Mirror], client: Client) -> None:
    blocked, good = serve(), serve()
    blocked.answers[""] = blocked.status(403)
    wanted = [locked(f"p{number}-1-py3-none-any.whl", name=f"p{number}") for number in range(60)]
    for package in wanted:
        good.files[f"/simple/{package.name}/"] = html([f"{package.name}-1-py3-none-any.whl"])
    run = Run(client, blocked, good)
    assert len(run(*wanted)) == 60
    assert len(blocked.asked) <= resolve.THREADS
    assert run.failures() == {"a": ["403: blocked by its firewall"]}


def test_who_ends_it_does_not_wait_for_a_silent_server(serve: Callable[..., Mirror], client: Client) -> None:
    """As Ctrl-C does, after the first package."""
    mirror = serve(PURE)
    wanted = [locked(PURE), *(locked(PURE, name=name) for name in "yz")]
    for name in "yz":
        mirror.answers[f"/simple/{name}/"] = mirror.silent

    def end(done: int) -> None:
        raise KeyboardInterrupt

    standings = Standings({"pypi": [source("a", f"{mirror.url}/simple")]})
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Resolver(Indexes(client, NOWHERE), standings, HERE).resolve(wanted, end)
    assert time.monotonic() - start < 2


def test_lists_are_read_side_by_side(serve: Callable[..., Mirror], client: Client) -> None:
    mirror, together = serve(), threading.Barrier(4)  # connections to one host
    wanted = [locked(f"p{number}-1-py3-none-any.whl", name=f"p{number}") for number in range(8)]

    def wait(request: BaseHTTPRequestHandler) -> None:
        together.wait(5)
        mirror.send(request, mirror.files[request.path])

    for package in wanted:
        path = f"/simple/{package.name}/"
        mirror.files[path] = html([f"{package.name}-1-py3-none-any.whl"])
        mirror.answers[path] = wait
    assert len(Run(client, mirror)(*wanted)) == 8
