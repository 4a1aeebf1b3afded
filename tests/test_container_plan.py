"""jingxiang.container_plan"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import container_plan, image_definition
from jingxiang.container_plan import Settings
from jingxiang.deploy_plan import Front

ROOT = Path(__file__).resolve().parent.parent
IMAGE = f"sha256:7c1d09e2{'0' * 56}"
LOOPBACK, PUBLIC = Front(7860), Front(443, public=True)
NAMED = Front(443, public=True, domain="video.example.com")


@pytest.fixture
def definition() -> image_definition.Definition:
    return image_definition.load(ROOT)


def test_a_version_is_called_by_its_image_and_by_a_number_if_that_runs_in_another_way() -> None:
    assert container_plan.version(IMAGE, []) == "7c1d09e2"
    assert container_plan.version(IMAGE, ["7c1d09e2", "7c1d09e2-2"]) == "7c1d09e2-3"


@pytest.mark.parametrize(
    "settings", [Settings(g, p, la) for g in (True, False) for p in (True, False) for la in (True, False)]
)
def test_settings_are_read_back_from_their_label(settings: Settings) -> None:
    assert Settings.of(settings.text) == settings


def test_only_the_host_itself_reaches_a_version_and_it_can_write_to_its_volumes_alone(
    definition: image_definition.Definition,
) -> None:
    made = container_plan.app("7c1d09e2", IMAGE, Settings(gpus=True, passwords=False), definition)
    host = made["HostConfig"]
    assert host["PortBindings"] == {"7860/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert host["DeviceRequests"] == [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (True, ["ALL"], ["no-new-privileges"])
    assert [(each["Source"], each["Target"]) for each in host["Mounts"]] == [
        ("jingxiang-outputs", "/outputs"), ("jingxiang-secrets", "/secrets"),
    ]  # fmt: skip
    assert host["RestartPolicy"] == {"Name": "no"}, "until it has shown that it gets ready"
    assert made["StopTimeout"] > container_plan.DRAIN_S, "the app ends by itself first"


def test_without_a_gpu_none_is_asked_for(definition: image_definition.Definition) -> None:
    made = container_plan.app("7c1d09e2", IMAGE, Settings(gpus=False, passwords=False), definition)
    assert made["HostConfig"]["DeviceRequests"] == []


def test_passwords_are_in_a_file_of_which_only_the_name_is_told(definition: image_definition.Definition) -> None:
    made = container_plan.app("7c1d09e2", IMAGE, Settings(gpus=False, passwords=True), definition)
    assert "JINGXIANG_PASSWORD_FILE=/secrets/passwords" in made["Env"]
    assert "JINGXIANG_NO_PASSWORD=1" not in made["Env"]
    assert made["Labels"]["jingxiang.settings"] == "passwords"


@pytest.mark.parametrize(
    ("front", "bound"),
    [
        (LOOPBACK, {"8080/tcp": ("127.0.0.1", "7860")}),
        (PUBLIC, {"8443/tcp": ("0.0.0.0", "443")}),
        (NAMED, {"8443/tcp": ("0.0.0.0", "443"), "8080/tcp": ("0.0.0.0", "80")}),
    ],
)
def test_the_proxy_listens_on_loopback_unless_others_may_reach_it(
    front: Front, bound: dict[str, tuple[str, str]], definition: image_definition.Definition
) -> None:
    made = container_plan.proxy(IMAGE, front, definition)
    ports = {name: (each["HostIp"], each["HostPort"]) for name, (each,) in made["HostConfig"]["PortBindings"].items()}
    assert ports == {**bound, "8079/tcp": ("127.0.0.1", "")}
    assert made["Entrypoint"] == ["/opt/jingxiang/environment/bin/caddy"]
    assert Front.of(made["Labels"]["jingxiang.settings"]) == front
