"""Applying, waiting until it is ready, and undoing it where it does not get ready."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from jingxiang.manifests import APPLIED, AT, BY, FAILED, HOW, KEDA, NAME, SECRET, WORKER, Manifest, recorded
from jingxiang.remotes.kubernetes_client.api import (
    REQUEST_S,
    VERSION,
    Cluster,
    Problem,
    applied,
    key,
    label,
    replica_sets,
    role,
    say,
    told,
)
from jingxiang.remotes.kubernetes_client.lease import lock

POLL_S = 2.0
DRAINS = "drains"
TAIL_LINES, KEPT_LINES = 20, 500
# A container that is in one of these comes out of it by itself rarely, and never soon.
STUCK = (
    "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError",
    "RunContainerError", "CrashLoopBackOff",
)  # fmt: skip
# In the order in which they go: what makes pods first.
OURS = (
    (KEDA, "ScaledObject"), ("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("v1", "Service"),
    ("v1", "ConfigMap"),
)  # fmt: skip
HOLDS = (("v1", "PersistentVolumeClaim"), ("v1", "Secret"))


def deploy(
    cluster: Cluster,
    *,
    stages: Sequence[Sequence[Manifest]],
    secret: Manifest | None,
    timeout_s: int,
    by: str,
    breaks_lock: bool,
    is_new: bool,
) -> None:
    """Apply one stage after the other, each when the one before is ready. Whatever goes wrong is undone. `is_new`:
    the namespace is to be made, too."""
    if is_new:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}})
    with lock(cluster, by=by, timeout_s=timeout_s, is_broken=breaks_lock):
        if secret:
            cluster.apply(with_kept(cluster, secret))
        wanted = [manifest for stage in stages for manifest in stage]
        before = {key(each): applied(cluster, each) for each in wanted}
        roll_out(cluster, stages, before, timeout_s)
        for each in left_over(cluster, {key(each) for each in wanted}):
            cluster.delete(*each)
            say("step", what="removed", name=each[2])
    say("result", deployed=True)


def rollback(
    cluster: Cluster, *, version: str, timeout_s: int, by: str, at: str, breaks_lock: bool
) -> None:  # fmt: skip
    """Apply the manifests of a version again, as they were recorded with its ReplicaSets."""
    with lock(cluster, by=by, timeout_s=timeout_s, is_broken=breaks_lock):
        stages = []
        chosen = version
        for deployment in sorted(cluster.list("apps/v1", "Deployment"), key=lambda each: role(each) != WORKER):
            now = deployment["spec"]["template"]["metadata"]["labels"][VERSION]
            kept = {label(each): each for each in replica_sets(cluster, deployment) if carries_itself(each)}
            known = [name for name in kept if name != now]
            chosen = chosen or (known[0] if known else "")
            if chosen not in kept or (chosen == now and not version):
                raise Problem("version", version=version, known=known)
            manifest = json.loads(kept[chosen]["metadata"]["annotations"][APPLIED])
            notes = {BY: by, AT: at, HOW: "rollback"}
            manifest["metadata"]["annotations"] |= notes
            stages.append([recorded(manifest)])
        if not stages:
            raise Problem("absent")
        before = {key(each): applied(cluster, each) for stage in stages for each in stage}
        roll_out(cluster, stages, before, timeout_s)
    say("result", deployed=True, version=chosen)


def roll_out(
    cluster: Cluster, stages: Sequence[Sequence[Manifest]], before: Mapping[tuple[str, str, str], Manifest | None],
    timeout_s: int,
) -> None:  # fmt: skip
    """Apply, and wait until all is ready. Else bring back what was there `before`, and raise what went wrong."""
    try:
        for stage in stages:
            for manifest in stage:
                cluster.apply(manifest)
                say("step", what="applied", name=manifest["metadata"]["name"], kind=manifest["kind"])
            await_ready(cluster, [each for each in stage if each["kind"] in ("Deployment", "StatefulSet")], timeout_s)
    except (ApiException, Problem, urllib3.exceptions.HTTPError) as error:
        problem = error if isinstance(error, Problem) else told(error)
        say("failed", kind=problem.kind, **problem.more)
        undo(cluster, before, timeout_s)
        raise


def undo(cluster: Cluster, before: Mapping[tuple[str, str, str], Manifest | None], timeout_s: int) -> None:
    """What was there is applied again; what was not goes, but for what holds data."""
    restored = []
    for (version, kind, name), manifest in before.items():
        if manifest:
            restored.append(cluster.apply(recorded(manifest)))
        elif (version, kind) not in HOLDS and kind != "StatefulSet":
            cluster.delete(version, kind, name)
    waited = [each for each in restored if each["kind"] == "Deployment"]
    try:
        await_ready(cluster, waited, timeout_s)
    except Problem as problem:
        say("undone", serves="", kind=problem.kind, **problem.more)
    else:
        names = {name for _, _, name in before}
        # of another number of cards: they were not touched yet
        others = [each for each in cluster.list("apps/v1", "Deployment") if each["metadata"]["name"] not in names]
        serving = [each for each in [*others, *waited] if role(each) != WORKER]
        say("undone", serves=label(serving[-1]) if serving else "")


def await_ready(cluster: Cluster, wanted: Sequence[Manifest], timeout_s: int) -> None:
    """Until Kubernetes says that all are rolled out. Raises `Problem` as soon as one of their containers ends, and for
    one that cannot be had. The time does not run while pods of the version before finish what they are at."""
    start = time.monotonic()
    end, said = start + timeout_s, ""
    while True:
        waiting = [each for each in wanted if not is_rolled_out(cluster, each)]
        if not waiting:
            return
        for each in waiting:
            said = look_at_pods(cluster, each, said)
        if leaving := [pod for each in waiting for pod in old_pods(cluster, each)]:
            graces = (pod["metadata"].get("deletionGracePeriodSeconds", 0) for pod in leaving)
            end = min(time.monotonic(), start + max(graces)) + timeout_s
            if said != DRAINS:
                say("step", what=DRAINS, name=leaving[0]["metadata"]["name"])
                said = DRAINS
        if time.monotonic() > end:
            name = waiting[0]["metadata"]["name"]
            raise Problem("timeout", name=name, seconds=timeout_s, reason=said, **tail(cluster, waiting[0]))
        time.sleep(POLL_S)


def old_pods(cluster: Cluster, manifest: Manifest) -> list[Manifest]:
    """Those that are about to go."""
    selector = ",".join(f"{name}={value}" for name, value in manifest["spec"]["selector"]["matchLabels"].items())
    return [each for each in cluster.list("v1", "Pod", selector) if "deletionTimestamp" in each["metadata"]]


def is_rolled_out(cluster: Cluster, manifest: Manifest) -> bool:
    """By the rules of `kubectl rollout status`."""
    found = cluster.find(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
    if found is None:
        raise Problem("gone", name=manifest["metadata"]["name"])
    status, replicas = found.get("status", {}), found["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return False
    ready = status.get("availableReplicas" if found["kind"] == "Deployment" else "readyReplicas", 0)
    is_alone = status.get("replicas", 0) == status.get("updatedReplicas", 0)  # no pod of another version is left
    return bool(status.get("updatedReplicas", 0) == replicas and ready >= replicas and is_alone)


def look_at_pods(cluster: Cluster, manifest: Manifest, said: str) -> str:
    """Say what new pods wait for, once each; raise `Problem` where waiting is of no use."""
    for pod in new_pods(cluster, manifest):
        name = pod["metadata"]["name"]
        for each in pod.get("status", {}).get("containerStatuses", []):
            waiting = each["state"].get("waiting") or {}
            ended = each["state"].get("terminated") or each.get("lastState", {}).get("terminated")
            if ended or waiting.get("reason") in STUCK:
                found = ended or waiting
                lines = log_tail(cluster, name, each["name"], is_previous=not each["state"].get("terminated"))
                raise Problem(
                    "ended" if ended else "stuck", pod=name, reason=found.get("reason", ""), lines=lines,
                    message=found.get("message", ""), code=found.get("exitCode"),
                )  # fmt: skip
        for condition in pod.get("status", {}).get("conditions", []):
            text = condition.get("message", "")
            if condition["type"] == "PodScheduled" and condition["status"] == "False" and text and text != said:
                say("step", what="waits", name=name, text=text)
                said = text
    return said


def new_pods(cluster: Cluster, manifest: Manifest) -> list[Manifest]:
    """Those of the template as it is now."""
    template = manifest["spec"]["template"]["metadata"]
    selector = ",".join(f"{name}={value}" for name, value in template["labels"].items())
    pods = [each for each in cluster.list("v1", "Pod", selector) if "deletionTimestamp" not in each["metadata"]]
    wanted = template.get("annotations", {}).items()
    return [each for each in pods if wanted <= each["metadata"].get("annotations", {}).items()]


def tail(cluster: Cluster, manifest: Manifest) -> dict[str, object]:
    """The last lines of one of its pods, for a message."""
    for pod in new_pods(cluster, manifest):
        name = pod["metadata"]["name"]
        if lines := log_tail(cluster, name, pod["spec"]["containers"][0]["name"], is_previous=False):
            return {"pod": name, "lines": lines}
    return {}


def log_tail(cluster: Cluster, pod: str, container: str, *, is_previous: bool) -> list[str]:
    """The last lines; all that fit are kept in the cluster, because the pod goes."""
    try:
        text = client.CoreV1Api(cluster.api).read_namespaced_pod_log(
            pod, cluster.namespace, container=container, previous=is_previous, tail_lines=KEPT_LINES,
            _request_timeout=REQUEST_S,
        )  # fmt: skip
    except (ApiException, urllib3.exceptions.HTTPError):  # the node is gone, or the container never ran
        return []
    lines = str(text).splitlines()
    metadata = {"name": FAILED, "labels": {"app.kubernetes.io/managed-by": NAME}}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"log": "\n".join(lines)}})
    return lines[-TAIL_LINES:]


def with_kept(cluster: Cluster, secret: Manifest) -> Manifest:
    """The Secret with what is in it already and is not given anew: what is not applied would go."""
    found = cluster.find("v1", "Secret", SECRET) or {}
    kept = {name: base64.b64decode(value).decode() for name, value in (found.get("data") or {}).items()}
    return {**secret, "stringData": {**kept, **secret["stringData"]}}


def left_over(cluster: Cluster, wanted: set[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """What an earlier deployment with another number of cards has left. The database stays: it has jobs."""
    found = []
    for version, kind in OURS:
        if kind not in ("ConfigMap", "StatefulSet", "Service") and cluster.has(version, kind):
            names = [each["metadata"]["name"] for each in cluster.list(version, kind)]
            found += [(version, kind, name) for name in names if (version, kind, name) not in wanted]
    return found


def destroy(cluster: Cluster, *, volumes: bool, by: str, breaks_lock: bool) -> None:
    """All that is ours, but for what holds data, unless that is to go, too."""
    with lock(cluster, by=by, timeout_s=REQUEST_S, is_broken=breaks_lock):
        for version, kind in (*OURS, *(HOLDS if volumes else ())):
            if cluster.has(version, kind):
                for each in cluster.list(version, kind):
                    cluster.delete(version, kind, each["metadata"]["name"])
                    say("step", what="removed", name=each["metadata"]["name"], kind=kind)
        left = [each["metadata"]["name"] for each in cluster.list("v1", "PersistentVolumeClaim")]
    say("result", left=[] if volumes else left)


def carries_itself(replica_set: Manifest) -> bool:
    return APPLIED in replica_set["metadata"].get("annotations", {})
