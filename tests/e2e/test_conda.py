"""setup with conda packages as a user has it: whole processes, from a bundle, without a network"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jingxiang.commands import engines
from tests.peers import channel, checkout, conda, system
from tests.peers.checkout import Checkout

pytestmark = pytest.mark.e2e


@pytest.fixture
def small(tmp_path: Path) -> Checkout:
    """A checkout whose app needs what the toolkit does, on a Python that is a conda package of a channel here."""
    root = tmp_path / "channel" / "conda-forge"
    certificates = {"ssl/cacert.pem": channel.File(b"certificate\n")}
    packages = [channel.python(root), channel.write(root, "ca-certificates", "1.0", certificates, subdir="noarch")]
    program = channel.File(conda.BROKEN, executable=True)
    micromamba = channel.write(root, "micromamba", "2.9.0", {"bin/micromamba": program}, old=True)
    own = os.environ.get(engines.OWN, "")
    copied = checkout.copy(tmp_path / "checkout", {"JINGXIANG_STORE": str(tmp_path / "store"), engines.OWN: own})
    conda.lock(copied.folder / "envs", packages, micromamba=micromamba)
    (copied.folder / "mirrors.toml").write_text(
        f'[official]\n[near]\nconda = {{ layout = "conda", url = "{root.parent.as_uri()}/{{channel}}" }}\n'
    )
    for folder, ending in (("envs", "in"), ("envs/locks", "txt")):
        shutil.copy(copied.folder / folder / f"toolkit.{ending}", copied.folder / folder / f"cpu.{ending}")
    return copied


@pytest.mark.parametrize("engine", ["mamba", "rattler"])
def test_a_machine_without_a_network_gets_its_python_from_a_bundle(
    small: Checkout, engine: str, tmp_path: Path
) -> None:
    if engine == "mamba" and engines.OWN not in os.environ:
        pytest.skip(f"no micromamba: {engines.OWN} is not set")
    system.require(shutil.which("unshare"), "no unshare: apt-get install util-linux")
    offline = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    python, folder, user = system.pythons()["3.11"], tmp_path / "a bundle", tmp_path / "user"
    written = small.run(python, "tasks.py", "bundle", "--profile", "cpu", "--engine", engine, "--out", folder)
    assert written.code == 0, written.stderr
    user.mkdir()
    env = {**small.env, "JINGXIANG_STORE": str(tmp_path / "empty"), "HOME": str(user)}
    bare = checkout.copy(tmp_path / "bare", env)
    for folder_name in ("envs/cpu.in", "envs/i2v.yml", "envs/locks/cpu.txt", "envs/locks/conda-lock.yml",
                        "envs/locks/micromamba.toml"):  # fmt: skip
        shutil.copy(small.folder / folder_name, bare.folder / folder_name)
    words = ["tasks.py", "setup", "--profile", "cpu", "--engine", engine, "--mirror", folder.as_uri()]
    done = bare.run(*offline, python, *words)
    assert done.code == 0, done.stderr
    found = Path(done.stdout.strip())
    code = "import docker, invoke, sys; print(sys.prefix)"
    shown = subprocess.run([found / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{found}\n"
    checked = bare.run(*offline, python, "tasks.py", "verify")
    assert (checked.code, checked.stdout) == (0, "")
    again = bare.run(*offline, python, *words)
    assert (again.code, again.stderr.splitlines()[-1]) == (0, f"ready    {found.name} is in place")
    written_there = {path.relative_to(user).as_posix() for path in user.rglob("*") if path.is_file()}
    assert {name for name in written_there if not name.startswith(".rustup/")} == set()  # pip asks rustc its version
