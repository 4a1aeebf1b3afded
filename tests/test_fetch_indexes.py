"""jingxiang.fetch.indexes, against real indexes on this machine"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jingxiang.fetch import indexes, network
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.indexes import Configured, Indexes
from jingxiang.mirrors import Source
from jingxiang.simple_index import File
from tests.peers.mirror import Mirror, serving, wheel

pytestmark = pytest.mark.usefixtures("no_proxy")

ONE, TWO = wheel("one", "1.0"), wheel("two", "2.0")
OFFICIAL = Source("official", "official", "pypi", "pep503", "")
SHA = "a" * 64

Make = Callable[..., Indexes]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as found:
        yield found


@pytest.fixture
def make() -> Iterator[Make]:
    """Indexes, where `official` means these places."""
    client = Client(network.of({}))
    yield lambda *places, links=(): Indexes(client, Configured(places, tuple(links)))
    client.close()


def near(mirror: Mirror, layout: str = "pep503", path: str = "/simple") -> Source:
    return Source("near", "near", "pypi", layout, mirror.url + path)


def fault(found: Indexes, source: Source, project: str = "one") -> tuple[Kind, str]:
    with pytest.raises(Fault) as caught:
        found.files(source, project)
    return caught.value.kind, caught.value.text


def names(files: tuple[File, ...]) -> list[str]:
    return [file.name for file in files]


OWN = "https://default.example/simple"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Configured((), ())),
        ({"index-url": OWN}, Configured((OWN,), ())),
        (
            {"index-url": OWN, "extra-index-url": "https://a.example/ https://b.example/", "find-links": "/x /y"},
            Configured((OWN, "https://a.example/", "https://b.example/"), ("/x", "/y")),
        ),
        ({"index-url": OWN, "no-index": "0", "find-links": "/x"}, Configured((OWN,), ("/x",))),
    ],
)
def test_official_is_everything_that_pip_is_set_to(settings: dict[str, str], expected: Configured) -> None:
    assert indexes.configured(settings) == expected


@pytest.mark.parametrize("yes", ["1", "true", "True", "yes", "on", "y", "t"])
def test_without_an_index_only_links_are_left(yes: str) -> None:
    settings = {"no-index": yes, "index-url": "https://a.example", "find-links": "/x /y"}
    assert indexes.configured(settings) == Configured((), ("/x", "/y"))


def test_html_says_hashes_and_json_lengths_too(mirror: Mirror, make: Make) -> None:
    url = f"{mirror.url}/packages/{ONE.file}"
    mirror.add_index(ONE)
    assert make().files(near(mirror), "one") == (File(url, ONE.sha256),)
    body = f'{{"files": [{{"url": "{url}", "hashes": {{"sha256": "{SHA}"}}, "size": 12}}]}}'
    mirror.files["/json/one/"] = body.encode()
    assert make().files(near(mirror, path="/json"), "one") == (File(url, SHA, 12),)
    assert mirror.asked[0].headers["Accept"].startswith("application/vnd.pypi.simple.v1+json, ")


def test_a_flat_page_lists_all_projects_of_a_build(mirror: Mirror, make: Make) -> None:
    mirror.add_index(ONE, TWO, form="flat", root="/wheels/cpu")
    source = Source("near", "near", "torch", "flat", f"{mirror.url}/wheels/{{build}}/")
    found = make()
    assert names(found.files(source, "one", "cpu")) == [ONE.file, TWO.file]
    found.files(source, "two", "cpu")
    assert mirror.paths() == ["/wheels/cpu/"]


def test_each_list_is_read_once_however_many_ask_at_the_same_time(mirror: Mirror, make: Make) -> None:
    for each in (ONE, TWO):
        mirror.add_index(each)
    found = make()
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(lambda project: names(found.files(near(mirror), project)), ["one", "two"] * 8))
    assert listed == [[ONE.file], [TWO.file]] * 8
    assert sorted(mirror.paths()) == ["/simple/one/", "/simple/two/"]


def test_what_will_not_change_is_not_asked_again_but_a_hiccup_is(mirror: Mirror, make: Make) -> None:
    found = make()
    for _ in range(2):
        assert fault(found, near(mirror)) == (Kind.ABSENT, "404: not there, or not synced yet")
    assert len(mirror.asked) == 1
    mirror.answers["/simple/two/"] = mirror.status(502)
    assert fault(found, near(mirror), "two") == (Kind.BROKEN, "502 Bad Gateway")
    mirror.answers.clear()
    mirror.add_index(TWO)
    assert names(found.files(near(mirror), "two")) == [TWO.file]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<!DOCTYPE html><html><body>Welcome</body></html>", "200 but HTML: not a mirror of this space"),
        (b'<html><a href="/help">Blocked</a> by our firewall', "200 but HTML: not a mirror of this space"),
        (b"", "200 but empty"),
        (b'{"error": "no such project"}', "200 but not what was asked for"),
        (b"220 ftp ready", "200 but not what was asked for"),
    ],
)
def test_a_page_that_is_no_list_is_a_fault(mirror: Mirror, make: Make, body: bytes, said: str) -> None:
    mirror.files["/simple/one/"] = body
    assert fault(make(), near(mirror)) == (Kind.PAGE, said)


@pytest.mark.parametrize("body", [b'<a href="one-1.0.exe">one-1.0.exe</a>', b'{"files": [], "name": "one"}'])
def test_a_list_without_a_file_of_use_is_a_list(mirror: Mirror, make: Make, body: bytes) -> None:
    mirror.files["/simple/one/"] = body
    assert make().files(near(mirror), "one") == ()


def test_links_are_taken_from_where_a_redirect_led(mirror: Mirror, make: Make) -> None:
    mirror.answers["/simple/one/"] = lambda request: mirror.redirect(request, "/elsewhere/one/")
    mirror.files["/elsewhere/one/"] = f'<a href="{ONE.file}">x</a>'.encode()
    assert make().files(near(mirror), "one") == (File(f"{mirror.url}/elsewhere/one/{ONE.file}", ""),)


def test_a_list_may_come_compressed(mirror: Mirror, make: Make) -> None:
    body = gzip.compress(f'<a href="{ONE.file}">x</a>'.encode())
    mirror.answers["/simple/one/"] = lambda request: mirror.send(request, body, {"Content-Encoding": "gzip"})
    assert names(make().files(near(mirror), "one")) == [ONE.file]


def test_official_is_all_of_its_places_together(mirror: Mirror, make: Make, tmp_path: Path) -> None:
    mirror.files["/a/one/"] = f'<a href="/{ONE.file}#sha256={SHA}">x</a>'.encode()
    mirror.files["/b/one/"] = f'<a href="/b/{ONE.file}">x</a><a href="/one-1.1-py3-none-any.whl">x</a>'.encode()
    (tmp_path / "one-1.2-py3-none-any.whl").write_bytes(b"1")
    found = make(f"{mirror.url}/a", f"{mirror.url}/b/", links=[str(tmp_path)])
    assert set(found.files(OFFICIAL, "one")) == {
        File(f"{mirror.url}/{ONE.file}", SHA),
        File(f"{mirror.url}/b/{ONE.file}", ""),
        File(f"{mirror.url}/one-1.1-py3-none-any.whl", ""),
        File((tmp_path / "one-1.2-py3-none-any.whl").as_uri(), "", 1),
    }


def test_one_broken_place_does_no_harm(mirror: Mirror, make: Make) -> None:
    mirror.add_index(ONE)
    for places in (("http://127.0.0.1:9/", f"{mirror.url}/simple"), (f"{mirror.url}/simple", "http://127.0.0.1:9/")):
        assert names(make(*places, links=["/nowhere", f"{mirror.url}/gone"]).files(OFFICIAL, "one")) == [ONE.file]


def test_if_all_places_are_broken_the_first_one_says_how(mirror: Mirror, make: Make) -> None:
    found = make(f"{mirror.url}/simple", "http://127.0.0.1:9/")
    assert fault(found, OFFICIAL) == (Kind.ABSENT, "404: not there, or not synced yet")
    assert make().files(OFFICIAL, "one") == ()


def test_a_folder_of_links_is_a_path_or_an_address(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for pip: absolute, relative, below the user's folder, or file://…, with blanks in the latter."""
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / ONE.file).write_bytes(ONE.body)
    expected = (File((folder / ONE.file).as_uri(), "", len(ONE.body)),)
    assert expected[0].name == ONE.file
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (str(folder), "a b", "~/a b", folder.as_uri(), folder.as_uri() + "/"):
        assert make(links=[place]).files(OFFICIAL, "one") == expected


