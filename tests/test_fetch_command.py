"""jingxiang.commands.fetch: weights of models from hubs on this machine, with their own protocols"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jingxiang import locks, models, weights
from jingxiang.commands.bundle import bundle
from jingxiang.commands.fetch import DamagedWeights, LicenceNotAccepted, NoModel, NotFetched, fetch, ready, verify
from jingxiang.commands.model_locks import relock
from jingxiang.digest import sha256_bytes
from jingxiang.errors import TableError
from jingxiang.fetch.report import Unavailable
from jingxiang.hubs.huggingface import NotShown, Refused
from jingxiang.places import Places
from jingxiang.program import with_flags
from jingxiang.store import Store
from jingxiang.weights import Pickle, StaleLock
from tests.peers import hub
from tests.peers.mirror import Mirror, serving

REPOSITORY = "org/video"
SHARD = bytes(range(256)) * 8192  # 2 MiB
FILES = {
    "model_index.json": b'{"_class_name": "I2VGenXLPipeline"}',
    "unet/config.json": b"{}",
    "unet/model-00001.fp16.safetensors": SHARD,
    "unet/model-00002.fp16.safetensors": SHARD[::-1],
    "unet/model.safetensors": b"the same in twice the bytes",
    "old/model.ckpt": b"pickle",
    "README.md": b"words",
}
WANTED = {path: body for path, body in FILES.items() if path.endswith((".json", ".fp16.safetensors"))}
LIMITS = "width = 64\nheight = 64\nmultiple = 8\nframes = 8\nsteps = 4\nfps = [1, 30]\nguidance = [1.0, 20.0]\n"
MEMORY = "weights_gib = 1.0\ndenoising_gib = 0.5\ndecoding_gib = 2.0\ndecode_chunk = 4\n"
PRESET = "width = 64\nheight = 64\nframes = 8\nsteps = 4\nfps = 8\nguidance = 9.0\n"


def table(revision: str, *, free: bool = True, files: str = '"*.json", "*.fp16.safetensors"') -> str:
    return (
        '[video]\ntitle = { en = "Video", zh = "视频" }\npipeline = "i2vgen-xl"\n[video.weights]\n'
        f'licence = {{ name = "L", url = "https://example.org", commercial = true, free = {str(free).lower()} }}\n'
        f'[video.weights.parts.model]\nrepository = "{REPOSITORY}"\nrevision = "{revision}"\nfiles = [{files}]\n'
        f"[video.limits]\n{LIMITS}[video.memory]\n{MEMORY}"
        f"[video.presets.standard]\n{PRESET}[video.presets.fast]\n{PRESET}"
    )


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pip_settings: None, near: Mirror, far: Mirror) -> Places:
    """A checkout with one model, a mirror of the hub and the hub itself, which may see tokens."""
    for name in os.environ:
        if name.startswith(("HF_TOKEN", "HF_HOME")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    (found.root / "app").mkdir(parents=True)
    revision = hub.add(near, REPOSITORY, FILES)
    assert hub.add(far, REPOSITORY, FILES) == revision
    (found.root / "app" / "models.toml").write_text(table(revision), encoding="utf-8")
    (found.root / "mirrors.toml").write_text(
        f'[near]\nhub = {{ layout = "hf", url = "{near.url}" }}\n'
        f'[official]\nhub = {{ layout = "hf", url = "{far.url}", send_token = true }}\n'
    )
    return found


def edit(places: Places, old: str, new: str) -> None:
    path = places.root / "app" / "models.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def revision(places: Places) -> str:
    text = (places.root / "app" / "models.toml").read_text(encoding="utf-8")
    return text.partition('revision = "')[2][:40]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def get(places: Places, **options: object) -> None:
    fetch(places, names=["video"], mirror="near", **options)  # type: ignore[arg-type]


def test_weights_are_locked_fetched_and_linked(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    get(places)
    out, err = capsys.readouterr()
    folder = places.models / "video"
    assert out == f"{folder}\n"
    assert contents(folder) == WANTED
    lines = err.splitlines()
    assert lines[:4] == [
        "licence  L, commercial use allowed: https://example.org",
        "mirrors  hub near, official",
        f"lock     video: not locked yet: files and hashes of org/video as near says, revision {revision(places)[:8]}",
        "lock     video is written to app/models.lock: commit it",
    ]
    assert lines[4] == "plan     video: 4 of 4 files to fetch, 4.2 MB"
    assert lines[-1] == f"weights  {folder}   4 files, 4.2 MB, every hash checked, no copy (hard links)"
    (part,) = weights.load(places.root / "app" / "models.lock")["video"].parts
    assert (part.repository, part.revision) == (REPOSITORY, revision(places))
    assert {file.path: (file.size, file.sha256) for file in part.files} == {
        path: (len(body), sha256_bytes(body)) for path, body in WANTED.items()
    }
    store = Store(places.store)
    assert all((folder / file.path).samefile(store.blob(file.sha256)) for file in part.files)


def test_the_folder_is_what_huggingface_hub_makes(places: Places, far: Mirror, tmp_path: Path) -> None:
    get(places)
    code = (
        "import sys; from huggingface_hub import snapshot_download; "
        "snapshot_download(sys.argv[1], revision=sys.argv[2], "
        "local_dir=sys.argv[3], allow_patterns=['*.json', '*.fp16.safetensors'], endpoint=sys.argv[4])"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "theirs")}
    words = [sys.executable, "-c", code, REPOSITORY, revision(places), str(tmp_path / "plain"), far.url]
    subprocess.run(words, env=env, check=True, capture_output=True)
    plain = {path: body for path, body in contents(tmp_path / "plain").items() if not path.startswith(".cache/")}
    assert contents(places.models / "video") == plain


def test_a_second_time_nobody_is_asked(
    places: Places, near: Mirror, far: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    get(places)
    lock = (places.root / "app" / "models.lock").read_bytes()
    before = near.connections + far.connections
    capsys.readouterr()
    get(places)
    out, err = capsys.readouterr()
    assert out == f"{places.models / 'video'}\n"
    assert err.startswith("weights  ")
    assert near.connections + far.connections == before
    assert (places.root / "app" / "models.lock").read_bytes() == lock


def test_what_the_lock_says_is_enforced_and_a_flipped_byte_is_fetched_elsewhere(
    places: Places, near: Mirror, far: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    relock(places, ["video"], mirror="near")
    path = f"/{REPOSITORY}/resolve/{revision(places)}/unet/model-00002.fp16.safetensors"
    body = bytearray(near.files[path])
    body[len(body) // 2] ^= 1
    near.files[path] = bytes(body)
    get(places)
    assert contents(places.models / "video") == WANTED
    assert "near: checksum differs (1 file)" in capsys.readouterr().err
    for mirror in (near, far):
        mirror.files[path] = bytes(body)
    Store(places.store).blob(sha256_bytes(FILES["unet/model-00002.fp16.safetensors"])).unlink()
    with pytest.raises(Unavailable, match=r"model-00002\.fp16\.safetensors could not be had from any of 2 mirrors"):
        get(places)


def test_another_hub_with_another_name_gives_the_same_bytes(places: Places, near: Mirror, far: Mirror) -> None:
    """ModelScope has routes and revisions of its own: only the hash says that it is the same file."""
    relock(places, ["video"], mirror="near")
    with serving() as other:
        for path, body in WANTED.items():
            other.files[f"/models/made/clips/resolve/master/{path}"] = body
        ids = f'{{ "{REPOSITORY}" = "made/clips" }}'
        (places.root / "mirrors.toml").write_text(
            f'[scope]\nhub = {{ layout = "modelscope", url = "{other.url}", ids = {ids} }}\n'
        )
        fetch(places, names=["video"], mirror="scope")
    assert contents(places.models / "video") == WANTED


def test_a_hub_that_lies_about_a_small_file_is_not_believed(places: Places, near: Mirror) -> None:
    near.files[f"/{REPOSITORY}/resolve/{revision(places)}/unet/config.json"] = b"[]"
    get(places)
    assert (places.models / "video" / "unet" / "config.json").read_bytes() == b"{}"


def test_formats_that_can_run_programs_are_refused(places: Places) -> None:
    edit(places, '"*.json"', '"*.ckpt", "*.json"')
    with pytest.raises(Pickle, match=r"^video: old/model\.ckpt: is in a format that can run programs"):
        get(places)
    assert not (places.root / "app" / "models.lock").exists()
    edit(places, "[video.weights.parts", "allow_pickle = true\n[video.weights.parts")
    get(places)
    assert (places.models / "video" / "old" / "model.ckpt").read_bytes() == b"pickle"


def test_a_licence_with_conditions_is_asked_for_once(
    places: Places, near: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(places, "free = true", "free = false")
    with pytest.raises(LicenceNotAccepted) as caught:
        get(places)
    assert caught.value.hints == ("read it; if you accept it: python3 tasks.py fetch video --accept-license",)
    assert near.connections == 0
    get(places, dry_run=True)  # looking is free
    get(places, accept=True)
    Store(places.store).blob(sha256_bytes(SHARD)).unlink()
    get(places)
    assert contents(places.models / "video") == WANTED


def test_a_gated_model_says_where_to_accept_and_what_to_set(
    places: Places, near: Mirror, far: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(places, "[video.weights.parts", "gated = true\n[video.weights.parts")
    with pytest.raises(Refused, match=r"^org/video: is only for those who have accepted its licence$") as caught:
        get(places)
    assert caught.value.hints[0] == "log in and accept at https://huggingface.co/org/video"
    assert near.connections == 0
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for mirror in (near, far):
        mirror.answers[""] = mirror.status(403)
    with pytest.raises(Refused, match="your token may not see it"):
        get(places)
    shown = {request.headers.get("Authorization") for request in near.asked}
    assert shown == {None}  # a mirror of somebody else never sees it
    assert {request.headers.get("Authorization") for request in far.asked} == {"Bearer hf_secret"}
    for mirror in (near, far):
        mirror.answers.clear()
    get(places)
    assert contents(places.models / "video") == WANTED


def test_a_token_that_nobody_was_shown_is_not_blamed(
    places: Places, near: Mirror, far: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From China: the mirror wants to know who asks, the Hub cannot be reached."""
    edit(places, "[video.weights.parts", "gated = true\n[video.weights.parts")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    near.answers[""], far.answers[""] = near.status(401), far.status(503)
    with pytest.raises(NotShown, match="could not be had from any of 2 mirrors") as caught:
        get(places)
    assert "send_token = true" in caught.value.hints[0]
    near.answers.clear()
    relock(places, ["video"], mirror="near")
    near.answers[""] = near.status(401)
    with pytest.raises(NotShown):
        get(places)
    assert {request.headers.get("Authorization") for request in near.asked} == {None}


