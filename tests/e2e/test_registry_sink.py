"""Pushes to a real registry: what it keeps is what was sent, and only what it lacks is sent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jingxiang import images
from jingxiang.base_images import Blob
from jingxiang.fetch import network
from jingxiang.fetch.client import Client
from jingxiang.images import Attachment, Bytes, Image, Layer
from jingxiang.sinks import registry_upload
from jingxiang.sinks.registry import Registry
from tests.peers import sinks as contract
from tests.peers import system

pytestmark = pytest.mark.e2e

BILL = Attachment("sbom.spdx.json", "application/spdx+json", b'{"spdxVersion": "SPDX-2.3"}')


@pytest.fixture
def client(no_proxy: None, tmp_path: Path) -> Iterator[Client]:
    with contextlib.closing(Client(network.of({}, {"HOME": str(tmp_path)}))) as found:
        yield found


@pytest.fixture
def repository() -> str:
    """One that nobody else has."""
    return f"sinks/{secrets.token_hex(6)}"


def layer(body: bytes) -> Layer:
    digest = hashlib.sha256(body).hexdigest()
    return Layer("weights", f"{len(body)} bytes", Blob(digest, images.TAR, len(body)), digest, Bytes(body))


def image(*sizes: int) -> Image:
    base = {"architecture": "amd64", "os": "linux"}
    made = [layer(os.urandom(size)) for size in sizes]
    return images.image(base, made, {}, created="2026-01-01T00:00:00Z", attachments=[BILL])


def get(client: Client, repository: str, kind: str, what: str, accept: str = "*/*") -> tuple[bytes, str]:
    """What the registry has (of what is large only the beginning), and the digest that it names."""
    url = f"http://{system.registry()}/v2/{repository}/{kind}/{what}"
    answer = client.send("GET", url, headers={"Accept": accept})
    assert answer.status == 200, answer.body
    return answer.body, answer.headers["Docker-Content-Digest"]


def blob_digest(client: Client, repository: str, sha256: str) -> str:
    """SHA-256 of what the registry has by a digest."""
    digest, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
    url = f"http://{system.registry()}/v2/{repository}/blobs/sha256:{sha256}"
    with contextlib.closing(client.body(url)) as body:
        while count := body.read_into(block):
            digest.update(block[:count])
    return digest.hexdigest()


def pushed(sink: Registry, made: Image) -> int:
    """Bytes that were sent."""
    sent: list[int] = []
    sink.put(made, sink.held(made.layers), sent.append)
    return sum(sent)


def test_a_real_registry_fulfils_the_contract_of_sinks(client: Client, repository: str, tmp_path: Path) -> None:
    contract.check(
        lambda tag: Registry.of(f"{system.registry()}/{repository}", tag, client=client, note=tmp_path / "note"),
        tmp_path,
    )


def test_an_image_is_there_as_it_was_made_and_is_not_sent_again(
    client: Client, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three pieces for the largest layer."""
    monkeypatch.setattr(registry_upload, "PIECE_BYTES", 4_000_000)
    made = image(0, 1, 1000, 3_000_000, 10_000_000)
    sink = Registry.of(f"registry://{system.registry()}/{repository}:one", "x", client=client, note=tmp_path / "note")
    assert pushed(sink, made) == made.size_bytes
    assert sink.has(made)
    assert sink.called == f"{system.registry()}/{repository}:one"
    assert get(client, repository, "manifests", "one", images.MANIFEST) == (made.manifest, made.digest)
    assert get(client, repository, "blobs", made.id) == (made.config, made.id)
    digests = [each.blob.sha256 for each in made.layers]
    assert [blob_digest(client, repository, each) for each in digests] == digests
    assert pushed(sink, made) == 0


def test_another_repository_takes_layers_from_the_first(client: Client, repository: str, tmp_path: Path) -> None:
    made = image(5_000_000, 1000)
    for name, count in (("one", made.size_bytes), ("two", 0)):
        sink = Registry.of(f"{system.registry()}/{repository}/{name}:1", "", client=client, note=tmp_path / "note")
        assert pushed(sink, made) == count
        assert sink.has(made)


def test_documents_are_found_by_the_tag_of_their_image(client: Client, repository: str, tmp_path: Path) -> None:
    made = image(1000)
    sink = Registry.of(f"{system.registry()}/{repository}", "it:1", client=client, note=tmp_path / "note")
    pushed(sink, made)
    tag = made.digest.replace(":", "-")
    index, digest = get(client, repository, "manifests", tag, images.INDEX)
    (listed,) = json.loads(index)["manifests"]
    manifest, _ = get(client, repository, "manifests", listed["digest"], images.MANIFEST)
    assert (manifest, listed["artifactType"]) == (images.referrer(made, BILL), BILL.media_type)
    (document,) = json.loads(manifest)["layers"]
    assert get(client, repository, "blobs", document["digest"])[0] == BILL.body
    pushed(sink, made)
    assert get(client, repository, "manifests", tag, images.INDEX)[1] == digest


@contextlib.contextmanager
def breaking(upstream: str, after: int) -> Iterator[str]:
    """The address of a way to a server, which breaks once, after so many bytes towards the server."""
    host, _, port = upstream.partition(":")
    left, lock = [after], threading.Lock()

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as far, contextlib.suppress(OSError):
                threading.Thread(target=self._back, args=(far,), daemon=True).start()
                while block := self.request.recv(65536):
                    with lock:
                        broken = 0 < left[0] <= len(block)
                        left[0] -= len(block)
                    if broken:
                        break
                    far.sendall(block)
                far.shutdown(socket.SHUT_RDWR)  # wakes the other thread
                self.request.shutdown(socket.SHUT_RDWR)

        def _back(self, far: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while block := far.recv(65536):
                    self.request.sendall(block)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Relay) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
    assert left[0] <= 0, "it broke"


def test_a_connection_that_breaks_in_the_middle_of_a_layer_is_survived(
    client: Client, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_upload, "PIECE_BYTES", 4_000_000)
    made = image(10_000_000)
    with breaking(system.registry(), 6_000_000) as way:
        sink = Registry.of(f"{way}/{repository}:1", "", client=client, note=tmp_path / "note")
        assert pushed(sink, made) == made.size_bytes, "what is sent twice is counted once"
        assert sink.has(made)
    (sha256,) = (each.blob.sha256 for each in made.layers)
    assert blob_digest(client, repository, sha256) == sha256
