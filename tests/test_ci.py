"""`.ci/run` and the hosted-CI files do the same: all of them call `ci/check.sh`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".ci" / "run"
HOSTED = ("github-actions.yml", "gitlab-ci.yml")
SCRIPTS = (RUN, *(ROOT / "ci" / name for name in ("check.sh", "kubernetes.sh", "services.sh")))


def jobs(name: str) -> dict[str, list[str]]:
    """The commands of each job, by its name."""
    content = yaml.safe_load((ROOT / "ci" / name).read_text(encoding="utf-8"))
    if "jobs" in content:  # GitHub
        return {key: [step["run"] for step in job["steps"] if "run" in step] for key, job in content["jobs"].items()}
    return {key: job["script"] for key, job in content.items() if isinstance(job, dict) and "script" in job}


def test_the_entry_point_is_two_lines_that_call_the_check_script() -> None:
    first, second = RUN.read_text(encoding="utf-8").splitlines()
    assert first == "#!/usr/bin/env bash"
    assert second.endswith("exec bash ci/check.sh")
    assert os.access(RUN, os.X_OK)


@pytest.mark.parametrize("name", HOSTED)
def test_a_hosted_ci_file_runs_the_entry_point_and_the_bare_start(name: str) -> None:
    commands = jobs(name)
    assert commands == {
        "check": ["bash .ci/run"],
        "bootstrap": ["python3 tasks.py --list", "python3 tasks.py doctor --json"],
    }


@pytest.mark.parametrize("name", HOSTED)
def test_a_hosted_ci_file_says_first_how_to_use_it(name: str) -> None:
    assert (ROOT / "ci" / name).read_text(encoding="utf-8").splitlines()[0].startswith("# To use it: ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_understood_by_bash(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["start"], ["stop"], ["restart", "services"]])
def test_the_services_script_refuses_what_it_does_not_know(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(["bash", ROOT / "ci" / "services.sh", *arguments], cwd=tmp_path, capture_output=True)
    assert done.returncode in (1, 2)
    assert done.stderr
    assert not list(tmp_path.iterdir())


def test_the_services_script_keeps_off_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    script = ROOT / "ci" / "services.sh"
    for action in ("start", "stop"):
        subprocess.run(["bash", script, action, tmp_path], capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["docker"]
