"""build-image as its users do it: whole processes, a real engine, a real registry, the app running without a network"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import pytest
from docker import DockerClient
from docker.models.containers import Container
from PIL import Image

from jingxiang import image_definition
from jingxiang.commands import engines
from jingxiang.images import merged
from jingxiang.places import here
from jingxiang.store import Store
from tests.peers import base_image, checkout, conda, conda_debian, faults, system
from tests.peers.checkout import Checkout, Done
from tests.peers.conda_debian import Parted
from tests.peers.mirror import serving

pytestmark = pytest.mark.e2e
PYTHON = getattr(sys, "_base_executable", sys.executable)
REPOSITORY = "tests/debian:bookworm"
WITHOUT_PYTHON = "tests/bare:bookworm"
USER = 65532


@dataclass(frozen=True)
class Built:
    """A checkout with which an image was built, and what it said."""

    checkout: Checkout
    base: str
    said: dict[str, Any]
    stderr: str
    engine: str = "venv"

    def build(self, *words: str | Path) -> Done:
        return build(self.checkout, self.base, *words, engine=self.engine)


def build(copied: Checkout, base: str, *words: str | Path, before: tuple[str, ...] = (), engine: str = "venv") -> Done:
    argv = [*before, PYTHON, "tasks.py", "build-image", "--model", "smoke", "--profile", "cpu", "--engine", engine]
    return copied.run(*argv, *(["--base", base] if base else []), *words, timeout_s=900)


def good(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    """Without what these tests have left in it, before and after."""
    client = DockerClient(base_url=system.docker_host(), timeout=600)
    forget(client)
    yield client
    forget(client)
    client.close()


def forget(client: DockerClient) -> None:
    for container in client.containers.list(all=True):
        container.remove(force=True)
    for image in client.images.list():
        if any("jingxiang/" in tag for tag in image.tags):
            client.images.remove(str(image.id), force=True)
    client.images.prune()


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_image.tar(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tar: Path) -> Built:
    """An image in a folder; its base came through a mirror that breaks off in the middle of each file."""
    registry = system.registry()
    base_image.push(registry, REPOSITORY, tar.read_bytes())
    folder = tmp_path_factory.mktemp("one")
    copied = checkout.copy(folder / "checkout", {"DOCKER_HOST": system.docker_host()})
    base = f"{registry}/{REPOSITORY}"
    with serving() as bad:
        layers = base_image.layers(registry, REPOSITORY)
        for digest, size in layers.items():
            path = f"/{registry}/v2/tests/debian/blobs/{digest}"
            bad.files[path], bad.answers[path] = bytes(size), faults.always(bad, faults.truncated)
            Store(here().store).blob(digest.removeprefix("sha256:")).unlink(missing_ok=True)  # of an earlier run
        mirrors = folder / "mirrors.toml"
        mirrors.write_text(f'[bad]\noci = {{ layout = "oci", url = "{bad.url}/{{registry}}" }}\n')
        env = {**copied.env, "JINGXIANG_MIRRORS": str(mirrors)}
        done = build(Checkout(copied.folder, env), base, "--mirror", "bad", "--to", f"oci:{folder}/out", "--json")
    said = good(done)
    assert "bad: " in done.stderr, "it was asked"
    return Built(copied, base, said, done.stderr)


@pytest.fixture(scope="module")
def bundle(one: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a mirror, with everything that the environment is made of."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    done = one.checkout.run(
        PYTHON, "tasks.py", "bundle", "--profile", "cpu", "--engine", "venv", "--out", folder, timeout_s=900
    )
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def loaded(one: Built, engine: DockerClient) -> Built:
    """The image in the engine."""
    done = one.build("--json")
    return Built(one.checkout, one.base, good(done), done.stderr)


@pytest.fixture(scope="module")
def parted(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Parted:
    """A channel with a whole Python; a base without any Python is in the registry."""
    found = conda_debian.parted(tar, tmp_path_factory.mktemp("channel"))
    base_image.push(system.registry(), WITHOUT_PYTHON, found.rest)
    return found


def with_conda(folder: Path, parted: Parted, mirror: str, url: str, env: Mapping[str, str]) -> Checkout:
    """A checkout whose lock names the packages of the channel, which a mirror has."""
    copied = checkout.copy(folder, {engines.OWN: os.environ.get(engines.OWN, ""), **env})
    conda.lock(copied.folder / "envs", parted.packages)
    (copied.folder / "mirrors.toml").write_text(
        f'[official]\n[{mirror}]\nconda = {{ layout = "conda", url = "{url}/{{channel}}" }}\n'
    )
    return copied


def forget_packages(parted: Parted) -> None:
    """They are not in the store any more, so they have to come through a mirror."""
    for path in parted.packages:
        Store(here().store).blob(hashlib.sha256(path.read_bytes()).hexdigest()).unlink(missing_ok=True)


@pytest.fixture(scope="module", params=[engines.MAMBA, engines.RATTLER])
def of_conda(
    request: pytest.FixtureRequest, parted: Parted, engine: DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """An image in the engine whose Python comes from conda packages, on a base that has none."""
    if request.param == engines.MAMBA and engines.OWN not in os.environ:
        pytest.skip(f"no micromamba: {engines.OWN} is not set")
    forget_packages(parted)
    env, url = {"DOCKER_HOST": system.docker_host()}, parted.channel.as_uri()
    copied = with_conda(tmp_path_factory.mktemp("conda") / "checkout", parted, "near", url, env)
    base = f"{system.registry()}/{WITHOUT_PYTHON}"
    done = build(copied, base, "--mirror", "near", "--json", engine=request.param)
    return Built(copied, base, good(done), done.stderr, request.param)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.radial_gradient("L").resize((320, 240)).convert("RGB").save(path)
    path.chmod(0o644)
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder that the container's user may write."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    os.chown(folder, USER, USER)
    return folder


def started(engine: DockerClient, name: str, *words: str, **options: Any) -> Container:
    """A container as the README starts it, but without any network and with a root file system that is read only."""
    found: Container = engine.containers.run(
        name, list(words), detach=True, read_only=True, tmpfs={"/tmp": ""}, **{"network_mode": "none", **options}
    )
    return found


def ran(engine: DockerClient, name: str, *words: str, **options: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a container that ends by itself."""
    container = started(engine, name, *words, **options)
    try:
        code = container.wait(timeout=300)["StatusCode"]
        out, err = (bytes(container.logs(stdout=out, stderr=not out)).decode() for out in (True, False))
        return int(code), out, err
    finally:
        container.remove(force=True)


