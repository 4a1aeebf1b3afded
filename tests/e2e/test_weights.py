"""Weights over the real routes of a hub: closed repositories, other hosts, a real mirror, every fault, and kill -9"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import pytest

from jingxiang import weights
from jingxiang.commands.fetch import NotFetched, fetch, verify
from jingxiang.hubs.huggingface import Refused
from jingxiang.places import Places
from jingxiang.store import Store
from tests.peers import checkout, faults, hub, large, olah
from tests.peers.app import serving as page
from tests.peers.checkout import ROOT, Checkout
from tests.peers.mirror import Mirror, serving
from tests.peers.site import MB, data
from tests.test_fetch_command import LIMITS, MEMORY, PRESET, contents

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_proxy")]
REPOSITORY = "org/sharded"
SHARDS = {f"unet/model-{number:05}-of-00004.fp16.safetensors": data(3 * MB, number) for number in range(1, 5)}
FILES = {"model_index.json": b'{"_class_name": "I2VGenXLPipeline"}', "unet/config.json": b'{"a": 1}', **SHARDS}
DOWNLOAD = (
    "import sys; from huggingface_hub import snapshot_download; "
    "snapshot_download(sys.argv[1], revision=sys.argv[2], local_dir=sys.argv[3], endpoint=sys.argv[4])"
)


def table(name: str, repository: str, revision: str, *, gated: bool = False) -> str:
    """A model that takes everything of a repository."""
    return (
        f'[{name}]\ntitle = {{ en = "{name}", zh = "{name}" }}\npipeline = "i2vgen-xl"\n[{name}.weights]\n'
        'licence = { name = "L", url = "https://example.org", commercial = true, free = true }\n'
        f"gated = {str(gated).lower()}\n"
        f'[{name}.weights.parts.model]\nrepository = "{repository}"\nrevision = "{revision}"\nfiles = ["*"]\n'
        f"[{name}.limits]\n{LIMITS}[{name}.memory]\n{MEMORY}"
        f"[{name}.presets.standard]\n{PRESET}[{name}.presets.fast]\n{PRESET}"
    )


def sources(urls: Mapping[str, str], *, own: str = "") -> str:
    """A mirrors.toml of hubs, of which `own` may see tokens."""
    lines = [
        f'[{name}]\nhub = {{ layout = "hf", url = "{url}"{", send_token = true" if name == own else ""} }}\n'
        for name, url in urls.items()
    ]
    return "".join(lines)


def places(folder: Path, models: str, mirrors: str) -> Places:
    found = Places(folder / "checkout", folder / "home", folder / "store")
    (found.root / "app").mkdir(parents=True)
    (found.root / "app" / "models.toml").write_text(models, encoding="utf-8")
    (found.root / "mirrors.toml").write_text(mirrors, encoding="utf-8")
    return found


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def three() -> Iterator[tuple[Mirror, Mirror, Mirror]]:
    with serving() as one, serving() as two, serving() as other:
        yield one, two, other


def downloaded(folder: Path, revision: str, url: str, *, token: str = "") -> dict[str, bytes]:
    """What huggingface_hub itself makes of a repository."""
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "theirs")}
    words = [sys.executable, "-c", DOWNLOAD, REPOSITORY, revision, str(folder / "plain"), url]
    subprocess.run(words, env=env | ({"HF_TOKEN": token} if token else {}), check=True, capture_output=True)
    return {path: body for path, body in contents(folder / "plain").items() if not path.startswith(".cache/")}


def test_a_closed_repository_whose_files_are_on_another_host(
    tmp_path: Path, three: tuple[Mirror, Mirror, Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is shown to the hub that gave it: not to its mirror, not to where the hub keeps large files."""
    mirror, origin, cdn = three
    revision = hub.add(mirror, REPOSITORY, FILES, token="hf_right")
    hub.add(origin, REPOSITORY, FILES, token="hf_right", cdn=cdn)
    urls = {"mirror": mirror.url, "official": origin.url}
    found = places(tmp_path, table("model", REPOSITORY, revision, gated=True), sources(urls, own="official"))
    for token, said in (("", "is only for those who have accepted its licence"), ("hf_wrong", "your token may not")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(Refused, match=said) as caught:
            fetch(found, names=["model"], mirror="mirror")
        assert caught.value.hints[0] == f"log in and accept at https://huggingface.co/{REPOSITORY}"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch(found, names=["model"], mirror="mirror")
    assert contents(found.models / "model") == downloaded(tmp_path, revision, origin.url, token="hf_right")
    assert {each.headers.get("Authorization") for each in (*mirror.asked, *cdn.asked)} == {None}
    assert "Bearer hf_right" in {each.headers.get("Authorization") for each in origin.asked}
    assert {path for path in cdn.paths() if path.endswith("-of-00004.fp16.safetensors")}


def test_a_hub_that_wants_it_slower_is_left_for_the_next(
    tmp_path: Path, three: tuple[Mirror, Mirror, Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    """429 with Retry-After to every second question, and to all of them."""
    busy, closed, good = three
    for mirror in three:
        revision = hub.add(mirror, REPOSITORY, FILES)
    count = iter(range(1 << 30))

    def answer(request: BaseHTTPRequestHandler) -> None:
        if next(count) % 2:
            busy.send(request, busy.files[request.path])
        else:
            faults.status(429, {"Retry-After": "1"})(busy, request)

    busy.answers = {"": answer}
    closed.answers = {"": faults.always(closed, faults.status(429, {"Retry-After": "3600"}))}
    urls = {"closed": closed.url, "busy": busy.url, "good": good.url}
    found = places(tmp_path, table("model", REPOSITORY, revision), sources(urls))
    fetch(found, names=["model"], mirror="closed")
    assert contents(found.models / "model") == FILES
    assert "closed: 429" in capsys.readouterr().err


def test_through_olah(tmp_path: Path, three: tuple[Mirror, Mirror, Mirror]) -> None:
    """A mirror that others have made and people run: it keeps blocks of files, and asks for what it lacks."""
    upstream = three[0]
    revision = hub.add(upstream, REPOSITORY, FILES)
    (tmp_path / "olah").mkdir()
    with olah.serving(tmp_path / "olah", upstream.url) as url:
        found = places(tmp_path, table("model", REPOSITORY, revision), sources({"olah": url}))
        fetch(found, names=["model"], mirror="olah")
        assert contents(found.models / "model") == FILES
        asked = len(upstream.asked)
        shutil.rmtree(found.store)
        shutil.rmtree(found.models)
        fetch(found, names=["model"], mirror="olah")
        assert contents(found.models / "model") == FILES
    shards = [each.method for each in upstream.asked[asked:] if each.path.endswith(".safetensors")]
    assert "GET" not in shards  # the second time it had them


def survives(folder: Path, name: str, fault: faults.Fault) -> bool:
    """Whether a model comes whole although one mirror does this to every shard, once and for all."""
    with ExitStack() as stack:
        bad, good = (stack.enter_context(serving()) for _ in range(2))
        revision = hub.add(good, REPOSITORY, FILES)
        hub.add(bad, REPOSITORY, FILES)
        for path in SHARDS:
            bad.answers[f"/{REPOSITORY}/resolve/{revision}/{path}"] = faults.always(bad, fault)
        found = places(folder, table("model", REPOSITORY, revision), sources({name: bad.url, "good": good.url}))
        fetch(found, names=["model"], mirror=name)
        return contents(found.models / "model") == FILES


def test_every_fault_of_a_mirror_is_survived_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {f"{fault.replace(' ', '-').replace('_', '-')}": fault for fault in faults.FAULTS}
    with ThreadPoolExecutor(len(names)) as pool:
        whole = pool.map(lambda name: survives(tmp_path / name, name, faults.FAULTS[names[name]]), names)
        assert dict(zip(names, whole, strict=True)) == dict.fromkeys(names, True)
    said = capsys.readouterr().err
    blamed = {name for name in names if f"{name}: " in said}
    assert {"corrupt-at-the-middle", "corrupt-at-the-start", "corrupt-at-the-end", "page", "429", "503"} <= blamed
    assert "corrupt-at-the-middle: checksum differs (" in said


def started(copied: Checkout, env: Mapping[str, str]) -> subprocess.Popen[str]:
    argv = [sys.executable, "tasks.py", "fetch", "model", "--mirror", "near"]
    return subprocess.Popen(
        argv, cwd=copied.folder, env=copied.environment(env), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_kill_in_the_middle_of_a_shard_of_a_gigabyte_costs_little(tmp_path: Path) -> None:
    """SIGKILL leaves no time to tidy up: the next run goes on from what is on the disk, and checks all of it."""
    size = 1 << 30
    (tmp_path / "served").mkdir()
    with large.serving(tmp_path / "served", size) as served:
        copied = checkout.copy(tmp_path / "checkout", {"HF_HOME": str(tmp_path / "hf")})
        (copied.folder / ".venv").symlink_to(ROOT / ".venv")
        (copied.folder / "mirrors.toml").write_text(sources({"near": served.url}))
        with (copied.folder / "app" / "models.toml").open("a", encoding="utf-8") as models:
            models.write("\n" + table("model", large.REPOSITORY, large.REVISION))
        env = {"JINGXIANG_STORE": str(tmp_path / "store")}
        store, process = Store(tmp_path / "store"), started(copied, env)
        deadline = time.monotonic() + 120
        while store.partial_bytes(served.sha256) < 0.4 * size:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        process.communicate()
        before = served.sent_bytes()
        assert 0.3 * size < before < size
        assert not store.has(served.sha256)
        done = started(copied, env)
        out, err = done.communicate(timeout=120)
        assert done.returncode == 0, err
        assert served.sent_bytes() < size + 64 * MB  # both runs together
        folder = copied.folder / ".jingxiang" / "models" / "model"
        assert out == f"{folder}\n"
        assert store.is_sound(served.sha256)
        assert (folder / large.NAME).samefile(store.blob(served.sha256))


def test_a_fine_tune_of_ones_own_is_a_table_and_runs(
    tmp_path: Path, models: Path, photo: Path, three: tuple[Mirror, Mirror, Mirror]
) -> None:
    """Fetched like the others, as fp16 safetensors, and loaded by the code that loads I2VGen-XL."""
    tuned = tmp_path / "tuned"
    code = (
        "import sys, torch; from diffusers import I2VGenXLPipeline; "
        "pipe = I2VGenXLPipeline.from_pretrained(sys.argv[1], local_files_only=True, dtype=torch.float16); "
        "pipe.unet.conv_out.weight.data.mul_(0.5); pipe.save_pretrained(sys.argv[2], variant='fp16')"
    )
    subprocess.run([sys.executable, "-c", code, models / "smoke", tuned], check=True, capture_output=True)
    origin = three[0]
    revision = hub.add(origin, "me/tuned", contents(tuned))
    found = places(tmp_path, table("custom", "me/tuned", revision), sources({"near": origin.url}))
    fetch(found, names=["custom"], mirror="near")
    verify(found, "custom", as_json=False)
    assert contents(found.models / "custom") == contents(tuned)
    copied = checkout.copy(tmp_path / "copy")
    shutil.copy(found.root / "app" / "models.toml", copied.folder / "app" / "models.toml")
    done = copied.run(
        sys.executable, "-m", "app", "generate", "--model", "custom", "--models", found.models, "--image", photo,
        "--prompt", "moves", "--out", tmp_path / "video.mp4", "--preset", "fast", "--seed", "7",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    with av.open(str(tmp_path / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 8
    with page(found.models, tmp_path, "--model", "custom", cwd=copied.folder) as app:
        assert app.process.stdout is not None
        assert app.process.stdout.readline() == f"READY {app.url}\n"
        shown = {each["props"].get("elem_id") for each in json.loads(app.get("/config")[1])["components"]}
        assert "model" in shown
        assert "notice" not in shown  # it has none: a table need not say one


def test_a_lock_by_gits_names_is_completed_from_a_hub_with_other_names(
    tmp_path: Path, three: tuple[Mirror, Mirror, Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    """As for svd-xt in app/models.lock: what was published of small files is only what git calls them."""
    other, origin, _ = three
    revision = hub.add(origin, REPOSITORY, FILES)
    found = places(tmp_path, table("model", REPOSITORY, revision), sources({"official": origin.url}))
    fetch(found, names=["model"], mirror="official")
    path = found.root / weights.LOCK
    whole, lock = path.read_text(), weights.load(path)["model"]
    spec = weights.ModelLock(lock.spec, "", lock.parts)
    assert spec.is_complete
    small = {name: body for name, body in FILES.items() if name not in SHARDS}
    git = {name: hub.git_name(body) for name, body in small.items()}
    files = [
        weights.LockedFile(each.path, each.size, git=git[each.path]) if each.path in git else each
        for each in lock.parts[0].files
    ]
    part = weights.LockedPart(REPOSITORY, revision, tuple(files))
    shutil.rmtree(found.store)
    shutil.rmtree(found.models)
    for name, body in FILES.items():
        other.files[f"/models/made/clips/resolve/master/{name}"] = body
    ids = f'{{ "{REPOSITORY}" = "made/clips" }}'
    (found.root / "mirrors.toml").write_text(
        f'[scope]\nhub = {{ layout = "modelscope", url = "{other.url}", ids = {ids} }}\n'
    )
    partial = weights.ModelLock(lock.spec, weights.digest([part]), (part,))
    path.write_text(weights.written({"model": partial}))
    with pytest.raises(NotFetched):
        verify(found, "model", as_json=False)
    capsys.readouterr()
    fetch(found, names=["model"], mirror="scope")
    assert contents(found.models / "model") == FILES
    assert path.read_text() == whole
    assert "lock     model: 2 small files are as git names them" in capsys.readouterr().err