def test_a_long_list_goes_on_at_the_same_hub(
    places: Places, near: Mirror, far: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever host the link to the next page names: neither is it asked, nor does it see the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    tree = f"/api/models/{REPOSITORY}/tree/{revision(places)}"
    first = f"{tree}?recursive=true&expand=false"
    entries = json.loads(far.files[first])
    far.files[first], far.files[f"{tree}?cursor=x"] = (json.dumps(part).encode() for part in (entries[:2], entries[2:]))
    far.headers[first] = {"Link": f'<{near.url}{tree}?cursor=x>; rel="next"'}
    fetch(places, names=["video"], mirror="official")
    assert contents(places.models / "video") == WANTED
    assert not near.asked
    assert f"{tree}?cursor=x" in far.paths()


def test_files_of_the_same_content_are_fetched_once(places: Places, near: Mirror) -> None:
    files = {**FILES, "unet/model-00003.fp16.safetensors": SHARD}
    edit(places, revision(places), hub.add(near, REPOSITORY, files))
    get(places)
    assert contents(places.models / "video") == {**WANTED, "unet/model-00003.fp16.safetensors": SHARD}


def test_what_has_come_already_needs_no_room(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("jingxiang.storage.check_room", lambda folder, needed: asked.append(needed))
    relock(places, ["video"], mirror="near")
    with Store(places.store).incoming(sha256_bytes(SHARD)) as file:
        file.path.write_bytes(SHARD[: 1 << 20])
    get(places)
    assert asked == [sum(map(len, WANTED.values())) - (1 << 20)]


def test_a_lock_of_another_revision_or_other_files_is_refused(places: Places, near: Mirror) -> None:
    relock(places, ["video"], mirror="near")
    edit(places, revision(places), "0" * 40)
    with pytest.raises(StaleLock) as caught:
        get(places)
    assert caught.value.hints == ("python3 tasks.py lock --models video",)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"video": [{}]}', '{"video": [{"repository": "a/b", "revision": "x", "files": []}]}']
)
def test_a_broken_lock_is_one_line(places: Places, text: str) -> None:
    (places.root / "app" / "models.lock").write_text(text)
    with pytest.raises(TableError, match=r"^app/models\.lock: is not a lock of models$"):
        get(places)


