"""Talk to a cluster. A program for a Python that has Kubernetes' official client; see `remotes.sdk`.

The JSON object on stdin has `action` (one of `ACTIONS`), `context`, `namespace` and what that action takes. Events are
step, failed, undone, line, result and error.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.dynamic import DynamicClient

from jingxiang.remotes import client
from jingxiang.remotes.kubernetes_client import rollout, views
from jingxiang.remotes.kubernetes_client.api import ERRORS, Cluster, told

ACTIONS: dict[str, Callable[..., None]] = {
    "look": views.look, "status": views.status, "logs": views.logs,
    "deploy": rollout.deploy, "rollback": rollout.rollback, "destroy": rollout.destroy,
}  # fmt: skip


@contextlib.contextmanager
def cluster(job: dict[str, Any]) -> Iterator[tuple[Cluster]]:
    api = config.new_client_from_config(context=job.pop("context"))
    with tempfile.TemporaryDirectory() as scratch:  # the client's own place for this is in /tmp, for everybody
        dynamic = DynamicClient(api, cache_file=str(Path(scratch) / "discovery"))
        yield (Cluster(api, dynamic, job.pop("namespace")),)


if __name__ == "__main__":
    client.main(ACTIONS, cluster, lambda error: told(error) if isinstance(error, ERRORS) else None)
