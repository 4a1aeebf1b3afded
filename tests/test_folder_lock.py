"""jingxiang.folder_lock"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jingxiang.folder_lock import locked

ROOT = Path(__file__).resolve().parent.parent


def test_another_process_waits_and_nothing_stays_behind(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from jingxiang.folder_lock import locked\n"
        "print('waiting', flush=True)\n"
        "with locked(pathlib.Path(sys.argv[1])): print((pathlib.Path(sys.argv[1]) / 'done').exists(), flush=True)"
    )
    with locked(tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
        (tmp_path / "done").touch()
    out, _ = other.communicate(timeout=30)
    assert out == "True\n"  # it came in only after us
    assert [path.name for path in tmp_path.iterdir()] == ["done"]


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        try:
            with locked(tmp_path):
                raise ValueError
        except ValueError:
            continue
