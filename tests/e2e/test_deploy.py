"""Deployments as their users make them: whole processes, another host with its own ssh and docker, the smoke image"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from jingxiang import container_plan, mirrors, proxy_plan
from jingxiang.commands import engines
from jingxiang.container_plan import OUTPUTS
from jingxiang.host_facts import PROXY
from jingxiang.places import here
from jingxiang.remotes import ssh
from jingxiang.remotes.ssh import Connection, Login
from tests.peers import aliyun, base_image, checkout, remote_machine, system
from tests.peers.checkout import Change, Checkout, Done
from tests.peers.crowd import ENDS, Crowd, job, post
from tests.peers.remote_machine import Machine, wait_until

pytestmark = pytest.mark.e2e
PYTHON = getattr(sys, "_base_executable", sys.executable)
BASE = "tests/debian:bookworm"
TARGET = "ssh://gpu-2"
PORT = 7860
LITTLE = 100_000_000
L20 = """#!/bin/sh
case "$*" in
-L) echo "GPU 0: NVIDIA L20 (UUID: GPU-00000000-0000-0000-0000-000000000000)" ;;
*compute-apps*) echo "4242, 41000, python" ;;
*) echo "NVIDIA L20, 550.90.07, 46068, {free}, 8.9" ;;
esac
"""


@dataclass(frozen=True)
class Client:
    """A checkout from which is deployed, and the machine."""

    checkout: Checkout
    machine: Machine
    base: str

    def tasks(self, *words: str | Path, timeout_s: float = 300) -> Done:
        return self.checkout.run(PYTHON, "tasks.py", *words, timeout_s=timeout_s)

    def words(self, *more: str | Path) -> list[str | Path]:
        return [
            "deploy",
            TARGET,
            "--model",
            "smoke",
            "--profile",
            "cpu",
            "--engine",
            "venv",
            "--base",
            self.base,
            *more,
        ]

    def deploy(self, *more: str | Path) -> Done:
        return self.tasks(*self.words("--json", *more))

    def begin(self, *more: str) -> subprocess.Popen[str]:
        """A deployment that goes on beside the test."""
        argv = [PYTHON, "tasks.py", *map(str, self.words("--json", *more))]
        return subprocess.Popen(
            argv, cwd=self.checkout.folder, env=self.checkout.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def changed(self, text: str, file: str = "app/picture.py") -> Change:
        return Change(self.checkout.folder / file, text)

    def runs(self) -> list[str]:
        """Versions of which a container runs."""
        return self.machine.containers("--filter", "label=jingxiang.role=app")

    @property
    def is_locked(self) -> bool:
        return container_plan.LOCK in self.machine.run("docker volume ls -q").split()

    def serving(self) -> str:
        return str(self.status()["version"])

    def status(self) -> dict[str, Any]:
        return good(self.tasks("deploy-status", TARGET, "--json"))


def good(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def error(done: Done) -> str:
    return done.stderr[done.stderr.index("error: ") :]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    machine = remote_machine.machine()
    machine.forget()
    machine.run("docker image prune -af >/dev/null", checks=False)
    registry = system.registry()
    base_image.push(registry, BASE, base_image.tar(tmp_path_factory.getbasetemp()).read_bytes())
    folder = tmp_path_factory.mktemp("client")
    program = machine.program(folder / "bin")
    env = {"DOCKER_HOST": "", "PATH": f"{program}:{checkout.path()}"}
    yield Client(checkout.copy(folder / "checkout", env), machine, f"{registry}/{BASE}")
    machine.forget()
    machine.run("docker image prune -af >/dev/null", checks=False)


@pytest.fixture(scope="module")
def first(client: Client) -> dict[str, Any]:
    """The first deployment, whose connection is cut in the middle of the transfer: once a layer is in place."""
    with client.begin() as process:
        wait_until(lambda: bool(client.machine.run("docker images -q")) or process.poll() is not None, 240)
        client.machine.cut()
        out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "the connection was lost; it goes on with what is missing" in said
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def tunnel(client: Client, first: dict[str, Any]) -> Iterator[str]:
    with client.machine.tunnel(PORT) as url:
        yield url


def videos(machine: Machine) -> list[str]:
    return machine.run(f"ls {machine.data}/volumes/{OUTPUTS}/_data/videos").split()


def test_a_check_says_everything_and_changes_nothing(client: Client) -> None:
    done = client.tasks("deploy-check", TARGET, "--profile", "cpu", "--json")
    said = good(done)
    states = {each["subject"]: each["state"] for each in said["findings"] if each["state"] != "note"}
    assert states == dict.fromkeys(("ssh", "system", "docker", "gpu", "disk", "port", "clock", "memory"), "ok")
    assert client.machine.run("docker ps -aq; docker volume ls -q; ls -d ~/.jingxiang 2>/dev/null || true") == ""


def test_all_that_is_in_the_way_is_said_at_once(client: Client) -> None:
    """A disk that is full, a port that is taken, and a GPU that docker cannot give to containers."""
    with ExitStack() as stack:
        stack.enter_context(client.machine.filled(leaves=LITTLE))
        stack.enter_context(client.machine.having("nvidia-smi", L20.format(free=3000)))
        stack.enter_context(client.machine.listening(PORT))
        done = client.tasks("deploy", TARGET, "--profile", "cuda12", "--model", "i2vgen-xl", "--json")
    assert (done.code, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    problems = {line.split()[1] for line in lines if line.startswith("problem")}
    assert problems == {"disk", "port", "vram"}, done.stderr
    assert any("4242, 41000, python" in line for line in lines)
    assert "nothing was changed" in lines[-1]


def test_without_ssh_a_message_says_what_to_do(client: Client, tmp_path: Path) -> None:
    done = client.tasks("deploy", "ssh://nowhere.invalid")
    assert done.code == 2
    assert "nowhere.invalid" in error(done)
    known = tmp_path / "known"
    other = (client.machine.folder.parent / "ssh" / "host_key.pub").read_text().split()[:2]
    known.write_text(f"{client.machine.address} {' '.join(other)}\n")
    config = client.machine.configured(tmp_path / "config", UserKnownHostsFile=str(known), StrictHostKeyChecking="no")
    program = client.machine.program(tmp_path / "bin", config=config)
    env = {"PATH": f"{program}:{checkout.path()}"}
    done = client.checkout.run(PYTHON, "tasks.py", "deploy-check", TARGET, env=env)
    assert done.code == 2
    assert "its host key has changed" in done.stderr
    assert known.read_text().split() == [client.machine.address, *other], "it was not taken"


def test_somebody_whom_docker_does_not_let_in_is_told_the_group(client: Client, tmp_path: Path) -> None:
    config = client.machine.configured(tmp_path / "config", IdentityFile=str(client.machine.folder / "guest"))
    env = {"PATH": f"{client.machine.program(tmp_path / 'bin', config=config)}:{checkout.path()}"}
    done = client.checkout.run(PYTHON, "tasks.py", "deploy-check", TARGET, env=env)
    assert done.code == 2
    assert "docker   does not let this user in" in done.stderr.replace("docker  ", "docker   ")
    assert "usermod -aG docker" in done.stderr


def test_the_first_one_survives_a_cut_and_only_this_host_reaches_it(
    client: Client, first: dict[str, Any], tunnel: str
) -> None:
    assert (first["strategy"], first["url"]) == ("first", f"http://127.0.0.1:{PORT}")
    assert 0 < first["sent_bytes"] < first["size_bytes"], "layers that were there were not sent again"
    answer = httpx.get(f"{tunnel}/readyz", trust_env=False)
    assert (answer.status_code, answer.headers[proxy_plan.SERVES]) == (200, first["version"])
    assert "<html" in httpx.get(tunnel, trust_env=False, timeout=30).text
    assert httpx.get(tunnel, headers={"Host": "rebound.example"}, trust_env=False).status_code == 421
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{client.machine.address}:{PORT}", trust_env=False)
    bound = client.machine.run("docker ps --format '{{.Ports}}'")
    assert "0.0.0.0" not in bound
    images = client.machine.run("docker images --all --format '{{.Repository}}'").split()
    assert images == ["jingxiang"], "nothing of the broken transfer is left"


def test_a_change_goes_live_under_load_without_one_error(client: Client, tunnel: str, photo: Path) -> None:
    before = client.serving()
    numbers = [post(tunnel, photo.read_bytes(), seed=each, steps=60) for each in range(3)]
    crowd = Crowd(tunnel, numbers)
    crowd.start()
    with client.changed("# changed"):
        said = good(client.deploy())
    crowd.join()
    assert (said["strategy"], crowd.errors) == ("bluegreen", [])
    assert crowd.ended == {"done": crowd.count}
    assert 0 < said["sent_bytes"] < 10_000_000
    assert client.serving() == said["version"] != before
    assert client.machine.containers("--filter", "label=jingxiang.role=app") == [f"jingxiang-{said['version']}"]
    assert sum(number in name for number in numbers for name in videos(client.machine) if name.endswith(".mp4")) == 3
    again = client.deploy()
    assert good(again)["version"] == before, "the version that was kept is used again"


def test_a_rollback_serves_the_one_before_and_status_tells_of_all(client: Client, first: dict[str, Any]) -> None:
    with client.changed("# another"):
        new = good(client.deploy())["version"]
    old = client.status()["releases"][-2]["version"]
    said = good(client.tasks("deploy-rollback", TARGET, "--json"))
    assert said["version"] == old
    status = client.status()
    assert (status["state"], status["version"]) == ("ready", old)
    assert new in status["kept"]
    assert status["releases"][-1]["how"] == "rollback"
    assert good(client.tasks("deploy-rollback", TARGET, new, "--json"))["version"] == new
    wrong = client.tasks("deploy-rollback", TARGET, "ffffffff")
    assert wrong.code == 2
    assert "no version named 'ffffffff'" in error(wrong)
    assert "READY http" in client.tasks("deploy-logs", TARGET).stdout


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("app/__main__.py", 'raise SystemExit("the driver is too old")', "it ended with exit code 1"),
        (
            "app/server.py",
            "Front.state = lambda self: asyncio.sleep(0, {'status': 'failed'})",
            "it was not ready within",
        ),
    ],
)
@pytest.mark.parametrize("strategy", ["bluegreen", "recreate"])
def test_one_that_does_not_get_ready_leaves_the_old_one_serving(
    client: Client, tunnel: str, strategy: str, file: str, text: str, reason: str
) -> None:
    before = client.serving()
    main = client.checkout.folder / file
    whole = main.read_text()
    with client.changed(""):
        # before what starts the app, so that it is met
        changed = whole.replace('if __name__ == "__main__":', f'{text}\n\nif __name__ == "__main__":')
        main.write_text(changed if changed != whole else f"{whole}\n{text}\n")
        try:
            done = client.deploy("--strategy", strategy, "--timeout", "8")
        finally:
            main.write_text(whole)
    assert done.code == 4, done.stderr
    assert reason in error(done)
    assert f"still serving: {before}" in error(done)
    assert (client.serving(), httpx.get(f"{tunnel}/readyz", trust_env=False).status_code) == (before, 200)
    if "driver" in text:
        assert "the driver is too old" in error(done)
        assert "the driver is too old" in client.tasks("deploy-logs", TARGET, "--failed").stdout


def test_a_connection_that_is_cut_while_switching_is_found_again(client: Client, first: dict[str, Any]) -> None:
    with client.changed("# cut"), client.begin() as process:
        wait_until(lambda: len(client.machine.containers("--filter", "label=jingxiang.role=app")) == 2)
        client.machine.cut()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert client.serving() == json.loads(out)["version"]


def test_what_was_not_led_here_before_the_cut_is_led_here_after_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version's port is asked for first when it is about to serve: the cut may have been long before that."""
    monkeypatch.setenv("PATH", f"{client.checkout.folder.parent / 'bin'}:{os.environ['PATH']}")
    with client.machine.listening(8123), Connection(Login(remote_machine.NAME)) as link:
        asked = link.forward(str(client.machine.folder / "docker.sock"))
        client.machine.cut()
        wait_until(lambda: not link.is_alive)
        assert ssh.get(link.forward("127.0.0.1:8123"), "/").status == 200
        assert ssh.get(asked, "/_ping").body == b"OK", "and what was led here before is again"


