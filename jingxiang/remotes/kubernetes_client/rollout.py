"""Applying, waiting until it is ready, and undoing it where it does not get ready."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Mapping, Sequence

from kubernetes import client

from jingxiang.manifests import (
    APPLIED,
    AT,
    BY,
    DATABASE_PASSWORD,
    FAILED,
    HOW,
    JOBS,
    KEDA,
    NAME,
    SECRET,
    WORKER,
    Manifest,
    recorded,
)
from jingxiang.redaction import redact
from jingxiang.remotes.client import Problem, tell, undisturbed
from jingxiang.remotes.kubernetes_client.api import (
    ERRORS,
    KEPT_LINES,
    REQUEST_S,
    VERSION,
    Cluster,
    Key,
    applied,
    key,
    label,
    replica_sets,
    role,
    told,
)
from jingxiang.remotes.kubernetes_client.lease import Lock, lock

POLL_S = 2.0
TAIL_LINES = 20
LOG_CHARACTERS = 200_000  # of a log that is kept: a ConfigMap takes 1 MiB
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
ROLLED = ("Deployment", "StatefulSet")  # what has to get ready
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
    with lock(cluster, by=by, is_broken=breaks_lock) as held:
        wanted = [manifest for stage in stages for manifest in stage]
        before = {key(each): applied(cluster, each) for each in wanted}
        if secret:
            stages = ([with_kept(cluster, secret)], *stages)
            before = {key(secret): secret_before(cluster, secret), **before}
        roll_out(cluster, held, stages, before, timeout_s)
        with undisturbed():  # it is done
            for each in left_over(cluster, {key(each) for each in wanted}):
                cluster.delete(*each)
                tell("step", what="removed", name=each[2])
            tell("result", deployed=True)


def rollback(
    cluster: Cluster, *, version: str, timeout_s: int, by: str, at: str, breaks_lock: bool
) -> None:  # fmt: skip
    """Apply the manifests of a version again, as they were recorded with its ReplicaSets."""
    with lock(cluster, by=by, is_broken=breaks_lock) as held:
        stages = []
        chosen = version
        for deployment in sorted(cluster.list("apps/v1", "Deployment"), key=lambda each: role(each) != WORKER):
            now = deployment["spec"]["template"]["metadata"]["labels"][VERSION]
            kept: dict[str, Manifest] = {}
            for each in replica_sets(cluster, deployment):
                if carries_itself(each):
                    kept.setdefault(label(each), each)  # the newest of a version
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
        roll_out(cluster, held, stages, before, timeout_s)
        with undisturbed():
            tell("result", deployed=True, version=chosen)


def roll_out(
    cluster: Cluster, held: Lock, stages: Sequence[Sequence[Manifest]], before: Mapping[Key, Manifest | None],
    timeout_s: int,
) -> None:  # fmt: skip
    """Apply, and wait until all is ready. Else bring back what was there `before`, and raise what went wrong; so also
    where somebody ends us. But where another one has taken over it is theirs."""
    try:
        for stage in stages:
            for manifest in stage:
                held.renew()
                cluster.apply(manifest)
                tell("step", what="applied", name=manifest["metadata"]["name"], kind=manifest["kind"])
            await_ready(cluster, held, [each for each in stage if each["kind"] in ROLLED], timeout_s)
    except BaseException as error:
        with undisturbed():
            problem = why(error)
            tell("failed", kind=problem.kind, **problem.more)
            if problem.kind != "taken":
                undo(cluster, held, before, timeout_s)
        raise


def why(error: BaseException) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, ERRORS):
        return told(error)
    return Problem("interrupted") if isinstance(error, SystemExit) else Problem("broken", text=str(error))


def undo(cluster: Cluster, held: Lock, before: Mapping[Key, Manifest | None], timeout_s: int) -> None:
    """What was there is applied again; what was not goes, but for what holds data."""
    restored = []
    for (version, kind, name), manifest in before.items():
        if manifest:
            again = with_database(cluster, manifest) if kind == "Secret" else recorded(manifest)
            restored.append(cluster.apply(again))
        elif (version, kind) not in HOLDS and kind != "StatefulSet":
            cluster.delete(version, kind, name)
    waited = [each for each in restored if each["kind"] == "Deployment"]
    try:
        await_ready(cluster, held, waited, timeout_s)
    except Problem as problem:
        tell("undone", serves="", kind=problem.kind, **problem.more)
    else:
        names = {name for _, _, name in before}
        # of another number of cards: they were not touched yet
        others = [each for each in cluster.list("apps/v1", "Deployment") if each["metadata"]["name"] not in names]
        serving = [each for each in [*others, *waited] if role(each) != WORKER]
        tell("undone", serves=label(serving[-1]) if serving else "")


def await_ready(cluster: Cluster, held: Lock, wanted: Sequence[Manifest], timeout_s: int) -> None:
    """Until Kubernetes says that all are rolled out. Raises `Problem` as soon as one of their containers ends, and for
    one that cannot be had. The time is that of each pod: it begins anew when one has become ready, and does not run
    while pods of the version before finish what they are at."""
    most, spent, last = -1, 0.0, time.monotonic()
    began: dict[str, float] = {}  # to end, by the name of the pod
    said: list[str] = []
    while True:
        held.renew()
        states = [(each, rolled_out(cluster, each)) for each in wanted]
        waiting = [each for each, (is_over, _) in states if not is_over]
        if not waiting:
            return
        for each in waiting:
            look_at_pods(cluster, each, said)
        now = time.monotonic()
        leaving = [pod for each in waiting for pod in old_pods(cluster, each)]
        for name in (pod["metadata"]["name"] for pod in leaving):
            if name not in began:
                tell("step", what="drains", name=name)
                began[name] = now
        is_draining = any(now - began[pod["metadata"]["name"]] <= grace_s(pod) for pod in leaving)
        if (ready := sum(count for _, (_, count) in states)) > most:
            most, spent = ready, 0.0
        spent += 0.0 if is_draining else now - last
        last = now
        if spent > timeout_s:
            name, reason = waiting[0]["metadata"]["name"], said[-1] if said else ""
            raise Problem("timeout", name=name, seconds=timeout_s, reason=reason, **tail(cluster, waiting[0]))
        time.sleep(POLL_S)


def old_pods(cluster: Cluster, manifest: Manifest) -> list[Manifest]:
    """Those that are about to go."""
    selector = ",".join(f"{name}={value}" for name, value in manifest["spec"]["selector"]["matchLabels"].items())
    return [each for each in cluster.list("v1", "Pod", selector) if "deletionTimestamp" in each["metadata"]]


def grace_s(pod: Manifest) -> float:
    """How long it may take to end."""
    return float(pod["metadata"].get("deletionGracePeriodSeconds", 0))


def rolled_out(cluster: Cluster, manifest: Manifest) -> tuple[bool, int]:
    """Whether it is, by the rules of `kubectl rollout status`, and a number that grows with each new pod that gets
    ready, whichever way old ones make room for it."""
    found = cluster.find(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
    if found is None:
        raise Problem("gone", name=manifest["metadata"]["name"])
    status, replicas = found.get("status", {}), found["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return False, 0
    ready = status.get("availableReplicas" if found["kind"] == "Deployment" else "readyReplicas", 0)
    updated = status.get("updatedReplicas", 0)
    is_alone = status.get("replicas", 0) == updated  # no pod of another version is left
    return bool(updated == replicas and ready >= replicas and is_alone), updated + ready


def look_at_pods(cluster: Cluster, manifest: Manifest, said: list[str]) -> None:
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
            if condition["type"] == "PodScheduled" and condition["status"] == "False" and text and text not in said:
                tell("step", what="waits", name=name, text=text)
                said.append(text)


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
    except ERRORS:  # the node is gone, or the container never ran
        return []
    text = redact(str(text))
    metadata = {"name": FAILED, "labels": {"app.kubernetes.io/managed-by": NAME}}
    with contextlib.suppress(*ERRORS):  # what has gone wrong before is to be said
        data = {"log": text[-LOG_CHARACTERS:]}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return text.splitlines()[-TAIL_LINES:]


def with_kept(cluster: Cluster, secret: Manifest) -> Manifest:
    """The Secret with what is in it already and is not given anew: what is not applied would go. As `data`, because
    of what was applied as `stringData` nothing ever goes."""
    given = {name: base64.b64encode(value.encode()).decode() for name, value in secret["stringData"].items()}
    rest = {name: value for name, value in secret.items() if name != "stringData"}
    return {**rest, "data": {**held_data(cluster), **given}}


def secret_before(cluster: Cluster, secret: Manifest) -> Manifest | None:
    """The Secret as it is; None if there is none."""
    data = held_data(cluster)
    return {**{name: value for name, value in secret.items() if name != "stringData"}, "data": data} if data else None


def with_database(cluster: Cluster, secret: Manifest) -> Manifest:
    """The Secret with the password of a database that has been made since: that one stays, and has no other."""
    now, data = held_data(cluster), secret["data"]
    made = {} if DATABASE_PASSWORD in data else {name: now[name] for name in (DATABASE_PASSWORD, JOBS) if name in now}
    return {**secret, "data": {**data, **(made if DATABASE_PASSWORD in made else {})}}


def held_data(cluster: Cluster) -> dict[str, str]:
    found = cluster.find("v1", "Secret", SECRET) or {}
    return dict(found.get("data") or {})


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
    with lock(cluster, by=by, is_broken=breaks_lock):
        for version, kind in (*OURS, *(HOLDS if volumes else ())):
            if cluster.has(version, kind):
                for each in cluster.list(version, kind):
                    cluster.delete(version, kind, each["metadata"]["name"])
                    tell("step", what="removed", name=each["metadata"]["name"], kind=kind)
        left = [each["metadata"]["name"] for each in cluster.list("v1", "PersistentVolumeClaim")]
    tell("result", left=[] if volumes else left)


def carries_itself(replica_set: Manifest) -> bool:
    return APPLIED in replica_set["metadata"].get("annotations", {})
