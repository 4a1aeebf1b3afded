"""What every test needs: a quiet, offline, English surrounding."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.peers import site, system
from tests.peers.mirror import Mirror, serving
from tests.peers.site import Site

# As the app sets them before its libraries read them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
    GRADIO_ANALYTICS_ENABLED="False",
)

# The same examples in every run: what CI finds can be found again at once.
settings.register_profile("same", database=None, derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are compared in English unless a test asks for Chinese; the user's own settings stay out."""
    for name in (
        "LANG",
        "HOME",
        "STORE",
        "MIRRORS",
        "MODEL",
        "OUTPUTS",
        "HOST",
        "PORT",
        "DRAIN_S",
        "ARTIFACTS",
        "COMPILE",
    ):
        monkeypatch.delenv(f"JINGXIANG_{name}", raising=False)
    for name in ("LC_ALL", "LC_MESSAGES", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture(scope="session", autouse=True)
def _no_traces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What libraries write beside their results goes where the tests' own files go."""
    folder = tmp_path_factory.mktemp("libraries")
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor"), GRADIO_TEMP_DIR=str(folder / "gradio"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with the smoke model in it, made once for the whole run."""
    from app import smoke

    folder = tmp_path_factory.mktemp("models")
    smoke.make(folder / "smoke")
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture as a phone would give it: JPEG, 4:3."""
    from PIL import Image

    path = tmp_path / "photo.jpg"
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").save(path)
    return path


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    system.without_proxy(monkeypatch)


@pytest.fixture
def no_pip_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`official` is nothing but what a test says."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def near(no_proxy: None) -> Iterator[Mirror]:
    """A mirror of whatever a test puts there."""
    with serving() as found:
        yield found


@pytest.fixture
def far(no_proxy: None) -> Iterator[Mirror]:
    with serving() as found:
        yield found


@pytest.fixture
def single(tmp_path: Path, no_proxy: None) -> Iterator[Site]:
    """One mirror, `only`."""
    with site.serving(tmp_path, "only") as found:
        yield found


@pytest.fixture
def pair(tmp_path: Path, no_proxy: None) -> Iterator[Site]:
    """Two mirrors, `bad` and then `good`; both are good until a test changes that."""
    with site.serving(tmp_path, "bad", "good") as found:
        yield found


@pytest.fixture
def three(tmp_path: Path, no_proxy: None) -> Iterator[Site]:
    with site.serving(tmp_path, "one", "two", "three") as found:
        yield found


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Mounts a new disk of its own: `mounted("tmpfs", megabytes)`, or "btrfs", "xfs" in a file. Needs root."""
    folders: list[Path] = []

    def mount(kind: str, size_mb: int) -> Path:
        system.require(shutil.which("mount"), "no mount: apt-get install mount")
        folder, image = tmp_path / f"disk-{len(folders)}", tmp_path / f"image-{len(folders)}"
        folder.mkdir()
        if kind == "tmpfs":
            argv = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
        elif shutil.which(f"mkfs.{kind}"):
            with image.open("wb") as file:
                file.truncate(size_mb << 20)
            subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
            argv = ["mount", "-o", "loop", str(image), str(folder)]
        else:
            pytest.skip(f"no mkfs.{kind}")
        if os.geteuid() or subprocess.run(argv, capture_output=True, check=False).returncode:
            pytest.skip("may not mount")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)