def test_whoever_was_killed_leaves_a_lock_and_the_next_one_tidies_up(client: Client, first: dict[str, Any]) -> None:
    before = client.serving()
    with client.changed("# killed"), client.begin() as process:
        wait_until(lambda: len(client.machine.containers("--filter", "label=jingxiang.role=app")) == 2)
        process.kill()
    assert client.serving() == before
    done = client.deploy()
    assert done.code == 6
    assert "deploys there since 20" in error(done)
    assert client.deploy("--break-lock").code == 0
    assert len(client.machine.containers("--filter", "label=jingxiang.role=app")) == 1
    assert before in client.status()["kept"]
    assert not client.is_locked


def test_whoever_was_killed_with_no_version_running_leaves_one_that_the_next_one_starts(
    client: Client, first: dict[str, Any], tunnel: str
) -> None:
    """In the middle of `recreate`, when the old one has ended."""
    before = client.serving()
    with client.changed("# killed too"), client.begin("--strategy", "recreate") as process:
        wait_until(lambda: client.runs() not in ([f"jingxiang-{before}"], []))
        process.kill()
    assert client.deploy().code == 6
    said = good(client.deploy("--break-lock"))
    assert (client.serving(), client.runs()) == (said["version"], [f"jingxiang-{said['version']}"])
    assert httpx.get(f"{tunnel}/readyz", trust_env=False).status_code == 200


