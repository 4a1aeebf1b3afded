"""jingxiang.fetch.locations and artifacts: where a file is, and what is shown to whom there"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jingxiang.errors import UsageError
from jingxiang.fetch import artifacts, network
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.indexes import Configured, Indexes
from jingxiang.fetch.locations import Location, Locations
from jingxiang.fetch.network import Network
from jingxiang.mirrors import LAYOUTS, Source
from tests.peers import mirror
from tests.peers.mirror import Mirror, wheel

pytestmark = pytest.mark.usefixtures("no_proxy")

SHA, REVISION = "ab" * 32, "0123456789abcdef0123456789abcdef01234567"
HASHED = f"12/34/{'5' * 60}"
ONE = wheel("one", "1.0")
TOKENS = {space: f"{space}-s3cret" for space in LAYOUTS}
NOBODY = Fault(Kind.REFUSED, "401 Unauthorized")
Made = Callable[..., Locations]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Locations, for somebody who has `tokens`; `official` means the indexes and links of pip."""
    with ExitStack() as stack:

        def make(*indexes: str, links: tuple[str, ...] = (), tokens: dict[str, str] = TOKENS) -> Locations:
            client = stack.enter_context(contextlib.closing(Client(network.of({}, {"HOME": str(tmp_path)}))))
            return Locations(client, Indexes(client, Configured(indexes, links)), tokens)

        yield make


@pytest.fixture
def near() -> Iterator[Mirror]:
    with mirror.serving() as found:
        yield found


@pytest.fixture
def far() -> Iterator[Mirror]:
    with mirror.serving() as found:
        found.url = found.url.replace("127.0.0.1", "localhost")
        yield found


def source(space: str, url: str, layout: str = "", *, send_token: bool = False, files: str = "") -> Source:
    ids = (("org/model", "Other/model.v2"),)
    return Source("near", "near", space, layout or LAYOUTS[space][0], url, files, send_token, ids)


def image(group: str = "docker.io/library/debian") -> Artifact:
    return Artifact("oci", "layer", (SHA,), 10, group)


def packaged(space: str, *, path: str = "", hashes: tuple[str, ...] = (ONE.sha256,), version: str = "1.0") -> Artifact:
    return Artifact(space, ONE.file, hashes, None, "one", version, path)


CONDA = Artifact("conda", "a.conda", (SHA,), 10, "conda-forge", "", "linux-64/a-1.0+x-h1_0.conda")
APT = Artifact("apt", "a.deb", (SHA,), 10, "debian", "", "pool/main/g/g++/g++_1.0~rc1+b1_amd64.deb")
HUB = Artifact("hub", "config.json", (SHA,), 10, "org/model", REVISION, "unet/config.json")
RENAMED = Artifact("hub", "a b", (SHA,), 10, "other/model", REVISION, "文件/a b#1?.bin")
ELSEWHERE = image("other.example/org/app")
BLOB = f"blobs/sha256:{SHA}"
SUFFIX = f"resolve/{REVISION}/unet/config.json"


