"""jingxiang.samples, against real servers on this machine"""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jingxiang import __version__, samples
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import LAYOUTS, Source
from jingxiang.samples import Measured, Wanted
from tests.peers.mirror import Mirror, Wheel, serving, wheel

pytestmark = pytest.mark.usefixtures("no_proxy")

TINY = wheel("my-tiny", "1.0")
OLD = wheel("my-tiny", "0.9")
MIDDLE = wheel("my-tiny", "1.0", size=1 << 20)
LARGE = wheel("my-tiny", "1.0", size=6 << 20)
BUILT = wheel("torch", "2.0+cpu")
REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = "/api/models/ali-vilab/i2vgen-xl/revision/main"
WEIGHTS = b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}' + bytes(1 << 20)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as found:
        yield found


def locked(each: Wheel) -> LockedPackage:
    return LockedPackage(each.name, each.version, "", ("0" * 64, each.sha256))


def measure(source: Source, wanted: Wanted) -> Measured:
    with contextlib.closing(Client(network.of({}))) as client:
        return samples.measure(source, wanted, client)


def ask(
    space: str, url: str, *, layout: str = "", want: Wheel = TINY, ids: tuple[tuple[str, str], ...] = ()
) -> Measured:
    source = Source("near", "near", space, layout or LAYOUTS[space][0], url, ids=ids)
    return measure(source, Wanted({space: locked(want)}, "http://127.0.0.1:9/simple"))


def reason(mirror: Mirror) -> str:
    return ask("pypi", f"{mirror.url}/simple").reason


@pytest.mark.parametrize("form", ["html", "json"])
@pytest.mark.parametrize("hashes", [True, False])
def test_a_small_wheel_is_checked_whole(mirror: Mirror, form: str, hashes: bool) -> None:
    mirror.add_index(TINY, OLD, form=form, hashes=hashes)
    found = ask("pypi", f"{mirror.url}/simple")
    assert found == Measured(found.first_s, found.seconds, len(TINY.body), "my-tiny 1.0 is there")
    assert 0 < found.first_s <= found.seconds < 2
    assert found.speed_mb_s is None
    assert [request.path for request in mirror.asked] == ["/simple/my-tiny/", f"/packages/{TINY.file}"]
    assert {request.headers["User-Agent"] for request in mirror.asked} == {f"jingxiang/{__version__}"}
    assert mirror.asked[1].headers["Range"] == "bytes=0-4194303"


def test_of_a_large_wheel_only_the_beginning_is_fetched(mirror: Mirror) -> None:
    mirror.add_index(LARGE)
    found = ask("pypi", f"{mirror.url}/simple", want=LARGE)
    assert (found.reason, found.count) == ("", 4 << 20)
    assert found.speed_mb_s is not None
    assert found.speed_mb_s > 1


def test_official_is_the_index_that_pip_is_set_to(mirror: Mirror) -> None:
    mirror.add_index(TINY)
    wanted = Wanted({"pypi": locked(TINY)}, mirror.url.replace("http://", "http://li:p%40ss@") + "/simple/")
    assert measure(Source("official", "official", "pypi", "pep503", ""), wanted).reason == ""
    assert mirror.asked[0].headers["Authorization"] == "Basic bGk6cEBzcw=="  # li:p@ss


def test_a_mirror_without_the_locked_version_is_stale(mirror: Mirror) -> None:
    mirror.add_index(OLD)
    assert reason(mirror) == "stale: my-tiny 1.0 not there yet"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (403, "403: blocked by its firewall"),
        (404, "404: not there, or not synced yet"),
        (429, "429: too many requests"),
        (502, "502 Bad Gateway"),
    ],
)
@pytest.mark.parametrize("path", ["/simple/my-tiny/", f"/packages/{TINY.file}"])
def test_a_refusal_is_said_with_its_code(mirror: Mirror, code: int, said: str, path: str) -> None:
    mirror.add_index(TINY)
    mirror.answers[path] = mirror.status(code)
    assert reason(mirror) == said


