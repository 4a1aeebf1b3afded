"""jingxiang.sinks.registry, against a registry on this machine"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jingxiang import images
from jingxiang.base_images import Blob, Reference
from jingxiang.digest import sha256_bytes
from jingxiang.errors import JingxiangError
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.fetch.sending import Stream
from jingxiang.images import Attachment, Image, Layer
from jingxiang.layers import Changed
from jingxiang.sinks import registry, registry_access, registry_upload
from jingxiang.sinks.base import Room, SinkFull
from jingxiang.sinks.registry import BadAddress, Registry
from jingxiang.sinks.registry_access import Credentials, Denied, NoCredentials, Refused, Unreachable
from jingxiang.sinks.registry_notes import Notes
from jingxiang.sinks.registry_upload import Damaged, Interrupted, Source, Unreadable
from tests.peers import push_registry, system
from tests.peers import sinks as contract
from tests.peers.app import wait_for
from tests.peers.push_registry import PushRegistry, Seen, cut, digest, on, says

REPOSITORY = "jingxiang/smoke"
CREATED = "2026-01-01T00:00:00Z"
BASE = {"architecture": "amd64", "os": "linux"}
PIECE = 3_000_000
SBOM = Attachment("sbom.spdx.json", "application/spdx+json", b'{"spdxVersion": "SPDX-2.3"}')
PROVENANCE = Attachment("provenance.json", "application/vnd.in-toto+json", b'{"predicate": {}}')


@dataclass
class Counted:
    """Blocks of a layer; `begun`: how often they were asked for."""

    blocks_: list[bytes]
    begun: int = 0

    def blocks(self) -> Iterator[bytes]:
        self.begun += 1
        yield from self.blocks_


def layer(body: bytes, title: str = "model", kind: str = "weights", origin: str = "") -> Layer:
    blocks = [body[start : start + 1_000_003] for start in range(0, len(body), 1_000_003)]
    sha256 = sha256_bytes(body)
    return Layer(kind, title, Blob(sha256, images.TAR, len(body)), sha256, Counted(blocks), origin)


def image(*layers: Layer, attachments: tuple[Attachment, ...] = ()) -> Image:
    return images.image(BASE, layers, {}, created=CREATED, attachments=attachments)


SMALL, LARGE = b"small layer" * 10, os.urandom(10_000_000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and small pieces: 4 for LARGE."""
    monkeypatch.setattr(registry_upload, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(registry_access, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(registry_upload, "PIECE_BYTES", PIECE)


@pytest.fixture
def peer(no_proxy: None) -> Iterator[PushRegistry]:
    with push_registry.serving() as found:
        yield found


@dataclass
class Pushes:
    """Pushes to a peer, as one machine does them."""

    peer: PushRegistry
    client: Client
    note: Path
    credentials: Credentials = field(default_factory=Credentials)
    sent: list[int] = field(default_factory=list)

    def sink(self, repository: str = REPOSITORY, tag: str = "1") -> Registry:
        reference = Reference(self.peer.address, repository, tag)
        return Registry(self.client, reference, self.note, lambda host: self.credentials)

    def push(self, made: Image, repository: str = REPOSITORY, tag: str = "1") -> Registry:
        """Returns the sink; what was sent is in `sent`, what was asked for now in `peer.seen`."""
        sink = self.sink(repository, tag)
        self.sent.clear()
        self.peer.seen.clear()
        sink.put(made, sink.held(made.layers), self.sent.append)
        return sink


@pytest.fixture
def pushes(peer: PushRegistry, tmp_path: Path) -> Iterator[Pushes]:
    with contextlib.closing(Client(network.of({}, {"HOME": str(tmp_path)}))) as client:
        yield Pushes(peer, client, tmp_path / "images" / "registries.json")


def stored(peer: PushRegistry, made: Image, repository: str = REPOSITORY, tag: str = "1") -> None:
    """The registry has the image by its tag, every byte of it."""
    kind, manifest = peer.manifests[repository][tag]
    assert (kind, manifest, digest(manifest)) == (images.MANIFEST, made.manifest, made.digest)
    blobs = peer.blobs[repository]
    for each in made.layers:
        assert blobs[f"sha256:{each.blob.sha256}"] == b"".join(each.content.blocks())
    assert blobs[made.id] == made.config


# A push.


def test_a_registry_fulfils_the_contract_of_sinks(peer: PushRegistry, pushes: Pushes, tmp_path: Path) -> None:
    _, second = contract.check(
        lambda tag: Registry.of(f"{peer.address}/{REPOSITORY}", tag, client=pushes.client, note=pushes.note), tmp_path
    )
    assert {digest(peer.manifests[REPOSITORY][tag][1]) for tag in ("one", "two")} == {second.digest}


def test_an_image_is_pushed_whole(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL, "base", "base"), layer(LARGE))
    assert not pushes.sink().has(made)
    sink = pushes.push(made)
    stored(peer, made)
    assert sum(pushes.sent) == made.size_bytes
    assert not peer.uploads
    assert peer.asked()[-1] == f"PUT /v2/{REPOSITORY}/manifests/1", "the tag comes last"
    assert sink.has(made)
    assert (sink.name, sink.called) == (f"registry {peer.address}/{REPOSITORY}", f"{peer.address}/{REPOSITORY}:1")


def test_a_large_layer_goes_in_pieces(peer: PushRegistry, pushes: Pushes) -> None:
    pushes.push(image(layer(LARGE)))
    spans = [each.headers["Content-Range"] for each in peer.seen if each.method == "PATCH"]
    assert spans == ["0-2999999", "3000000-5999999", "6000000-8999999", "9000000-9999999"]


def test_a_small_layer_comes_with_the_last_request(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL))
    pushes.push(made)
    stored(peer, made)
    assert peer.asked("PATCH") == []


