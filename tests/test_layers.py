"""jingxiang.layers"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from jingxiang import images, layers
from jingxiang.base_images import Blob
from jingxiang.images import Layer
from jingxiang.layers import Changed, Digests, Tree


def tar(made: Tree) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(made.blocks())))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every kind."""
    found = tmp_path / "files"
    (found / "empty").mkdir(parents=True)
    (found / "text.txt").write_text("text\n")
    (found / "program").write_bytes(b"#!/bin/sh\n")
    (found / "program").chmod(0o700)
    (found / "link").symlink_to("text.txt")
    (found / "nothing").touch()
    return found


def test_a_tar_has_parents_first_and_nothing_of_the_machine(folder: Path) -> None:
    made = layers.tree([*layers.below(folder, "opt/it"), layers.folder("outputs", owner=65532)])
    with tar(made) as archive:
        members = archive.getmembers()
        assert [(each.name, each.mode, each.uid, each.gid) for each in members] == [
            ("opt", 0o755, 0, 0),
            ("opt/it", 0o755, 0, 0),
            ("opt/it/empty", 0o755, 0, 0),
            ("opt/it/link", 0o777, 0, 0),
            ("opt/it/nothing", 0o644, 0, 0),
            ("opt/it/program", 0o755, 0, 0),
            ("opt/it/text.txt", 0o644, 0, 0),
            ("outputs", 0o755, 65532, 65532),
        ]
        assert {(each.mtime, each.uname, each.gname) for each in members} == {(layers.TIME_S, "", "")}
        assert archive.getmember("opt/it/link").linkname == "text.txt"
        reading = archive.extractfile("opt/it/text.txt")
        assert reading is not None
        assert reading.read() == b"text\n"


def test_the_same_files_are_the_same_tar_whatever_umask_time_and_order(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    before = os.umask(0o077)
    try:
        other.mkdir()
        for path in sorted(folder.iterdir(), reverse=True):
            if path.is_symlink():
                (other / path.name).symlink_to(path.readlink())
            elif path.is_dir():
                (other / path.name).mkdir()
            else:
                (other / path.name).write_bytes(path.read_bytes())
                if path.stat().st_mode & stat.S_IXUSR:
                    (other / path.name).chmod(0o711)
                os.utime(other / path.name, (1, 1))
    finally:
        os.umask(before)
    one, two = (layers.tree(layers.below(each, "opt/it")) for each in (folder, other))
    assert b"".join(one.blocks()) == b"".join(two.blocks())
    assert one.fingerprint != two.fingerprint, "which says where the files are on this disk"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_files_of_any_size_are_whole(tmp_path: Path, size: int) -> None:
    body = hashlib.shake_256(b"x").digest(size)
    (tmp_path / "a").write_bytes(body)
    made = layers.tree([layers.file("a", tmp_path / "a"), layers.text("b", b"after")])
    blocks = list(made.blocks())
    assert sum(map(len, blocks)) % 512 == 0
    assert max(map(len, blocks)) <= (1 << 20) + 2048
    with tar(made) as archive:
        contents = [archive.extractfile(name) for name in ("a", "b")]
        assert [each.read() for each in contents if each] == [body, b"after"]


def test_long_names_and_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    names = ["x" * 150, "目录", b"caf\xe9".decode("utf-8", "surrogateescape")]
    for name in names:
        (tmp_path / name).write_text(name, errors="surrogateescape")
    inside = "/".join(["folder" * 15] * 4)
    with tar(layers.tree(layers.below(tmp_path, inside))) as archive:
        found = [each.name.rpartition("/")[2] for each in archive if each.isfile()]
    assert sorted(map(os.fsencode, found)) == sorted(map(os.fsencode, names))


def test_of_two_files_with_one_path_the_later_one_counts() -> None:
    with tar(layers.tree([layers.text("a", b"1"), layers.link("a", "b"), layers.text("a", b"22")])) as archive:
        assert [(each.name, each.size) for each in archive] == [("a", 2)]


def test_a_digest_is_that_of_the_bytes_and_is_remembered(tmp_path: Path, folder: Path) -> None:
    digests = Digests(tmp_path / "digests")
    made = layers.tree(layers.below(folder, "it"))
    body = b"".join(made.blocks())
    assert digests.known(made) is None
    assert digests.of(made) == (hashlib.sha256(body).hexdigest(), len(body))
    (folder / "text.txt").chmod(0)  # root may read it all the same; so take its content away, and its time back
    text = folder / "text.txt"
    look = text.stat()
    text.write_text("TEXT\n")
    os.utime(text, ns=(look.st_atime_ns, look.st_mtime_ns))
    again = layers.tree(layers.below(folder, "it"))
    assert digests.known(again) == digests.of(made), "nothing was read"


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, folder: Path) -> None:
    digests = Digests(tmp_path / "digests")
    before = digests.of(layers.tree(layers.below(folder, "it")))
    text = folder / "text.txt"
    look = text.stat()
    text.write_text("TEXT\n")
    os.utime(text, ns=(look.st_atime_ns, look.st_mtime_ns + 1))
    assert digests.of(layers.tree(layers.below(folder, "it"))) != before


def test_notes_that_are_broken_are_made_again(tmp_path: Path) -> None:
    digests, made = Digests(tmp_path / "digests"), layers.tree([layers.text("a", b"1")])
    before = digests.of(made)
    (note,) = (path for path in (tmp_path / "digests").rglob("*") if path.is_file())
    for text in ("", "[1]", "nothing"):
        note.write_text(text)
        assert digests.known(made) is None
    assert digests.of(made) == before


def test_a_file_that_shrinks_grows_or_goes_while_it_is_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    made = layers.tree([layers.file("a", path)])
    for body in (b"1234", b"123456"):
        path.write_bytes(body)
        with pytest.raises(Changed, match="a: has changed while the image was made"):
            b"".join(made.blocks())
    path.unlink()
    with pytest.raises(Changed):
        b"".join(made.blocks())


def test_a_layer_that_is_another_one_by_now_is_not_handed_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    layer = Digests(tmp_path / "digests").layer(images.WEIGHTS, "model a", layers.tree([layers.file("a", path)]))
    assert layer.blob.media_type == images.TAR
    assert layer.blob.sha256 == layer.diff_id
    assert hashlib.sha256(b"".join(layers.checked(layer))).hexdigest() == layer.blob.sha256
    path.write_bytes(b"54321")
    with pytest.raises(Changed, match="weights model a: has changed"):
        b"".join(layers.checked(layer))


def test_a_file_of_the_store_is_content_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(bytes(3 << 20))
    blob = Blob(hashlib.sha256(path.read_bytes()).hexdigest(), f"{images.TAR}+gzip", 3 << 20)
    layer = Layer(images.BASE, "", blob, "0" * 64, layers.FileContent(path))
    assert b"".join(layers.checked(layer)) == path.read_bytes()