def test_whoever_is_ended_politely_has_the_old_one_serve_again(client: Client, tunnel: str) -> None:
    before = client.serving()
    with client.changed("# ended"), client.begin("--strategy", "recreate") as process:
        wait_until(lambda: client.runs() not in ([f"jingxiang-{before}"], []))
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert (client.runs(), client.is_locked) == ([f"jingxiang-{before}"], False)
    assert (client.status()["state"], client.serving()) == ("ready", before)
    assert httpx.get(f"{tunnel}/readyz", trust_env=False).status_code == 200


def test_an_old_one_that_is_at_a_video_when_that_happens_makes_it_once_and_serves_on(
    client: Client, tunnel: str, photo: Path
) -> None:
    before = client.serving()
    numbers = [post(tunnel, photo.read_bytes(), seed=40 + each, steps=60) for each in range(6)]  # for a while
    wait_until(lambda: job(tunnel, numbers[0])["step"] >= 1)
    with client.changed("# ended too"), client.begin("--strategy", "recreate") as process:
        ready = f"{tunnel}/readyz"
        wait_until(lambda: httpx.get(ready, trust_env=False, timeout=10).json().get("status") == "draining")
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 129, said
    assert f"{before} ends first, and is started again then" in said
    assert (client.runs(), client.is_locked) == ([f"jingxiang-{before}"], False)
    assert httpx.get(f"{tunnel}/readyz", trust_env=False).status_code == 200
    wait_until(lambda: all(job(tunnel, number)["state"] in ENDS for number in numbers), 120)
    assert [job(tunnel, number)["state"] for number in numbers] == ["done"] * 6
    made = [name for name in videos(client.machine) if name.endswith(".mp4") and name.partition(".")[0] in numbers]
    assert len(made) == 6, "each exactly once"


