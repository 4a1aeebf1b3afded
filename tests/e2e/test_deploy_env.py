"""Deployments to a host on which no docker runs: whole processes, another host with ssh, the smoke model"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jingxiang import env_plan, proxy_plan
from tests.peers import checkout, remote_machine
from tests.peers.checkout import Change, Checkout, Done
from tests.peers.crowd import ENDS, Crowd, job, post
from tests.peers.remote_machine import Machine, wait_until

pytestmark = pytest.mark.e2e
PYTHON = getattr(sys, "_base_executable", sys.executable)
TARGET = "ssh+env://gpu-2"
PORT = 7860
FOLDER = "~/.jingxiang/app"


class Client:
    """A checkout from which is deployed, and the machine."""

    def __init__(self, copied: Checkout, machine: Machine) -> None:
        self.checkout = copied
        self.machine = machine

    def tasks(self, *words: str) -> Done:
        return self.checkout.run(PYTHON, "tasks.py", *words, timeout_s=600)

    def deploy(self, *more: str) -> Done:
        return self.tasks("deploy", TARGET, "--model", "smoke", "--profile", "cpu", "--engine", "venv", "--json", *more)

    def begin(self, *more: str) -> subprocess.Popen[str]:
        """A deployment that goes on beside the test."""
        argv = [PYTHON, "tasks.py", "deploy", TARGET, "--model", "smoke", "--profile", "cpu", "--engine", "venv",
                "--json", *more]  # fmt: skip
        return subprocess.Popen(
            argv, cwd=self.checkout.folder, env=self.checkout.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def runs(self) -> list[str]:
        """Versions of which a process runs."""
        return [line.split("\t")[0] for line in self.machine.run(env_plan.VERSIONS).splitlines()
                if line.split("\t")[3] == "runs"]  # fmt: skip

    def status(self) -> dict[str, Any]:
        return good(self.tasks("deploy-status", TARGET, "--json"))

    def changed(self, text: str) -> Change:
        return Change(self.checkout.folder / "app" / "picture.py", text)


def good(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    machine = remote_machine.machine()
    machine.forget()
    folder = tmp_path_factory.mktemp("client")
    env = {"PATH": f"{machine.program(folder / 'bin')}:{checkout.path()}"}
    found = Client(checkout.copy(folder / "checkout", env), machine)
    with machine.without_engine():
        yield found
        found.tasks("deploy-destroy", TARGET, "--volumes", "--break-lock")


@pytest.fixture(scope="module")
def first(client: Client) -> dict[str, Any]:
    return good(client.deploy())


@pytest.fixture
def tunnel(client: Client, first: dict[str, Any]) -> Iterator[str]:
    with client.machine.tunnel(PORT) as url:
        yield url


def test_a_host_without_docker_is_no_host_for_ssh_but_good_for_this(client: Client) -> None:
    done = client.tasks("deploy-check", "ssh://gpu-2", "--profile", "cpu", "--json")
    assert done.code == 2
    (docker,) = [each for each in json.loads(done.stdout)["findings"] if each["subject"] == "docker"]
    assert "Cannot connect to the Docker daemon" in docker["text"]
    said = good(client.tasks("deploy-check", TARGET, "--profile", "cpu", "--json"))
    states = {each["subject"]: each["state"] for each in said["findings"]}
    assert states == dict.fromkeys(("ssh", "system", "python", "gpu", "disk", "port", "clock", "memory"), "ok")


def test_the_app_runs_without_a_network_of_its_own_and_only_this_host_reaches_it(
    client: Client, first: dict[str, Any], tunnel: str
) -> None:
    assert (first["strategy"], first["sent_bytes"]) == ("first", first["size_bytes"])
    answer = httpx.get(f"{tunnel}/readyz", trust_env=False)
    assert (answer.status_code, answer.headers[proxy_plan.SERVES]) == (200, first["version"])
    listening = client.machine.run("ss -ltnH | grep -v ':22 '")
    assert all(line.split()[3].startswith("127.0.0.1:") for line in listening.splitlines())


def test_a_change_goes_live_under_load_without_one_error(client: Client, tunnel: str, photo: Path) -> None:
    numbers = [post(tunnel, photo.read_bytes(), seed=each, steps=60) for each in range(3)]
    crowd = Crowd(tunnel, numbers)
    crowd.start()
    with client.changed("# changed"):
        said = good(client.deploy())
    crowd.join()
    assert (said["strategy"], crowd.errors, crowd.ended) == ("bluegreen", [], {"done": crowd.count})
    assert said["sent_bytes"] < 2_000_000, "only pages of the bundle, which may change in place"
    assert client.status()["version"] == said["version"]


def test_recreate_loses_no_job(client: Client, tunnel: str, photo: Path) -> None:
    numbers = [post(tunnel, photo.read_bytes(), seed=10 + each, steps=60) for each in range(3)]
    wait_until(lambda: job(tunnel, numbers[0])["step"] >= 1)
    with client.changed("# recreated"):
        good(client.deploy("--strategy", "recreate"))
    wait_until(lambda: all(job(tunnel, number)["state"] in ENDS for number in numbers), 120)
    assert [job(tunnel, number)["state"] for number in numbers] == ["done"] * 3
    made = client.machine.run(f"ls {FOLDER}/outputs/videos").split()
    assert sum(name.endswith(".mp4") and name.partition(".")[0] in numbers for name in made) == 3


def test_one_that_ends_at_once_leaves_the_old_one_serving(client: Client, tunnel: str) -> None:
    before = client.status()["version"]
    with client.changed('raise SystemExit("the driver is too old")'):
        done = client.deploy("--strategy", "recreate", "--timeout", "20")
    assert done.code == 4, done.stderr
    assert f"still serving: {before}" in done.stderr
    assert httpx.get(f"{tunnel}/readyz", trust_env=False).status_code == 200
    assert "the driver is too old" in client.tasks("deploy-logs", TARGET, "--failed").stdout


def test_a_rollback_serves_the_one_before(client: Client, first: dict[str, Any]) -> None:
    old = client.status()["releases"][-2]["version"]
    assert good(client.tasks("deploy-rollback", TARGET, "--json"))["version"] == old
    assert client.status()["version"] == old


def test_what_dies_is_started_again(client: Client, tunnel: str) -> None:
    folder = f"{FOLDER}/versions/{client.status()['version']}"
    before = client.machine.run(f"cat {folder}/pid")
    client.machine.run(f"kill -KILL {before}")
    wait_until(lambda: httpx.get(f"{tunnel}/readyz", trust_env=False, timeout=10).status_code == 200)
    assert client.machine.run(f"cat {folder}/pid") != before


@pytest.mark.parametrize("strategy", ["bluegreen", "recreate"])
def test_a_connection_that_is_cut_while_switching_is_found_again(
    client: Client, first: dict[str, Any], strategy: str
) -> None:
    before = client.status()["version"]
    with client.changed(f"# cut in {strategy}"), client.begin("--strategy", strategy) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("install "):  # from now on versions are started and ended
                break
        wait_until(lambda: client.runs() not in ([], [before]))
        client.machine.cut()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, said + err
    assert client.status()["version"] == json.loads(out)["version"] != before
    assert client.runs() == [json.loads(out)["version"]]


def test_whoever_is_ended_politely_has_the_old_one_serve_again(client: Client, tunnel: str) -> None:
    before = client.status()["version"]
    with client.changed("# ended"), client.begin("--strategy", "recreate") as process:
        wait_until(lambda: client.runs() not in ([], [before]))
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert client.runs() == [before]
    assert httpx.get(f"{tunnel}/readyz", trust_env=False).status_code == 200
    assert client.machine.run(f"ls {FOLDER}/held 2>/dev/null || true") == ""


def test_destroy_keeps_pictures_and_videos_unless_told_otherwise(client: Client, first: dict[str, Any]) -> None:
    assert client.tasks("deploy-destroy", TARGET).code == 0
    assert client.machine.run(f"ls {FOLDER}").split() == ["home", "outputs"]
    assert client.machine.run("ss -ltnH | grep -v ':22 ' || true") == ""
    assert client.tasks("deploy-destroy", TARGET, "--volumes").code == 0
    assert client.machine.run("ls -d ~/.jingxiang 2>/dev/null || true") == ""
