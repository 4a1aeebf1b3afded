"""jingxiang.sky_task; tests/e2e/test_sky.py has it read by SkyPilot"""

from __future__ import annotations

import json
import shlex

from jingxiang.redaction import HIDDEN
from jingxiang.sky_task import PORT, Service
from jingxiang.targets import SkyTarget

SECRETS = {"JINGXIANG_PASSWORDS": "li:hunter2\n", "JINGXIANG_JOBS": "postgresql://u:p@db/jobs"}


def service(target: SkyTarget, model: str = "i2vgen-xl") -> Service:
    return Service(target, "/checkout", model, "cuda12", 2400, "/home/sky", SECRETS)


def test_machines_are_set_up_by_the_locks_and_ready_when_a_worker_takes_jobs() -> None:
    task = service(SkyTarget("aws/us-east-1", "A100:1", 2)).task()
    assert task["resources"]["accelerators"] == "A100:1"
    assert task["resources"]["ports"] == task["service"]["ports"] == PORT
    assert task["service"]["replicas"] == 2
    assert task["service"]["readiness_probe"]["path"] == "/readyz"
    assert task["service"]["readiness_probe"]["initial_delay_seconds"] == 2400
    assert task["setup"].splitlines()[1:] == [
        "python3 tasks.py setup --profile cuda12", "python3 tasks.py fetch i2vgen-xl",
    ]  # fmt: skip
    assert task["run"].splitlines()[-1] == (
        "exec .env/bin/python -m app serve --model i2vgen-xl --host 0.0.0.0 --port 7860 --password-file ~/passwords"
    )


def test_scaling_is_by_requests_as_the_user_says() -> None:
    task = service(SkyTarget("aws", "L4:1", 1, 4, 3)).task()
    assert task["service"]["replica_policy"] == {"min_replicas": 1, "max_replicas": 4, "target_qps_per_replica": 3}
    assert "replicas" not in task["service"]


def test_what_is_secret_is_in_one_place_and_in_no_plan() -> None:
    target = SkyTarget("aws", "L4:1", media="s3://bucket/videos")
    found = service(target)
    assert found.task()["secrets"] == SECRETS
    assert found.task()["envs"] == {"JINGXIANG_MEDIA": "s3://bucket/videos"}
    assert found.shown()["secrets"] == dict.fromkeys(SECRETS, HIDDEN)
    assert not any(value in json.dumps(found.shown()) for value in SECRETS.values())


def test_a_name_is_no_program() -> None:
    task = service(SkyTarget("aws"), "a; id").task()
    assert shlex.split(task["setup"].splitlines()[2]) == ["python3", "tasks.py", "fetch", "a; id"]