def test_a_connection_that_is_cut_while_nothing_runs_is_found_again(client: Client, first: dict[str, Any]) -> None:
    before = client.serving()
    with client.changed("# cut too"), client.begin("--strategy", "recreate") as process:
        wait_until(lambda: client.runs() != [f"jingxiang-{before}"])
        client.machine.cut()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert client.serving() == json.loads(out)["version"] != before
    assert client.runs() == [f"jingxiang-{client.serving()}"]


def test_recreate_finishes_the_running_job_and_loses_none_that_waits(client: Client, tunnel: str, photo: Path) -> None:
    numbers = [post(tunnel, photo.read_bytes(), seed=10 + each, steps=60) for each in range(3)]
    wait_until(lambda: job(tunnel, numbers[0])["step"] >= 1)
    states: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            try:
                answer = httpx.get(tunnel, trust_env=False, timeout=5)
            except httpx.HTTPError:
                states.add("broken")
            else:
                states.add("waits" if "正在更新" in answer.text else str(answer.status_code))

    thread = threading.Thread(target=watch)
    thread.start()
    with client.changed("# recreated"):
        said = good(client.deploy("--strategy", "recreate"))
    wait_until(lambda: all(job(tunnel, number)["state"] in ENDS for number in numbers), 120)
    over.set()
    thread.join()
    assert said["strategy"] == "recreate"
    assert [job(tunnel, number)["state"] for number in numbers] == ["done"] * 3
    made = [name for name in videos(client.machine) if name.endswith(".mp4") and name.partition(".")[0] in numbers]
    assert len(made) == 3, "each exactly once"
    # The proxy's page, or the new one's own while it loads, if that answered within the seconds that the proxy waits.
    assert states & {"waits", "503"}
    assert states <= {"waits", "503", "200"}