def test_what_is_in_a_folder_beside_wheels_does_no_harm(make: Make, tmp_path: Path) -> None:
    (tmp_path / ONE.file).write_bytes(ONE.body)
    (tmp_path / "notes").mkdir()
    (tmp_path / "one-0.9-py3-none-any.whl").symlink_to(tmp_path / "gone")
    assert ONE.file in names(make(links=[str(tmp_path)]).files(OFFICIAL, "one"))


def test_a_page_of_links_may_be_a_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "links.html").write_text(f'<a href="files/{ONE.file}#sha256={ONE.sha256}">x</a>')
    expected = (File((tmp_path / "files" / ONE.file).as_uri(), ONE.sha256),)
    for place in (str(tmp_path / "links.html"), (tmp_path / "links.html").as_uri()):
        assert make(links=[place]).files(OFFICIAL, "one") == expected


def test_an_index_may_be_a_folder(make: Make, tmp_path: Path) -> None:
    """With a page for each project, or just with its files."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / ONE.file).write_bytes(ONE.body)
    bundle = Source("bundle", "bundle", "pypi", "pep503", tmp_path.as_uri())
    assert make().files(bundle, "one") == (File((tmp_path / "one" / ONE.file).as_uri(), "", len(ONE.body)),)
    (tmp_path / "one" / "index.html").write_text(f'<a href="{ONE.file}#sha256={ONE.sha256}">x</a>')
    assert make().files(bundle, "one") == (File((tmp_path / "one" / ONE.file).as_uri(), ONE.sha256),)
    assert fault(make(), bundle, "two") == (Kind.ABSENT, "not there")


def test_the_login_of_an_address_goes_with_its_pages(mirror: Mirror, make: Make) -> None:
    mirror.add_index(ONE)
    place = mirror.url.replace("http://", "http://li:p%40ss@") + "/simple"
    assert names(make(place).files(OFFICIAL, "one")) == [ONE.file]
    assert mirror.asked[0].headers["Authorization"] == "Basic bGk6cEBzcw=="  # li:p@ss


def test_a_file_is_found_by_its_name_and_hash(mirror: Mirror, make: Make) -> None:
    mirror.add_index(ONE, wheel("one", "1.1"))
    expected = File(f"{mirror.url}/packages/{ONE.file}", ONE.sha256)
    assert make().file(near(mirror), "one", "", ONE.file, [SHA, ONE.sha256]) == expected
    mirror.add_index(ONE, hashes=False)
    assert make().file(near(mirror), "one", "", ONE.file, [SHA]).sha256 == ""


def test_a_file_that_is_not_listed_or_with_another_hash_is_a_fault(mirror: Mirror, make: Make) -> None:
    mirror.add_index(ONE)
    for name, hashes, kind, text in (
        (TWO.file, [SHA], Kind.STALE, "does not list it: not synced yet"),
        (ONE.file, [SHA], Kind.CORRUPT, "checksum differs in its index"),
    ):
        with pytest.raises(Fault) as caught:
            make().file(near(mirror), "one", "", name, hashes)
        assert (caught.value.kind, caught.value.text) == (kind, text)


def test_of_two_files_of_one_name_the_locked_one_is_found(mirror: Mirror, make: Make) -> None:
    """A company's index may have built it anew; pip goes by the hash then, too."""
    mirror.files["/a/one/"] = f'<a href="/a/{ONE.file}#sha256={SHA}">x</a>'.encode()
    mirror.files["/b/one/"] = f'<a href="/b/{ONE.file}#sha256={ONE.sha256}">x</a>'.encode()
    found = make(f"{mirror.url}/a", f"{mirror.url}/b").file(OFFICIAL, "one", "", ONE.file, [ONE.sha256])
    assert found == File(f"{mirror.url}/b/{ONE.file}", ONE.sha256)


