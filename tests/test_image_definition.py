"""jingxiang.image_definition"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import image_definition
from jingxiang.errors import TableError, UnknownName
from jingxiang.image_definition import FILE

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / FILE).read_text(encoding="utf-8")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """A checkout whose file has one thing replaced."""
    assert TEXT.count(old) == 1
    (tmp_path / FILE).parent.mkdir(exist_ok=True)
    (tmp_path / FILE).write_text(TEXT.replace(old, new), encoding="utf-8")
    return tmp_path


def test_the_file_of_this_repository() -> None:
    found = image_definition.load(ROOT)
    assert found.base == "debian:bookworm-slim"
    assert found.prefix == Path("/opt/jingxiang/environment")
    assert found.gpu == {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}


def test_the_settings_of_an_image() -> None:
    settings = image_definition.load(ROOT).settings({"JINGXIANG_MODEL": "smoke"}, {"a": "b"})
    assert settings["User"] == "65532:65532"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["ExposedPorts"] == {"7860/tcp": {}}
    assert settings["Volumes"] == {"/outputs": {}}
    assert settings["Healthcheck"] == {
        "Test": ["CMD", "/opt/jingxiang/environment/bin/python", "-m", "app", "health"],
        "Interval": 15_000_000_000,
        "Timeout": 5_000_000_000,
        "StartPeriod": 30_000_000_000,
        "Retries": 3,
    }
    assert settings["Env"]["HF_HUB_OFFLINE"] == "1"
    assert settings["Env"]["JINGXIANG_MODEL"] == "smoke"
    assert settings["Labels"]["org.opencontainers.image.title"] == "jingxiang"
    assert settings["Labels"]["a"] == "b"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("user = 65532", "user = 0", "docker/image.toml: user: should be from 1 on"),
        ('outputs = "/outputs"', 'outputs = "outputs"', "docker/image.toml: outputs: should be an absolute path"),
        ('outputs = "/outputs"', 'outputs = "/a/../b"', "docker/image.toml: outputs: should be an absolute path"),
        ('outputs = "/outputs"', 'outputs = "/a/"', "docker/image.toml: outputs: should be an absolute path"),
        ("port = 7860", 'port = "7860"', "docker/image.toml: port: should be a whole number, not a string"),
        ("retries = 3", "", "docker/image.toml: healthcheck.retries: is missing; it should be a whole number"),
        ('LANG = "C.UTF-8"', "LANG = 1", "docker/image.toml: environment.LANG: should be a string, not a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(TableError) as caught:
        image_definition.load(changed(tmp_path, old, new))
    assert caught.value.message.startswith(message)


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"docker/image.toml: healthcheck.retry: no key named 'retry'"):
        image_definition.load(changed(tmp_path, "retries = 3", "retry = 3"))