def test_an_empty_layer_is_a_layer(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(b""))
    pushes.push(made)
    stored(peer, made)


def test_what_is_there_is_not_sent_again(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL), layer(LARGE))
    pushes.push(made)
    sink = pushes.push(made, tag="2")
    assert sink.held(made.layers) == {each.blob.sha256 for each in made.layers}
    assert pushes.sent == []
    assert peer.asked("POST", "PATCH") == []
    stored(peer, made, tag="2")


def test_only_what_is_missing_is_held_against_the_image(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL), layer(LARGE))
    peer.put_blob(REPOSITORY, SMALL)
    sink = pushes.sink()
    assert sink.held(made.layers) == {sha256_bytes(SMALL)}
    assert sink.room(made.layers, sink.held(made.layers)) == Room(len(LARGE))


def test_one_layer_twice_is_sent_once(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(LARGE), layer(LARGE))
    pushes.push(made)
    stored(peer, made)
    assert sum(pushes.sent) == len(LARGE)


def test_two_layers_go_at_the_same_time(peer: PushRegistry, pushes: Pushes) -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(*_: object) -> bool:
        both.wait()
        return False

    peer.faults = [on("PATCH", "", meet, times=2)]
    made = image(layer(LARGE), layer(LARGE[::-1]))
    pushes.push(made)
    stored(peer, made)


def test_another_image_by_the_same_tag_is_not_the_image(pushes: Pushes) -> None:
    pushes.push(image(layer(SMALL)))
    assert not pushes.sink().has(image(layer(LARGE)))