def test_what_serves_comes_back_with_the_machine(client: Client, first: dict[str, Any]) -> None:
    before = client.serving()
    client.machine.restart_engine()
    wait_until(lambda: client.status()["state"] == "ready")
    running = client.machine.containers()
    assert sorted(running) == sorted([PROXY, f"jingxiang-{before}"])


def test_the_public_page_is_behind_tls_and_a_password_that_nobody_sees(
    client: Client, first: dict[str, Any], tmp_path: Path
) -> None:
    assert client.deploy("--public").code == 2
    passwords = tmp_path / "passwords"
    passwords.write_text("li:correct horse battery\n")
    passwords.chmod(0o600)
    said = good(client.deploy("--public", "--port", "8443", "--password-file", passwords))
    assert said["url"] == f"https://{client.machine.address}:8443"
    root = client.machine.run(
        f"cat {client.machine.data}/volumes/{container_plan.PROXY_DATA}/_data/caddy/pki/authorities/local/root.crt"
    )
    trusted = ssl.create_default_context(cadata=root)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{said['url']}/api/queue", context=trusted, timeout=10)
    asked = urllib.request.Request(
        f"{said['url']}/api/queue", headers={"Authorization": "Bearer correct horse battery"}
    )
    with urllib.request.urlopen(asked, context=trusted, timeout=10) as answer:
        assert answer.status == 200
    seen = client.machine.run(
        "docker ps -aq | xargs docker inspect; ps -ef; docker logs jingxiang-proxy 2>&1; "
        f"cat {client.machine.data}/volumes/{container_plan.PROXY_DATA}/_data/{container_plan.RELEASES}"
    )
    assert f'"version": "{said["version"]}"' in seen
    assert "correct horse" not in seen
    secret = f"{client.machine.data}/volumes/{container_plan.SECRETS}/_data/{container_plan.PASSWORDS}"
    assert client.machine.run(f"stat -c '%a %u' {secret}") == "600 65532\n"
    assert good(client.deploy())["url"] == f"http://127.0.0.1:{PORT}"