def test_a_server_may_not_send_us_to_files_of_this_machine(mirror: Mirror, make: Make) -> None:
    links = "".join(f'<a href="{url}">x</a>' for url in (
        "file:///etc/one-1.0-py3-none-any.whl", "ftp://a.example/one-1.0-py3-none-any.whl", "/two-1.0-py3-none-any.whl",
    ))  # fmt: skip
    mirror.files["/simple/one/"] = links.encode()
    found = make(f"{mirror.url}/simple").files(Source("official", "official", "pypi", "pep503", ""), "one")
    assert [file.url for file in found] == [f"{mirror.url}/two-1.0-py3-none-any.whl"]


def test_a_login_in_a_link_counts_on_the_host_of_the_page_alone(mirror: Mirror, make: Make) -> None:
    host = mirror.url.removeprefix("http://")
    mirror.files["/simple/one/"] = (
        f'<a href="http://li:secret@{host}/one-1.0-py3-none-any.whl">x</a>'
        '<a href="https://li:secret@other.example/one-1.0.tar.gz">x</a>'
    ).encode()
    found = make(f"{mirror.url}/simple").files(Source("official", "official", "pypi", "pep503", ""), "one")
    assert [file.url for file in found] == [
        f"http://li:secret@{host}/one-1.0-py3-none-any.whl",
        "https://other.example/one-1.0.tar.gz",
    ]