def test_an_app_without_weights_says_which_model_needs_none(places: Places, near: Mirror, far: Mirror) -> None:
    smoke = (Path(__file__).parent.parent / "app" / "models.toml").read_text(encoding="utf-8").partition("[smoke]")
    with (places.root / "app" / "models.toml").open("a", encoding="utf-8") as tables:
        tables.write("\n" + "".join(smoke[1:]))
    catalog = models.load(places.root / "app" / "models.toml")
    for mirror in (near, far):
        mirror.answers[""] = mirror.status(503)
    with pytest.raises(NoModel, match=r"^org/video could not be had from any of 2 mirrors") as caught:
        ready(places, catalog, catalog.model("video"), mirror="near")
    assert caught.value.hints[-1] == "try the app with a model that needs no weights: --model smoke"
    for mirror in (near, far):
        mirror.answers.clear()
    ready(places, catalog, catalog.model("video"), mirror="near")
    ready(places, catalog, catalog.model("smoke"), mirror="near")
    assert contents(places.models / "video") == WANTED


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"size": 2097152', '"size": 2097153', "was edited by hand"),
        ('"spec": "', '"spec": "0', "does not fit what app/models.toml takes"),
    ],
)
def test_a_lock_that_was_edited_by_hand_is_noticed(places: Places, old: str, new: str, said: str) -> None:
    relock(places, ["video"], mirror="near")
    path = places.root / "app" / "models.lock"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(StaleLock, match=f"^app/models.lock: video: {said}$"):
        get(places)
    relock(places, ["video"], mirror="near")
    get(places)


