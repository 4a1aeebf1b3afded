"""jingxiang.images"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from jingxiang import images
from jingxiang.base_images import Blob
from jingxiang.images import APP, BASE, CONFIG, MANIFEST, TAR, Attachment, Bytes, Image, Layer

BASE_CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "Env": ["PATH=/usr/local/cuda/bin:/bin", "CUDA=12"],
        "Labels": {"of": "base"},
        "Cmd": ["bash"],
        "User": "root",
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
    "history": [{"created_by": "debootstrap"}, {"created_by": "ENV CUDA=12", "empty_layer": True}],
}
SETTINGS: dict[str, Any] = {"User": "65532:65532", "Env": {"PATH": "/opt/bin:/bin"}, "Labels": {"ours": "yes"}}
CREATED = "1980-01-02T00:00:00Z"


def layer(kind: str, body: bytes, media_type: str = TAR) -> Layer:
    digest = hashlib.sha256(body).hexdigest()
    return Layer(
        kind, f"{kind} title", Blob(digest, media_type, len(body)), "1" * 64 if kind == BASE else digest, Bytes(body)
    )


def image(*more: Attachment) -> Image:
    docker_type = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    return images.image(
        BASE_CONFIG,
        [layer(BASE, b"base", docker_type), layer(APP, b"app")],
        SETTINGS,
        created=CREATED,
        attachments=more,
    )


def test_the_configuration_is_that_of_the_base_with_ours_over_it() -> None:
    config = json.loads(image().config)
    app = hashlib.sha256(b"app").hexdigest()
    assert config == {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {
            "User": "65532:65532",
            "Env": ["PATH=/opt/bin:/bin:/usr/local/cuda/bin", "CUDA=12"],
            "Labels": {"of": "base", "ours": "yes"},
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64, f"sha256:{app}"]},
        "history": [*BASE_CONFIG["history"], {"created": CREATED, "created_by": "jingxiang app app title"}],
    }
    layers = [each for each in config["history"] if not each.get("empty_layer")]
    assert len(layers) == len(config["rootfs"]["diff_ids"])


def test_the_manifest_names_every_layer_in_one_family_of_names() -> None:
    made = image()
    manifest = json.loads(made.manifest)
    assert manifest["mediaType"] == MANIFEST
    assert manifest["config"] == {"mediaType": CONFIG, "digest": made.id, "size": len(made.config)}
    assert [each["mediaType"] for each in manifest["layers"]] == [f"{TAR}+gzip", TAR]
    assert made.digest == f"sha256:{hashlib.sha256(made.manifest).hexdigest()}"
    assert made.size_bytes == len(b"base") + len(b"app")


def test_the_same_parts_are_the_same_image_and_others_another() -> None:
    assert image() == image()
    assert image(Attachment("a", "b/c", b"{}")).digest == image().digest, "what is attached is not in it"
    other = images.image(BASE_CONFIG, [layer(BASE, b"base")], SETTINGS, created=CREATED)
    assert other.digest != image().digest


def test_a_base_without_a_history_gets_an_entry_for_each_layer() -> None:
    bare = {"architecture": "amd64", "os": "linux"}
    config = json.loads(images.image(bare, [layer(BASE, b"base"), layer(APP, b"app")], {}, created=CREATED).config)
    assert [each["created_by"] for each in config["history"]] == ["base title", "jingxiang app app title"]
    assert config["config"] == {"Env": [], "Labels": {}}


def test_a_part_has_the_lower_layers_and_no_settings() -> None:
    part = images.part(image(), 1)
    assert part.layers == image().layers[:1]
    config = json.loads(part.config)
    assert config["rootfs"]["diff_ids"] == ["sha256:" + "1" * 64]
    assert config["config"] == {}
    assert part.id != image().id


def test_a_document_says_which_image_it_is_about() -> None:
    document = Attachment("sbom.cdx.json", "application/vnd.cyclonedx+json", b'{"bomFormat": "CycloneDX"}')
    manifest = json.loads(images.referrer(image(), document))
    assert manifest["subject"] == {"mediaType": MANIFEST, "digest": image().digest, "size": len(image().manifest)}
    assert manifest["artifactType"] == document.media_type
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    (described,) = manifest["layers"]
    assert described["digest"] == f"sha256:{hashlib.sha256(document.body).hexdigest()}"
    assert described["annotations"] == {"org.opencontainers.image.title": "sbom.cdx.json"}