def beside(engine: DockerClient, container: Container, *words: str) -> tuple[int, str, str]:
    """A program of the same image with the network, processes and volumes of a container: like `docker exec`, which
    does not work where the engine itself is in a chroot."""
    return ran(
        engine, str(container.attrs["Image"]), *words[1:], entrypoint=[words[0]],
        network_mode=f"container:{container.id}", pid_mode=f"container:{container.id}",
        volumes_from=[str(container.id)],
    )  # fmt: skip


def inside(engine: DockerClient, container: Container, code: str) -> str:
    """What a Python program prints there."""
    status, out, err = beside(engine, container, "/opt/jingxiang/environment/bin/python", "-c", code)
    assert status == 0, err
    return out.strip()


def status(engine: DockerClient, container: Container, path: str) -> int:
    code = (
        "import urllib.request, urllib.error\n"
        f"try: print(urllib.request.urlopen('http://127.0.0.1:7860{path}').status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
        "except OSError: print(0)\n"
    )
    return int(inside(engine, container, code))


def until(condition: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_another_folder_user_umask_zone_language_and_mirror_give_the_same_digest(
    one: Built, bundle: Path, tmp_path: Path
) -> None:
    env = {
        "JINGXIANG_STORE": str(tmp_path / "store"), "HOME": str(tmp_path / "home"), "TZ": "Asia/Shanghai",
        "LANG": "zh_CN.UTF-8", "LC_ALL": "", "USER": "other", "LOGNAME": "other", "DOCKER_HOST": "",
    }  # fmt: skip
    (tmp_path / "home").mkdir()
    copied = checkout.copy(tmp_path / "a folder with another name" / "checkout", env)
    shutil.copy(one.checkout.folder / "docker" / "base.lock", copied.folder / "docker" / "base.lock")
    other = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if subprocess.run([*other, "true"], check=False, capture_output=True).returncode:
        other.clear()  # not allowed here, as in a chroot: then the user has another name only
    words = [*other, "sh", "-c", 'umask 077; exec "$@"', "sh"]
    done = build(
        copied, one.base, "--mirror", bundle.as_uri(), "--to", f"oci:{tmp_path}/out", "--json", before=(*words,)
    )
    said = good(done)
    layers = [
        {layer["digest"]: part["kind"] for part in each["parts"] for layer in part["layers"]}
        for each in (one.said, said)
    ]
    assert layers[0] == layers[1]
    assert said["digest"] == one.said["digest"]
    assert done.stderr.splitlines()[-1].startswith("镜像 "), "it spoke Chinese meanwhile"


def test_the_engine_calls_it_by_the_digest_of_the_same_configuration(
    one: Built, loaded: Built, engine: DockerClient
) -> None:
    assert loaded.said["digest"] == one.said["digest"]
    image = engine.images.get(loaded.said["name"])
    assert image.id == loaded.said["id"] == one.said["id"]
    folder = one.checkout.folder.parent / "out" / "blobs" / "sha256"
    assert (
        json.loads((folder / one.said["id"].removeprefix("sha256:")).read_bytes())["config"]["User"] == f"{USER}:{USER}"
    )
    done = loaded.build()
    assert (done.code, done.stdout) == (0, f"{one.said['digest']}\n")
    assert "docker has it already" in done.stderr


def test_a_plan_says_that_nothing_is_to_be_sent(loaded: Built) -> None:
    said = good(loaded.build("--plan", "--json"))
    assert (said["digest"], said["send_bytes"]) == (loaded.said["digest"], 0)


def test_a_video_is_made_without_a_network_and_without_writing_elsewhere(
    loaded: Built, engine: DockerClient, photo: Path, outputs: Path
) -> None:
    volumes = {str(outputs): {"bind": "/outputs"}, str(photo): {"bind": "/photo.png", "mode": "ro"}}
    words = ["generate", "--image", "/photo.png", "--prompt", "waves", "--out", "/outputs/waves.mp4", "--seed", "1"]
    code, out, err = ran(engine, loaded.said["name"], *words, volumes=volumes)
    assert (code, out) == (0, "/outputs/waves.mp4\n"), err
    with av.open(str(outputs / "waves.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16
    assert (outputs / "waves.mp4").stat().st_uid == USER


def test_the_files_are_what_they_were_and_the_container_finds_what_it_needs(
    loaded: Built, engine: DockerClient
) -> None:
    code, out, err = ran(engine, loaded.said["name"], "verify")
    assert (code, out) == (0, ""), out + err
    assert "files as locked" in err
    code, out, err = ran(engine, loaded.said["name"], "doctor", "--json")
    assert code == 0, out + err
    found = {each["subject"]: each["state"] for each in json.loads(out)["findings"]}
    assert found["model"] == "ok"
    assert found["outputs"] == "ok"


def test_a_changed_file_is_found(loaded: Built, engine: DockerClient, tmp_path: Path) -> None:
    (tmp_path / "picture.py").write_text("changed\n")
    (tmp_path / "picture.py").chmod(0o644)
    volumes = {str(tmp_path / "picture.py"): {"bind": "/opt/jingxiang/app/picture.py", "mode": "ro"}}
    code, out, _ = ran(engine, loaded.said["name"], "verify", volumes=volumes)
    assert (code, out.split()) == (1, ["changed", "app/picture.py"])


def test_the_page_is_ready_orphans_are_buried_and_sigterm_ends_it_well(loaded: Built, engine: DockerClient) -> None:
    container = started(engine, loaded.said["name"], volumes={"jingxiang-tests": {"bind": "/outputs"}})
    try:
        until(lambda: status(engine, container, "/healthz") == 200, 20)
        until(lambda: status(engine, container, "/readyz") == 200)
        assert b"login    user jingxiang, password " in container.logs()
        assert status(engine, container, "/api/queue") == 401
        code = "import os; print(os.getuid(), os.access('/outputs', os.W_OK), os.access('/opt', os.W_OK))"
        assert inside(engine, container, code) == f"{USER} True False"
        code = "import os, subprocess; subprocess.Popen(['sleep', '0.1'], start_new_session=True); os._exit(0)"
        inside(engine, container, code)
        zombies = (
            "import glob\n"
            "stats = [open(each).read() for each in glob.glob('/proc/[0-9]*/stat')]\n"
            "print(sum(each.rpartition(')')[2].split()[0] == 'Z' for each in stats))"
        )
        time.sleep(0.5)
        until(lambda: inside(engine, container, zombies) == "0", 10)
        container.kill("SIGTERM")
        assert container.wait(timeout=20)["StatusCode"] == 0
        assert "READY http://0.0.0.0:7860" in container.logs().decode()
    finally:
        container.remove(force=True)
        engine.volumes.get("jingxiang-tests").remove()


def test_what_the_healthcheck_of_the_image_runs_says_that_it_is_well(loaded: Built, engine: DockerClient) -> None:
    container = started(engine, loaded.said["name"])
    try:
        test = container.attrs["Config"]["Healthcheck"]["Test"]
        until(lambda: beside(engine, container, *test[1:])[0] == 0, 20)
    finally:
        container.remove(force=True)


def test_a_change_of_the_app_moves_the_app_alone(loaded: Built, engine: DockerClient, tmp_path: Path) -> None:
    code = loaded.checkout.folder / "app" / "picture.py"
    before = code.read_bytes()
    code.write_bytes(before + b"\n# changed\n")
    try:
        said = good(loaded.build("--json", "--tag", "jingxiang/changed:1"))
    finally:
        code.write_bytes(before)
    held = {part["kind"]: {layer["held"] for layer in part["layers"]} for part in said["parts"]}
    assert held == {"base": {True}, "weights": {True}, "environment": {True}, "app": {False}}
    assert 0 < said["sent_bytes"] < 5_000_000
    assert engine.images.get("jingxiang/changed:1").id == said["id"] != loaded.said["id"]


def test_from_the_registry_comes_the_same_image(loaded: Built, engine: DockerClient) -> None:
    name = f"{system.registry()}/jingxiang/smoke"
    said = good(loaded.build("--to", f"registry://{name}:tests", "--json"))
    assert (said["digest"], said["name"]) == (loaded.said["digest"], f"{name}:tests")
    again = good(loaded.build("--to", f"registry://{name}:tests", "--json"))
    assert again["sent_bytes"] == 0
    for tag in engine.images.get(loaded.said["id"]).tags:
        engine.images.remove(tag, force=True)
    engine.images.prune()
    pulled = engine.images.pull(name, tag="tests")  # the other tests find it by its digest
    assert pulled.id == loaded.said["id"]
    assert pulled.attrs["RepoDigests"] == [f"{name}@{loaded.said['digest']}"]
    code, out, err = ran(engine, f"{name}@{loaded.said['digest']}", "doctor", "--json")
    assert code == 0, out + err


def test_what_goes_wrong_is_one_clear_line(one: Built, tmp_path: Path) -> None:
    """An engine that is not there, a registry that is not there, a disk that is full are in tests of their own."""
    away = Checkout(one.checkout.folder, {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"})
    done = build(away, one.base)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"error: no docker engine answers at unix://{tmp_path}/absent.sock"
    wrong = f"{system.registry()}/tests/debian@sha256:{'0' * 64}"
    done = build(one.checkout, wrong, "--to", f"oci:{tmp_path}/out")
    assert done.code == 1
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"{wrong} could not be had" in error
    assert not (tmp_path / "out").exists()
    done = build(one.checkout, one.base, "--to", f"registry://127.0.0.1:{system.free_port()}/a/b")
    assert done.code == 1
    assert any(line.startswith("error: registry 127.0.0.1:") for line in done.stderr.splitlines()), done.stderr


def test_the_dockerfile_makes_the_same_files_and_runs_in_the_same_way(
    one: Built, loaded: Built, bundle: Path, engine: DockerClient, photo: Path, outputs: Path
) -> None:
    registry = system.registry()
    base = engine.images.pull(f"{registry}/tests/debian", tag="bookworm")
    with ExitStack() as stack:
        handler = partial(SimpleHTTPRequestHandler, directory=str(bundle))
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = {
            "BASE": base.tags[0], "MODEL": "smoke", "PROFILE": "cpu", "ENGINE": "venv",
            "MIRROR": f"http://127.0.0.1:{server.server_port}",
        }  # fmt: skip
        image, lines = engine.images.build(
            path=str(one.checkout.folder), dockerfile="docker/Dockerfile", buildargs=arguments, network_mode="host",
            tag="jingxiang/dockerfile:tests", rm=True, forcerm=True,
        )  # fmt: skip
        server.shutdown()
    said = "".join(str(line.get("stream", "")) for line in lines if isinstance(line, dict))
    assert "every hash checked" in said
    ours = image_definition.load(one.checkout.folder).settings({}, {})
    settings = image.attrs["Config"]
    for key in ("User", "WorkingDir", "Entrypoint", "ExposedPorts", "Healthcheck", "StopSignal", "Volumes"):
        assert settings[key] == ours[key], key
    assert set(merged({}, ours)["Env"]) <= set(settings["Env"])
    code, out, err = ran(engine, "jingxiang/dockerfile:tests", "verify")
    assert (code, out) == (0, ""), out + err
    volumes = {str(outputs): {"bind": "/outputs"}, str(photo): {"bind": "/photo.png", "mode": "ro"}}
    words = ["generate", "--image", "/photo.png", "--prompt", "waves", "--out", "/outputs/waves.mp4"]
    code, out, err = ran(engine, "jingxiang/dockerfile:tests", *words, volumes=volumes)
    assert (code, out) == (0, "/outputs/waves.mp4\n"), err
    listed = []
    for name in ("jingxiang/dockerfile:tests", loaded.said["id"]):
        _, out, _ = ran(engine, name, "/opt/jingxiang/environment.sha256", entrypoint=["cat"])
        # Bytecode of another patch release of Python is not the same for each file.
        listed.append([line for line in out.splitlines() if not line.endswith(".pyc")])
    assert listed[0] == listed[1], "the same files, byte for byte"


def test_an_image_is_derived_as_the_readme_says(loaded: Built, engine: DockerClient, tmp_path: Path) -> None:
    readme = (loaded.checkout.folder / "docker" / "README.md").read_text(encoding="utf-8")
    snippet = readme.partition("```dockerfile\n")[2].partition("```")[0]
    engine.images.get(loaded.said["id"]).tag("jingxiang/i2vgen-xl", "TAG")
    (tmp_path / "Dockerfile").write_text(snippet)
    made = next((loaded.checkout.folder / ".jingxiang" / "images" / "models").glob("*/smoke"))
    shutil.copytree(made, tmp_path / "my-model")
    table = (loaded.checkout.folder / "app" / "models.toml").read_text(encoding="utf-8")
    own = table[table.index("[smoke]") :].replace("[smoke", "[my-model")
    (tmp_path / "models.toml").write_text(f"{table}\n{own}", encoding="utf-8")
    engine.images.build(path=str(tmp_path), tag="jingxiang/derived:tests", rm=True, forcerm=True)
    code, out, err = ran(engine, "jingxiang/derived:tests", "doctor", "--json")
    assert code == 0, out + err
    texts = [each["text"] for each in json.loads(out)["findings"] if each["subject"] == "model"]
    assert any(text.startswith("my-model: whole") and "the one that is used" in text for text in texts), texts
    code, out, _ = ran(engine, "jingxiang/derived:tests", "verify")
    changed, *added = out.splitlines()
    assert (code, changed.split()) == (1, ["changed", "app/models.toml"])
    assert all(line.split()[0] == "added" and "models/my-model/" in line for line in added), added


def test_a_python_of_conda_serves_on_a_base_that_has_none(of_conda: Built, engine: DockerClient) -> None:
    container = started(engine, of_conda.said["name"])
    try:
        until(lambda: status(engine, container, "/healthz") == 200, 20)
        until(lambda: status(engine, container, "/readyz") == 200)
        code = (
            "import bz2, ctypes, hashlib, lzma, sqlite3, ssl, sys, uuid, zlib, torch\n"
            "files = {line.split()[5] for line in open('/proc/self/maps') if '.so' in line}\n"
            "print(sys.base_prefix, *sorted(file for file in files if not file.startswith(sys.prefix)))"
        )
        prefix, *libraries = inside(engine, container, code).split()
        assert prefix == "/opt/jingxiang/environment"
        of_the_base = {"ld-linux-x86-64", "libc", "libdl", "libgcc_s", "libm", "libpthread", "librt", "libstdc++"}
        assert {Path(each).name.partition(".so")[0] for each in libraries} <= of_the_base
        container.kill("SIGTERM")
        assert container.wait(timeout=20)["StatusCode"] == 0
    finally:
        container.remove(force=True)


def test_a_python_of_conda_makes_a_video_and_its_files_are_what_they_were(
    of_conda: Built, engine: DockerClient, photo: Path, outputs: Path
) -> None:
    volumes = {str(outputs): {"bind": "/outputs"}, str(photo): {"bind": "/photo.png", "mode": "ro"}}
    words = ["generate", "--image", "/photo.png", "--prompt", "waves", "--out", "/outputs/waves.mp4"]
    code, out, err = ran(engine, of_conda.said["name"], *words, volumes=volumes)
    assert (code, out) == (0, "/outputs/waves.mp4\n"), err
    with av.open(str(outputs / "waves.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16
    code, out, err = ran(engine, of_conda.said["name"], "verify")
    assert (code, out) == (0, ""), out + err
    assert "files as locked" in err
    code, out, err = ran(engine, of_conda.said["name"], "doctor", "--json")
    assert code == 0, out + err
    assert {each["subject"]: each["state"] for each in json.loads(out)["findings"]}["model"] == "ok"


def test_with_conda_packages_of_another_mirror_in_another_folder_the_digest_is_the_same(
    of_conda: Built, parted: Parted, tmp_path: Path
) -> None:
    assert good(of_conda.build("--mirror", "near", "--json"))["digest"] == of_conda.said["digest"], "as it is"
    environments = of_conda.checkout.folder / ".jingxiang" / "images" / "environments"
    assert list(environments.glob("i2v-*/lib/python3.11/asyncio/*.py"))
    assert not list(environments.glob("i2v-*/lib/python3.11/asyncio/**/*.pyc")), "its Python has written into it"
    forget_packages(parted)
    env = {**of_conda.checkout.env, "TZ": "Asia/Shanghai", "LANG": "zh_CN.UTF-8", "USER": "other"}
    with serving() as far:
        for path in parted.packages:
            far.files[f"/{path.relative_to(parted.channel)}"] = path.read_bytes()
        copied = with_conda(tmp_path / "a folder with another name" / "checkout", parted, "far", far.url, env)
        shutil.copy(of_conda.checkout.folder / "docker" / "base.lock", copied.folder / "docker" / "base.lock")
        words = ("sh", "-c", 'umask 077; exec "$@"', "sh")
        done = build(
            copied, of_conda.base, "--mirror", "far", "--json", before=words, engine=of_conda.engine,
        )  # fmt: skip
        asked = {each.path for each in far.asked}
    said = good(done)
    assert far.files.keys() <= asked, "they came from there"
    layers = [
        {layer["digest"]: part["kind"] for part in each["parts"] for layer in part["layers"]}
        for each in (of_conda.said, said)
    ]
    assert layers[0] == layers[1]
    assert (said["digest"], said["sent_bytes"]) == (of_conda.said["digest"], 0)
