"""jingxiang.commands.build_image and image_parts: from a checkout to an image in a folder, with small packages"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jingxiang import base_images, compiled, images, layers, locks, models, uv_client, weights
from jingxiang.commands import engines, image_parts
from jingxiang.commands.build_image import _network, build_image
from jingxiang.commands.image_parts import BadBase, BadEpoch
from jingxiang.compiled import Artifact, Key
from jingxiang.errors import TableError, UnknownName, UsageError
from jingxiang.fetch.report import Unavailable
from jingxiang.image_contents import NoLibrary, NoPython, UnreadableBase
from jingxiang.places import Places
from jingxiang.sinks import BadAddress
from jingxiang.sinks.docker_engine import EngineUnavailable
from jingxiang.sinks.layout import Closed
from jingxiang.sinks.registry_access import Denied, Unreachable
from jingxiang.sinks.rootfs import NotEmpty
from jingxiang.store import Store
from jingxiang.weights import LockedFile, LockedPart
from tests.peers import channel, checkout, conda, nvml, push_registry, registry, system
from tests.peers.mirror import Mirror, wheel

BASE = "debian:bookworm-slim"
ONE = wheel("one", "1.0")
LARGE, SMALL = hashlib.shake_256(b"large").digest(65_000), b'{"_class_name": "Tiny"}'
TABLE = """
[tiny]
title = { en = "Tiny", zh = "小" }
pipeline = "i2vgen-xl"

[tiny.weights]
licence = { name = "Tiny Licence 1.0", url = "https://example.com/licence", commercial = true, free = true }

[tiny.weights.parts.model]
repository = "org/tiny"
revision = "1111111111111111111111111111111111111111"
files = ["model_index.json", "unet/*"]

[tiny.limits]
width = 64
height = 64
multiple = 8
frames = 8
steps = 8
fps = [1, 30]
guidance = [1.0, 20.0]

[tiny.memory]
weights_gib = 1.0
denoising_gib = 0.5
decoding_gib = 2.0
decode_chunk = 4

[tiny.presets.standard]
width = 64
height = 64
frames = 8
steps = 4
fps = 8
guidance = 9.0

[tiny.presets.fast]
width = 64
height = 64
frames = 8
steps = 4
fps = 8
guidance = 9.0
"""


def packed(*names: str) -> bytes:
    """A layer with these files, as a registry has it."""
    tar = b"".join(layers.tree([layers.text(name, b"") for name in names]).blocks())
    return gzip.compress(tar, mtime=0)


DEBIAN = packed("usr/bin/python3.11", "usr/lib/x86_64-linux-gnu/libstdc++.so.6")


@pytest.fixture
def mirror(near: Mirror, no_pip_settings: None, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Packages, and a base image."""
    nvml.absent(monkeypatch)
    monkeypatch.setattr("jingxiang.image_contents.LARGE_BYTES", 64_000)  # a thousandth, as are the files
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    near.add_index(ONE)
    registry.add(near, "docker.io/library/debian", "bookworm-slim", DEBIAN)
    return near


def place(folder: Path, mirror: Mirror, name: str = "near") -> Places:
    """A checkout with a lock of one package and a model of two files, which are in its store."""
    root = checkout.copy(folder / "checkout").folder
    found = Places(root, folder / "home", folder / "store")
    (root / "docker" / "base.lock").unlink(missing_ok=True)
    for path in [*(root / "jingxiang").rglob("*.py"), *(root / "app").rglob("*.py")]:
        if path.name not in ("__init__.py", "__main__.py", "page.py"):  # the less there is to compile, the faster
            path.unlink()
    spec = root / "envs" / "cpu.in"
    spec.write_text("one\n")
    (found.locks / "cpu.txt").write_text(locks.written(spec, f"one=={ONE.version} --hash=sha256:{ONE.sha256}\n"))
    (root / "mirrors.toml").write_text(
        f'[{name}]\npypi = {{ layout = "pep503", url = "{mirror.url}/simple" }}\n'
        f'oci = {{ layout = "oci", url = "{mirror.url}/{{registry}}" }}\n'
    )
    with (root / models.FILE).open("a") as file:
        file.write(TABLE)
    store, listed = Store(found.store), []
    for name_there, body in (("model_index.json", SMALL), ("unet/large.safetensors", LARGE)):
        (folder / "file").write_bytes(body)
        listed.append(LockedFile(name_there, len(body), store.add(folder / "file")))
    wanted = models.load(root / models.FILE).model("tiny").weights
    assert wanted
    part = LockedPart(wanted.parts[0].repository, wanted.parts[0].revision, tuple(listed))
    (root / weights.LOCK).write_text(weights.written({"tiny": weights.lock(wanted, [part])}))
    return found