def test_a_registry_that_does_not_name_digests_is_asked_for_the_manifest(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL))
    pushes.push(made)

    def bare(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        found.answer(request, 200)
        return True

    peer.faults = [on("HEAD", "manifests", bare)]
    assert pushes.sink().has(made)


# Mounts.


def test_a_layer_is_taken_from_a_repository_that_had_it(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(LARGE))
    pushes.push(made, "first/one")
    pushes.push(made, "second/one")
    assert pushes.sent == []
    assert [each.query for each in peer.seen if each.method == "POST" and each.query] == [
        {"mount": digest(LARGE), "from": "first/one"}
    ]
    stored(peer, made, "second/one")


def test_a_layer_is_taken_from_where_it_came_from(peer: PushRegistry, pushes: Pushes) -> None:
    peer.put_blob("library/debian", LARGE)
    made = image(layer(LARGE, origin=f"{peer.address}/library/debian"))
    pushes.push(made)
    assert pushes.sent == []
    stored(peer, made)


def test_a_layer_of_another_registry_is_sent(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(LARGE, origin="docker.io/library/debian"))
    pushes.push(made)
    assert [each.query for each in peer.seen if "mount" in each.query] == []
    stored(peer, made)


def test_an_upload_that_opens_instead_of_a_mount_is_used(peer: PushRegistry, pushes: Pushes) -> None:
    """The repository that is remembered does not have it any more."""
    made = image(layer(LARGE))
    Notes(pushes.note).add(peer.address, "gone/one", [sha256_bytes(LARGE)])
    Notes(pushes.note).add(peer.address, "gone/two", [sha256_bytes(LARGE)])
    pushes.push(made)
    stored(peer, made)
    assert [each.query.get("from") for each in peer.seen if each.method == "POST"] == ["gone/two", "gone/one", None]
    assert len(peer.asked("DELETE")) == 1, "the first one is given back"


def test_a_note_that_is_broken_is_no_note(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "note")
    for text in ("", "[]", "{]", '{"a": []}', '{"a": {"b": 1}}'):
        notes.file.write_text(text)
        assert notes.repositories("a", "b") == []
    for number in range(5):
        notes.add("a", f"r{number}", ["b"])
    notes.add("a", "r3", ["b"])
    assert notes.repositories("a", "b") == ["r3", "r4", "r2"]
    assert notes.repositories("other", "b") == []


def test_a_note_that_cannot_be_written_is_no_failure(
    peer: PushRegistry, pushes: Pushes, capsys: pytest.CaptureFixture[str]
) -> None:
    pushes.note.parent.write_text("a file")
    made = image(layer(SMALL))
    pushes.push(made)
    stored(peer, made)
    assert capsys.readouterr().err.startswith(f"warning: {pushes.note}: cannot be written: ")


# Connections that break.


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [0, 1, 70_000, 2_999_999])
def test_an_upload_goes_on_where_it_was_cut_off(peer: PushRegistry, pushes: Pushes, after: int, *, reset: bool) -> None:
    """Of the second piece so many bytes arrive."""
    seen: list[int] = []

    def second(found: PushRegistry, request: BaseHTTPRequestHandler, asked: Seen) -> bool:
        seen.append(1)
        return len(seen) == 2 and cut(after, reset=reset)(found, request, asked)

    peer.faults = [on("PATCH", "", second, times=99)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)
    assert sum(pushes.sent) == len(LARGE)
    assert len(peer.asked("POST")) == 2, "the layer's and the configuration's"
    got = sum(each.got for each in peer.seen if each.method == "PATCH")
    assert got == len(LARGE), "nothing that had arrived is sent again"


def test_an_upload_that_the_registry_has_forgotten_begins_again(peer: PushRegistry, pushes: Pushes) -> None:
    """As with distribution 2.8."""
    peer.forgetful = True
    peer.faults = [on("PATCH", "", cut(1000))]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)
    assert sum(pushes.sent) == len(LARGE)


def test_an_upload_that_never_gets_further_is_given_up(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("PATCH", "", cut(0), times=99)]
    made = image(layer(LARGE, "model.safetensors"))
    with pytest.raises(Interrupted) as caught:
        pushes.push(made)
    assert caught.value.message == (
        f"registry {peer.address}: weights model.safetensors did not arrive in 4 attempts: the connection was cut off"
    )
    assert len(peer.asked("PATCH")) == 4
    assert "1" not in peer.manifests.get(REPOSITORY, {})


def test_any_number_of_cuts_is_survived_as_long_as_it_gets_further(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("PATCH", "", cut(1_000_000), times=9)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)


def test_a_last_answer_that_is_lost_is_no_failure(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("PUT", "uploads", push_registry.unanswered)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)
    assert len(peer.asked("POST")) == 2


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_registry_that_is_busy_is_asked_again(peer: PushRegistry, pushes: Pushes, method: str, status: int) -> None:
    peer.faults = [on(method, "", says(status, headers={"Retry-After": "0"}), times=2)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)