@pytest.mark.parametrize(
    ("at", "artifact", "url"),
    [
        (source("conda", "https://a.example/{channel}"), CONDA,
         "https://a.example/conda-forge/linux-64/a-1.0%2Bx-h1_0.conda"),
        (source("conda", "https://a.example/x/{channel}/"), CONDA,
         "https://a.example/x/conda-forge/linux-64/a-1.0%2Bx-h1_0.conda"),
        (source("apt", "https://a.example/{archive}"), APT,
         "https://a.example/debian/pool/main/g/g%2B%2B/g%2B%2B_1.0~rc1%2Bb1_amd64.deb"),
        (source("hub", "https://a.example"), HUB, f"https://a.example/Other/model.v2/{SUFFIX}"),
        (source("hub", "https://a.example/hf/"), RENAMED,
         f"https://a.example/hf/other/model/resolve/{REVISION}/%E6%96%87%E4%BB%B6/a%20b%231%3F.bin"),
        (source("hub", "https://a.example", "modelscope"), HUB,
         "https://a.example/models/Other/model.v2/resolve/master/unet/config.json"),
        (source("oci", "https://a.example"), image(), f"https://a.example/v2/library/debian/{BLOB}"),
        (source("oci", "https://a.example/x/y/"), image(), f"https://a.example/v2/x/y/library/debian/{BLOB}"),
        (source("oci", "https://a.example/{registry}"), image(),
         f"https://a.example/v2/docker.io/library/debian/{BLOB}"),
        (source("oci", "https://a.example/x/{registry}/"), ELSEWHERE, f"https://a.example/v2/x/other.example/org/app/{BLOB}"),
        (source("oci", "http://{registry}.a.example:5000"), ELSEWHERE, f"http://other.example.a.example:5000/v2/org/app/{BLOB}"),
        (source("oci", "https://li:s3cret@a.example/x"), image(),
         f"https://li:s3cret@a.example/v2/x/library/debian/{BLOB}"),
        (source("pypi", "https://a.example/simple", files="https://b.example/packages/"),
         packaged("pypi", path=f"{HASHED}/{ONE.file}"), f"https://b.example/packages/{HASHED}/{ONE.file}"),
        (source("conda", "file:///mnt/{channel}"), CONDA, "file:///mnt/conda-forge/linux-64/a-1.0%2Bx-h1_0.conda"),
        (source("oci", "file:///mnt/images/{registry}"), image(), f"file:///mnt/images/docker.io/blobs/sha256/{SHA}"),
        (source("oci", "file:///mnt/images"), image(), f"file:///mnt/images/blobs/sha256/{SHA}"),
        (source("oci", "file:///mnt/images"), ELSEWHERE, f"file:///mnt/images/blobs/sha256/{SHA}"),
        (source("hub", "file:///mnt/hub"), HUB, f"file:///mnt/hub/Other/model.v2/{SUFFIX}"),
    ],
)  # fmt: skip
def test_a_files_address_follows_from_its_space(made: Made, at: Source, artifact: Artifact, url: str) -> None:
    assert artifacts.address(at, artifact) == url
    assert made(tokens={}).of(at, artifact) == Location(url)


@pytest.mark.parametrize(
    ("at", "artifact", "text"),
    [
        (source("oci", "https://a.example/docker.io"), ELSEWHERE, "has only images of docker.io"),
        (source("apt", ""), APT, "no address"),
    ],
)
def test_what_a_source_cannot_have_is_not_asked_for(made: Made, at: Source, artifact: Artifact, text: str) -> None:
    with pytest.raises(Fault) as caught:
        made().of(at, artifact)
    assert (caught.value.kind, caught.value.text) == (Kind.ABSENT, text)


@pytest.mark.parametrize(
    ("at", "artifact"),
    [
        (source("torch", "https://a.example/{build}"), packaged("torch", version="1.0+cpu")),
        (source("pypi", "https://a.example/simple"), packaged("pypi", path=f"{HASHED}/{ONE.file}")),
        (source("pypi", "https://a.example/simple", files="https://a.example/p"), packaged("pypi")),
    ],
)
def test_where_only_an_index_can_tell_there_is_no_address(at: Source, artifact: Artifact) -> None:
    assert artifacts.address(at, artifact) == ""


def test_a_key_is_the_hash_or_stands_for_several() -> None:
    several = packaged("pypi", hashes=("b" * 64, "a" * 64))
    assert packaged("pypi").key == ONE.sha256
    assert several.key == packaged("pypi", hashes=("a" * 64, "b" * 64)).key
    assert len(several.key) == 64
    assert several.key not in several.hashes


# Through an index.


