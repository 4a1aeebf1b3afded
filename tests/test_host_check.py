"""jingxiang.host_facts and jingxiang.host_check, with answers of engines and drivers as they give them"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from jingxiang import host_check, host_facts
from jingxiang.deploy_plan import Front, Order
from jingxiang.findings import NOTE, OK, PROBLEM, Finding
from jingxiang.gpu import Gpu, Gpus
from jingxiang.host_check import Need
from jingxiang.host_facts import Facts

NOW = 1_795_840_000
GIB = 1 << 30
ENGINE = json.dumps({"Client": {"Version": "27.5.1"}, "Server": {"Version": "27.5.1", "ApiVersion": "1.47"}})
CLIENT_ALONE = json.dumps({"Client": {"Version": "27.5.1"}, "Server": None})
INFO = json.dumps({"DockerRootDir": "/var/lib/docker", "Runtimes": {"runc": {}, "nvidia": {}}})
L20 = "NVIDIA L20, 550.90.07, 46068, 45000, 8.9"
H100 = "NVIDIA H100 80GB HBM3, 580.159.04, 81559, 78505, 9.0"  # recorded, with a program that holds 2 GiB:
H100_USER = "466, 2566, python3"
GOOD: Mapping[str, str] = MappingProxyType(
    {
        "system": "Ubuntu 22.04.5 LTS", "arch": "x86_64", "clock": str(NOW + 2), "home": "/root",
        "endpoint": "unix:///var/run/docker.sock", "docker": ENGINE, "info": INFO, "gpu": L20, "users": "", "image": "",
        "probe": "", "disk": "/dev/vda1 515927268 100000000 310000000 25% /", "rotates": "0", "ports": "",
        "memory": "64000000 kB", "outbound": "",
    }
)  # fmt: skip
NEED = Need("cuda12", 20 * GIB, 5_000_000_000)
CPU = Need("cpu")
PROXY = json.dumps(
    {"Names": "jingxiang-proxy", "State": "running", "Ports": "127.0.0.1:7860->8080/tcp, 127.0.0.1:32768->8079/tcp"}
)
APP = json.dumps({"Names": "jingxiang-7c1d09e2", "State": "running", "Ports": "127.0.0.1:32769->7860/tcp"})


def facts(**answers: str) -> Facts:
    said = "".join(f"{host_facts.SECTION}{name}\n{text}\n" for name, text in {**GOOD, **answers}.items())
    return host_facts.facts(f"a banner\n{said}", now_s=NOW)


def found(need: Need = NEED, order: Order | None = None, **answers: str) -> dict[str, Finding]:
    """The findings by subject; of two, the worse one."""
    listed = host_check.findings("gpu-1", facts(**answers), need, order or Order())
    rank = (OK, NOTE, PROBLEM)
    return {each.subject: each for each in sorted(listed, key=lambda each: rank.index(each.state))}


def test_a_good_host_has_no_problem() -> None:
    assert {subject: each.state for subject, each in found(probe="GPU 0: NVIDIA L20\nrc 0").items()} == dict.fromkeys(
        ("ssh", "system", "docker", "gpu", "vram", "container", "disk", "port", "clock", "memory"), OK
    )


def test_the_script_is_one_that_a_plain_shell_takes_and_this_machine_answers_it() -> None:
    done = subprocess.run(
        ["sh", "-c", host_facts.SCRIPT, "sh", "7860", ""], capture_output=True, text=True, check=False, timeout=60
    )
    assert "syntax" not in done.stderr
    assert done.returncode == 0, "what is absent is no failure"
    answered = host_facts.facts(done.stdout, now_s=time.time())
    assert (answered.arch, abs(answered.skew_s) < 5, answered.free_bytes > 0) == ("x86_64", True, True)
    assert answered.memory_bytes > 0


@pytest.mark.parametrize("script", [host_facts.SHORT, host_facts.FREE])
def test_where_less_is_wanted_less_is_asked(script: str) -> None:
    done = subprocess.run(["sh", "-c", script, "sh"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "docker run" not in script
    answered = host_facts.facts(done.stdout, now_s=time.time())
    assert bool(answered.home) == (script == host_facts.SHORT)
    assert host_facts.cards(f"{host_facts.SECTION}gpu\n{L20}\n").cards[0].free_bytes == 45000 << 20


def test_all_problems_are_in_one_list() -> None:
    listed = found(
        arch="aarch64", docker="absent", gpu="Tesla T4, 470.82.01, 15109, 15000, 7.5", ports="LISTEN 0 5 0.0.0.0:7860",
        need=Need(None, problem="the driver is too old", fix="update it"),
    )  # fmt: skip
    assert {subject for subject, each in listed.items() if each.state == PROBLEM} == {"system", "docker", "gpu", "port"}


@pytest.mark.parametrize(
    ("said", "text", "fix"),
    [
        ("absent", "is not installed", "docker.io"),
        (
            f"{CLIENT_ALONE}\npermission denied while trying to connect to the Docker daemon socket at "
            "unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: permission denied",
            "does not let this user in", "usermod -aG docker",
        ),
        (
            f"{CLIENT_ALONE}\nCannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon "
            "running?",
            "Cannot connect", "systemctl enable --now docker",
        ),
        (json.dumps({"Server": {"Version": "19.03.8", "ApiVersion": "1.40"}}), "19.03.8 is too old", "upgrade"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_be_used_is_said_with_its_fix(said: str, text: str, fix: str) -> None:
    finding = found(docker=said)["docker"]
    assert finding.state == PROBLEM
    assert text in finding.text
    assert fix in finding.fix


def test_docker_from_snap_keeps_gpus_away() -> None:
    info = json.dumps({"DockerRootDir": "/var/snap/docker/common/var-lib-docker", "Runtimes": {}})
    assert "snap" in found(info=info)["docker"].text
    assert found(CPU, info=info, gpu="absent")["docker"].state == OK


def test_cards_are_read_as_the_driver_lists_them() -> None:
    cards = facts(gpu=f"{L20}\nNVIDIA GH200 480GB, 570.86.15, [N/A], [N/A], 9.0").gpus
    assert cards == Gpus(
        (
            Gpu("NVIDIA L20", "550.90.07", 46068 << 20, 45000 << 20, "8.9"),
            Gpu("NVIDIA GH200 480GB", "570.86.15", 0, 0, "9.0"),
        )
    )


def test_the_answers_of_a_real_driver_are_read() -> None:
    found = facts(gpu=H100, users=H100_USER)
    assert found.gpus.cards == (Gpu("NVIDIA H100 80GB HBM3", "580.159.04", 81559 << 20, 78505 << 20, "9.0"),)
    assert found.gpu_users == ("466, 2566, python3",)


def test_no_driver_is_no_card_and_a_driver_that_fails_is_a_problem() -> None:
    assert facts(gpu="absent").gpus == Gpus(())
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
    finding = found(gpu=said)["gpu"]
    assert (finding.state, finding.text) == (PROBLEM, said)


def test_an_image_for_a_gpu_is_nothing_for_a_host_without() -> None:
    finding = found(gpu="absent")["gpu"]
    assert (finding.state, finding.fix) == (PROBLEM, "--profile cpu")
    assert found(CPU, gpu="absent")["gpu"].state == OK
    assert found(CPU)["gpu"].state == NOTE, "there is one, and it is not used"


def test_a_profile_that_was_asked_for_is_held_against_the_driver_of_every_card() -> None:
    old = "Tesla V100, 550.90.07, 16160, 16000, 7.0"
    assert found(Need("cuda12", GIB), gpu=f"{L20}\n{old}")["gpu"].state == OK
    finding = found(Need("cuda13", GIB), gpu=L20)["gpu"]
    assert (finding.state, finding.text) == (PROBLEM, "driver 550.90.07 is too old for CUDA 13 (needs 580)")
    second = found(Need("cuda13", GIB), gpu=f"{H100}\nTesla V100, 580.90.07, 16160, 16000, 7.0")["gpu"]
    assert (second.state, "Tesla V100 (compute capability 7.0)" in second.text) == (PROBLEM, True)


def test_memory_that_another_program_holds_is_said_with_its_number() -> None:
    full = "NVIDIA L20, 550.90.07, 46068, 3000, 8.9"
    finding = found(gpu=full, users="4242, 41000, python")["vram"]
    assert finding.state == PROBLEM
    assert "4242, 41000, python" in finding.text
    assert found(gpu=full, ours=APP)["vram"].state == OK, "our own version holds it"


def test_a_card_that_is_too_small_runs_it_in_less_memory() -> None:
    assert found(gpu="Tesla T4, 550.90.07, 15109, 15000, 7.5")["vram"].state == NOTE


@pytest.mark.parametrize(
    ("said", "state", "text", "fix"),
    [
        ("GPU 0: NVIDIA L20 (UUID: GPU-2c)\nGPU 1: NVIDIA L20 (UUID: GPU-2d)\nrc 0", OK, "2 GPUs", ""),
        (
            'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\nrc 125',
            PROBLEM, "could not select device driver", "apt-get install nvidia-container-toolkit",
        ),
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: driver>=580, please update your driver to "
            "a newer version: unknown.\nrc 125",
            PROBLEM, "unsatisfied condition: driver>=580", "a newer NVIDIA driver",
        ),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown.\nrc 125", PROBLEM,
         "driver not loaded", "nvidia-ctk runtime configure"),
        ("No devices were found\nrc 0", PROBLEM, "No devices were found", "nvidia-ctk"),
        ("rc 125", PROBLEM, "rc 125", "nvidia-ctk"),
    ],
)  # fmt: skip
def test_what_came_of_a_container_with_gpus(said: str, state: str, text: str, fix: str) -> None:
    finding = host_check.probed(said)
    assert finding.state == state
    assert text in finding.text
    assert fix in finding.fix


def test_a_container_is_only_tried_where_there_is_an_image() -> None:
    assert (found()["container"].state, "tried when it is sent" in found()["container"].text) == (NOTE, True)
    bare = json.dumps({"DockerRootDir": "/var/lib/docker", "Runtimes": {"runc": {}}})
    assert found(info=bare)["container"].state == NOTE
    assert found(probe="GPU 0: NVIDIA L20 (UUID: GPU-2c)\nrc 0")["container"].state == OK


def test_the_first_image_needs_twice_its_size_and_the_next_one_little() -> None:
    small = "/dev/vda1 41151808 20000000 2000000 90% /"
    assert found(disk=small)["disk"].state == PROBLEM
    assert found(disk=small, image="7c1d09e2")["disk"].state == OK


def test_a_disk_that_turns_is_only_a_note() -> None:
    assert found(rotates="1")["disk"].state == NOTE


def test_a_port_is_free_or_ours_or_has_an_owner() -> None:
    taken = 'LISTEN 0 4096 127.0.0.1:7860 0.0.0.0:* users:(("docker-proxy",pid=77,fd=4))'
    assert found(ports=taken)["port"].text == "7860 is taken by docker-proxy (77)"
    assert found(ports=taken, ours=f"{PROXY}\n{APP}")["port"].state == OK
    other, elsewhere = Order(front=Front(7861)), taken.replace("7860", "7861")
    assert found(order=other, ports=elsewhere, ours=PROXY)["port"].state == PROBLEM, "ours has another one"
    assert found(ports="LISTEN 0 5 127.0.0.1:7860 0.0.0.0:*")["port"].text == "7860 is taken by ?"


def test_with_a_domain_port_80_is_taken_too() -> None:
    named = Order(front=Front(443, public=True, domain="a.example.com"), passwords=Path("passwords"))
    assert host_check.ports(named.front) == [443, 80]
    taken = 'LISTEN 0 511 *:80 *:* users:(("nginx",pid=7,fd=6))'
    finding = found(order=named, ports=taken)["port"]
    assert finding.text == "80 is taken by nginx (7)"
    assert finding.fix == "end that program, or leave out --domain: a public certificate needs port 80"
    both = PROXY.replace("127.0.0.1:7860->8080/tcp", "0.0.0.0:443->8443/tcp, 0.0.0.0:80->8080/tcp")
    assert found(order=named, ports=taken, ours=both)["port"].state == OK


def test_a_clock_that_is_off_is_a_problem_where_certificates_count() -> None:
    late = str(NOW - 4000)
    assert found(clock=late)["clock"].state == NOTE
    public = Order(front=Front(443, public=True), passwords=Path("passwords"))
    assert found(order=public, clock=late)["clock"].state == PROBLEM


@pytest.mark.parametrize(
    ("python", "state"),
    [
        ("3.11 venv", OK),
        ("3.13 venv", OK),
        ("3.11", PROBLEM),
        ("3.9 venv", PROBLEM),
        ("3.14 venv", PROBLEM),
        ("", PROBLEM),
    ],
)
def test_without_docker_a_python_with_venv_is_needed(python: str, state: str) -> None:
    found = facts(python=python, docker="absent", info="", homedisk="/dev/vda1 1 1 90000000 1% /")
    states = {each.subject: each.state for each in host_check.bare_findings("gpu-1", found, NEED, Order())}
    assert states["python"] == state
    assert "docker" not in states
    assert states["disk"] == OK


def test_without_docker_the_home_folder_has_to_have_room() -> None:
    full = facts(python="3.11 venv", homedisk="/dev/vda1 1 1 2000000 1% /")
    states = {each.subject: each.state for each in host_check.bare_findings("gpu-1", full, NEED, Order())}
    assert states["disk"] == PROBLEM


def test_without_docker_the_port_of_our_own_caddy_is_free_for_us() -> None:
    caddy = 'LISTEN 0 4096 127.0.0.1:7860 0.0.0.0:* users:(("caddy",pid=77,fd=4))'
    assert found(ports=caddy, front="7860,loopback,")["port"].state == OK
    assert found(ports=caddy)["port"].state == PROBLEM


@pytest.mark.parametrize(
    ("transfer", "said", "state"),
    [
        ("registry", "401", OK),
        ("auto", "200", OK),
        ("registry", "000", PROBLEM),
        ("auto", "000", NOTE),
        ("registry", "unknown", NOTE),
    ],
)
def test_a_registry_has_to_answer_the_host_if_the_image_comes_from_it(transfer: str, said: str, state: str) -> None:
    order = Order(transfer=transfer, registry="registry.example.com/name")
    assert found(order=order, outbound=said)["outbound"].state == state
    assert "outbound" not in found(order=replace(order, transfer="ssh"), outbound=said)
