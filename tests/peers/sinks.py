"""What every sink must do, and small images to do it with."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

from jingxiang import images, layers
from jingxiang.base_images import Blob
from jingxiang.images import Attachment, Image, Layer
from jingxiang.layers import Digests
from jingxiang.sinks.base import Sink, missing

BILL = Attachment("sbom.cdx.json", "application/vnd.cyclonedx+json", b'{"bomFormat": "CycloneDX"}')
SETTINGS = {"User": "65532:65532", "Env": {"A": "b"}, "Entrypoint": ["/bin/it"], "Labels": {"c": "d"}}


def image(folder: Path, code: bytes = b"print('one')\n", *, large: int = 200_000) -> Image:
    """A compressed base, two layers of weights, and code. `folder`: for digests."""
    tar = b"".join(layers.tree([layers.text("etc/os-release", b"ID=tests\n")]).blocks())
    packed = gzip.compress(tar, mtime=0)
    blob = Blob(hashlib.sha256(packed).hexdigest(), "application/vnd.docker.image.rootfs.diff.tar.gzip", len(packed))
    content = folder / "base.tar.gz"
    content.write_bytes(packed)
    base = Layer(images.BASE, "", blob, hashlib.sha256(tar).hexdigest(), layers.FileContent(content))
    digests = Digests(folder / "digests")
    named = {
        ("weights", "one"): layers.tree([layers.text("models/one", hashlib.shake_256(b"1").digest(large))]),
        ("weights", "two"): layers.tree([layers.text("models/two", hashlib.shake_256(b"2").digest(1000))]),
        ("app", ""): layers.tree([layers.text("app/main.py", code)]),
    }
    made = [digests.layer(kind, title, tree) for (kind, title), tree in named.items()]
    config = {"architecture": "amd64", "os": "linux"}
    return images.image(config, [base, *made], SETTINGS, created="1980-01-02T00:00:00Z", attachments=[BILL])


def put(sink: Sink, wanted: Image) -> int:
    """Send an image; returns how many bytes went."""
    sent: list[int] = []
    sink.put(wanted, sink.held(wanted.layers), sent.append)
    return sum(sent)


def check(opened: Callable[[str], Sink], folder: Path) -> tuple[Image, Image]:
    """The contract. `opened`: a sink for an image of that tag, all in one place; returns the two images in it."""
    first, second = image(folder), image(folder, b"print('two')\n")
    one, two = opened("tests/image:one"), opened("tests/image:two")
    assert not one.has(first)
    assert one.held(first.layers) == frozenset()
    total = sum(layer.blob.size for layer in first.layers)
    assert one.room(first.layers, frozenset()).needed_bytes >= total
    assert put(one, first) == total
    assert one.has(first)
    assert not one.has(second), "the name stands for the other one"
    assert not two.has(first), "the other name for none"
    held = one.held(first.layers)
    assert held == {layer.blob.sha256 for layer in first.layers}
    assert one.room(first.layers, held).needed_bytes == 0
    assert put(one, first) == 0, "nothing is sent twice"
    assert [layer.kind for layer in missing(second.layers, two.held(second.layers))] == ["app"]
    assert put(two, second) == second.layers[-1].blob.size
    assert two.has(second)
    assert one.has(first)
    assert put(one, second) == 0, "a name may come to stand for another image"
    assert one.has(second)
    return first, second