@pytest.fixture
def places(tmp_path: Path, mirror: Mirror) -> Places:
    return place(tmp_path, mirror)


def build(places: Places, **options: Any) -> None:
    build_image(
        places,
        **{"names": ["tiny"], "profile": "cpu", "engine": "venv", "to": f"oci:{places.home.parent}/out", **options},
    )


def built(places: Places, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """What it says in JSON."""
    capsys.readouterr()
    build(places, as_json=True, **options)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def blob(places: Places, digest: str) -> bytes:
    return (places.home.parent / "out" / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def members(places: Places, digest: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(blob(places, digest))) as archive:
        for member in archive:
            reading = archive.extractfile(member) if member.isfile() else None
            yield member, reading.read() if reading else b""


def test_an_image_from_locks_and_code(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    build(places)
    out, err = capsys.readouterr()
    digest = out.strip()
    words = [line.split() for line in err.splitlines()]
    assert ["base", BASE, "1", "layer"] in [each[:4] for each in words]
    headers = 2 * 1024 + 6 * 512 + 5 * 512  # two ends, two files, and the folders that each of them is in
    size = f"{(65_024 + 512 + headers) / 1000:.1f}"
    assert ["weights", "tiny", "2", "layers", size, "kB", "new"] in words
    assert ["image", f"{places.home.parent}/out:jingxiang/tiny:{digest[7:15]}"] in words
    manifest = json.loads(blob(places, digest))
    base, large, small, environment, app = manifest["layers"]
    assert base["digest"] == registry.digest(DEBIAN)
    assert [each["mediaType"] for each in manifest["layers"]] == [f"{images.TAR}+gzip", *[images.TAR] * 4]
    files = {member.name: body for member, body in members(places, large["digest"]) if member.isfile()}
    assert files == {"opt/jingxiang/models/tiny/unet/large.safetensors": LARGE}
    files = {member.name: body for member, body in members(places, small["digest"]) if member.isfile()}
    assert files == {"opt/jingxiang/models/tiny/model_index.json": SMALL}
    inside = {
        member.name.removeprefix("opt/jingxiang/"): (member, body)
        for member, body in members(places, environment["digest"])
    }
    assert inside["environment/bin/python"][0].linkname == "/usr/bin/python3.11"
    assert inside["environment/bin/python3.11"][0].linkname == "python"
    assert b"home = /usr/bin\n" in inside["environment/pyvenv.cfg"][1]
    assert "environment/lib/python3.11/site-packages/one.py" in inside
    inside |= {
        member.name.removeprefix("opt/jingxiang/"): (member, body) for member, body in members(places, app["digest"])
    }
    assert inside["outputs"][0].uid == 65532
    for name in ("environment", "app"):
        lines = [line.split("  ") for line in inside[f"{name}.sha256"][1].decode().splitlines()]
        listed = {path: sha256 for sha256, path in lines}
        assert listed, name
        for path, sha256 in listed.items():
            assert hashlib.sha256(inside[path][1]).hexdigest() == sha256, path
    assert inside["models.sha256"][1].decode().splitlines() == [
        f"{hashlib.sha256(SMALL).hexdigest()}  models/tiny/model_index.json",
        f"{hashlib.sha256(LARGE).hexdigest()}  models/tiny/unet/large.safetensors",
    ]
    top = places.root
    beside = {
        path.relative_to(top).as_posix()
        for name in ("app", "jingxiang")
        for path in (top / name).rglob("*")
        if path.is_file() and path.suffix != ".py"
    }
    assert {"app/label.png", "app/examples/boat.jpg", "jingxiang/zh.json"} <= beside
    assert {"app/__main__.py", "app/__pycache__/__main__.cpython-311.pyc"} | beside <= inside.keys()
    assert json.loads(inside["sbom.cdx.json"][1])["bomFormat"] == "CycloneDX"


def test_the_configuration_of_an_image(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    found = built(places, capsys)
    config = json.loads(blob(places, found["id"]))
    assert config["created"] == "1980-01-02T00:00:00Z"
    settings, labels = config["config"], config["config"]["Labels"]
    assert settings["User"] == "65532:65532"
    assert settings["Entrypoint"][0] == "/opt/jingxiang/environment/bin/dumb-init"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"][-1] == "health"
    assert {"JINGXIANG_MODEL=tiny", "HF_HUB_OFFLINE=1"} <= set(settings["Env"])
    assert not [each for each in settings["Env"] if each.startswith("NVIDIA_")], "it is a build for the CPU"
    base = base_images.load(places.root / base_images.LOCK)[f"docker.io/library/{BASE}"]
    lock = weights.load(places.root / weights.LOCK)["tiny"]
    assert labels["org.opencontainers.image.base.digest"] == f"sha256:{base.manifest.sha256}"
    assert labels["jingxiang.model.tiny"] == f"org/tiny@{'1' * 40}"
    assert labels["jingxiang.model.tiny.lock"] == f"sha256:{lock.digest}"
    assert labels["jingxiang.model.tiny.licence"] == "Tiny Licence 1.0 https://example.com/licence"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0 AND LicenseRef-Tiny-Licence-1.0"
    assert labels["jingxiang.lock.cpu"] == f"sha256:{locks.read(places.locks / 'cpu.txt').digest}"


def test_a_build_for_cuda_says_what_it_needs(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cuda12.in", "cuda13.in"):
        (places.root / "envs" / name).write_text("one\n")
    for profile in ("cuda12", "cuda13"):
        body = f"one=={ONE.version} --hash=sha256:{ONE.sha256}\n"
        (places.locks / f"{profile}.txt").write_text(locks.written(places.root / "envs" / f"{profile}.in", body))
    found = built(places, capsys, profile="cuda12")
    variables = json.loads(blob(places, found["id"]))["config"]["Env"]
    assert {
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "NVIDIA_REQUIRE_JINGXIANG=driver>=525",
    } <= set(variables)


def test_the_digest_is_the_same_in_another_folder_at_another_time_through_another_mirror(
    tmp_path: Path, mirror: Mirror, far: Mirror, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = built(place(tmp_path / "one", mirror), capsys, mirror="near")
    far.add_index(ONE)
    registry.add(far, "docker.io/library/debian", "bookworm-slim", DEBIAN)
    for name, value in {"TZ": "Asia/Shanghai", "LANG": "zh_CN.UTF-8", "USER": "other", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    before = os.umask(0o077)
    try:
        two = built(place(tmp_path / "a longer folder" / "two", far, "other"), capsys, mirror="other")
    finally:
        os.umask(before)
        monkeypatch.undo()
        time.tzset()
    assert one["digest"] == two["digest"]
    digests = [[layer["digest"] for part in each["parts"] for layer in part["layers"]] for each in (one, two)]
    assert digests[0] == digests[1]
    for name in ("index.json", "oci-layout"):
        bodies = {(tmp_path / folder / "out" / name).read_bytes() for folder in ("one", "a longer folder/two")}
        assert len(bodies) == 1


def test_a_change_of_the_code_moves_the_app_alone(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    first = built(places, capsys)
    with (places.root / "app" / "page.py").open("a") as file:
        file.write("\n# changed\n")
    second = built(places, capsys)
    held = {part["kind"]: [layer["held"] for layer in part["layers"]] for part in second["parts"]}
    assert held == {"base": [True], "weights": [True, True], "environment": [True], "app": [False]}
    assert second["digest"] != first["digest"]
    assert 0 < second["sent_bytes"] < 5_000_000
    third = built(places, capsys)
    assert (third["digest"], third["sent_bytes"]) == (second["digest"], 0)


def compile_(places: Places, **changes: Any) -> Artifact:
    """What `warm` would have made for the tiny model, by the PyTorch of the lock."""
    values = {"model": "tiny", "architecture": "sm_90", "torch": "1.0+cpu", "cuda": "", "code": "c0de", "width": 64,
              "height": 64, "frames": 8, "dtype": "fp16"}  # fmt: skip
    key = Key(**{**values, **changes})
    folder = places.artifacts / key.digest
    folder.mkdir(parents=True)
    for name in ("decoder", "down.0"):
        (folder / name).write_bytes(f"{name} {key}".encode())
        (folder / name).chmod(0o700)
    (folder / compiled.MANIFEST).write_bytes(compiled.manifest(key, folder))
    return compiled.read(folder)


def with_torch(places: Places) -> Places:
    """The lock names a PyTorch, which is small here."""
    torch = wheel("torch", "1.0")
    spec = places.root / "envs" / "cpu.in"
    spec.write_text("one\ntorch\n")
    pins = [f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in (ONE, torch)]
    (places.locks / "cpu.txt").write_text(locks.written(spec, "".join(pins)))
    return places


def test_what_was_compiled_for_it_is_the_last_layer(
    tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.add_index(wheel("torch", "1.0"))
    found = []
    for name in ("one", "two"):
        places = with_torch(place(tmp_path / name, mirror))
        wanted = [compile_(places), compile_(places, width=32)]
        without = [
            compile_(places, **changes)
            for changes in ({"model": "smoke"}, {"torch": "2.0"}, {"cuda": "12.8"}, {"frames": 2}, {"frames": 3})
        ]
        (without[3].folder / "decoder").write_bytes(b"damaged")
        (places.artifacts / f".{without[4].key.digest}{compiled.ASIDE}").touch()
        plan = built(places, capsys, plan=True)
        assert plan["parts"][-1] == {
            "kind": "compiled", "title": "tiny", "layers": None,
            "size_bytes": sum(each.size_bytes for each in wanted),
            "here_bytes": sum(each.size_bytes for each in wanted),
        }  # fmt: skip
        build(places, plan=True)
        said = capsys.readouterr().err
        assert "compiled tiny" in said
        assert "compiled on this machine" in said
        assert said.count("this compiled artifact is not used: decoder has ") == 1
        image = built(places, capsys)
        found.append(image["digest"])
        assert built(places, capsys, plan=True)["digest"] == image["digest"]
        (layer,) = image["parts"][-1]["layers"]
        assert json.loads(blob(places, image["digest"]))["layers"][-1]["digest"] == layer["digest"]
        inside = {member.name: (member.mode, body) for member, body in members(places, layer["digest"]) if body}
        listed = {
            f"artifacts/{each.key.digest}/{name}": (each.folder / name).read_bytes()
            for each in wanted
            for name in (*each.files, compiled.MANIFEST)
        }
        lines = inside.pop("opt/jingxiang/artifacts.sha256")[1].decode().splitlines()
        assert inside == {f"opt/jingxiang/{path}": (0o644, body) for path, body in listed.items()}
        assert lines == sorted(lines, key=lambda line: line[66:])
        digests = {line[66:]: line[:64] for line in lines}
        assert digests == {path: hashlib.sha256(body).hexdigest() for path, body in listed.items()}
    assert found[0] == found[1], "the same in another folder"


def test_an_image_is_the_same_where_nothing_was_compiled_for_it(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    before = built(places, capsys)
    compile_(places, model="other")
    assert built(places, capsys)["digest"] == before["digest"]
    assert [part["kind"] for part in before["parts"]] == ["base", "weights", "environment", "app"]


def test_the_time_of_a_build_is_that_of_the_variable(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = built(places, capsys)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    second = built(places, capsys)
    assert json.loads(blob(places, second["id"]))["created"] == "2023-11-14T22:13:20Z"
    assert second["digest"] != first["digest"]
    assert second["sent_bytes"] == 0, "layers have a time of their own"
    for text in ("tomorrow", "1e400", "9" * 20):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(BadEpoch, match="should be seconds since 1970"):
            build(places)


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_plan_changes_nothing_and_says_what_is_known(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    plan = built(places, capsys, plan=True)
    assert contents(tmp_path) == before
    assert plan["digest"] is None
    rows = {part["kind"]: part for part in plan["parts"]}
    assert rows["weights"]["size_bytes"] == rows["weights"]["here_bytes"] == len(SMALL) + len(LARGE)
    assert [rows[kind]["layers"] for kind in ("base", "environment", "app")] == [None] * 3
    image = built(places, capsys)
    with (places.root / "app" / "page.py").open("a") as file:
        file.write("\n# changed\n")
    before = contents(tmp_path / "out")
    plan = built(places, capsys, plan=True)
    assert contents(tmp_path / "out") == before
    assert plan["digest"] not in (None, image["digest"])
    assert 0 < plan["send_bytes"] == plan["needed_bytes"] < 5_000_000
    assert plan["free_bytes"] > 0
    assert plan["size_bytes"] > len(LARGE)
    assert built(places, capsys)["digest"] == plan["digest"]


def test_a_plan_is_shown_as_a_table(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    build(places, plan=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "weights  tiny" in err
    assert "65.0 kB in the store" in err
    assert err.splitlines()[-1] == "plan     more is known when everything is fetched and made; nothing was changed"
    build(places)
    digest = capsys.readouterr().out
    build(places, plan=True)
    out, err = capsys.readouterr()
    assert out == digest
    assert "there already" in err
    assert "of disk at most" in err


def test_several_models_are_in_the_order_of_their_names_and_the_first_is_served(
    places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model_index.json").write_text("{}")
    monkeypatch.setattr("jingxiang.image_contents.made", lambda *_: made)
    found = built(places, capsys, names=["tiny", "smoke", "tiny"])
    assert [part["title"] for part in found["parts"]][1:3] == ["smoke", "tiny"]
    settings = json.loads(blob(places, found["id"]))["config"]
    assert "JINGXIANG_MODEL=tiny" in settings["Env"]
    assert settings["Labels"]["jingxiang.model.smoke"] == "made by the app"


def test_what_is_asked_for_in_a_wrong_way_is_said_before_anything_is_done(
    places: Places, tmp_path: Path, mirror: Mirror
) -> None:
    before, asked = contents(tmp_path), mirror.connections
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"names": ["tyni"]}, UnknownName, r"no model named 'tyni'.*did you mean 'tiny'"),
        ({"profile": "cuda11"}, UnknownName, "no profile named 'cuda11'"),
        ({"engine": "conda"}, UnknownName, "no engine named 'conda'"),
        ({"base": "debian::1"}, UsageError, "is not the name of an image"),
        ({"tag": "UPPER:1"}, UsageError, "is not the name of an image"),
        ({"tag": f"name@sha256:{'0' * 64}"}, UsageError, "the digest follows from what is in it"),
        ({"to": "dokcer"}, BadAddress, "should be docker, registry://HOST/NAME, oci:FOLDER or rootfs:FOLDER"),
        ({"to": "rootfs:/x", "base": BASE}, UsageError, "is without a base: leave out --base"),
        ({"mirror": "tuan"}, UnknownName, "no mirror named 'tuan'"),
    ]
    for options, kind, message in wrong:
        with pytest.raises(kind, match=message):
            build(places, **options)
    assert contents(tmp_path) == before
    assert mirror.connections == asked


def test_a_base_that_no_mirror_has_is_one_clear_line(places: Places) -> None:
    with pytest.raises(Unavailable, match=r"debian:13 could not be had"):
        build(places, base="debian:13")
    with pytest.raises(Unavailable, match=f"sha256:{'0' * 64} could not be had"):
        build(places, base=f"debian@sha256:{'0' * 64}")
    assert not (places.root / base_images.LOCK).exists()


def test_a_base_without_a_python_is_said_before_anything_is_installed(places: Places, mirror: Mirror) -> None:
    registry.add(mirror, "docker.io/library/debian", "bare", packed("usr/lib/x86_64-linux-gnu/libstdc++.so.6"))
    registry.add(mirror, "docker.io/library/debian", "barer", packed("usr/bin/python3.11"))
    registry.add(mirror, "docker.io/library/debian", "strange", b"\x28\xb5\x2f\xfd strange")
    with pytest.raises(NoPython, match=r"debian:bare: has no Python 3\.11, and the engine venv brings none"):
        build(places, base="debian:bare")
    with pytest.raises(NoLibrary, match=r"debian:barer: has no libstdc\+\+\.so\.6"):
        build(places, base="debian:barer")
    with pytest.raises(UnreadableBase, match="a layer cannot be read"):
        build(places, base="debian:strange")
    assert not (places.images / "environments").exists()


def test_a_python_of_the_official_images_is_found(
    places: Places, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    official = packed("usr/bin/python3.11", "usr/local/bin/python3.11", "usr/lib/x86_64-linux-gnu/libstdc++.so.6")
    registry.add(mirror, "docker.io/library/python", "3.11", official)
    found = built(places, capsys, base="python:3.11")
    layer = json.loads(blob(places, found["digest"]))["layers"][-2]
    links = {member.name: member.linkname for member, _ in members(places, layer["digest"]) if member.issym()}
    assert links["opt/jingxiang/environment/bin/python"] == "/usr/local/bin/python3.11"


def test_a_base_whose_configuration_does_not_fit_is_refused(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jingxiang.commands.image_parts._config", lambda *_: {"rootfs": {"diff_ids": []}})
    with pytest.raises(BadBase, match="its configuration does not fit its layers"):
        build(places)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Python as conda-forge has it, with files that carry the path of their environment."""
    return [channel.python(tmp_path_factory.mktemp("channel") / "conda-forge")]


@pytest.fixture(params=engines.ENGINES[:2])
def engine(
    request: pytest.FixtureRequest, packages: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """An engine that brings Python along, if this machine has it."""
    conda.engine(request.param, conda.stored(Store(tmp_path / "trial"), packages))
    monkeypatch.setattr(engines, "tools", lambda *_, **__: Path(sys.executable))  # which has py-rattler, too
    return str(request.param)


def with_conda(places: Places, packages: list[Path]) -> Places:
    """The same checkout with a lock of conda packages, which are in its store."""
    conda.lock(places.root / "envs", packages)
    conda.stored(Store(places.store), packages)
    return places


def test_an_environment_with_its_own_python_is_the_same_everywhere_and_needs_none_in_the_base(
    engine: str, packages: list[Path], tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.add(mirror, "docker.io/library/debian", "bare", packed("usr/lib/x86_64-linux-gnu/libstdc++.so.6"))
    found = []
    for name in ("one", "a folder with another name"):
        places = with_conda(place(tmp_path / name, mirror), packages)
        said = built(places, capsys, engine=engine, base="debian:bare")
        found.append(said["digest"])
        layer = json.loads(blob(places, said["digest"]))["layers"][-2]["digest"]
        assert os.fsencode(tmp_path) not in blob(places, layer), "no path of this machine is in a byte"
        inside = {member.name.removeprefix("opt/jingxiang/environment/"): (member, body)
                  for member, body in members(places, layer)}  # fmt: skip
        assert inside["bin/python3.11"][0].isfile()
        assert inside["bin/pydoc3.11"][1].startswith(b"#!/opt/jingxiang/environment/bin/python3.11\n")
        assert b"\0\1/opt/jingxiang/environment/share:/opt/jingxiang/environment/lib\0" in inside["lib/placed.bin"][1]
        for path in ("colorsys", "json/__init__", "json/tool"):  # with and without bytecode in the package
            source = inside[f"lib/python3.11/{path}.py"][1]
            bytecode = inside[importlib.util.cache_from_source(f"lib/python3.11/{path}.py")][1]
            assert bytecode[4:16] == (1).to_bytes(4, "little") + importlib.util.source_hash(source), path
        labels = json.loads(blob(places, said["id"]))["config"]["Labels"]
        assert labels["jingxiang.lock.conda-lock.yml"].startswith("sha256:")
    assert found[0] == found[1]


def test_a_base_without_a_library_that_wheels_expect_is_refused_unless_a_conda_package_has_it(
    packages: list[Path], places: Places, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(mirror, "docker.io/library/debian", "bare", packed("etc/os-release"))
    monkeypatch.setattr(engines, "tools", lambda *_, **__: Path(sys.executable))
    with pytest.raises(NoLibrary, match=r"debian:bare: has no libstdc\+\+\.so\.6, which the packages need"):
        build(with_conda(places, packages), engine="rattler", base="debian:bare")
    library = channel.write(tmp_path / "conda-forge", "libstdcxx", "15.2.0", {"lib/libstdc++.so.6": channel.File(b"")})
    build(with_conda(places, [*packages, library]), engine="rattler", base="debian:bare")


def test_its_python_works_at_the_place_that_it_has_in_the_image(
    engine: str, packages: list[Path], places: Places, tmp_path: Path
) -> None:
    with_conda(places, packages)
    build(places, engine=engine, to=f"rootfs:{tmp_path}/rootfs")
    code = "import one, sys; print(sys.prefix, one.__file__)"
    script = 'mount -t tmpfs tmpfs /opt && mkdir /opt/jingxiang && mount --bind "$0" /opt/jingxiang && exec "$@"'
    argv = [
        "unshare", "--mount", "--propagation", "private", "sh", "-c", script, f"{tmp_path}/rootfs/opt/jingxiang",
        "/opt/jingxiang/environment/bin/python", "-c", code,
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    if done.returncode and "unshare" in done.stderr:
        pytest.skip("may not mount")
    inside = "/opt/jingxiang/environment"
    assert done.stdout == f"{inside} {inside}/lib/python3.11/site-packages/one.py\n", done.stderr


def test_names_of_licences_in_the_words_of_spdx() -> None:
    assert image_parts._spdx("mit") == "MIT"
    assert image_parts._spdx("CreativeML Open RAIL-M") == "LicenseRef-CreativeML-Open-RAIL-M"


def test_the_files_alone_need_no_base(
    places: Places, tmp_path: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docker/Dockerfile takes them: the Python of this machine is that of the image."""
    mirror.files = {path: body for path, body in mirror.files.items() if not path.startswith("/v2/")}
    found = built(places, capsys, to=f"rootfs:{tmp_path}/rootfs")
    assert found["name"] == f"{tmp_path}/rootfs"
    assert [part["kind"] for part in found["parts"]] == ["weights", "environment", "app"]
    inside = tmp_path / "rootfs" / "opt" / "jingxiang"
    assert (inside / "models" / "tiny" / "unet" / "large.safetensors").read_bytes() == LARGE
    assert (inside / "environment" / "bin" / "python").readlink() == uv_client.python("3.11")
    assert not (places.root / base_images.LOCK).exists()
    for line in (inside / "environment.sha256").read_text().splitlines():
        sha256, _, path = line.partition("  ")
        assert hashlib.sha256((inside / path).read_bytes()).hexdigest() == sha256
    with pytest.raises(NotEmpty):
        build(places, to=f"rootfs:{tmp_path}/rootfs")


def test_a_registry_of_this_machine_is_never_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    assert _network("127.0.0.1:5000").proxy("http", "127.0.0.1", 5000) is None
    assert _network("registry.example.com").proxy("https", "registry.example.com", 443) is not None


def test_a_sink_that_cannot_take_it_is_said_before_anything_is_done(
    places: Places, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    before, asked = contents(tmp_path), mirror.connections
    wrong: list[tuple[str, type[Exception], str]] = [
        ("docker", EngineUnavailable, "no docker engine answers"),
        (f"oci:{tmp_path}/letters", TableError, "is no image layout, and not empty"),
        (f"oci:{tmp_path}/file/layout", Closed, "cannot be written: Not a directory"),
        (f"rootfs:{tmp_path}/letters", NotEmpty, "is not empty"),
        ("registry://127.0.0.1:1/UPPER", UsageError, "is not the address of a repository"),
        (f"registry://127.0.0.1:{system.free_port()}/a/b", Unreachable, "cannot be reached"),
    ]
    for to, kind, message in wrong:
        with pytest.raises(kind, match=message):
            build(places, to=to)
    assert contents(tmp_path) == before
    assert mirror.connections == asked


def test_a_login_that_a_registry_wants_is_said_before_anything_is_done(places: Places, mirror: Mirror) -> None:
    asked = mirror.connections
    with push_registry.serving() as peer:
        peer.faults = [push_registry.on("HEAD", "", push_registry.says(401), times=99)]
        with pytest.raises(Denied, match="does not let you push to a/b: 401") as caught:
            build(places, to=f"registry://{peer.address}/a/b")
    assert caught.value.hints == (f"docker login {peer.address}",)
    assert mirror.connections == asked