@pytest.mark.parametrize("path", ["/simple/my-tiny/", f"/packages/{TINY.file}"])
def test_a_web_page_is_no_artifact(mirror: Mirror, path: str) -> None:
    mirror.add_index(TINY)
    mirror.answers[path] = mirror.html
    assert reason(mirror) == "200 but HTML: not a mirror of this space"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "416: its file is shorter"),
        (b"not a zip", "206 but not what was asked for"),
        (wheel("my-tiny", "1.0", size=1).body, "checksum differs"),
        (TINY.body[:-1] + bytes([TINY.body[-1] ^ 1]), "checksum differs"),
    ],
)
def test_a_corrupt_wheel_is_found(mirror: Mirror, body: bytes, said: str) -> None:
    mirror.add_index(TINY)
    mirror.answers[f"/packages/{TINY.file}"] = lambda request: mirror.send(request, body)
    assert reason(mirror) == said


def test_an_index_with_other_hashes_is_not_asked_for_the_file(mirror: Mirror) -> None:
    mirror.add_index(wheel("my-tiny", "1.0", size=1))
    assert reason(mirror) == "checksum differs"
    assert len(mirror.asked) == 1


@pytest.mark.parametrize("body", [b'{"error": "x"}', b"{", b'{"files": [1, {"url": 2}]}', b'{"files": 1}'])
def test_an_index_that_is_none_is_found(mirror: Mirror, body: bytes) -> None:
    mirror.files["/simple/my-tiny/"] = body
    assert reason(mirror) == "200 but not what was asked for"


def test_a_truncated_wheel_is_found(mirror: Mirror) -> None:
    mirror.add_index(TINY)
    mirror.answers[f"/packages/{TINY.file}"] = mirror.truncated
    assert reason(mirror) == f"ends {len(TINY.body) - len(TINY.body) // 2} bytes before its end"


def test_a_redirect_is_followed_and_a_loop_is_not(mirror: Mirror) -> None:
    mirror.add_index(TINY)
    mirror.files["/cdn"] = TINY.body
    mirror.answers[f"/packages/{TINY.file}"] = lambda request: mirror.redirect(request, "/cdn")
    assert reason(mirror) == ""
    mirror.answers[f"/packages/{TINY.file}"] = lambda request: mirror.redirect(request, request.path)
    assert reason(mirror) == "its redirects lead nowhere"


@pytest.mark.parametrize("way", ["silent", "dripping", "dripping_headers"])
@pytest.mark.parametrize("path", ["/simple/my-tiny/", f"/packages/{TINY.file}"])
def test_whatever_a_server_does_it_costs_no_more_than_the_limit(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, way: str, path: str
) -> None:
    monkeypatch.setattr(samples, "TIMEOUT_S", 0.3)
    mirror.add_index(TINY)
    mirror.answers[path] = getattr(mirror, way)
    start = time.monotonic()
    assert reason(mirror) == "timed out"
    assert 0.25 < time.monotonic() - start < 0.3 + 0.5
    time.sleep(0.1)
    assert mirror.connections == 1  # what was cut off is not tried again


