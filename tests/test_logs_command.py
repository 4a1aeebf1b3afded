"""jingxiang.commands.logs: it becomes the app's own command, in the environment that is there"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jingxiang.commands.logs import logs
from jingxiang.commands.verify import NoEnvironment
from jingxiang.places import Places
from tests.peers.environment import with_program

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A checkout whose environment has a Python that only says how it was called."""
    return with_program(tmp_path, "python", 'printf "[%s]" "$PWD" "$@"')


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("summary=False, lines=50, as_json=False", "[50]"),
        ("summary=True, lines=7, as_json=True", "[7][--summary][--json]"),
    ],
)
def test_it_becomes_the_app_s_command(places: Places, options: str, words: str) -> None:
    code = (
        "from pathlib import Path; from jingxiang.places import Places; from jingxiang.commands.logs import logs\n"
        f"logs(Places(*map(Path, {[str(places.root), str(places.home), str(places.store)]})), {options})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == f"[{places.root}][-m][app][logs][--outputs][{places.outputs}][-n]{words}"


def test_without_an_environment_it_says_so_and_installs_none(places: Places) -> None:
    places.current.unlink()
    with pytest.raises(NoEnvironment):
        logs(places, summary=True, lines=50, as_json=False)
