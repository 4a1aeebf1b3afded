"""jingxiang.commands.lock, with real uv and real indexes on this machine"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jingxiang import locks
from jingxiang.commands import lock as command
from jingxiang.commands.lock import LocksStale, Spec, lock
from jingxiang.errors import UnknownName
from jingxiang.places import Places
from jingxiang.process import ProcessFailed

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where nothing is set for pip and uv, with an empty cache."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def copied(tmp_path: Path) -> Places:
    """The repository's specs, locks and mirrors, to be edited."""
    shutil.copytree(ROOT / "envs", tmp_path / "copy" / "envs")
    shutil.copy(ROOT / "mirrors.toml", tmp_path / "copy")
    return Places(tmp_path / "copy", tmp_path / "home", tmp_path / "store")


def test_the_locks_of_the_repository_are_fresh(copied: Places, capsys: pytest.CaptureFixture[str]) -> None:
    lock(Places(ROOT, copied.home, copied.store), mirror="auto", check=True, upgrade=[])
    names = [*(f"{spec.name}.txt" for spec in command.SPECS), "conda-lock.yml"]
    fresh = [f"lock     {name} is fresh\n" for name in names]
    assert capsys.readouterr() == ("", "".join(fresh))


@pytest.mark.parametrize("name", [spec.name for spec in command.SPECS])
def test_an_edited_spec_makes_its_lock_stale_and_the_error_says_what_to_run(copied: Places, name: str) -> None:
    with (copied.root / "envs" / f"{name}.in").open("a") as spec:
        spec.write("left-pad\n")
    with pytest.raises(LocksStale) as caught:
        lock(copied, mirror="auto", check=True, upgrade=[])
    stale = [name, *(["dev"] if name in ("toolkit", "cpu") else [])]  # it includes these two
    assert caught.value.message.split("\n       ") == [
        f"envs/locks/{each}.txt: is older than envs/{each}.in; what it would install is not what the spec asks for"
        for each in stale
    ]
    assert caught.value.hints == ("python3 tasks.py lock",)