def test_a_slow_large_file_is_measured_by_what_came_in_time(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "TIMEOUT_S", 0.6)
    mirror.add_index(LARGE)

    def slow(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for at in range(0, len(LARGE.body), 100_000):
            request.wfile.write(LARGE.body[at : at + 100_000])
            time.sleep(0.05)

    mirror.answers[f"/packages/{LARGE.file}"] = slow
    found = ask("pypi", f"{mirror.url}/simple", want=LARGE)
    assert (found.reason, found.count < samples.SAMPLE_BYTES) == ("", True)
    assert 0.3 < (found.speed_mb_s or 0) < 2.5


@pytest.mark.parametrize(("form", "layout", "root"), [("html", "pep503", "/whl/cpu"), ("flat", "flat", "/wheels/cpu")])
def test_a_build_of_torch_is_found_in_an_index_and_on_a_page(mirror: Mirror, form: str, layout: str, root: str) -> None:
    mirror.add_index(BUILT, form=form, root=root)
    url = mirror.url + root.replace("cpu", "{build}") + ("/" if layout == "flat" else "")
    assert ask("torch", url, layout=layout, want=BUILT).note == "torch 2.0+cpu is there"
    other = wheel("torch", "2.0+cu128")
    assert ask("torch", url.replace("{build}", "cpu"), layout=layout, want=other).reason == (
        "stale: torch 2.0+cu128 not there yet"
    )


def test_a_quoted_name_on_a_page_is_the_same_file(mirror: Mirror) -> None:
    mirror.files |= {"/w/": f'<a href="{BUILT.file.replace("+", "%2B")}">x</a>'.encode()}
    mirror.files["/w/" + BUILT.file.replace("+", "%2B")] = BUILT.body
    assert ask("torch", f"{mirror.url}/w/", layout="flat", want=BUILT).reason == ""


def test_a_channel_is_there_when_its_list_of_packages_is(mirror: Mirror) -> None:
    path = "/cloud/conda-forge/noarch/repodata.json.zst"
    mirror.files[path] = samples.ZSTD + bytes(1 << 20)
    found = ask("conda", mirror.url + "/cloud/{channel}")
    assert (found.reason, found.note, found.speed_mb_s is not None) == ("", "", True)

    def aged(request: BaseHTTPRequestHandler) -> None:
        mirror.send(request, mirror.files[path], {"Last-Modified": formatdate(time.time() - 7200, usegmt=True)})

    mirror.answers[path] = aged
    assert ask("conda", mirror.url + "/cloud/{channel}").note == "2 h old"
    mirror.answers[path] = mirror.html
    assert ask("conda", mirror.url + "/cloud/{channel}").reason == "200 but HTML: not a mirror of this space"
    del mirror.answers[path]
    mirror.files[path] = gzip.compress(b"{}")
    assert ask("conda", mirror.url + "/cloud/{channel}").reason == "206 but not what was asked for"


def test_a_hub_is_measured_by_weights_of_its_revision(mirror: Mirror) -> None:
    siblings = [{"rfilename": name} for name in ("README.md", "unet/b.safetensors", "text/a.safetensors")]
    mirror.files[HUB] = json.dumps({"sha": REVISION, "siblings": siblings}).encode()
    mirror.files[f"/ali-vilab/i2vgen-xl/resolve/{REVISION}/text/a.safetensors"] = WEIGHTS
    found = ask("hub", mirror.url)
    assert (found.reason, found.count) == ("", len(WEIGHTS))
    mirror.files[f"/ali-vilab/i2vgen-xl/resolve/{REVISION}/text/a.safetensors"] = b"version https://git-lfs"
    assert ask("hub", mirror.url).reason == "206 but not what was asked for"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (json.dumps({"sha": REVISION, "siblings": []}).encode(), ""),
        (json.dumps({"sha": "main", "siblings": []}).encode(), "200 but not what was asked for"),
        (json.dumps({"sha": REVISION}).encode(), "200 but not what was asked for"),
        (b"[]", "200 but not what was asked for"),
        (b"<html>", "200 but HTML: not a mirror of this space"),
    ],
)
def test_a_hub_says_which_revision_it_has(mirror: Mirror, body: bytes, said: str) -> None:
    mirror.files[HUB] = body
    assert ask("hub", mirror.url).reason == said