def test_files_that_the_table_takes_since_then_are_asked_for(places: Places) -> None:
    get(places)
    edit(places, '"*.json"', '"*.md", "*.json"')
    with pytest.raises(StaleLock):
        get(places)
    relock(places, ["video"], mirror="near")
    get(places)
    assert contents(places.models / "video") == {**WANTED, "README.md": FILES["README.md"]}


def test_the_lock_of_the_repository_fits_its_models() -> None:
    root = Path(__file__).resolve().parent.parent
    catalog = models.load(root / "app" / "models.toml")
    for name, lock in weights.load(root / weights.LOCK).items():
        wanted = catalog.model(name).weights
        assert wanted
        weights.check_fits(name, wanted, lock)


def test_a_dry_run_writes_nothing(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    get(places, dry_run=True)
    out, err = capsys.readouterr()
    assert (out, places.models.exists(), places.store.exists()) == ("", False, False)
    assert not (places.root / "app" / "models.lock").exists()
    assert "plan     video: 4 of 4 files to fetch, 4.2 MB" in err


def test_the_list_says_what_is_here(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    def states() -> dict[str, str]:
        fetch(places, names=[], mirror="near", listed=True, as_json=True)
        return {each["name"]: each["state"] for each in json.loads(capsys.readouterr().out)}

    assert states() == {"video": "unlocked"}
    relock(places, ["video"], mirror="near")
    assert states() == {"video": "absent"}
    get(places)
    capsys.readouterr()
    assert states() == {"video": "ready"}
    Store(places.store).blob(sha256_bytes(SHARD)).unlink()
    assert states() == {"video": "partial"}
    edit(places, revision(places), "0" * 40)
    assert states() == {"video": "stale"}


def test_a_damaged_file_is_named_and_fetched_again(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFetched):
        verify(places, "video", as_json=False)
    get(places)
    verify(places, "video", as_json=False)
    blob = Store(places.store).blob(sha256_bytes(SHARD))
    blob.chmod(0o644)
    blob.write_bytes(SHARD[:-1] + b"x")
    capsys.readouterr()
    with pytest.raises(DamagedWeights) as caught:
        verify(places, "video", as_json=False)
    assert capsys.readouterr().out == "changed  unet/model-00001.fp16.safetensors\n"
    assert caught.value.hints == ("python3 tasks.py fetch video",)
    shard = places.models / "video" / "unet" / "model-00001.fp16.safetensors"
    assert (shard.exists(), blob.exists()) == (False, False)  # nothing loads it any more
    quarantine = Store(places.store).quarantine_folder / blob.name
    assert quarantine.read_bytes() == SHARD[:-1] + b"x"  # but somebody may look at it
    get(places)
    assert contents(places.models / "video") == WANTED
    verify(places, "video", as_json=False)


def test_a_folder_in_which_somebody_has_worked_is_not_as_locked(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    get(places)
    folder = places.models / "video"
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").write_text("[]")
    (folder / "model_index.json").unlink()
    (folder / "unet" / "other.bin").write_bytes(b"pickle")
    capsys.readouterr()
    with pytest.raises(DamagedWeights):
        verify(places, "video", as_json=False)
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "added    unet/other.bin", "changed  unet/config.json", "missing  model_index.json",
    ]  # fmt: skip
    get(places)
    assert contents(folder) == WANTED
    verify(places, "video", as_json=False)


def test_a_bundle_with_weights_is_a_hub(
    places: Places, near: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment is left out here: other tests look at that."""
    monkeypatch.setattr("jingxiang.commands.bundle._entries", lambda *_: iter(()))
    spec = places.root / "envs" / "cpu.in"
    (places.root / "envs" / "locks").mkdir(parents=True)
    spec.write_text("one\n")
    (places.locks / "cpu.txt").write_text(locks.written(spec, f"one==1 --hash=sha256:{'0' * 64}\n"))
    bundle(places, out=str(tmp_path / "bundle"), mirror="near", profile="cpu", engine="venv", models=["video"])
    other = Places(places.root, tmp_path / "away", tmp_path / "away" / "store")
    (places.root / "mirrors.toml").write_text("")
    before = near.connections
    fetch(other, names=["video"], mirror=(tmp_path / "bundle").as_uri())
    assert contents(other.models / "video") == WANTED
    assert near.connections == before


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("fetch a b", "fetch --model a --model b"),
        ("--lang zh fetch a --mirror m b", "--lang zh fetch --model a --mirror m --model b"),
        ("deploy-rollback ssh://h v --json", "deploy-rollback ssh://h --to v --json"),
        ("deploy-rollback --timeout 9 ssh://h", "deploy-rollback --timeout 9 ssh://h"),
        ("bench fetch x", "bench fetch x"),
        ("test --match fetch x", "test --match fetch x"),
        ("run -- fetch x", "run -- fetch x"),
    ],
)
def test_words_after_a_task_are_values_of_its_flag(typed: str, meant: str) -> None:
    assert with_flags(["tasks.py", *typed.split()]) == ["tasks.py", *meant.split()]