def test_a_public_one_that_fails_lets_nobody_in_to_the_old_one(client: Client, tunnel: str, tmp_path: Path) -> None:
    """It has no password."""
    passwords = tmp_path / "passwords"
    passwords.write_text("li:correct horse battery\n")
    passwords.chmod(0o600)
    before = client.serving()
    with client.changed('raise SystemExit("no")', "app/server.py"):
        done = client.deploy("--public", "--port", "8443", "--password-file", passwords)
    assert done.code == 4, done.stderr
    assert (client.serving(), httpx.get(f"{tunnel}/readyz", trust_env=False).status_code) == (before, 200)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://{client.machine.address}:8443", trust_env=False)


def test_with_a_registry_the_host_pulls_from_it(client: Client, first: dict[str, Any]) -> None:
    port = system.registry().rpartition(":")[2]
    argv = ["ssh", "-F", str(client.machine.folder / "config"), "-nNT", "-R", f"{port}:127.0.0.1:{port}", "gpu-2"]
    with client.changed("# pulled"), subprocess.Popen(argv, stdin=subprocess.DEVNULL) as forward:
        try:
            wait_until(lambda: f":{port} " in client.machine.run("ss -ltn"))
            done = client.deploy("--transfer", "registry", "--registry", f"127.0.0.1:{port}/tests/deploy")
        finally:
            forward.kill()
    said = good(done)
    assert f"through 127.0.0.1:{port}/tests/deploy" in done.stderr
    assert (client.serving(), said["sent_bytes"]) == (said["version"], 0)


def test_gpus_are_really_tried(client: Client, first: dict[str, Any]) -> None:
    words = ("deploy-check", TARGET, "--model", "i2vgen-xl", "--json")
    with client.machine.having("nvidia-smi", L20.format(free=45000)):
        done = client.tasks(*words)
        assert done.code == 2
        found = {each["subject"]: each for each in json.loads(done.stdout)["findings"]}
        assert found["gpu"]["text"] == "NVIDIA L20, 43.9 of 45.0 GiB free, driver 550.90.07: cuda12"
        assert "could not select device driver" in found["container"]["text"]
        assert "nvidia-container-toolkit" in found["container"]["fix"]
        with client.machine.having("nvidia-container-runtime-hook", HOOK):
            client.machine.restart_engine()
            found = {each["subject"]: each for each in good(client.tasks(*words))["findings"]}
            assert found["container"] == {
                "subject": "container",
                "state": "ok",
                "text": "a container has 1 GPUs",
                "fix": "",
            }
    client.machine.restart_engine()


# In place of NVIDIA's: it puts the program of the host into the container, as that does.
HOOK = """#!/usr/bin/python3
import json, pathlib, shutil, sys
state = json.load(sys.stdin)
root = json.loads(pathlib.Path(state["bundle"], "config.json").read_text())["root"]["path"]
shutil.copy(pathlib.Path(__file__).with_name("nvidia-smi"), pathlib.Path(root, "usr/bin/nvidia-smi"))
"""


def test_where_nothing_served_before_a_failure_says_so(client: Client, first: dict[str, Any]) -> None:
    client.machine.forget()
    main = client.checkout.folder / "app" / "__main__.py"
    whole = main.read_text()
    main.write_text(whole.replace('if __name__ == "__main__":', 'raise SystemExit("no")\n\nif __name__ == "__main__":'))
    try:
        done = client.deploy()
    finally:
        main.write_text(whole)
    assert done.code == 5, done.stderr
    assert "nothing is serving now" in error(done)
    assert client.deploy().code == 0


