"""jingxiang.fetch.engine, against real servers that fail in every way we know"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import pytest

from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.report import Missed, Unavailable
from jingxiang.fetch.schedule import Patience, Progress, Schedule
from jingxiang.fetch.session import Session
from jingxiang.fetch.standings import Standings
from jingxiang.store import Store
from tests.peers import faults, site, system
from tests.peers.faults import FAULTS
from tests.peers.site import MB, Site, data, path

pytestmark = pytest.mark.usefixtures("no_proxy")

Answer = Callable[[BaseHTTPRequestHandler], None]
# What a mirror does once it would do again: it is not asked a second time for the same file.
LASTING = {
    "400", "401", "403", "404", "410", "416", "429", "page", "hidden_page", "empty", "longer", "shorter", "loop",
    "endless", "announced_too_long", "corrupt at the start", "corrupt at the middle", "corrupt at the end",
}  # fmt: skip


def survive(folder: Path, name: str, length: str) -> None:
    """A large and a small file, from a mirror that has the fault and from one that has not."""
    with site.serving(folder, "bad", "good") as pair:
        known = length == "length known"
        wanted = [
            pair.add("weights.bin", data(3 * MB), size_known=known),
            pair.add("small.json", data(1000, 2), size_known=known),
        ]
        bad = pair.mirrors["bad"]
        bad.answers[""] = faults.always(bad, FAULTS[name])
        report = pair.fetch(*wanted)
        assert pair.has(*wanted)
        assert site.said(report, "bad")
        assert site.said(report, "good") == {}
        assert (report.fetched_files, report.fetched_bytes) == (2, 3 * MB + 1000)


def recover(folder: Path, name: str, _: str) -> None:
    """The only mirror has the fault, once for each file."""
    with site.serving(folder, "only") as single:
        wanted = single.add("weights.bin", data(3 * MB)), single.add("small.json", data(1000, 2))
        only = single.mirrors["only"]
        only.answers[""] = faults.once(only, FAULTS[name])
        single.fetch(*wanted)
        assert single.has(*wanted)


SURVIVED = [(name, length) for name in FAULTS for length in ("length known", "length unknown")]
RECOVERED = [(name, "once") for name in FAULTS if name not in LASTING]
Work = Callable[[Path, str, str], None]
Outcome = Callable[[], None]
ALL: tuple[tuple[Work, list[tuple[str, str]]], ...] = ((survive, SURVIVED), (recover, RECOVERED))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Outcome]:
    """All of them at the same time: they spend it on waiting for what does not come."""
    folder = tmp_path_factory.mktemp("outcomes")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(16) as pool:
        system.without_proxy(patch)
        found = {case: pool.submit(work, folder / " ".join(case), *case) for work, cases in ALL for case in cases}
        wait(found.values())
    return {case: future.result for case, future in found.items()}


@pytest.mark.parametrize("case", SURVIVED, ids=", ".join)
def test_a_fault_costs_seconds_and_the_files_are_right(
    outcomes: dict[tuple[str, str], Outcome], case: tuple[str, str]
) -> None:
    outcomes[case]()


@pytest.mark.parametrize("case", RECOVERED, ids=", ".join)
def test_a_mirror_without_another_gets_a_second_chance(
    outcomes: dict[tuple[str, str], Outcome], case: tuple[str, str]
) -> None:
    outcomes[case]()


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address that answers no connection: its queue is full. As a firewall that drops packets."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("closed", "no answer (Connection refused)"),
        ("unknown", "its name is not known"),
        ("hole", "timed out"),
        ("plain", "no TLS"),
    ],
)
def test_a_mirror_that_cannot_be_reached_is_asked_once(three: Site, where: str, said: str) -> None:
    wanted = [three.add(f"{number}.bin", data(1000, number)) for number in range(20)]
    with black_hole() as hole:
        plain = three.mirrors.pop("one")
        three.addresses["one"] = {
            "closed": closed_port(),
            "unknown": "http://no-such-name.invalid",
            "hole": hole,
            "plain": plain.url.replace("http://", "https://"),
        }[where]
        start = time.monotonic()
        report = three.fetch(*wanted)
    assert time.monotonic() - start < 8
    assert three.has(*wanted)
    [(text, count)] = site.said(report, "one").items()
    assert text.startswith(said)
    assert count <= 4  # those that were under way when it was given up


def test_when_all_fail_each_is_named_with_its_reason(three: Site) -> None:
    lost, kept = three.add("lost.bin", data(5000)), three.add("kept.bin", data(5000, 2))
    one, two, last = three.mirrors.values()
    one.answers[path("lost.bin")] = faults.always(one, faults.status(403))
    two.answers[path("lost.bin")] = faults.always(two, faults.status(404))
    last.answers[path("lost.bin")] = faults.always(last, faults.corrupt)
    with pytest.raises(Unavailable) as caught:
        three.fetch(lost, kept)
    assert caught.value.message == (
        "lost.bin could not be had from any of 3 mirrors\n"
        "       one      403: blocked by its firewall\n"
        "       two      404: not there, or not synced yet\n"
        "       three    checksum differs\n"
        "       what was fetched is kept"
    )
    assert caught.value.exit_code == 1
    assert three.has(kept)
    assert not three.store.has(lost.key)


def test_files_with_the_same_fate_share_a_message(single: Site) -> None:
    wanted = [single.add(f"{number}.bin", data(100, number)) for number in range(30)]
    single.mirrors["only"].answers[""] = faults.always(single.mirrors["only"], faults.status(404))
    with pytest.raises(Unavailable) as caught:
        single.fetch(*wanted)
    first, *rest = caught.value.message.splitlines()
    assert first.endswith(".bin and 29 more could not be had from any of 1 mirrors")
    assert len(rest) == 2


def test_without_any_mirror_that_is_said(tmp_path: Path) -> None:
    with site.serving(tmp_path) as nothing, pytest.raises(Unavailable) as caught:
        nothing.fetch(site.artifact("weights.bin", b"x"))
    assert caught.value.missed == (Missed("weights.bin", ()),)
    assert caught.value.message.startswith("weights.bin: no mirror offers such files\n")


def test_a_firewall_is_not_stormed(pair: Site) -> None:
    wanted = [pair.add(f"{number}.bin", data(100, number)) for number in range(60)]
    bad = pair.mirrors["bad"]
    bad.answers[""] = faults.always(bad, faults.status(403))
    pair.fetch(*wanted)
    assert pair.has(*wanted)
    # Four connections, three failures in a row: then it is left alone.
    assert len(bad.asked) <= 3 + 4
    assert len(set(bad.paths())) == len(bad.asked)


def test_too_many_requests_are_heeded(pair: Site) -> None:
    wanted = [pair.add(f"{number}.bin", data(100, number)) for number in range(40)]
    bad = pair.mirrors["bad"]
    bad.answers[""] = faults.always(bad, faults.status(429, {"Retry-After": "30"}))
    pair.fetch(*wanted)
    assert pair.has(*wanted)
    assert len(bad.asked) <= 4


def test_the_only_mirror_is_waited_for_as_it_asks(single: Site) -> None:
    wanted = single.add("weights.bin", data(1000))
    only, asked = single.mirrors["only"], []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            faults.status(429, {"Retry-After": "2"})(only, request)
        else:
            only.send(request, only.files[request.path])

    only.answers[""] = answer
    single.fetch(wanted)
    assert single.has(wanted)
    assert asked[1] - asked[0] >= 2


def test_the_next_one_is_of_another_failure_domain(three: Site) -> None:
    wanted = three.add("weights.bin", data(1000))
    three.domains = {"one": "tuna", "two": "tuna", "three": "aliyun"}
    for name in ("one", "two"):
        three.mirrors[name].answers[""] = faults.always(three.mirrors[name], faults.status(404))
    three.fetch(wanted)
    assert [len(each.asked) for each in three.mirrors.values()] == [1, 0, 1]


def test_a_mirror_that_fails_is_asked_last_from_then_on(three: Site) -> None:
    one, two, _ = three.mirrors.values()
    first = three.add("first.bin", data(2000))
    one.answers[path("first.bin")] = faults.always(one, faults.corrupt)
    later = [three.add(f"{number}.bin", data(100, number)) for number in range(20)]
    with Session(three.store, {"hub": three.sources()}) as session:
        session.fetch([first])
        one.asked.clear()
        session.fetch(later)
    assert three.has(first, *later)
    assert (one.asked, bool(two.asked)) == ([], True)


@pytest.mark.parametrize("behaviour", ["unranged", "chunked"])
def test_a_server_without_ranges_or_lengths_is_good_enough(single: Site, behaviour: str) -> None:
    wanted = single.add("weights.bin", data(6 * MB)), single.add("unknown.bin", data(3 * MB, 2), size_known=False)
    only = single.mirrors["only"]
    only.answers[""] = faults.always(only, getattr(faults, behaviour))
    report = single.fetch(*wanted)
    assert single.has(*wanted)
    assert report.mirrors[0].failures == {}


def test_an_empty_file_is_a_file(single: Site) -> None:
    wanted = single.add("empty.txt", b""), single.add("unknown.txt", b"", size_known=False)
    single.fetch(wanted[0])
    assert single.mirrors["only"].asked == []  # its length and its hash say all there is to say
    single.store.blob(wanted[0].key).unlink()
    single.fetch(wanted[1])
    assert single.has(*wanted)


def test_what_is_there_is_not_fetched(single: Site) -> None:
    wanted = single.add("weights.bin", data(1000))
    single.fetch(wanted)
    single.mirrors["only"].asked.clear()
    report = single.fetch(wanted, wanted)
    assert (report.fetched_files, report.lines(), report.digests) == (0, [], {wanted.key: wanted.key})
    assert single.mirrors["only"].asked == []


def test_the_same_file_twice_is_fetched_once(single: Site) -> None:
    wanted = single.add("weights.bin", data(1000))
    copy = Artifact("hub", "copy.bin", wanted.hashes, wanted.size_bytes, wanted.group, wanted.version, wanted.path)
    single.fetch(wanted, copy)
    assert len(single.mirrors["only"].asked) == 1


def test_a_file_of_several_that_it_may_be(single: Site) -> None:
    """A list without hashes, and a lock that names the files of all platforms."""
    body = data(5000)
    sure = single.add("a.whl", body)
    unsure = Artifact("hub", "a.whl", ("f" * 64, sure.key), None, sure.group, sure.version, sure.path)
    assert unsure.key not in unsure.hashes
    report = single.fetch(unsure)
    assert report.digests == {unsure.key: sure.key}
    assert single.has(sure)
    wrong = Artifact("hub", "a.whl", ("e" * 64, "f" * 64), None, sure.group, sure.version, sure.path)
    with pytest.raises(Unavailable, match="checksum differs"):
        single.fetch(wrong)
    assert single.left() == []


def test_progress_begins_with_nothing_and_ends_with_everything(single: Site) -> None:
    wanted = [single.add("weights.bin", data(4 * MB)), *(single.add(f"{n}.bin", data(1000, n)) for n in range(5))]
    only = single.mirrors["only"]
    only.answers[""] = site.limited(only, 2_000_000)
    seen: list[Progress] = []
    single.fetch(*wanted, show=seen.append)
    assert seen[0].total_bytes == 4 * MB + 5000
    assert all(before.done_bytes <= after.done_bytes for before, after in pairwise(seen))
    assert any(each.name == "weights.bin" and 0 < each.part < 1 for each in seen)
    assert seen[-1] == Progress(4 * MB + 5000, 4 * MB + 5000, 6, 6)


def test_an_interruption_ends_at_once_and_keeps_what_has_come(single: Site) -> None:
    wanted = single.add("weights.bin", data(20 * MB))
    only = single.mirrors["only"]
    only.answers[""] = site.limited(only, 3_000_000)
    threads = threading.active_count()

    def interrupt(progress: Progress) -> None:
        if progress.done_bytes > 9 * MB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        single.fetch(wanted, show=interrupt)
    assert single.left() == [wanted.key, f"{wanted.key}.journal"]
    only.asked.clear()
    del only.answers[""]
    report = single.fetch(wanted)
    assert single.has(wanted)
    assert report.fetched_bytes < 11 * MB
    limit = time.monotonic() + 5
    while threading.active_count() > threads + only.connections and time.monotonic() < limit:
        time.sleep(0.05)  # the server's threads end a little later
    assert not [each for each in threading.enumerate() if each.name.startswith("ThreadPoolExecutor")]


def test_a_password_of_an_address_is_in_no_message(tmp_path: Path) -> None:
    port = system.free_port()
    with site.serving(tmp_path) as found:
        found.addresses["company"] = f"http://li:hunter2@127.0.0.1:{port}"
        with pytest.raises(Unavailable) as caught:
            found.fetch(site.artifact("weights.bin", b"x"))
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "fault", ["longer", "shorter", "announced_too_long", "empty", "416", "truncated at the middle"]
)
@pytest.mark.parametrize("length", ["length known", "length unknown"])
def test_mirrors_that_are_all_wrong_in_different_ways_come_to_an_end(three: Site, fault: str, length: str) -> None:
    wanted = three.add("weights.bin", data(3 * MB), size_known=length == "length known")
    one, two, last = three.mirrors.values()
    one.answers[""] = faults.always(one, FAULTS[fault])
    two.answers[""] = faults.always(two, faults.corrupt)
    last.answers[""] = faults.always(last, faults.shorter)
    with pytest.raises(Unavailable, match="could not be had from any of 3 mirrors"):
        three.fetch(wanted)
    assert not three.store.has(wanted.key)


def test_a_suspect_that_is_asked_again_for_want_of_others_is_not_asked_for_ever(three: Site) -> None:
    """Two bring parts of a file, one of them wrong ones; then the right one is gone."""
    wanted = three.add("weights.bin", data(6 * MB))
    one, two, last = three.mirrors.values()
    last.answers[""] = faults.always(last, faults.status(404))
    two.files[path("weights.bin")] = data(6 * MB, 9)
    two.answers[""] = site.limited(two, 1_000_000)

    def gone_after_a_while(request: BaseHTTPRequestHandler) -> None:
        if len(one.asked) > 4:
            faults.status(404)(one, request)
        else:
            site.limited(one, 500_000)(request)

    one.answers[""] = gone_after_a_while
    with pytest.raises(Unavailable, match="checksum differs"):
        three.fetch(wanted)
    assert three.left() == []


def test_a_mirror_that_always_breaks_off_after_a_few_bytes_is_given_up(single: Site) -> None:
    wanted = single.add("weights.bin", data(MB))
    only = single.mirrors["only"]

    def drop(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(only.begin(request)[:100])
        request.close_connection = True

    only.answers[""] = drop
    with pytest.raises(Unavailable, match="bytes before its end"):
        single.fetch(wanted)
    assert len(only.asked) < 10


def test_what_can_be_compiled_meanwhile_comes_before_the_rest_and_after_what_is_very_long(tmp_path: Path) -> None:
    def wheel(name: str, group: str, size_bytes: int | None = None) -> Artifact:
        return Artifact("pypi", name, (f"{len(name):064x}",), size_bytes, group)

    pure = wheel("b-1-py3-none-any.whl", "b")
    large_pure = wheel("large-1-py3-none-any.whl", "large", 5 * MB)
    built = wheel("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", "a", 50 * MB)
    torch = wheel("torch-2-cp311-cp311-manylinux_2_28_x86_64.whl", "torch")
    schedule = Schedule(
        [built, pure, large_pure, torch], Store(tmp_path), Standings({}), per_host=4, patience=Patience()
    )
    assert [task.artifact for task in schedule._waiting] == [torch, large_pure, pure, built]
