"""app.verify: the folder of an image against the lists in it"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import verify as module
from app.verify import BadList, Differs, NoLists, compare, verify
from jingxiang.errors import JingxiangError

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "environment/bin/python3.11": b"\x7fELF",
    "environment/lib/python3.11/site-packages/gradio/__init__.py": b"",
    "environment/lib/python3.11/site-packages/名.py": "名\n".encode(),
    "models/smoke/model_index.json": b"{}",
    "models/smoke/unet/model.safetensors": bytes(3 << 20),
    "app/__main__.py": b"pass\n",
    "jingxiang/errors.py": b"pass\n",
    "artifacts/c0de/decoder": b"\x7fELF",
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder as in an image, with a link that is in no list."""
    folder = tmp_path / "image"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "environment/bin/python").symlink_to("python3.11")
    for name, tops in module.LISTS.items():
        write_list(folder, name, *(file for file in sorted(FILES) if file.split("/")[0] in tops))
    return folder


def write_list(folder: Path, name: str, *files: str) -> None:
    lines = [f"{hashlib.sha256(FILES[file]).hexdigest()}  {file}\n" for file in files]
    (folder / name).write_text("".join(lines), encoding="utf-8")


def differences(folder: Path) -> list[tuple[str, str]]:
    return [(each.kind, each.path) for each in compare(folder).differences]


def test_what_was_built_is_as_listed(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(image, as_json=False)
    assert capsys.readouterr() == ("", "verify   8 files as locked\n")


def test_sha256sum_reads_the_same_lists(image: Path) -> None:
    argv = ["sha256sum", "--check", "--quiet", "--strict", *module.LISTS]
    assert subprocess.run(argv, cwd=image, check=False).returncode == 0


def test_what_was_added_changed_and_lost_is_printed(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / "app/__main__.py").write_text("evil\n")
    (image / "jingxiang/new.py").write_text("")
    (image / "models/smoke/model_index.json").unlink()
    content = bytearray(FILES["models/smoke/unet/model.safetensors"])
    content[-1] ^= 1
    (image / "models/smoke/unet/model.safetensors").write_bytes(content)
    with pytest.raises(Differs) as caught:
        verify(image, as_json=False)
    assert capsys.readouterr() == (
        "changed  app/__main__.py\n"
        "added    jingxiang/new.py\n"
        "missing  models/smoke/model_index.json\n"
        "changed  models/smoke/unet/model.safetensors\n",
        "",
    )
    assert (caught.value.exit_code, caught.value.message) == (1, f"{image}: 4 differences from its lists")


def test_json_is_one_object(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(image, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"folder": str(image), "files": 8, "differences": []}
    (image / "app/new.py").write_text("")
    with pytest.raises(Differs):
        verify(image, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["differences"]) == (9, [{"path": "app/new.py", "kind": "added"}])


def test_gradio_s_number_and_what_is_outside_of_the_listed_folders_are_no_differences(image: Path) -> None:
    (image / "environment/lib/python3.11/site-packages/gradio/hash_seed.txt").write_text("1")
    (image / "outputs").mkdir()
    (image / "outputs/video.mp4").write_text("")
    assert differences(image) == []


def test_only_folders_that_have_a_list_are_looked_at(image: Path) -> None:
    (image / "models.sha256").unlink()
    (image / "models/smoke/model_index.json").unlink()
    assert (compare(image).files, differences(image)) == (6, [])
    shutil.rmtree(image / "environment")
    assert {kind for kind, _ in differences(image)} == {"missing"}


def test_a_link_in_place_of_a_file_is_a_change_and_is_not_followed(image: Path, tmp_path: Path) -> None:
    same = tmp_path / "same"
    same.write_bytes(FILES["app/__main__.py"])
    (image / "app/__main__.py").unlink()
    (image / "app/__main__.py").symlink_to(same)
    assert differences(image) == [("changed", "app/__main__.py")]


def test_a_folder_that_was_replaced_by_a_link_is_missing_with_all_that_was_in_it(image: Path, tmp_path: Path) -> None:
    (image / "models/smoke").rename(tmp_path / "smoke")
    (image / "models/smoke").symlink_to(tmp_path / "smoke")
    assert differences(image) == [
        ("missing", "models/smoke/model_index.json"), ("missing", "models/smoke/unet/model.safetensors"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "{digest}  ../secret",
        "{digest}  app/../../secret",
        "{digest}  /etc/passwd",
        "{digest}  environment/bin/python",  # of another list
        "{digest} app/one-space",
        "{digest}",
        "",
        "0123  app/short",
    ],
)
def test_a_list_that_leads_outside_or_is_none_is_refused(image: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "secret").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    with (image / "app.sha256").open("a") as file:
        file.write(line.format(digest=digest) + "\n")
    with pytest.raises(BadList) as caught:
        compare(image)
    message = "app.sha256: line 3 should be the SHA-256 and the path of a file in app/, jingxiang/"
    assert (caught.value.exit_code, caught.value.message) == (1, message)


def test_a_name_that_is_no_utf_8_is_compared_and_printed(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / os.fsdecode(b"app/\xff.py")).write_text("")
    with pytest.raises(Differs):
        verify(image, as_json=False)
    assert capsys.readouterr().out == "added    app/\\udcff.py\n"


def test_a_file_that_cannot_be_read_is_named(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "sha256_file", refuse)  # root may read everything
    with pytest.raises(JingxiangError, match=r"cannot be read: Permission denied$"):
        compare(image)


def test_a_checkout_has_no_lists() -> None:
    with pytest.raises(NoLists) as caught:
        verify(ROOT, as_json=False)
    words = "no lists of files (environment.sha256, models.sha256, app.sha256, artifacts.sha256): this is for images"
    assert (caught.value.exit_code, caught.value.message) == (2, f"{ROOT}: {words}")
    assert caught.value.hints == ("python3 tasks.py verify",)


def test_the_command_compares_the_folder_that_the_app_is_in(tmp_path: Path) -> None:
    """A real app in a real folder: what it needs to compare itself is in it."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("app", "jingxiang"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    files = sorted(path for name in ("app", "jingxiang") for path in (tmp_path / name).rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tmp_path)}\n" for path in files]
    (tmp_path / "app.sha256").write_text("".join(lines))

    def run() -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "app", "verify"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    assert run() == (0, "", f"verify   {len(files)} files as locked\n")
    (tmp_path / "app/smoke.py").unlink()
    code, out, err = run()
    assert (code, out) == (1, "missing  app/smoke.py\n")
    assert err.startswith(f"error: {tmp_path}: 1 differences from its lists\n")
