"""jingxiang.commands.sbom and jingxiang.materials: bills that hold against the schema of CycloneDX"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from jingxiang import base_images, conda_locks, locks, models, weights
from jingxiang.base_images import BaseImage, Blob
from jingxiang.commands.fetch import NotFetched
from jingxiang.commands.model_locks import NoWeights
from jingxiang.commands.sbom import sbom
from jingxiang.errors import UnknownName
from jingxiang.fetch import resolve
from jingxiang.places import Places
from jingxiang.weights import LockedFile, LockedPart, StaleLock
from tests.peers import checkout

IMAGE = BaseImage(
    base_images.reference("debian:bookworm-slim"),
    Blob("1" * 64, base_images.MANIFESTS[0], 10),
    Blob("2" * 64, "application/vnd.oci.image.config.v1+json", 20),
    (),
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A copy of the checkout in which svd-xt has been fetched once, and an image locked."""
    root = checkout.copy(tmp_path / "checkout").folder
    wanted = models.load(root / models.FILE).model("svd-xt").weights
    assert wanted
    part = LockedPart(
        wanted.parts[0].repository, wanted.parts[0].revision, (LockedFile("unet/x.safetensors", 5, "3" * 64),)
    )
    (root / weights.LOCK).write_text(weights.written({"svd-xt": weights.lock(wanted, [part])}))
    (root / base_images.LOCK).write_text(base_images.written({str(IMAGE.reference): IMAGE}))
    return Places(root, tmp_path / "home", tmp_path / "store")


def printed(places: Places, capsys: pytest.CaptureFixture[str], *names: str, engine: str = "auto") -> tuple[str, Any]:
    """The text, which holds against the schema, and what it says."""
    sbom(places, profile="cuda13", engine=engine, names=names)
    text = capsys.readouterr().out
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    return text, json.loads(text)


def test_everything_that_is_locked_is_in_it(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    text, bill = printed(places, capsys, "svd-xt")
    parts = {each["purl"]: each for each in bill["components"]}
    lock, conda = locks.read(places.locks / "cuda13.txt"), conda_locks.read(places.locks / conda_locks.NAME)
    wanted = [each for each in lock.packages if resolve.target("3.11").wants(each)]
    assert {f"pkg:pypi/{each.name}@{each.version}" for each in wanted} <= parts.keys()
    assert sum(purl.startswith("pkg:conda/") for purl in parts) == len(conda.packages)
    python = next(each for each in conda.packages if each.name == "python")
    (found,) = (each for purl, each in parts.items() if purl.startswith("pkg:conda/python@"))
    assert found["hashes"] == [{"alg": "SHA-256", "content": python.sha256}]
    (model,) = (each for each in bill["components"] if each["type"] == "machine-learning-model")
    assert (model["group"], model["name"]) == ("stabilityai", "stable-video-diffusion-img2vid-xt")
    assert model["licenses"][0]["license"]["name"] == "Stability AI Community License"
    assert [(file["name"], file["hashes"][0]["content"]) for file in model["components"]] == [
        ("unet/x.safetensors", "3" * 64)
    ]
    (image,) = (each for each in bill["components"] if each["type"] == "container")
    assert (image["name"], image["version"]) == ("docker.io/library/debian", "bookworm-slim")
    assert len(parts) == len(wanted) + len(conda.packages) + 2
    said = {each["name"]: each["value"] for each in bill["metadata"]["properties"]}
    assert said["jingxiang:lock:cuda13"] == f"sha256:{lock.digest}"
    assert str(places.root) not in text


def test_the_same_locks_give_the_same_bytes(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = printed(places, capsys, "svd-xt")
    assert printed(places, capsys, "svd-xt")[0] == first
    assert printed(places, capsys)[1]["serialNumber"] != json.loads(first)["serialNumber"]


def test_without_conda_its_packages_are_not_in_it(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    _, bill = printed(places, capsys, engine="venv")
    assert not [each for each in bill["components"] if each["purl"].startswith("pkg:conda/")]


def test_what_cannot_be_listed_is_said(places: Places) -> None:
    with pytest.raises(NotFetched):
        sbom(places, profile="cpu", engine="auto", names=["i2vgen-xl"])
    with pytest.raises(NoWeights):
        sbom(places, profile="cpu", engine="auto", names=["smoke"])
    with pytest.raises(UnknownName):
        sbom(places, profile="cpu", engine="pip", names=[])
    table = places.root / "app" / "models.toml"
    table.write_text(table.read_text(encoding="utf-8").replace('"LICENSE.md", ', ""), encoding="utf-8")
    with pytest.raises(StaleLock):
        sbom(places, profile="cpu", engine="auto", names=["svd-xt"])
