"""jingxiang.commands.bases: base images from registries on this machine, and in bundles"""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jingxiang import base_images, locks
from jingxiang.commands import bases
from jingxiang.commands.bundle import bundle
from jingxiang.fetch.report import Unavailable
from jingxiang.places import Places
from jingxiang.store import Store
from tests.peers import faults, registry
from tests.peers.mirror import Mirror
from tests.peers.site import MB, data

LAYERS = (data(2 * MB, 1), data(1000, 2))
NAME = "docker.io/library/debian:bookworm-slim"


@pytest.fixture
def places(tmp_path: Path, no_pip_settings: None, near: Mirror, far: Mirror) -> Places:
    """A checkout with a mirror of a registry, and the registry, which wants a token."""
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.root.mkdir()
    (found.root / "mirrors.toml").write_text(
        f'[near]\noci = {{ layout = "oci", url = "{near.url}/{{registry}}" }}\n'
        f'[official]\noci = {{ layout = "oci", url = "{far.url}" }}\n'
    )
    return found


@pytest.fixture
def image(near: Mirror, far: Mirror) -> dict[str, bytes]:
    """The files of the image by digest, on both."""
    registry.add(near, "docker.io/library/debian", "bookworm-slim", *LAYERS)
    return registry.add(far, "library/debian", "bookworm-slim", *LAYERS, token=True)


def held(places: Places) -> dict[str, bytes]:
    store = Store(places.store)
    return {f"sha256:{blob.sha256}": store.blob(blob.sha256).read_bytes() for blob in store.blobs()}


def lock(places: Places, mirror: str = "near") -> None:
    bases.relock(places, ["debian:bookworm-slim"], mirror=mirror)


def test_an_image_is_locked_and_fetched(
    places: Places, image: dict[str, bytes], near: Mirror, far: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(places)
    size = "2.1 MB"
    digest = list(image)[-1]
    assert capsys.readouterr().err.splitlines() == [
        "mirrors  oci near, official",
        f"lock     {NAME} is {digest[:19]} as near says: 2 layers, {size}",
        "         it is written to docker/base.lock: commit it",
    ]
    (found,) = bases.get(places, mirror="near")
    assert [f"sha256:{blob.sha256}" for blob in (*found.blobs, found.manifest)] == list(image)
    assert held(places) == image
    before = near.connections + far.connections
    bases.get(places, mirror="near")
    assert near.connections + far.connections == before


def test_every_mirror_gives_the_same_lock(places: Places, image: dict[str, bytes]) -> None:
    """The registry itself lets in only who has asked its token server."""
    texts = []
    for mirror in ("near", "official"):
        lock(places, mirror)
        texts.append((places.root / base_images.LOCK).read_text())
    assert texts[0] == texts[1]
    assert held(places).keys() == {list(image)[-1]}
    bases.get(places, mirror="official")
    assert held(places) == image


def test_an_image_comes_whole_from_a_mirror_that_fails_midway(
    places: Places, image: dict[str, bytes], near: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(places)
    near.answers[f"/v2/docker.io/library/debian/blobs/{registry.digest(LAYERS[0])}"] = faults.always(
        near, faults.truncated
    )
    bases.get(places, mirror="near")
    assert held(places) == image
    assert "near: ends 1048576 bytes before its end (1 file)" in capsys.readouterr().err


def test_a_tag_that_has_moved_since_does_not_matter(places: Places, image: dict[str, bytes], near: Mirror) -> None:
    lock(places)
    shutil.rmtree(places.store)
    registry.add(near, "docker.io/library/debian", "bookworm-slim", b"newer")
    bases.get(places, mirror="near")
    assert held(places) == image


def test_a_mirror_that_lies_about_a_manifest_is_not_believed(
    places: Places, image: dict[str, bytes], near: Mirror
) -> None:
    digest = list(image)[-1]
    near.files[f"/v2/docker.io/library/debian/manifests/{digest}"] = b'{"mediaType": "x"}'
    lock(places)  # the index names the manifest, so the other one is asked
    bases.get(places, mirror="near")
    assert held(places) == image


@pytest.mark.parametrize("body", [b"<html>", b'{"schemaVersion": 1}', b'{"mediaType": "application/x"}', b""])
def test_what_is_no_image_is_said(places: Places, near: Mirror, far: Mirror, body: bytes) -> None:
    near.files["/v2/docker.io/library/debian/manifests/bookworm-slim"] = body
    with pytest.raises(Unavailable, match="could not be had from any of 2 mirrors"):
        lock(places)
    assert not (places.root / base_images.LOCK).exists()


def test_a_bundle_is_a_layout_that_images_come_from(
    places: Places, image: dict[str, bytes], tmp_path: Path, near: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder, and behind a plain web server. Its environment is left out here."""
    monkeypatch.setattr("jingxiang.commands.bundle._entries", lambda *_: iter(()))
    spec = places.root / "envs" / "cpu.in"
    (places.root / "envs" / "locks").mkdir(parents=True)
    spec.write_text("one\n")
    (places.locks / "cpu.txt").write_text(locks.written(spec, f"one==1 --hash=sha256:{'0' * 64}\n"))
    lock(places)
    bundle(places, out=str(tmp_path / "bundle"), mirror="near", profile="cpu", engine="venv")
    layout = tmp_path / "bundle" / "oci"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (listed,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert listed["digest"] == list(image)[-1]
    assert listed["annotations"] == {"org.opencontainers.image.ref.name": NAME}
    assert {f"sha256:{path.name}": path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()} == image
    (places.root / "mirrors.toml").write_text("")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "bundle"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for number, url in enumerate(((tmp_path / "bundle").as_uri(), f"http://127.0.0.1:{server.server_port}")):
            other = Places(places.root, tmp_path / f"home-{number}", tmp_path / f"store-{number}")
            bases.get(other, mirror=url)
            assert held(other) == image
        server.shutdown()


def test_an_image_that_nobody_has_locked_is_locked_loudly(
    places: Places, image: dict[str, bytes], near: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bases.known(places, "debian:bookworm-slim") is None
    found = bases.locked(places, "debian:bookworm-slim", mirror="near")
    err = capsys.readouterr().err
    assert f"lock     {NAME}: not locked yet, taking what the registry says\n" in err
    assert held(places) == image
    assert bases.known(places, "debian:bookworm-slim") == found
    before = near.connections
    assert bases.locked(places, NAME, mirror="near") == found
    assert near.connections == before
    assert capsys.readouterr().err == ""


def test_an_image_of_another_registry_comes_from_there_where_no_mirror_has_it(places: Places, far: Mirror) -> None:
    """One of this machine is spoken to in the clear."""
    files = registry.add(far, "team/base", "1", *LAYERS)
    name = f"{far.url.removeprefix('http://')}/team/base:1"
    found = bases.locked(places, name, mirror="auto")
    assert str(found.reference) == name
    assert held(places) == files
    shutil.rmtree(places.store)
    assert bases.get(places, mirror="auto") == [found]
    assert held(places) == files