RENTED = "aliyun://cn-test/ecs.gn7i-c8g1.2xlarge?key=ours"
# Started as `deploy`, `deploy-status` and `deploy-destroy` are, but for the server that is asked. $1: its address;
# $2: the Python with the SDK; $3: the base image.
RENT = f"""
import sys
from pathlib import Path
from jingxiang import targets
from jingxiang.commands import deploy
from jingxiang.places import here
from jingxiang.remotes.aliyun import Aliyun
server, python, base = sys.argv[1:]
deploy._remote = lambda address: Aliyun(targets.parse(address), address, lambda _: Path(python), server)
source = deploy.Source(here(), model="smoke", profile="cpu", engine="venv", base=base)
deploy.deploy({RENTED!r}, source, deploy.order(yes=True), as_json=True)
deploy.status({RENTED!r})
deploy.destroy({RENTED!r}, deploy.order(), volumes=True)
"""


def test_a_rented_instance_is_such_a_host(
    client: Client, first: dict[str, Any], no_proxy: None, tmp_path: Path
) -> None:
    """From nothing to a page on it, and away: what is rented is the machine of these tests."""
    client.machine.forget()
    config = client.machine.configured(tmp_path / "config", Host=client.machine.address)
    path = f"{client.machine.program(tmp_path / 'bin', config=config)}:{checkout.path()}"
    env = {"PATH": path, "ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}
    sdk = engines.tools(here(), mirrors.load(here().root), mirror="auto", name="aliyun")
    said = tmp_path / "said"
    with aliyun.serving() as ecs, client.machine.having("cloud-init", f'#!/bin/sh\necho "$*" >>{said}\n'):
        ecs.host = client.machine.address
        python = client.checkout.folder / ".venv" / "bin" / "python"
        done = client.checkout.run(python, "-c", RENT, ecs.address, sdk, client.base, env=env)
    assert done.code == 0, done.stderr
    deployed, _, url = done.stdout.rstrip().rpartition("\n")
    assert (json.loads(deployed)["url"], url) == (f"http://127.0.0.1:{PORT}",) * 2
    assert json.loads(deployed)["hint"] == f"ssh -L {PORT}:127.0.0.1:{PORT} root@{client.machine.address}"
    assert "instance i-1" in done.stderr
    assert f"serving  {json.loads(deployed)['version']}, ready" in done.stderr
    assert said.read_text() == "status --wait\n", "it was not asked for docker before it had it"
    assert ecs.instances == {}
    with client.machine.tunnel(PORT) as near:
        assert httpx.get(f"{near}/readyz", trust_env=False).status_code == 200
    known = (client.checkout.folder / ".jingxiang" / "aliyun" / "i-1").read_text().split()
    assert known[:2] == [client.machine.address, "ssh-ed25519"]


def test_destroy_keeps_pictures_and_videos_unless_told_otherwise(client: Client, first: dict[str, Any]) -> None:
    assert client.tasks("deploy-destroy", TARGET).code == 0
    assert client.machine.run("docker ps -aq; docker network ls -q --filter name=jingxiang") == ""
    assert client.machine.run("docker volume ls -q").split() == [OUTPUTS]
    assert client.machine.run("docker images -q") != "", "with the weights, for the next deployment"
    assert client.machine.run("ls -d ~/.jingxiang 2>/dev/null || true") == ""
    assert client.tasks("deploy-destroy", TARGET, "--volumes").code == 0
    assert client.machine.run("docker volume ls -q; docker images -q") == ""


def test_a_disk_that_gets_full_while_it_is_sent_is_said_and_nothing_is_left(client: Client) -> None:
    """All layers have to be sent again: it is the last of these tests."""
    with client.begin() as process, ExitStack() as stack:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("send ") and "/ 1." in line:
                stack.enter_context(client.machine.filled(leaves=LITTLE))
                break
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (3, ""), err
    assert "the disk is full" in err
    assert client.machine.run("docker images -aq; docker ps -aq") == ""
    assert client.machine.run("docker volume ls -q") == ""
