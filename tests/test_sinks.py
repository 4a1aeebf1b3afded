"""jingxiang.sinks: addresses, and the sinks that need nothing but this process and a disk"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jingxiang import images, layers, sinks
from jingxiang.digest import sha256_file
from jingxiang.errors import TableError
from jingxiang.layers import Changed
from jingxiang.sinks import Address, BadAddress
from jingxiang.sinks.base import Room, SinkFull
from jingxiang.sinks.layout import Closed, Layout
from jingxiang.sinks.memory import Memory
from jingxiang.sinks.rootfs import NotEmpty, RootFs
from tests.peers import sinks as contract

NAMED = "org.opencontainers.image.ref.name"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("docker", Address("docker")),
        ("registry://127.0.0.1:5000/a/b:1", Address("registry", "127.0.0.1:5000/a/b:1")),
        ("oci:out", Address("oci", "out")),
        ("oci:/tmp/a:b", Address("oci", "/tmp/a:b")),
        ("rootfs:/rootfs", Address("rootfs", "/rootfs")),
    ],
)
def test_where_images_can_go(text: str, address: Address) -> None:
    assert sinks.address(text) == address


@pytest.mark.parametrize("text", ["", "dokcer", "registry:a/b", "registry://", "registry://host", "oci:", "docker://x"])
def test_what_is_no_such_place_is_refused(text: str) -> None:
    with pytest.raises(BadAddress, match="should be docker, registry://HOST/NAME, oci:FOLDER or rootfs:FOLDER"):
        sinks.address(text)


def test_memory_fulfils_the_contract(tmp_path: Path) -> None:
    memory = Memory()
    contract.check(lambda tag: Memory(tag, "memory", memory.blobs, memory.named), tmp_path)


def test_a_layout_fulfils_the_contract_and_is_what_the_specification_says(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    first, second = contract.check(lambda tag: Layout(folder, tag), tmp_path)
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    blobs = {path.name for path in (folder / "blobs" / "sha256").iterdir()}
    assert blobs == {sha256_file(folder / "blobs" / "sha256" / name) for name in blobs}, "each is what it is called"
    assert {layer.blob.sha256 for layer in (*first.layers, *second.layers)} < blobs
    entries = json.loads((folder / "index.json").read_text())["manifests"]
    named = {each["annotations"][NAMED]: each["digest"] for each in entries if "annotations" in each}
    assert named == {"tests/image:one": second.digest, "tests/image:two": second.digest}
    documents = [each for each in entries if each.get("artifactType") == contract.BILL.media_type]
    assert len(documents) == 1, "about the image that is there, and not about the one that is gone"
    manifest = json.loads((folder / "blobs" / "sha256" / documents[0]["digest"].removeprefix("sha256:")).read_bytes())
    assert manifest["subject"]["digest"] == second.digest
    (bill,) = manifest["layers"]
    assert (folder / "blobs" / "sha256" / bill["digest"].removeprefix("sha256:")).read_bytes() == contract.BILL.body
    config = json.loads((folder / "blobs" / "sha256" / second.id.removeprefix("sha256:")).read_bytes())
    assert config["config"]["Entrypoint"] == ["/bin/it"]


def test_a_layout_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        contract.put(Layout(tmp_path / name / "layout", "it:1"), contract.image(tmp_path / name))
        paths = (path for path in (tmp_path / name / "layout").rglob("*") if path.is_file())
        found.append({path.relative_to(tmp_path / name): path.read_bytes() for path in paths})
    assert found[0] == found[1]


def test_a_blob_of_another_length_is_written_again(tmp_path: Path) -> None:
    layout, image = Layout(tmp_path / "layout", "it:1"), contract.image(tmp_path)
    contract.put(layout, image)
    layer = image.layers[1]
    path = tmp_path / "layout" / "blobs" / "sha256" / layer.blob.sha256
    path.write_bytes(b"cut")
    assert not layout.has(image)
    assert contract.put(layout, image) == layer.blob.size
    assert hashlib.sha256(path.read_bytes()).hexdigest() == layer.blob.sha256


def test_a_layer_that_changed_is_not_written(tmp_path: Path) -> None:
    layout, image = Layout(tmp_path / "layout", "it:1"), contract.image(tmp_path)
    (tmp_path / "base.tar.gz").write_bytes(b"something else")
    with pytest.raises(Changed):
        contract.put(layout, image)
    assert not layout.has(image)
    assert list((tmp_path / "layout" / "blobs" / "sha256").iterdir()) == [], "nothing is left behind"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear")
    layout = Layout(tmp_path / "letters", "it:1")
    with pytest.raises(TableError, match="is no image layout, and not empty"):
        layout.has(contract.image(tmp_path))
    (tmp_path / "letters" / "index.json").write_text("[]")
    with pytest.raises(TableError, match="is not the index of an image layout"):
        layout.has(contract.image(tmp_path))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Closed, match="cannot be written: Not a directory"):
        contract.put(Layout(tmp_path / "file" / "layout", "it:1"), contract.image(tmp_path))


def test_a_disk_that_is_too_small_is_said_before_and_while_it_is_written(
    tmp_path: Path, mounted: Callable[[str, int], Path]
) -> None:
    disk = mounted("tmpfs", 1)
    layout, image = Layout(disk / "layout", "it:1"), contract.image(tmp_path, large=2_000_000)
    room = layout.room(image.layers, frozenset())
    with pytest.raises(SinkFull, match=r"oci .*: the disk is full: 2\.0 MB needed, 1\.0 MB free"):
        room.check(layout.name)
    with pytest.raises(SinkFull, match="the disk is full: No space left on device"):
        contract.put(layout, image)
    assert not layout.has(image)
    assert not any(path.name.endswith(".part") for path in disk.rglob("*"))


def test_what_is_free_is_only_compared_where_it_is_known() -> None:
    Room(100).check("sink")
    Room(100, 100).check("sink")
    with pytest.raises(SinkFull, match="sink: the disk is full: 100 B needed, 99 B free"):
        Room(100, 99).check("sink")


def test_the_files_alone_are_a_folder(tmp_path: Path) -> None:
    whole = contract.image(tmp_path)
    image = images.image({"architecture": "amd64", "os": "linux"}, whole.layers[1:], {}, created="x")
    sink = RootFs(tmp_path / "rootfs")
    sent: list[int] = []
    assert not sink.has(image)
    assert sink.held(image.layers) == frozenset()
    assert sink.room(image.layers, frozenset()).needed_bytes == image.size_bytes
    sink.put(image, frozenset(), sent.append)
    assert sum(sent) == image.size_bytes
    found = {path.relative_to(tmp_path / "rootfs").as_posix(): path for path in (tmp_path / "rootfs").rglob("*")}
    assert found["app/main.py"].read_bytes() == b"print('one')\n"
    assert found.keys() == {"app", "app/main.py", "models", "models/one", "models/two"}
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o755, 0o644}
    assert {path.stat().st_mtime for path in found.values() if path.is_file()} == {layers.TIME_S}
    with pytest.raises(NotEmpty, match="is not empty; choose another folder"):
        sink.put(image, frozenset(), sent.append)


def test_links_and_owners_come_along(tmp_path: Path) -> None:
    tree = layers.tree([layers.link("bin/python", "/usr/bin/python3"), layers.folder("outputs", owner=65532)])
    layer = layers.Digests(tmp_path / "digests").layer(images.APP, "", tree)
    image = images.image({"architecture": "amd64", "os": "linux"}, [layer], {}, created="x")
    RootFs(tmp_path / "rootfs").put(image, frozenset(), lambda count: None)
    assert str((tmp_path / "rootfs" / "bin" / "python").readlink()) == "/usr/bin/python3"
    assert (tmp_path / "rootfs" / "outputs").stat().st_uid == (65532 if os.geteuid() == 0 else os.geteuid())