def test_a_lock_that_was_edited_by_hand_is_found(copied: Places, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied.locks / "cuda12.txt"
    path.write_text(path.read_text().replace("numpy==", "numpy==0.", 1))
    with pytest.raises(LocksStale) as caught:
        lock(copied, mirror="auto", check=True, upgrade=[])
    assert caught.value.message == (
        "envs/locks/cuda12.txt: was changed by hand; what it would install was never resolved together"
    )
    assert capsys.readouterr().err.count(" is fresh\n") == len(command.SPECS)  # of one more lock: that of conda


def test_locks_that_were_renewed_one_without_the_other_do_not_fit(copied: Places) -> None:
    """As after a merge of two branches, each of which is right."""
    path = copied.locks / "cpu.txt"
    _, _, body = path.read_text().partition(locks.BODY_LINE)[2].partition("\n")
    version = re.search(r"^numpy==(\S+)", body, re.MULTILINE)
    assert version
    other = body.replace(f"numpy=={version[1]}", "numpy==2.0.0")
    path.write_text(locks.written(copied.root / "envs" / "cpu.in", other))
    with pytest.raises(LocksStale) as caught:
        lock(copied, mirror="auto", check=True, upgrade=[])
    assert caught.value.message.split("\n       ") == [
        f"envs/locks/{name}.txt: has numpy {version[1]}, envs/locks/cpu.txt has 2.0.0"
        for name in ("cuda12", "cuda13", "dev")
    ]


def test_comments_and_blank_lines_make_no_lock_stale(copied: Places, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (*(copied.root / "envs").glob("*.in"), copied.root / "envs" / "i2v.yml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("# new\n\n" + "".join(f"{line}  # why\n\n" for line in lines), encoding="utf-8")
    lock(copied, mirror="auto", check=True, upgrade=[])
    assert capsys.readouterr().err.count(" is fresh\n") == len(command.SPECS) + 1


def test_only_checking_writes_nothing(copied: Places) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in copied.root.rglob("*")}

    before = state()
    lock(copied, mirror="auto", check=True, upgrade=[])
    assert state() == before


def test_an_unknown_mirror_is_refused_before_anything_is_done(copied: Places) -> None:
    with pytest.raises(UnknownName, match=r"^mirrors\.toml: no mirror named 'tuan'; .* \(did you mean 'tuna'\?\)$"):
        lock(copied, mirror="tuan", check=False, upgrade=[])


def test_a_package_to_upgrade_must_be_in_a_lock(copied: Places) -> None:
    with pytest.raises(UnknownName, match=r"^envs/locks: no package named 'invok'; .* \(did you mean 'invoke'\?\)$"):
        lock(copied, mirror="auto", check=False, upgrade=["invok"])


# Two mirrors that hold the same files and show them in different ways.

Serve = Callable[[Path], tuple[str, list[str]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a folder; returns its address and the paths that are asked for, as they come."""
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: object = "-", size: object = "-") -> None:
                asked.append(self.path)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def wheel(folder: Path, name: str, version: str, requires: str = "") -> Path:
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in (
            (f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else "")),
            (f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            (f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"),
        ):
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def page(folder: Path, files: list[Path], *, hashes: bool) -> None:
    """A page of links to copies of the files in the folder."""
    folder.mkdir(parents=True)
    links = []
    for file in files:
        shutil.copy(file, folder)
        fragment = f"#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}" if hashes else ""
        links.append(f'<a href="{file.name.replace("+", "%2B")}{fragment}">{file.name}</a><br>\n')
    (folder / "index.html").write_text("".join(links))


@pytest.fixture
def wheels(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return {
        "tiny": wheel(folder, "tiny", "1.0", requires="small>=2"),
        "newer": wheel(folder, "tiny", "1.1", requires="small>=2"),
        "small": wheel(folder, "small", "2.0"),
        "built": wheel(folder, "built", "1.0+cpu"),
    }


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, wheels: dict[str, Path]) -> Places:
    """A checkout with one spec and two mirrors: `index` shows hashes, `flat` has other folders and a list without."""
    monkeypatch.setattr(command, "SPECS", (Spec("app", command.LINUX, "cpu"),))
    pages = {"tiny": [wheels["tiny"]], "small": [wheels["small"]], "built": [wheels["built"]]}
    for name, files in pages.items():
        page(tmp_path / "index" / "torch" / "cpu" / name if name == "built" else tmp_path / "index" / "simple" / name,
             files, hashes=True)  # fmt: skip
        page(tmp_path / "flat" / "cpu" if name == "built" else tmp_path / "flat" / "web" / "pypi" / name,
             files, hashes=False)  # fmt: skip
    index, flat = serve(tmp_path / "index")[0], serve(tmp_path / "flat")[0]
    found = Places(tmp_path / "checkout", tmp_path / "home", tmp_path / "store")
    found.locks.mkdir(parents=True)
    (found.root / "envs" / "app.in").write_text("tiny\nbuilt==1.0+cpu  # on PyTorch's index alone\n")
    (found.root / "mirrors.toml").write_text(
        f'[index]\npypi = {{ layout = "pep503", url = "{index}/simple" }}\n'
        f'torch = {{ layout = "pep503", url = "{index}/torch/{{build}}" }}\n'
        f'[flat]\npypi = {{ layout = "pep503", url = "{flat}/web/pypi" }}\n'
        f'torch = {{ layout = "flat", url = "{flat}/{{build}}/" }}\n'
    )
    return found


def expected(places: Places, *files: Path) -> str:
    """The lock that must come out, by names and bytes of the files alone."""
    body = ""
    for file in files:
        name, version, *_ = file.name.split("-")
        body += f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
    return (
        "# Made by `python3 tasks.py lock` from envs/app.in; do not edit. Hashes, never addresses.\n"
        f"# spec sha256:{locks.spec_digest(places.root / 'envs' / 'app.in')}\n"
        f"# body sha256:{hashlib.sha256(body.encode()).hexdigest()}\n{body}"
    )


@pytest.mark.parametrize("mirror", ["index", "flat"])
def test_a_lock_is_the_same_through_any_mirror(
    places: Places, wheels: dict[str, Path], mirror: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(places, mirror=mirror, check=False, upgrade=[])
    text = (places.locks / "app.txt").read_text()
    assert text == expected(places, wheels["built"], wheels["small"], wheels["tiny"])
    assert capsys.readouterr() == ("", "lock     app.txt  3 packages  written\n")


def test_locking_again_through_another_mirror_changes_nothing(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(places, mirror="index", check=False, upgrade=[])
    first = (places.locks / "app.txt").read_bytes()
    lock(places, mirror="flat", check=False, upgrade=[])
    assert (places.locks / "app.txt").read_bytes() == first
    assert capsys.readouterr().err.splitlines()[-1] == "lock     app.txt  3 packages  unchanged"


def test_a_version_is_kept_until_its_upgrade_is_asked_for(
    places: Places, wheels: dict[str, Path], tmp_path: Path
) -> None:
    lock(places, mirror="index", check=False, upgrade=[])
    shutil.rmtree(tmp_path / "index" / "simple" / "tiny")
    page(tmp_path / "index" / "simple" / "tiny", [wheels["tiny"], wheels["newer"]], hashes=True)
    shutil.rmtree(tmp_path / "cache")  # where uv remembers the page
    lock(places, mirror="index", check=False, upgrade=[])
    assert (places.locks / "app.txt").read_text() == expected(places, wheels["built"], wheels["small"], wheels["tiny"])
    lock(places, mirror="index", check=False, upgrade=["tiny"])
    assert (places.locks / "app.txt").read_text() == expected(places, wheels["built"], wheels["small"], wheels["newer"])


def test_a_spec_shares_the_versions_of_another_but_for_pytorchs_own_builds(
    places: Places, wheels: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary build of the same version is another file, and is never mistaken for it."""
    specs = (Spec("app", command.LINUX, "cpu"), Spec("cuda", command.LINUX, constraints=("app",)))
    monkeypatch.setattr(command, "SPECS", specs)
    plain = wheel(tmp_path, "built", "1.0")
    page(tmp_path / "index" / "simple" / "built", [plain], hashes=True)
    (places.root / "envs" / "cuda.in").write_text("tiny\nbuilt==1.0\n")
    (tmp_path / "builds").mkdir()
    shutil.copy(wheels["built"], tmp_path / "builds")  # 1.0+cpu, which would count as a 1.0
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "builds"))
    lock(places, mirror="index", check=False, upgrade=[])
    shutil.rmtree(tmp_path / "index" / "simple" / "tiny")
    page(tmp_path / "index" / "simple" / "tiny", [wheels["tiny"], wheels["newer"]], hashes=True)
    (places.locks / "cuda.txt").unlink()
    shutil.rmtree(tmp_path / "cache")
    lock(places, mirror="index", check=False, upgrade=[])
    found = {package.name: package.version for package in locks.read(places.locks / "cuda.txt").packages}
    assert found == {"built": "1.0", "small": "2.0", "tiny": "1.0"}
    lock(places, mirror="index", check=True, upgrade=[])


def test_a_mirror_without_pytorchs_builds_is_helped_by_the_next(
    places: Places, wheels: dict[str, Path], tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "index" / "torch")
    lock(places, mirror="index", check=False, upgrade=[])
    assert (places.locks / "app.txt").read_text() == expected(places, wheels["built"], wheels["small"], wheels["tiny"])


def test_a_folder_that_pip_is_set_to_may_hold_pytorchs_builds(
    places: Places, wheels: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without network."""
    shutil.rmtree(tmp_path / "index" / "torch")
    shutil.rmtree(tmp_path / "flat")
    (tmp_path / "builds").mkdir()
    shutil.copy(wheels["built"], tmp_path / "builds")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "builds"))
    lock(places, mirror="index", check=False, upgrade=[])
    assert (places.locks / "app.txt").read_text() == expected(places, wheels["built"], wheels["small"], wheels["tiny"])


def test_auto_means_what_pip_is_set_to_but_its_extra_indexes(
    places: Places, wheels: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    """An extra index may hold only some files of a version, and a lock must name all of them."""
    (tmp_path / "index" / "simple").rename(tmp_path / "simple")  # out of the mirrors' reach
    (tmp_path / "flat" / "web").rename(tmp_path / "web")
    shutil.rmtree(tmp_path / "index" / "torch")  # the other mirror's is no index: it takes no extra one's place
    with (places.root / "mirrors.toml").open("a") as own:
        own.write("[official]\n")
    extra, asked = serve(tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", serve(tmp_path)[0] + "/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{extra}/simple")
    lock(places, mirror="auto", check=False, upgrade=[])
    assert (places.locks / "app.txt").read_text() == expected(places, wheels["built"], wheels["small"], wheels["tiny"])
    assert asked == []


def test_a_spec_that_cannot_be_met_leaves_the_lock_as_it_was(places: Places) -> None:
    lock(places, mirror="index", check=False, upgrade=[])
    before = (places.locks / "app.txt").read_bytes()
    (places.root / "envs" / "app.in").write_text("tiny\nbuilt==1.0+cpu\nnowhere-to-be-had\n")
    with pytest.raises(ProcessFailed) as caught:
        lock(places, mirror="index", check=False, upgrade=[])
    head, _, tail = caught.value.message.partition("\n")
    assert head == "uv pip compile envs/app.in ended with exit code 1"
    assert "nowhere-to-be-had was not found" in tail
    assert (places.locks / "app.txt").read_bytes() == before
