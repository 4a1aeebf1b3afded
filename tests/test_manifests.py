"""jingxiang.manifests; tests/e2e/test_manifests.py has them checked and run by others"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from jingxiang import image_definition, manifests, targets
from jingxiang.manifests import Cluster, Manifest
from jingxiang.redaction import HIDDEN
from jingxiang.targets import KubernetesTarget
from tests.peers import podman

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "manifests"


def cluster(address: str, **more: Any) -> Cluster:
    target = targets.parse(address)
    assert isinstance(target, KubernetesTarget)
    image = f"registry.example/video@sha256:{'ab' * 32}"
    notes = {manifests.BY: "li@desk", manifests.AT: "2026-01-01T00:00:00Z", manifests.HOW: "deploy"}
    definition = image_definition.load(ROOT)
    return Cluster(target, definition, image, "7c1d09e2", edition="1a2b3c4d", notes=notes, **more)


CASES = {
    "one": cluster("k8s://prod/video"),
    "cpu": cluster("k8s://prod/video?storage=fast&pull=acr", on_gpu=False),
    "several": cluster("k8s://prod/video?gpus=3&storage=nas", owns_database=True),
    "bucket": cluster("k8s://prod/video?gpus=3&media=s3://bucket/videos", has_keda=True),
}
NAMES = {
    "one": ["passwords"],
    "cpu": ["passwords"],
    "several": ["JINGXIANG_JOBS", "POSTGRES_PASSWORD", "passwords"],
    "bucket": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "JINGXIANG_JOBS", "passwords"],
}


def every(case: str) -> list[Manifest]:
    return [manifest for stage in manifests.stages(CASES[case]) for manifest in stage.manifests]


def pod(case: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in podman.pods(CASES[case]) if each["metadata"]["name"] == name]
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.mark.parametrize("case", CASES)
def test_the_manifests_are_those_that_were_looked_at(case: str) -> None:
    """A change of them is to be seen in a diff: write what `shown` gives to the file."""
    assert manifests.shown(CASES[case], NAMES[case]) == (GOLDEN / f"{case}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_yaml_says_the_same_as_the_values(case: str) -> None:
    assert list(yaml.safe_load_all(manifests.to_yaml(every(case)))) == every(case)


@pytest.mark.parametrize("case", CASES)
def test_no_pod_is_root_or_writes_where_nothing_is_mounted(case: str) -> None:
    for each in podman.pods(CASES[case]):
        spec = each["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert not spec["automountServiceAccountToken"]
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}


def test_one_card_is_never_wanted_by_two_versions_at_once() -> None:
    (app,) = [each for each in every("one") if each["kind"] == "Deployment"]
    assert app["spec"]["strategy"] == {"type": "Recreate"}
    assert pod("one", "jingxiang-app")["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    (worker,) = [each for each in every("several") if each["metadata"]["name"] == "jingxiang-worker"]
    assert worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


@pytest.mark.parametrize(("case", "name"), [("one", "jingxiang-app"), ("several", "jingxiang-worker")])
def test_a_pod_goes_after_the_longest_job(case: str, name: str) -> None:
    spec = pod(case, name)
    drain = next(each["value"] for each in spec["containers"][0]["env"] if each["name"] == "JINGXIANG_DRAIN_S")
    assert spec["terminationGracePeriodSeconds"] > int(drain) == CASES[case].drain_s


def test_a_version_may_take_as_long_as_was_asked_for() -> None:
    slow = replace(CASES["one"], ready_s=1805)
    (found,) = podman.pods(slow)
    probe = found["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 1810


def test_the_number_of_workers_is_left_to_keda_where_it_is() -> None:
    replicas = {
        case: next(each["spec"].get("replicas") for each in every(case) if each["metadata"]["name"].endswith("worker"))
        for case in ("several", "bucket")
    }
    assert replicas == {"several": 3, "bucket": None}
    (scaled,) = [each for each in every("bucket") if each["kind"] == "ScaledObject"]
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, 3)


def test_the_queue_that_keda_counts_is_that_of_the_app() -> None:
    from app.jobs import tables

    (scaled,) = [each for each in every("bucket") if each["kind"] == "ScaledObject"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert query == f"SELECT count(*) FROM {tables.jobs.name} WHERE {tables.jobs.c.state.name} IN ('queued', 'running')"


@pytest.mark.parametrize("case", CASES)
def test_a_plan_holds_the_names_of_secrets_alone(case: str) -> None:
    (secret,) = [
        each for each in yaml.safe_load_all(manifests.shown(CASES[case], NAMES[case])) if each["kind"] == "Secret"
    ]
    assert {secret["stringData"][name] for name in NAMES[case]} == {HIDDEN}


def test_a_recorded_manifest_carries_itself() -> None:
    app = every("one")[-1]
    carrying = manifests.recorded(app)
    assert json.loads(carrying["metadata"]["annotations"][manifests.APPLIED]) == app
    assert carrying["spec"] == app["spec"]
