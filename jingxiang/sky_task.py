"""What SkyPilot is asked to run: a task with a service, as a value.

The machines are set up from this checkout, by its locks, and not from our image: SkyPilot installs programs of its own
into a container, as root, and ours has neither root nor sudo.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jingxiang.redaction import HIDDEN
from jingxiang.targets import SkyTarget

NAME = "jingxiang"
PORT = 7860
PASSWORDS = "JINGXIANG_PASSWORDS"  # the lines of a password file; only the service's own environment has them
JOBS = "JINGXIANG_JOBS"
DISK_GB = 150  # environment and weights take up to 30 GB, the system of a machine with drivers as much
SETUP = """\
set -e
python3 tasks.py setup --profile {profile}
python3 tasks.py fetch {model}{accepts}
"""
RUN = f"""\
set -e
umask 077
printf '%s' "${PASSWORDS}" > ~/passwords
unset {PASSWORDS}
exec .env/bin/python -m app serve --model {{model}} --host 0.0.0.0 --port {PORT} --password-file ~/passwords
"""


@dataclass(frozen=True)
class Service:
    """`checkout`: its folder, which goes to every replica; `profile`: the build of PyTorch; `ready_s`: seconds that a
    new replica may take; `certificate`: folder with key.pem and certificate.pem; `accepts`: whether
    the user has accepted the licence of the model."""

    target: SkyTarget
    checkout: str
    model: str
    profile: str
    ready_s: int
    certificate: str
    secrets: Mapping[str, str]
    accepts: bool = False

    def task(self) -> dict[str, Any]:
        """As `sky.Task.from_yaml_config` takes it."""
        target = self.target
        model, profile = shlex.quote(self.model), shlex.quote(self.profile)
        return {
            "name": NAME,
            "workdir": self.checkout,
            "resources": {
                "infra": target.infra, "accelerators": target.gpu, "ports": PORT, "disk_size": DISK_GB,
            },
            "envs": {"JINGXIANG_MEDIA": target.media} if target.media else {},
            "secrets": dict(self.secrets),
            "service": {
                "readiness_probe": {"path": "/readyz", "initial_delay_seconds": self.ready_s, "timeout_seconds": 15},
                "ports": PORT,
                "tls": {"keyfile": f"{self.certificate}/key.pem", "certfile": f"{self.certificate}/certificate.pem"},
                **_replicas(target),
            },
            "setup": SETUP.format(
                model=model, profile=profile, accepts=" --accept-license" if self.accepts else "",
            ),
            "run": RUN.format(model=model),
        }  # fmt: skip

    def shown(self) -> dict[str, Any]:
        """The task without what is secret in it."""
        return {**self.task(), "secrets": dict.fromkeys(self.secrets, HIDDEN)}


def _replicas(target: SkyTarget) -> dict[str, Any]:
    """SkyPilot scales by requests per second alone; what suits them is for the user to say."""
    if not target.most:
        return {"replicas": target.replicas}
    policy = {"min_replicas": target.replicas, "max_replicas": target.most, "target_qps_per_replica": target.qps}
    return {"replica_policy": policy}