def test_modelscope_is_asked_by_its_own_name_for_the_model(mirror: Mirror) -> None:
    ids = (("ali-vilab/i2vgen-xl", "iic/i2vgen-xl"),)
    assert ask("hub", mirror.url, layout="modelscope", ids=ids).reason == "404: not there, or not synced yet"
    mirror.files["/models/iic/i2vgen-xl/resolve/master/configuration.json"] = b'{"framework": "pytorch"}'
    assert ask("hub", mirror.url, layout="modelscope", ids=ids).reason == ""
    mirror.files["/models/iic/i2vgen-xl/resolve/master/configuration.json"] = b"<html>"
    assert ask("hub", mirror.url, layout="modelscope", ids=ids).reason == "200 but HTML: not a mirror of this space"


def challenge(mirror: Mirror, headers: dict[str, str]) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda request: mirror.send(request, b"{}", headers, status=401)


def test_a_registry_is_asked_at_its_root(mirror: Mirror) -> None:
    url = mirror.url + "/{registry}"
    assert ask("oci", url).reason == "404: not there, or not synced yet"
    mirror.files["/v2/"] = b"{}\n"
    assert ask("oci", url).reason == ""
    mirror.answers["/v2/"] = challenge(mirror, {"Www-Authenticate": 'Bearer realm="https://x/token"'})
    found = ask("oci", url)
    assert (found.reason, found.note, found.first_s > 0) == ("", "asks for a token", True)
    mirror.answers["/v2/"] = challenge(mirror, {})
    assert ask("oci", url).reason == "401 Unauthorized"
    mirror.answers["/v2/"] = mirror.html
    assert ask("oci", url).reason == "200 but HTML: not a mirror of this space"


def test_a_release_of_debian_is_signed(mirror: Mirror) -> None:
    mirror.files["/debian/dists/bookworm/InRelease"] = samples.SIGNED + b"\nHash: SHA512\n"
    assert ask("apt", mirror.url + "/{archive}").reason == ""
    mirror.files["/debian/dists/bookworm/InRelease"] = b"Origin: Debian\n"
    assert ask("apt", mirror.url + "/{archive}").reason == "206 but not what was asked for"


def test_a_folder_is_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "simple" / "my-tiny").mkdir(parents=True)
    (tmp_path / "simple" / "my-tiny" / "index.html").write_text(f'<a href="{TINY.file}#sha256={TINY.sha256}">x</a>')
    (tmp_path / "simple" / "my-tiny" / TINY.file).write_bytes(TINY.body)
    assert ask("pypi", f"file://{tmp_path}/simple").reason == ""
    (tmp_path / "simple" / "my-tiny" / TINY.file).write_bytes(TINY.body + b"x")
    assert ask("pypi", f"file://{tmp_path}/simple").reason == "checksum differs"
    assert ask("oci", f"file://{tmp_path}").reason == "not there"
    (tmp_path / "oci-layout").write_text("{}")
    assert ask("oci", f"file://{tmp_path}").reason == "200 but not what was asked for"
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    assert ask("oci", f"file://{tmp_path}").reason == ""


def test_all_are_asked_at_once(mirror: Mirror) -> None:
    mirror.add_index(TINY)
    together = threading.Barrier(3)

    def wait(request: BaseHTTPRequestHandler) -> None:
        together.wait(2)
        mirror.send(request, mirror.files[request.path])

    mirror.answers["/simple/my-tiny/"] = wait
    sources = [Source(name, name, "pypi", "pep503", f"{mirror.url}/simple") for name in "abc"]
    with contextlib.closing(Client(network.of({}))) as client:
        found = samples.measure_all(sources, Wanted({"pypi": locked(TINY)}, ""), client)
        assert [each.reason for each in found] == ["", "", ""]
        assert samples.measure_all([], Wanted({}, ""), client) == []


def test_speed_counts_more_than_distance() -> None:
    measured = {
        "near": Measured(0.01, 2.01, 1 << 20),  # 0.5 MB/s
        "far": Measured(0.3, 0.5, 4 << 20),  # 20 MB/s
        "bad": Measured(seconds=0.01, reason="404"),
        "small": Measured(0.2, 0.6, 1000),
    }
    assert samples.fastest(measured) == ("far", "small", "near")