@pytest.mark.parametrize("form", ["html", "json", "flat"])
def test_an_index_says_where_a_file_is(made: Made, near: Mirror, form: str) -> None:
    near.add_index(ONE, form=form, root="/cpu")
    at = source("torch", f"{near.url}/{{build}}/", "flat" if form == "flat" else "pep503")
    found = made().of(at, packaged("torch", version="1.0+cpu"))
    assert found == Location(f"{near.url}/packages/{ONE.file}")
    assert near.paths() == ["/cpu/" if form == "flat" else "/cpu/one/"]


def test_official_is_what_pip_is_set_to(made: Made, near: Mirror) -> None:
    near.add_index(ONE)
    assert made(f"{near.url}/simple").of(source("pypi", ""), packaged("pypi")) == Location(
        f"{near.url}/packages/{ONE.file}"
    )


def test_a_folder_of_wheels_is_an_index(made: Made, tmp_path: Path) -> None:
    (tmp_path / ONE.file).write_bytes(ONE.body)
    file = Location((tmp_path / ONE.file).as_uri())
    assert made(links=(str(tmp_path),)).of(source("pypi", ""), packaged("pypi")) == file
    assert made().of(source("torch", tmp_path.as_uri(), "flat"), packaged("torch")) == file


def test_a_bundle_is_an_index_with_pages(made: Made, tmp_path: Path) -> None:
    (tmp_path / "simple/one").mkdir(parents=True)
    (tmp_path / "simple/one/index.html").write_text(f'<a href="../../p/{ONE.file}#sha256={ONE.sha256}">{ONE.file}</a>')
    found = made().of(source("pypi", f"{tmp_path.as_uri()}/simple"), packaged("pypi"))
    assert found == Location(f"{tmp_path.as_uri()}/p/{ONE.file}")


@pytest.mark.parametrize(
    ("artifact", "kind", "text"),
    [
        (packaged("pypi", hashes=(SHA,)), Kind.CORRUPT, "checksum differs in its index"),
        (Artifact("pypi", "one-2.0-py3-none-any.whl", (SHA,), None, "one", "2.0"), Kind.STALE,
         "does not list it: not synced yet"),
        (Artifact("pypi", "two.whl", (SHA,), None, "two", "2.0"), Kind.ABSENT, "404: not there, or not synced yet"),
    ],
)  # fmt: skip
def test_an_index_without_the_file_is_a_fault(
    made: Made, near: Mirror, artifact: Artifact, kind: Kind, text: str
) -> None:
    near.add_index(ONE)
    with pytest.raises(Fault) as caught:
        made().of(source("pypi", f"{near.url}/simple"), artifact)
    assert (caught.value.kind, caught.value.text) == (kind, text)


# The user's token.


@pytest.mark.parametrize("layout", ["hf", "modelscope"])
def test_a_token_is_shown_only_where_that_is_said(made: Made, layout: str) -> None:
    trusted, other = (source("hub", "https://a.example", layout, send_token=trust) for trust in (True, False))
    assert made().of(trusted, HUB).authorization == "Bearer hub-s3cret"
    assert made().of(other, HUB).authorization == ""
    assert made(tokens={}).of(trusted, HUB).authorization == ""
    assert made(tokens={"hub": ""}).of(trusted, HUB).authorization == ""
    assert made(tokens={"oci": "x"}).of(trusted, HUB).authorization == ""


def test_a_token_is_not_shown_where_an_index_links_to(made: Made, near: Mirror) -> None:
    near.files["/simple/one/"] = f'<a href="http://evil.example/{ONE.file}">{ONE.file}</a>'.encode()
    at = source("pypi", f"{near.url}/simple", send_token=True)
    assert made().of(at, packaged("pypi")) == Location(f"http://evil.example/{ONE.file}")
    assert "Authorization" not in near.asked[0].headers


def test_a_token_is_not_shown_with_its_address() -> None:
    assert repr(Location("https://a.example", "Bearer s3cret")) == "Location(url='https://a.example')"