def test_a_registry_that_stays_busy_says_why(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("PATCH", "", says(503, "UNAVAILABLE", "the store is being moved"), times=99)]
    with pytest.raises(Refused) as caught:
        pushes.push(image(layer(LARGE)))
    assert caught.value.message == (
        f"registry {peer.address}: weights model: 503 UNAVAILABLE: the store is being moved"
    )
    assert caught.value.hints == ("do it again later: layers that have arrived are not sent again",)


def test_pieces_become_smaller_for_a_proxy_that_takes_no_large_ones(
    peer: PushRegistry, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_upload, "SMALL_PIECE_BYTES", 1_000_000)

    def too_large(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        return int(seen.headers["Content-Length"]) > 1_000_000 and says(413)(found, request, seen)

    peer.faults = [on("PATCH", "", too_large, times=99)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)


def test_a_registry_that_takes_no_pieces_gets_a_layer_in_one(peer: PushRegistry, pushes: Pushes) -> None:
    def pieces(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        return "Content-Range" in seen.headers and says(416)(found, request, seen)

    peer.faults = [on("PATCH", "", pieces, times=99)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)


def test_pieces_are_as_large_as_the_registry_wants(peer: PushRegistry, pushes: Pushes) -> None:
    def opened(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        found.uploads["wide"] = bytearray()
        headers = {"Location": f"/v2/{REPOSITORY}/blobs/uploads/wide?_state=a%2Fb", "OCI-Chunk-Min-Length": "8000000"}
        found.answer(request, 202, headers=headers)
        return True

    peer.faults = [on("POST", "", opened)]
    pushes.push(image(layer(LARGE)))
    spans = [each.headers["Content-Range"] for each in peer.seen if each.method == "PATCH"]
    assert spans == ["0-7999999", "8000000-9999999"]


# What is sent.


def test_a_layer_that_has_changed_is_not_pushed(peer: PushRegistry, pushes: Pushes) -> None:
    """Of the same length, it is the registry that compares it with its digest."""
    other = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    for body, error in ((other, Damaged), (LARGE + b"x", Changed), (LARGE[:-1], Changed), (b"", Changed)):
        made = image(replace(layer(LARGE), content=Counted([body])))
        with pytest.raises(error):
            pushes.push(made)
    assert peer.blobs == {}
    assert "1" not in peer.manifests.get(REPOSITORY, {})


def test_a_layer_that_cannot_be_read_is_no_fault_of_the_registry(peer: PushRegistry, pushes: Pushes) -> None:
    class Broken:
        def blocks(self) -> Iterator[bytes]:
            yield LARGE[:2_000_000]
            raise OSError(5, "Input/output error")

    with pytest.raises(Unreadable) as caught:
        pushes.push(image(replace(layer(LARGE), content=Broken())))
    assert caught.value.message == "weights model: cannot be read: Input/output error"
    wait_for(lambda: bool(peer.asked("PATCH")), 10)  # whoever gives up does not wait for the registry
    assert len(peer.asked("PATCH")) == 1


def test_a_source_is_read_from_any_place() -> None:
    content = Counted([b"abc", b"", b"defg", b"h"])
    source = Source("x", 8, content)

    def take(start: int, count: int) -> bytes:
        return b"".join(source.take(start, count))

    assert [take(0, 2), take(2, 3), take(6, 1)] == [b"ab", b"cde", b"g"]
    assert content.begun == 1
    assert take(1, 7) == b"bcdefgh"
    source.check()
    assert content.begun == 2


def test_damage_on_the_way_is_said(peer: PushRegistry, pushes: Pushes) -> None:
    def damaged(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        found.uploads[seen.path.rpartition("/")[2]][5] ^= 1
        return False

    peer.faults = [on("PUT", "uploads", damaged)]
    with pytest.raises(Damaged) as caught:
        pushes.push(image(layer(LARGE)))
    assert caught.value.message == f"registry {peer.address}: weights model has another checksum there than here"


def test_one_failure_ends_the_other_uploads(peer: PushRegistry, pushes: Pushes) -> None:
    waiting = threading.Event()

    def stuck(*_: object) -> bool:
        waiting.wait(10)
        return False

    def refuse(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        return says(403, "DENIED", "not here")(found, request, seen)

    peer.faults = [on("PATCH", "", stuck), on("PATCH", "", refuse, times=9)]
    bodies = [LARGE, LARGE[::-1], LARGE[1:], LARGE[2:]]
    with pytest.raises(Denied):
        pushes.push(image(*map(layer, bodies)))
    assert not waiting.is_set()
    waiting.set()
    assert len(peer.asked("PATCH")) == 2


# Logins.


def test_basic_logins_are_shown_when_asked_for(peer: PushRegistry, pushes: Pushes) -> None:
    peer.login, pushes.credentials = ("me", "päss:word"), Credentials("me", "päss:word")
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)
    assert "Authorization" not in peer.seen[0].headers


@pytest.mark.parametrize("identity", [False, True])
def test_tokens_are_got_with_our_login(peer: PushRegistry, pushes: Pushes, *, identity: bool) -> None:
    peer.tokens, peer.login, peer.identity = True, ("me", "secret"), "refresh"
    pushes.credentials = Credentials(token="refresh") if identity else Credentials("me", "secret")
    made = image(layer(LARGE), layer(SMALL))
    pushes.push(made)
    stored(peer, made)
    assert peer.asked().count("POST /token" if identity else "GET /token") == 1
    shown = {each.headers.get("Authorization", "").partition(" ")[0] for each in peer.seen if each.path != "/token"}
    assert shown == {"", "Bearer"}


def test_a_mount_shows_a_token_for_both_repositories(peer: PushRegistry, pushes: Pushes) -> None:
    peer.tokens = True
    made = image(layer(LARGE))
    pushes.push(made, "first/one")
    pushes.push(made, "second/one")
    assert pushes.sent == []
    stored(peer, made, "second/one")


def test_a_token_that_is_over_is_renewed_in_the_middle_of_a_layer(peer: PushRegistry, pushes: Pushes) -> None:
    peer.tokens = True

    def over(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        if seen.headers.get("Content-Range", "").startswith("3000000-"):
            found.expire()
        return False

    peer.faults = [on("PATCH", "", over, times=2)]
    made = image(layer(LARGE))
    pushes.push(made)
    stored(peer, made)
    assert len(peer.asked("POST")) == 2
    assert peer.asked().count("GET /token") == 2


def test_a_wrong_login_is_said_with_what_to_do(peer: PushRegistry, pushes: Pushes) -> None:
    for tokens in (False, True):
        peer.tokens, peer.login, pushes.credentials = tokens, ("me", "secret"), Credentials("me", "wrong")
        with pytest.raises(Denied) as caught:
            pushes.push(image(layer(SMALL)))
        start = f"registry {peer.address} does not let you push to {REPOSITORY}: 401 "
        assert caught.value.message.startswith(start)
        assert caught.value.hints == (f"docker login {peer.address}",)
        assert "wrong user or password" in caught.value.message or not tokens


def test_nobody_is_let_in_without_a_login(peer: PushRegistry, pushes: Pushes) -> None:
    peer.login = ("me", "secret")
    with pytest.raises(Denied):
        pushes.push(image(layer(SMALL)))


def test_a_token_server_without_encryption_sees_nothing(
    peer: PushRegistry, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry has TLS, as far as we know."""
    monkeypatch.setattr("jingxiang.base_images.scheme", lambda host: "https")
    access = registry_access.Access(pushes.client, peer.address, lambda host: Credentials("me", "secret"))
    with pytest.raises(Denied, match=f"its token server http://{peer.address}/token is not encrypted"):
        access._granted({"realm": f"http://{peer.address}/token"}, ("repository:a:pull,push",))
    assert peer.seen == []


def test_another_host_gets_the_layer_and_no_login(peer: PushRegistry, pushes: Pushes) -> None:
    """Uploads go to an object store, under another name and port."""
    peer.login, pushes.credentials = ("me", "secret"), Credentials("me", "secret")
    with push_registry.serving() as store:
        store.uploads = peer.uploads
        store.blobs = peer.blobs
        peer.uploads_at = store.uploads_at = f"http://{store.address.replace('127.0.0.1', 'localhost')}"
        made = image(layer(LARGE))
        pushes.push(made)
        stored(peer, made)
        assert {each.method for each in store.seen} == {"PATCH", "PUT"}
        assert [each.headers for each in store.seen if "Authorization" in each.headers] == []


def test_uploads_of_an_encrypted_registry_do_not_go_on_in_the_open(
    peer: PushRegistry, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image(layer(SMALL))
    sink = pushes.sink()
    monkeypatch.setattr(sink._access, "base", "https://elsewhere.invalid")
    peer.uploads_at = f"http://{peer.address}"
    answer = pushes.client.send("POST", f"http://{peer.address}/v2/{REPOSITORY}/blobs/uploads/")
    with pytest.raises(Refused, match="202 without an address to go on at"):
        sink._access.follow(answer, made.layers[0].title)


def config(folder: Path, value: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(value))


def test_logins_are_those_of_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry_access.of_docker("r.example:5000") == Credentials()
    auth = base64.b64encode(b"me:se:cret").decode()
    config(tmp_path, {"auths": {"r.example:5000": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth},
                                "t.example": {"identitytoken": "refresh"}}})  # fmt: skip
    assert registry_access.of_docker("r.example:5000") == Credentials("me", "se:cret")
    assert registry_access.of_docker("docker.io") == Credentials("me", "se:cret")
    assert registry_access.of_docker("t.example") == Credentials(token="refresh")
    assert registry_access.of_docker("other.example") == Credentials()
    assert "cret" not in repr(Credentials("me", "se:cret", "se:cret"))


def test_logins_come_from_dockers_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-tests"
    helper.write_text(
        '#!/bin/sh\nread host\ncase $host in r.example) echo \'{"Username": "me", "Secret": "s"}\';;\n'
        '*) echo \'{"Username": "<token>", "Secret": "refresh"}\';; esac\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    config(tmp_path, {"credsStore": "tests"})
    assert registry_access.of_docker("r.example") == Credentials("me", "s")
    assert registry_access.of_docker("t.example") == Credentials(token="refresh")
    config(tmp_path, {"credHelpers": {"r.example": "missing-helper"}})
    with pytest.raises(NoCredentials, match=r"the login for registry r\.example cannot be read: "):
        registry_access.of_docker("r.example")


def test_a_file_with_logins_that_makes_no_sense_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for value in ({"auths": {"r.example": {"auth": "bm90aGluZw=="}}}, {"auths": {"r.example": 1}}, {"auths": [1]}):
        config(tmp_path, value)
        with pytest.raises(NoCredentials):
            registry_access.of_docker("r.example")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
         {"bearer": {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"}}),
        ('Basic realm="x y"', {"basic": {"realm": "x y"}}),
        ("basic", {"basic": {}}),
        ('Basic realm="r", Bearer realm="https://a", service=s',
         {"basic": {"realm": "r"}, "bearer": {"realm": "https://a", "service": "s"}}),
        ("Negotiate", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_challenges_are_read(header: str, found: dict[str, dict[str, str]]) -> None:
    headers = Message()
    headers["WWW-Authenticate"] = header
    assert registry_access.challenges(headers) == found


# Errors.


def test_a_registry_that_is_not_there_is_said(pushes: Pushes) -> None:
    pushes.peer.address = f"127.0.0.1:{system.free_port()}"
    with pytest.raises(Unreachable) as caught:
        pushes.push(image(layer(SMALL)))
    assert caught.value.message == (f"registry {pushes.peer.address} cannot be reached: no answer (Connection refused)")


@pytest.mark.parametrize(
    ("status", "code", "message", "error", "text"),
    [
        (413, "SIZE_INVALID", "too big", Refused, "registry {host}: weights model: 413 SIZE_INVALID: too big"),
        (507, "UNKNOWN", "quota", SinkFull, "registry {host}: the disk is full: 507 UNKNOWN: quota"),
        (500, "UNKNOWN", "write: no space left on device", SinkFull,
         "registry {host}: the disk is full: 500 UNKNOWN: write: no space left on device"),
        (403, "DENIED", "read only", Denied,
         "registry {host} does not let you push to jingxiang/smoke: 403 DENIED: read only"),
        (405, "UNSUPPORTED", "a cache", Refused, "registry {host}: weights model: 405 UNSUPPORTED: a cache"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_what_a_registry_says_is_what_is_said(
    peer: PushRegistry, pushes: Pushes, method: str, status: int, code: str, message: str,
    error: type[JingxiangError], text: str,
) -> None:  # fmt: skip
    """Also if it says it before the layer has been sent, and breaks the connection then."""
    peer.faults = [on(method, "", says(status, code, message), times=99)]
    with pytest.raises(error) as caught:
        pushes.push(image(layer(LARGE)))
    assert caught.value.message == text.format(host=peer.address)


def test_an_answer_in_the_middle_of_a_large_piece_is_heard(
    peer: PushRegistry, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the connection's buffers hold: sending fails, and why is there to be read."""
    monkeypatch.setattr(registry_upload, "PIECE_BYTES", 60_000_000)
    monkeypatch.setattr(registry_upload, "SMALL_PIECE_BYTES", 60_000_000)
    peer.faults = [on("PATCH", "", says(413, "SIZE_INVALID", "too big"), times=99)]
    with pytest.raises(Refused, match="413 SIZE_INVALID: too big"):
        pushes.push(image(layer(bytes(50_000_000))))
    assert sum(pushes.sent) < 50_000_000
    assert len(peer.asked("PATCH")) == 1


def test_a_repository_that_has_to_be_made_first_is_said(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("POST", "", says(404, "NAME_UNKNOWN", "project not found"), times=9)]
    with pytest.raises(Refused) as caught:
        pushes.push(image(layer(SMALL)))
    assert caught.value.hints == ("create the repository there first, if this registry wants that",)


def test_words_of_a_registry_are_safe_to_show(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("POST", "", says(400, "BAD", "\x1b[31mred\n" + "x" * 1000), times=9)]
    with pytest.raises(Refused) as caught:
        pushes.push(image(layer(SMALL)))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_a_manifest_that_is_refused_is_said(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("PUT", "manifests", says(400, "MANIFEST_INVALID", "no such type"))]
    with pytest.raises(Refused, match="the image's manifest: 400 MANIFEST_INVALID: no such type"):
        pushes.push(image(layer(SMALL)))
    assert "1" not in peer.manifests.get(REPOSITORY, {})


@pytest.mark.parametrize(
    ("address", "tag", "found"),
    [
        ("registry://127.0.0.1:5000/jingxiang/smoke:abc", "x", Reference("127.0.0.1:5000", "jingxiang/smoke", "abc")),
        ("127.0.0.1:5000/smoke", "abc", Reference("127.0.0.1:5000", "smoke", "abc")),
        ("hub/a/b", "jingxiang/smoke:abc", Reference("hub", "a/b", "abc")),
        ("docker.io/me/app", "1", Reference("docker.io", "me/app", "1")),
    ],
)
def test_addresses_are_read(address: str, tag: str, found: Reference) -> None:
    assert registry.reference(address, tag) == found


@pytest.mark.parametrize(
    "address",
    ["", "host", "host/", "/repo", "host/Repo", "host/a:", "host/a:b:c", "ho st/a", f"host/a@sha256:{'0' * 64}"],
)
def test_other_addresses_are_errors(address: str) -> None:
    with pytest.raises(BadAddress):
        registry.reference(address, "tag")


# Documents about an image.


def fallback(made: Image) -> str:
    return made.digest.replace(":", "-")


def test_documents_are_listed_by_a_tag_where_the_registry_does_not(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL), attachments=(SBOM, PROVENANCE))
    pushes.push(made)
    stored(peer, made)
    manifests = peer.manifests[REPOSITORY]
    kind, body = manifests[fallback(made)]
    referrers = [images.referrer(made, each) for each in made.attachments]
    expected = sorted(
        ({"mediaType": images.MANIFEST, "digest": digest(each), "size": len(each),
          "artifactType": json.loads(each)["artifactType"]} for each in referrers),
        key=lambda each: str(each["digest"]),
    )  # fmt: skip
    assert kind == images.INDEX
    assert json.loads(body) == {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": expected}
    assert {digest(each) for each in referrers} <= manifests.keys()
    for each in (b"{}", SBOM.body, PROVENANCE.body):
        assert peer.blobs[REPOSITORY][digest(each)] == each
    assert peer.asked()[-1] == f"PUT /v2/{REPOSITORY}/manifests/1", "the tag comes last"


def test_the_list_is_the_same_after_a_second_push(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL), attachments=(SBOM, PROVENANCE))
    pushes.push(made)
    before = dict(peer.manifests[REPOSITORY])
    pushes.push(replace(made, attachments=made.attachments[::-1]))
    assert peer.manifests[REPOSITORY] == before
    assert f"PUT /v2/{REPOSITORY}/manifests/{fallback(made)}" not in peer.asked()


def test_what_others_have_listed_stays(peer: PushRegistry, pushes: Pushes) -> None:
    made = image(layer(SMALL), attachments=(SBOM,))
    signature = b'{"schemaVersion": 2}'
    other = {"mediaType": images.MANIFEST, "digest": digest(signature), "size": 5, "annotations": {"by": "them"}}
    index = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": [other]}
    peer.manifests[REPOSITORY] = {
        fallback(made): (images.INDEX, json.dumps(index).encode()), digest(signature): (images.MANIFEST, signature),
    }  # fmt: skip
    pushes.push(made)
    listed = json.loads(peer.manifests[REPOSITORY][fallback(made)][1])["manifests"]
    assert other in listed
    assert len(listed) == 2


def test_a_registry_that_lists_documents_itself_needs_no_tag(peer: PushRegistry, pushes: Pushes) -> None:
    peer.subjects = True
    made = image(layer(SMALL), attachments=(SBOM,))
    pushes.push(made)
    assert digest(images.referrer(made, SBOM)) in peer.manifests[REPOSITORY]
    assert fallback(made) not in peer.manifests[REPOSITORY]


def test_a_registry_that_refuses_documents_gets_the_image(
    peer: PushRegistry, pushes: Pushes, capsys: pytest.CaptureFixture[str]
) -> None:
    made = image(layer(SMALL), attachments=(SBOM,))
    referrer = hashlib.sha256(images.referrer(made, SBOM)).hexdigest()
    peer.faults = [on("PUT", referrer, says(400, "MANIFEST_INVALID", "unknown artifact"))]
    pushes.push(made)
    stored(peer, made)
    assert capsys.readouterr().err == (
        f"warning: sbom.spdx.json is not kept beside the image: registry {peer.address}: sbom.spdx.json: "
        "400 MANIFEST_INVALID: unknown artifact\n"
    )


# The client's part.


def test_a_stream_does_not_use_a_connection_that_has_ended(peer: PushRegistry, pushes: Pushes) -> None:
    """It cannot be sent again over another one."""

    def last(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        request.close_connection = True
        return False

    peer.faults = [on("POST", "", last)]
    url = f"http://{peer.address}/v2/{REPOSITORY}/blobs/uploads/"
    assert pushes.client.send("POST", url).status == 202
    time.sleep(0.1)
    answer = pushes.client.send("PATCH", f"{url}upload-0?_state=a%2Fb", body=Stream(iter([b"ab", b"c"]), 3))
    assert (answer.status, answer.headers["Range"], bytes(peer.uploads["upload-0"])) == (202, "0-2", b"abc")


def test_a_small_body_is_sent_again_over_another_connection(peer: PushRegistry, pushes: Pushes) -> None:
    def broken(found: PushRegistry, request: BaseHTTPRequestHandler, seen: Seen) -> bool:
        request.close_connection = len(peer.seen) > 1
        return request.close_connection

    peer.faults = [on("PUT", "", broken, times=2)]
    url, headers = f"http://{peer.address}/v2/{REPOSITORY}/manifests/1", {"Content-Type": images.MANIFEST}
    assert [pushes.client.send("PUT", url, headers=headers, body=b"{}").status for _ in range(2)] == [201, 201]
    assert len(peer.seen) == 3


def test_redirects_of_a_push_are_not_followed(peer: PushRegistry, pushes: Pushes) -> None:
    peer.faults = [on("PUT", "manifests", says(307, headers={"Location": "http://elsewhere.invalid/"}))]
    with pytest.raises(Refused, match="the image's manifest: 307"):
        pushes.push(image(layer(SMALL)))


def test_a_message_comes_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINGXIANG_LANG", "zh")
    assert str(Unreachable("h", "x")) == "无法连接仓库 h：x"
