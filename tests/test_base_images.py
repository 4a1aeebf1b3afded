"""jingxiang.base_images"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jingxiang import base_images
from jingxiang.base_images import BadReference, BaseImage, Blob, NotAnImage, reference
from jingxiang.errors import TableError

DIGEST = "sha256:" + "a" * 64
IMAGE = BaseImage(
    reference("debian:bookworm-slim"),
    Blob("1" * 64, base_images.MANIFESTS[0], 10),
    Blob("2" * 64, "application/vnd.oci.image.config.v1+json", 20),
    (Blob("3" * 64, "application/vnd.oci.image.layer.v1.tar+gzip", 30),),
)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:bookworm-slim", "docker.io/library/debian:bookworm-slim"),
        ("nvidia/cuda:13.0.0-base-ubuntu24.04", "docker.io/nvidia/cuda:13.0.0-base-ubuntu24.04"),
        ("index.docker.io/library/debian", "docker.io/library/debian:latest"),
        ("nvcr.io/nvidia/cuda:1", "nvcr.io/nvidia/cuda:1"),
        ("localhost/a/b", "localhost/a/b:latest"),
        ("127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:bookworm@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, full: str) -> None:
    assert str(reference(text)) == full
    assert reference(full) == reference(text)


@pytest.mark.parametrize(
    "text",
    ["", ":", "Debian", "debian:", "debian:a b", "debian@sha256:1", "a//b", "/a", "a/", "../a", "-a", "a@", "x.y/"],
)
def test_other_words_are_no_names(text: str) -> None:
    with pytest.raises(BadReference):
        reference(text)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "base.lock"
    assert base_images.load(path) == {}
    images = {str(IMAGE.reference): IMAGE}
    path.write_text(base_images.written(images))
    assert base_images.load(path) == images
    assert IMAGE.size_bytes == 60


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("linux/amd64", "linux/arm64"), ('"size": 30', '"size": "30"'), ('"size": 30', '"size": -1'), ("333", "xyz"),
        ('"layers"', '"layer"'), ("docker.io/", "docker.io//"),
        ('"size": 30', '"size": 30, "urls": ["https://example.org"]'),
    ],
)  # fmt: skip
def test_a_broken_lock_is_one_line(tmp_path: Path, old: str, new: str) -> None:
    path, text = tmp_path / "base.lock", base_images.written({str(IMAGE.reference): IMAGE})
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TableError, match=r"^docker/base\.lock: is not a lock of base images$"):
        base_images.load(path)


def test_of_an_index_our_platform_is_taken() -> None:
    def index(*machines: str) -> bytes:
        entries = [
            {**IMAGE.manifest.to_json(), "digest": f"sha256:{machine * 64}", "platform": {"os": "linux",
             "architecture": {"a": "amd64", "b": "arm64", "c": "unknown"}[machine]}}
            for machine in machines
        ]  # fmt: skip
        return json.dumps({"manifests": entries}).encode()

    assert base_images.chosen(index("b", "c", "a")) == "a" * 64
    with pytest.raises(NotAnImage, match="has no image for linux/amd64"):
        base_images.chosen(index("b"))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"config": 1}', b'{"manifests": [{"digest": "x"}]}'])
def test_other_bodies_are_no_manifests(body: bytes) -> None:
    with pytest.raises(NotAnImage):
        base_images.image(IMAGE.reference, IMAGE.manifest, body)
    with pytest.raises(NotAnImage):
        base_images.chosen(body)


@pytest.mark.parametrize(
    ("registry", "scheme"),
    [
        ("localhost", "http"), ("localhost:5000", "http"), ("127.0.0.1:5000", "http"), ("127.8.9.1", "http"),
        ("docker.io", "https"), ("10.0.0.1:5000", "https"), ("a.example.com", "https"), ("localhost.cn", "https"),
    ],
)  # fmt: skip
def test_only_registries_of_this_machine_are_spoken_to_in_the_clear(registry: str, scheme: str) -> None:
    assert base_images.scheme(registry) == scheme