@pytest.mark.parametrize("token", ["hub-s3cret\n", "  hub-s3cret "])
def test_space_around_a_token_is_not_part_of_it(made: Made, token: str) -> None:
    found = made(tokens={"hub": token}).of(source("hub", "https://a.example", send_token=True), HUB)
    assert found.authorization == "Bearer hub-s3cret"


@pytest.mark.parametrize("token", ["s3c\nret", "s3c ret", "s3cret\N{BULLET}", "密", "s3c\0ret"])
def test_a_token_that_cannot_be_sent_is_an_error_that_does_not_show_it(made: Made, token: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(tokens={"hub": token})
    assert caught.value.message == "the token for hub has characters that no token has"
    assert caught.value.__context__ is None


# The tokens of registries, which anybody may have.


def challenge(realm: str, more: str = ',service="r.example",scope="repository:library/debian:pull"') -> Fault:
    return Fault(Kind.REFUSED, "401 Unauthorized", challenge=f'Bearer realm="{realm}"{more}')


ASKED = "/token?service=r.example&scope=repository%3Alibrary%2Fdebian%3Apull"


def test_a_registry_gets_the_token_that_its_token_server_gives(
    made: Made, near: Mirror, far: Mirror, tmp_path: Path
) -> None:
    """And the token server gets nothing: neither the user's token nor the login of the registry."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login li password s3cret\n")
    far.files[ASKED] = json.dumps({"token": "t0k.en-_~+/=", "expires_in": 300}).encode()
    at = source("oci", near.url.replace("://", "://li:s3cret@") + "/x", send_token=True)
    found = made()
    assert found.of(at, image()).authorization == "Bearer oci-s3cret"
    url = f"{at.url[:-2]}/v2/x/library/debian/{BLOB}"
    granted = Location(url, "Bearer t0k.en-_~+/=")
    assert found.challenged(at, image(), challenge(f"{far.url}/token")) == granted
    assert [(each.path, "Authorization" in each.headers) for each in far.asked] == [(ASKED, False)]
    # From now on it is shown at once, but for that image at that mirror alone.
    assert found.of(at, image()) == granted
    assert found.of(at, image("docker.io/library/python")).authorization == "Bearer oci-s3cret"
    other = Source("other", "other", "oci", "oci", "https://b.example")
    assert found.of(other, image()) == Location(f"https://b.example/v2/library/debian/{BLOB}")


@pytest.mark.parametrize(
    ("realm", "more", "asked"),
    [
        ("/token", "", "/token"),
        ("/token", ',service="a b"', "/token?service=a+b"),
        ("/token?x=1", ', service="a", error="invalid_token"', "/token?x=1&service=a"),
        ("/token", ',account="li",client_id="c",scope=""', "/token?scope="),
    ],
)
def test_a_token_server_is_asked_for_what_the_registry_says(
    made: Made, near: Mirror, realm: str, more: str, asked: str
) -> None:
    near.files[asked] = b'{"access_token": "abc"}'
    found = made().challenged(source("oci", "https://a.example"), image(), challenge(near.url + realm, more))
    assert found.authorization == "Bearer abc"
    assert near.paths() == [asked]


def test_two_threads_that_were_refused_before_both_get_in(made: Made, near: Mirror) -> None:
    """The second one gets the same token, and has not shown it yet."""
    near.files["/token"] = b'{"token": "abc"}'
    found, at = made(), source("oci", "https://a.example")
    both = [found.challenged(at, image(), challenge(f"{near.url}/token", "")) for _ in range(2)]
    assert [each.authorization for each in both] == ["Bearer abc"] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"", b"no", b"<html></html>", b"[]", b"1", b"null", b'"abc"', b'{"token": 1}', b'{"token": ["a"]}', b"\xff\xfe",
        b'{"token": "a\\r\\nX-Evil: b"}', b'{"token": "a b"}', b'{"token": "\\u5bc6"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_token_server_that_gives_no_token_says_so(made: Made, near: Mirror, body: bytes) -> None:
    near.files["/token"] = body
    found, at = made(tokens={}), source("oci", "https://a.example")
    with pytest.raises(Fault) as caught:
        found.challenged(at, image(), challenge(f"{near.url}/token", ""))
    assert (caught.value.kind, caught.value.text) == (Kind.PAGE, "its token server does not give a token")
    assert found.of(at, image()).authorization == ""


@pytest.mark.parametrize("body", [b"{}", b'{"token": ""}', b'{"token": null, "access_token": ""}'])
def test_without_a_token_the_refusal_stands(made: Made, near: Mirror, body: bytes) -> None:
    near.files["/token"] = body
    refusal = challenge(f"{near.url}/token", "")
    with pytest.raises(Fault) as caught:
        made().challenged(source("oci", "https://a.example"), image(), refusal)
    assert caught.value is refusal


@pytest.mark.parametrize(
    "wanted",
    [
        "", "Bearer", "Basic realm=\"registry\"", "Bearer service=\"a\"", "Bearer realm=\"\"", "Bearer realm=\"a\"",
        "Bearer realm=\"file:///etc/hostname\"", "Bearer realm=http://127.0.0.1:9/", "Negotiate",
    ],
)  # fmt: skip
def test_where_there_is_no_way_in_the_refusal_stands(made: Made, wanted: str) -> None:
    refusal = Fault(Kind.REFUSED, "401 Unauthorized", challenge=wanted)
    with pytest.raises(Fault) as caught:
        made().challenged(source("oci", "https://a.example"), image(), refusal)
    assert caught.value is refusal


def test_only_registries_have_token_servers(made: Made, near: Mirror) -> None:
    refusal = challenge(f"{near.url}/token")
    for artifact in (HUB, CONDA, packaged("pypi")):
        with pytest.raises(Fault) as caught:
            made().challenged(source(artifact.space, near.url), artifact, refusal)
        assert caught.value is refusal
    assert near.asked == []


def test_a_token_server_that_fails_is_the_reason(made: Made, near: Mirror) -> None:
    near.answers["/503"] = near.status(503)
    for path, kind, text in (
        ("/503", Kind.BROKEN, "503 Service Unavailable"),
        ("/nothing", Kind.ABSENT, "404: not there, or not synced yet"),
    ):
        with pytest.raises(Fault) as caught:
            made().challenged(source("oci", "https://a.example"), image(), challenge(near.url + path, ""))
        assert (caught.value.kind, caught.value.text) == (kind, text)


def test_a_layer_comes_from_a_registry_that_wants_a_token_first(made: Made, near: Mirror, far: Mirror) -> None:
    """And from the store behind it, which is another host and does not see the token."""
    body = b"layer"
    digest = hashlib.sha256(body).hexdigest()
    artifact = Artifact("oci", "layer", (digest,), len(body), "docker.io/library/debian")
    path = f"/v2/library/debian/blobs/sha256:{digest}"
    far.files |= {"/token?service=r": b'{"token": "abc"}', "/store": body}

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") == "Bearer abc":
            near.redirect(request, f"{far.url}/store")
        else:
            wanted = f'Bearer realm="{far.url}/token",service="r"'
            near.send(request, b"", {"WWW-Authenticate": wanted}, 401)

    near.answers[path] = answer
    with contextlib.closing(Client(Network())) as client:
        found, at = made(), source("oci", near.url)
        with pytest.raises(Fault) as caught:
            client.body(f"{near.url}{path}")
        location = found.challenged(at, artifact, caught.value)
        with contextlib.closing(client.body(location.url, authorization=location.authorization)) as layer:
            block = memoryview(bytearray(100))
            assert bytes(block[: layer.read_into(block)]) == body
    assert [each.headers.get("Authorization", "") for each in near.asked] == ["", "Bearer abc"]
    assert [(each.path, each.headers.get("Authorization", "")) for each in far.asked] == [
        ("/token?service=r", ""),
        ("/store", ""),
    ]
