"""jingxiang.commands.mirrors, against real servers on this machine"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from jingxiang import mirrors, ordering, ranking, samples
from jingxiang.commands.mirrors import NothingAnswers, show
from jingxiang.errors import JingxiangError, UnknownName
from jingxiang.places import Places
from jingxiang.samples import Wanted
from tests.peers.mirror import Mirror, serving, wheel

TINY, OLD, BUILT = wheel("tiny", "1.0", size=1 << 20), wheel("tiny", "0.9"), wheel("torch", "2.0+cpu")
RELEASE = "/debian/dists/bookworm/InRelease"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Mirror]]:
    """One that is good in every space, and others with one fault each."""
    for name in os.environ:
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with ExitStack() as stack:
        found = {name: stack.enter_context(serving()) for name in ("good", "stale", "blocked", "page", "far")}
        for mirror in found.values():
            mirror.add_index(TINY)
        good = found["good"]
        good.add_index(BUILT, form="flat", root="/wheels/cpu")
        good.files |= {
            "/conda/conda-forge/noarch/repodata.json.zst": samples.ZSTD + bytes(100),
            "/api/models/ali-vilab/i2vgen-xl/revision/main": b'{"sha": "%s", "siblings": []}' % (b"0" * 40),
            "/v2/": b"{}",
            RELEASE: samples.SIGNED,
        }
        found["stale"].add_index(OLD)
        found["stale"].files["/simple/tiny/"] = found["stale"].files["/simple/tiny/"].replace(b"1.0", b"0.9")
        found["blocked"].answers[""] = found["blocked"].status(403)
        found["page"].answers[""] = found["page"].html
        found["far"].answers[""] = found["far"].status(404)
        monkeypatch.setenv("PIP_INDEX_URL", f"{found['far'].url}/simple")
        yield found


@pytest.fixture
def places(tmp_path: Path, servers: dict[str, Mirror]) -> Places:
    found = Places(tmp_path, tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    line = "{0.name}=={0.version} --hash=sha256:{0.sha256}\n"
    (found.locks / "cpu.txt").write_text(line.format(TINY) + line.format(BUILT))
    (found.locks / "toolkit.txt").write_text("")
    tables = ["[official]\n"]
    for name, server in servers.items():
        tables.append(f'[{name}]\npypi = {{ layout = "pep503", url = "{server.url}/simple" }}\n')
        if name == "good":
            tables.append(
                f'torch = {{ layout = "flat", url = "{server.url}/wheels/{{build}}/" }}\n'
                f'conda = {{ layout = "conda", url = "{server.url}/conda/{{channel}}" }}\n'
                f'hub = {{ layout = "hf", url = "{server.url}" }}\n'
                f'oci = {{ layout = "oci", url = "{server.url}/{{registry}}" }}\n'
                f'apt = {{ layout = "apt", url = "{server.url}/{{archive}}" }}\n'
            )
    (found.root / "mirrors.toml").write_text("".join(tables))
    return found


def report(places: Places, capsys: pytest.CaptureFixture[str], *, probe: bool = True, space: str = "") -> Any:
    """What --json prints; nothing else was said."""
    show(places, probe=probe, space=space, as_json=True)
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def lines(places: Places, capsys: pytest.CaptureFixture[str], *, probe: bool = False, space: str = "") -> list[str]:
    """What people read; stdout is empty."""
    show(places, probe=probe, space=space, as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    return [str(line) for line in err.splitlines()]


def test_every_mirror_is_said_with_what_is_right_or_wrong(
    places: Places, servers: dict[str, Mirror], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(samples, "TIMEOUT_S", 1.5)
    servers["far"].answers[""] = servers["far"].silent
    start = time.monotonic()
    found = report(places, capsys)
    assert time.monotonic() - start < samples.TIMEOUT_S + 3  # pip is asked twice what it is set to
    states = {(each["space"], each["mirror"]): each.get("state") for each in found["mirrors"]}
    assert states == {
        ("pypi", "official"): "timed out",  # pip is set to the one that is far
        ("pypi", "good"): "ok, tiny 1.0 is there",
        ("pypi", "stale"): "stale: tiny 1.0 not there yet",
        ("pypi", "blocked"): "403: blocked by its firewall",
        ("pypi", "page"): "200 but HTML: not a mirror of this space",
        ("pypi", "far"): "timed out",
        ("torch", "official"): None,
        ("torch", "good"): "ok, torch 2.0+cpu is there",
        ("conda", "good"): "ok",
        ("hub", "good"): "ok",
        ("oci", "good"): "ok",
        ("apt", "official"): None,
        ("apt", "good"): "ok",
    }


def test_json_has_one_shape(places: Places, servers: dict[str, Mirror], capsys: pytest.CaptureFixture[str]) -> None:
    found = report(places, capsys, space="pypi")
    assert list(found) == ["mirrors", "order"]
    good, stale = found["mirrors"][1:3]
    first, speed = good.pop("first_byte_s"), good.pop("speed_mb_s")
    assert good == {
        "space": "pypi", "mirror": "good", "layout": "pep503", "domain": "good",
        "address": servers["good"].url + "/simple", "ok": True, "state": "ok, tiny 1.0 is there",
    }  # fmt: skip
    assert 0 < first < 1
    assert speed > 1
    assert (stale["ok"], stale["first_byte_s"], stale["speed_mb_s"]) == (False, None, None)
    names = ["good", "stale", "blocked", "page", "far", "official"]
    assert found["order"]["pypi"].pop("measured_s_ago") < 5
    assert found["order"] == {"pypi": {"names": names}}
    plain = report(places, capsys, probe=False, space="conda")
    assert plain == {
        "mirrors": [
            {
                "space": "conda",
                "mirror": "good",
                "layout": "conda",
                "domain": "good",
                "address": servers["good"].url + "/conda/{channel}",
            }
        ],
        "order": {"conda": {"names": ["good"], "measured_s_ago": None}},
    }


def test_people_read_a_table_and_the_order(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows, order = lines(places, capsys, probe=True)
    assert head.split() == ["space", "mirror", "first", "byte", "speed", "state"]
    assert re.fullmatch(r"pypi   good      +\d+ ms +[\d.]+ MB/s +ok, tiny 1\.0 is there", rows[1])
    assert re.fullmatch(r"pypi   stale     - +- +stale: tiny 1\.0 not there yet", rows[2])
    assert re.fullmatch(r"apt    official  - +- +not measured: as configured on this machine", rows[-2])
    assert order == (
        "order    pypi good · torch good · conda good · hub good · oci good · apt good   (measured now, kept 1 h)"
    )


def test_without_a_probe_nobody_is_asked(
    places: Places, servers: dict[str, Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    head, official, good, *_, order = lines(places, capsys, space="pypi")
    assert head.split() == ["space", "mirror", "layout", "domain", "address"]
    assert official == "pypi   official  pep503  official  as configured on this machine"
    assert good.split() == ["pypi", "good", "pep503", "good", f"{servers['good'].url}/simple"]
    assert order == "order    not measured within the last hour: python3 tasks.py mirrors --probe"
    assert [server.asked for server in servers.values()] == [[]] * 5


def test_the_order_is_shown_with_its_age(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    ranking.keep(places.home, {"pypi": ("good", "stale"), "apt": ("good",)}, time.time() - 720)
    assert lines(places, capsys)[-1] == "order    pypi good > stale · apt good   (measured 12 min ago, kept 1 h)"
    assert lines(places, capsys, space="apt")[-1] == "order    apt good   (measured 12 min ago, kept 1 h)"


def test_a_probe_is_kept_and_used_by_auto(
    places: Places, servers: dict[str, Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    report(places, capsys, space="pypi")
    kept = ranking.fresh(places.home, time.time())
    assert {space: each.names for space, each in kept.items()} == {"pypi": ("good",)}
    for server in servers.values():
        server.asked.clear()
    found = ordering.orders(
        mirrors.load(places.root), "auto", ["pypi"], home=places.home, wanted=Wanted({}, ""), settings={}
    )
    assert [source.mirror for source in found["pypi"]][:2] == ["good", "stale"]
    assert [server.asked for server in servers.values()] == [[]] * 5


def test_nothing_that_answers_is_a_failure_with_a_next_step(
    places: Places, servers: dict[str, Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    servers["good"].answers[""] = servers["good"].status(502)
    with pytest.raises(NothingAnswers) as caught:
        show(places, probe=True, space="pypi", as_json=False)
    assert (caught.value.exit_code, caught.value.hints) == (1, ("python3 tasks.py doctor",))
    assert "502 Bad Gateway" in capsys.readouterr().err
    assert ranking.fresh(places.home, time.time()) == {}


def test_a_space_that_is_none_is_refused(places: Places) -> None:
    with pytest.raises(UnknownName) as caught:
        show(places, probe=True, space="pipy", as_json=False)
    assert caught.value.message == (
        "no space named 'pipy'; there is apt, conda, hub, oci, pypi, torch (did you mean 'pypi'?)"
    )
    (places.root / "mirrors.toml").write_text("[x]\npipy = 1\n")
    with pytest.raises(JingxiangError, match=r"^mirrors\.toml: x\.pipy: "):
        show(places, probe=False, space="", as_json=False)


def test_a_password_in_an_own_address_is_not_shown(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    (places.root / "mirrors.toml").write_text(
        '[own]\npypi = { layout = "pep503", url = "http://li:verysecret@127.0.0.1:9/simple" }\n'
    )
    with pytest.raises(NothingAnswers):
        show(places, probe=True, space="pypi", as_json=True)
    shown = capsys.readouterr().out
    assert "verysecret" not in shown
    assert "http://…@127.0.0.1:9/simple" in shown
    assert lines(places, capsys, space="pypi")[1].split()[-1] == "http://…@127.0.0.1:9/simple"
