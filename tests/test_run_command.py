"""jingxiang.commands.run: what a program in the environment finds, and which one is started"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jingxiang.commands import run as command
from jingxiang.commands.run import NoSuchProgram
from jingxiang.commands.verify import NoEnvironment
from jingxiang.errors import UsageError
from jingxiang.places import Places
from tests.peers.environment import with_program

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A checkout whose environment has one program of its own."""
    return with_program(tmp_path, "own", 'printf "[%s]" "$VIRTUAL_ENV" "$PWD" "$@"\nexit 5')


def started(places: Places, call: str, *, input: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """What happens in a process that becomes the program."""
    code = (
        "from pathlib import Path; from jingxiang.places import Places; from jingxiang.commands import run\n"
        f"places = Places(*map(Path, {[str(places.root), str(places.home), str(places.store)]}))\n{call}"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=places.root, env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True, text=True, input=input, check=False,
    )  # fmt: skip


def test_a_program_of_the_environment_gets_the_words_as_they_are_and_its_exit_code_is_ours(places: Places) -> None:
    done = started(places, 'run.run(places, words=["own", "a b", "--lang", "$HOME", ""])')
    folder = places.current.resolve()
    assert (done.returncode, done.stdout) == (5, f"[{folder}][{places.root}][a b][--lang][$HOME][]")


def test_a_program_of_the_machine_finds_those_of_the_environment_first(places: Places) -> None:
    done = started(places, 'run.run(places, words=["sh", "-c", "command -v own"])')
    assert done.stdout == f"{places.current.resolve()}/bin/own\n"


def test_a_program_may_be_named_by_its_path(places: Places) -> None:
    (places.root / "mine").symlink_to(places.current.resolve() / "bin" / "own")
    assert started(places, 'run.run(places, words=["./mine"])').returncode == 5


def test_what_would_lead_out_of_the_environment_is_left_out() -> None:
    outside = {"PYTHONHOME": "/x", "PYTHONPATH": "/x", "CONDA_PREFIX": "/x", "ENV": "/x", "PATH": "/bin", "A": "b"}
    found = command.environment(Path("/env"), outside)
    assert found == {"A": "b", "PATH": "/env/bin:/bin", "VIRTUAL_ENV": "/env"}


def test_a_program_that_is_nowhere_is_an_error_like_a_shells(places: Places) -> None:
    with pytest.raises(NoSuchProgram, match=r"^nosuch: no such program") as caught:
        command.run(places, words=["nosuch"])
    assert caught.value.exit_code == 127


def test_nothing_to_run_is_an_error(places: Places) -> None:
    with pytest.raises(UsageError, match=r"^nothing to run: python3 tasks\.py run -- COMMAND"):
        command.run(places, words=[])


def test_without_an_environment_both_say_what_to_do(tmp_path: Path) -> None:
    empty = Places(tmp_path, tmp_path / "home", tmp_path / "store")
    with pytest.raises(NoEnvironment):
        command.run(empty, words=["true"])
    with pytest.raises(NoEnvironment):
        command.shell(empty)


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh", "/usr/bin/unknown", ""])
def test_a_shell_reads_no_start_files(places: Places, tmp_path: Path, shell: str) -> None:
    for name in (".bashrc", ".bash_profile", ".profile", "env"):
        (tmp_path / name).write_text("echo started\n")
    env = {"HOME": str(tmp_path), "SHELL": shell, "ENV": str(tmp_path / "env"), "BASH_ENV": str(tmp_path / "env")}
    done = started(places, "run.shell(places)", input="command -v own\nexit 3\n", **env)
    assert (done.returncode, done.stdout) == (3, f"{places.current.resolve()}/bin/own\n")
    assert done.stderr == "shell    i2v-cpu-12345678; leave it with: exit\n"
