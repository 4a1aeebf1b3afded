"""Talk to a cluster. A program for a Python that has Kubernetes' official client; see `remotes.sdk`.

The JSON object on stdin has `action` (one of `ACTIONS`), `context`, `namespace` and what that action takes. Events are
step, failed, undone, line, result and error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient

from jingxiang.remotes.kubernetes_client import rollout, views
from jingxiang.remotes.kubernetes_client.api import Cluster, Problem, say, told

ACTIONS: dict[str, Callable[..., None]] = {
    "look": views.look, "status": views.status, "logs": views.logs,
    "deploy": rollout.deploy, "rollback": rollout.rollback, "destroy": rollout.destroy,
}  # fmt: skip


def main(job: dict[str, Any]) -> int:
    """Do what is asked. What goes wrong is an event, too."""
    try:
        api = config.new_client_from_config(context=job.pop("context"))
        with tempfile.TemporaryDirectory() as scratch:  # the client's own place for this is in /tmp, for everybody
            dynamic = DynamicClient(api, cache_file=str(Path(scratch) / "discovery"))
            ACTIONS[job.pop("action")](Cluster(api, dynamic, job.pop("namespace")), **job)
    except Problem as problem:
        say("error", kind=problem.kind, **problem.more)
        return 1
    except (ApiException, ConfigException, urllib3.exceptions.HTTPError) as error:
        refused = told(error)
        say("error", kind=refused.kind, **refused.more)
        return 1
    except BrokenPipeError:  # whoever started us has gone, which is how the following of a log ends
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
