"""Manifests, as others read and run them: kubernetes-validate, and podman, which runs pods without a cluster"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jingxiang import mirrors
from jingxiang.commands import engines
from jingxiang.places import here

pytestmark = pytest.mark.e2e
GOLDEN = Path(__file__).resolve().parent.parent / "data" / "manifests"


def test_no_key_is_misspelt_and_no_value_of_a_wrong_kind(tmp_path: Path) -> None:
    python = engines.tools(here(), mirrors.load(here().root), mirror="auto", name="peers")
    files = sorted(GOLDEN.glob("*.yaml"))
    program = python.with_name("kubernetes-validate")
    done = subprocess.run([program, "--strict", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("passed for resource deployment/") + done.stderr.count("passed for resource deployment/") == 6
    )

    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(files[0].read_text().replace("readinessProbe", "readynessProbe"))
    assert subprocess.run([program, "--strict", wrong], capture_output=True, check=False).returncode != 0
