"""jingxiang.locks"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jingxiang import locks
from jingxiang.errors import JingxiangError, TableError
from jingxiang.locks import EditedLock, Lock, LockedPackage, StaleLock

ROOT = Path(__file__).resolve().parent.parent
A, B = "a" * 64, "b" * 64


def lock(tmp_path: Path, text: str) -> Lock:
    path = tmp_path / "cpu.txt"
    path.write_text(text, encoding="utf-8")
    return locks.read(path)


def spec(tmp_path: Path, text: str, name: str = "cpu.in") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_lock_is_read_as_uv_writes_it(tmp_path: Path) -> None:
    text = (
        f"# Made by a tool\n# spec sha256:{B}\n\n"
        f"numpy==2.4.6 \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n"
        f"    # via -r cpu.in\n"
        f'tomli==2.0.1 ; python_full_version < "3.11" and sys_platform != "win32" \\\n    --hash=sha256:{A}\n'
        f"torch==2.13.0+cpu --hash=sha256:{B}\n"
    )
    assert lock(tmp_path, text) == Lock(
        tmp_path / "cpu.txt",
        hashlib.sha256(text.encode()).hexdigest(),
        B,
        True,  # there is no digest of what follows
        (
            LockedPackage("numpy", "2.4.6", "", (A, B)),
            LockedPackage("tomli", "2.0.1", 'python_full_version < "3.11" and sys_platform != "win32"', (A,)),
            LockedPackage("torch", "2.13.0+cpu", "", (B,)),
        ),
    )


@pytest.mark.parametrize(
    "line",
    [
        f"numpy==2.4.6 --hash=sha256:{A}",
        f"numpy==2.4.6 --hash=sha256:{A} --hash=sha256:{B}",
        f'tomli==2.0.1 ; python_version < "3.11" --hash=sha256:{A}',
    ],
)
def test_a_package_is_written_as_it_was_read(tmp_path: Path, line: str) -> None:
    assert [package.line() for package in lock(tmp_path, f"{line}\n").packages] == [line]


@pytest.mark.parametrize("path", sorted((ROOT / "envs" / "locks").glob("*.txt")), ids=lambda path: path.name)
def test_the_locks_of_the_repository_are_read_whole(path: Path, tmp_path: Path) -> None:
    read = locks.read(path)
    text = path.read_text(encoding="utf-8")
    starts = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    assert [package.name for package in read.packages] == [line.partition("==")[0] for line in starts]
    assert sum(len(package.hashes) for package in read.packages) == text.count("--hash=sha256:")
    again = lock(tmp_path, "".join(f"{package.line()}\n" for package in read.packages))
    assert again.packages == read.packages


@pytest.mark.parametrize(
    "line",
    [
        "numpy==2.4.6",
        f"numpy>=2.4.6 --hash=sha256:{A}",
        f"numpy --hash=sha256:{A}",
        f"numpy==2.4.6 --hash=sha256:{A[1:]}",
        f"numpy==2.4.6 --hash=sha256:{A}a",
        f"numpy==2.4.6 --hash=sha256:{A} --no-binary",
        "numpy==2.4.6 --hash=md5:d41d8cd98f00b204e9800998ecf8427e",
        f"numpy @ https://mirror.example/numpy-2.4.6-py3-none-any.whl --hash=sha256:{A}",
        "--index-url https://mirror.example/simple",
    ],
)
def test_a_line_that_is_no_exact_version_with_hashes_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(TableError) as caught:
        lock(tmp_path, f"# a comment\n\nok==1 \\\n    --hash=sha256:{A}\n{line}\n")
    assert caught.value.message == "envs/locks/cpu.txt: line 5: not NAME==VERSION with --hash=sha256:…"


def test_an_error_in_a_package_of_several_lines_is_said_with_the_first_of_them(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        lock(tmp_path, f"# a comment\nnumpy>=2.4.6 \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n")
    assert caught.value.message == "envs/locks/cpu.txt: line 2: not NAME==VERSION with --hash=sha256:…"


def test_a_lock_that_ends_in_the_middle_of_a_package_is_refused(tmp_path: Path) -> None:
    """As a download or a copy that stopped would leave it."""
    with pytest.raises(TableError) as caught:
        lock(tmp_path, f"ok==1 --hash=sha256:{A}\nnumpy==2.4.6 \\\n")
    assert caught.value.message == "envs/locks/cpu.txt: line 2: not NAME==VERSION with --hash=sha256:…"


def test_a_lock_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(JingxiangError) as caught:
        locks.read(tmp_path / "cpu.txt")
    assert caught.value.message == "envs/locks/cpu.txt: cannot be read: No such file or directory"


def test_builds_of_pytorch_come_from_its_own_space(tmp_path: Path) -> None:
    read = lock(tmp_path, f"numpy==2.4.6 --hash=sha256:{A}\ntorch==2.13.0+cpu --hash=sha256:{B}\n")
    numpy, torch = read.packages
    assert ((numpy.space, numpy.build), (torch.space, torch.build)) == (("pypi", ""), ("torch", "cpu"))
    assert (read.of_space("pypi"), read.of_space("torch")) == ((numpy,), (torch,))


def test_a_lock_made_from_the_spec_as_it_is_now_is_fresh(tmp_path: Path) -> None:
    source = spec(tmp_path, "numpy\n")
    lock(tmp_path, locks.written(source, f"numpy==2.4.6 --hash=sha256:{A}\n")).check_fresh(source)


def test_a_lock_of_another_spec_is_stale_and_says_what_to_run(tmp_path: Path) -> None:
    text = locks.written(spec(tmp_path, "numpy\n"), f"numpy==2.4.6 --hash=sha256:{A}\n")
    with pytest.raises(StaleLock) as caught:
        lock(tmp_path, text).check_fresh(spec(tmp_path, "numpy>2\n"))
    assert caught.value.message == (
        "envs/locks/cpu.txt: is older than envs/cpu.in; what it would install is not what the spec asks for"
    )
    assert (caught.value.hints, caught.value.exit_code) == (("python3 tasks.py lock",), 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [("==2.4.6", "==2.4.5"), (A, B), (f"{A}\n", f"{A}\ntorch==2 --hash=sha256:{B}\n"), ("# body sha256:", "# body:")],
)
def test_a_lock_that_was_edited_or_has_lost_its_marks_is_refused(tmp_path: Path, old: str, new: str) -> None:
    source = spec(tmp_path, "numpy\n")
    text = locks.written(source, f"numpy==2.4.6 --hash=sha256:{A}\n")
    with pytest.raises(EditedLock) as caught:
        lock(tmp_path, text.replace(old, new)).check_fresh(source)
    assert caught.value.hints == ("python3 tasks.py lock", "git checkout -- envs/locks/cpu.txt")


@pytest.mark.parametrize(
    "text",
    [
        "# another comment\n\nnumpy\ntorch==2.13.0+cpu\n",
        "numpy  # frames\n  torch==2.13.0+cpu  \n",
        "\n\nnumpy\n\n# torch==1\ntorch==2.13.0+cpu",
    ],
)
def test_comments_and_blanks_do_not_change_a_spec(tmp_path: Path, text: str) -> None:
    plain = spec(tmp_path, "numpy\ntorch==2.13.0+cpu\n", "plain.in")
    assert locks.spec_digest(spec(tmp_path, text)) == locks.spec_digest(plain)


@pytest.mark.parametrize("text", ["numpy\n", "numpy\ntorch==2.13.0+cu128\n", "torch==2.13.0+cpu\nnumpy\n"])
def test_any_other_edit_changes_a_spec(tmp_path: Path, text: str) -> None:
    plain = spec(tmp_path, "numpy\ntorch==2.13.0+cpu\n", "plain.in")
    assert locks.spec_digest(spec(tmp_path, text)) != locks.spec_digest(plain)


def test_a_spec_changes_with_those_that_it_includes(tmp_path: Path) -> None:
    source = spec(tmp_path, "-r cpu.in  # the app\npytest\n", "dev.in")
    spec(tmp_path, "numpy\n")
    first = locks.spec_digest(source)
    assert first == locks.spec_digest(spec(tmp_path, "numpy\npytest\n", "flat.in"))
    spec(tmp_path, "numpy<3\n")
    assert locks.spec_digest(source) != first


def test_a_spec_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(JingxiangError) as caught:
        locks.spec_digest(tmp_path / "cpu.in")
    assert caught.value.message == "envs/cpu.in: cannot be read: No such file or directory"
