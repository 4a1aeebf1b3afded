"""What is there: for a check before a deployment, for `status`, and logs."""

from __future__ import annotations

import base64
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from jingxiang.manifests import APP, APPLIED, DATABASE, FAILED, KEDA, NAME, SECRET, WEB, WORKER, Manifest
from jingxiang.remotes.client import Problem, say
from jingxiang.remotes.kubernetes_client.api import (
    KEPT_LINES,
    REQUEST_S,
    VERSION,
    Cluster,
    label,
    replica_sets,
    role,
    told,
)

# What `deploy` and `destroy` do there, for the question whether they may: by API group and resource.
OBJECTS = ("get", "list", "create", "patch", "delete")
VERBS: dict[tuple[str, str], Sequence[str]] = {
    ("apps", "deployments"): OBJECTS, ("", "services"): OBJECTS, ("", "configmaps"): OBJECTS,
    ("", "persistentvolumeclaims"): ("get", "list", "create", "patch"), ("", "secrets"): ("get", "create", "patch"),
    ("apps", "replicasets"): ("list",), ("apps", "statefulsets"): ("list",), ("", "pods"): ("list",),
    ("", "pods/log"): ("get",), ("coordination.k8s.io", "leases"): ("get", "create", "update", "delete"),
}  # fmt: skip
SHARED: dict[tuple[str, str], Sequence[str]] = {("apps", "statefulsets"): OBJECTS}
SCALED = ("keda.sh", "scaledobjects")
ASKED_AT_ONCE = 8


def look(cluster: Cluster, *, is_shared: bool) -> None:
    """What is there, for a check before a deployment: of what may not be seen, None. `is_shared`: several cards."""
    may_see, keda = may(cluster, "", "namespaces", "get"), cluster.has(KEDA, "ScaledObject")
    found = cluster.find("v1", "Namespace", cluster.namespace) if may_see else None
    is_new = may_see and found is None
    secret = allowed(lambda: cluster.find("v1", "Secret", SECRET)) or {}
    edition = base64.b64decode((secret.get("data") or {}).get("edition", "")).decode()
    classes = allowed(lambda: cluster.list("storage.k8s.io/v1", "StorageClass", ""))
    pages = {role(each) for each in allowed(lambda: cluster.list("apps/v1", "Deployment")) or ()} - {WORKER}
    leaves = bool(pages - {WEB if is_shared else APP})
    say(
        "result", server=client.VersionApi(cluster.api).get_code(_request_timeout=REQUEST_S).git_version,
        namespace=None if not may_see else not is_new,
        forbidden=forbidden(cluster, is_shared=is_shared, keda=keda, is_new=is_new),
        keda=keda, nodes=allowed(lambda: gpu_nodes(cluster)),
        classes=None if classes is None else {
            each["metadata"]["name"]: each["metadata"].get("annotations", {}).get(
                "storageclass.kubernetes.io/is-default-class"
            ) == "true" for each in classes
        },
        secrets=sorted(secret.get("data") or {}), edition=edition,
        leaves=leaves, readyz=allowed(lambda: readyz(cluster)) if leaves else None,
    )  # fmt: skip


def forbidden(cluster: Cluster, *, is_shared: bool, keda: bool, is_new: bool) -> list[str]:
    """What is needed and may not be done."""
    verbs = VERBS | (SHARED if is_shared else {}) | ({SCALED: OBJECTS if is_shared else ("list",)} if keda else {})
    asked = [(cluster, group, resource, verb) for (group, resource), each in verbs.items() for verb in each]
    if may(cluster, "*", "*", "*"):  # most who may deploy may do everything: that is one question
        asked = []
    if is_new:
        asked.append((replace(cluster, namespace=""), "", "namespaces", "create"))
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answers = list(pool.map(lambda each: may(*each), asked))
    return [f"{verb} {resource}" for (_, _, resource, verb), fine in zip(asked, answers, strict=True) if not fine]


def may(cluster: Cluster, group: str, resource: str, verb: str) -> bool:
    name, _, subresource = resource.partition("/")
    asked = {"namespace": cluster.namespace, "verb": verb, "group": group, "resource": name}
    attributes = {**asked, **({"subresource": subresource} if subresource else {})}
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }  # fmt: skip
    return bool(cluster.create(review)["status"]["allowed"])


def allowed(ask: Callable[[], Any]) -> Any:
    """The answer, or None to whoever may not ask."""
    try:
        return ask()
    except ApiException as error:
        if error.status != 403:
            raise
        return None


def gpu_nodes(cluster: Cluster) -> list[dict[str, object]]:
    """The nodes with cards that take pods, and what NVIDIA's labels say of them."""
    found = []
    for node in cluster.list("v1", "Node", ""):
        cards = int(node["status"].get("allocatable", {}).get("nvidia.com/gpu", 0))
        if cards and not node["spec"].get("unschedulable"):
            labels = node["metadata"].get("labels", {})
            found.append({"name": node["metadata"]["name"], "cards": cards, "labels": {
                name.removeprefix("nvidia.com/"): value
                for name, value in labels.items() if name.startswith("nvidia.com/")
            }})  # fmt: skip
    return found


def status(cluster: Cluster) -> None:
    """The Deployments, the versions that are kept with each, and what the page says of its queue."""
    rows = []
    for deployment in cluster.list("apps/v1", "Deployment"):
        kept = [
            {"version": label(each), "notes": ours(each["metadata"].get("annotations", {}))}
            for each in replica_sets(cluster, deployment)
        ]
        rows.append({
            "name": deployment["metadata"]["name"], "role": role(deployment),
            "version": deployment["spec"]["template"]["metadata"]["labels"].get(VERSION, ""), "kept": kept,
            "wanted": deployment["spec"]["replicas"], "ready": deployment["status"].get("availableReplicas", 0),
        })  # fmt: skip
    say("result", deployments=rows, readyz=allowed(lambda: readyz(cluster)) if rows else None)


def readyz(cluster: Cluster) -> Manifest | None:
    """What the page says, through the API server. None if nobody answers there."""
    try:
        answer = (
            client.CoreV1Api(cluster.api)
            .connect_get_namespaced_service_proxy_with_path(
                f"{NAME}:http", cluster.namespace, "readyz", _request_timeout=REQUEST_S, _preload_content=False
            )
            .data
        )
    except ApiException as error:
        if error.status == 403:
            raise
        answer = error.body  # 503 is how the page says that it is not ready, and the cluster that there is none
    try:
        return dict(json.loads(answer))
    except (ValueError, TypeError):  # whatever answers is not the app
        return None


def logs(cluster: Cluster, *, follows: bool, failed: bool) -> None:
    """Lines of all pods, each with its pod's name where there are several."""
    if failed:
        found = cluster.find("v1", "ConfigMap", FAILED)
        for text in found["data"]["log"].splitlines() if found else ():
            say("line", text=text)
        say("result")
        return
    pods = [each["metadata"]["name"] for each in cluster.list("v1", "Pod", f"app.kubernetes.io/name={NAME}")
            if role(each) != DATABASE]  # fmt: skip
    if not pods:
        raise Problem("absent")
    lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
    for pod in pods:
        threading.Thread(target=read_log, args=(cluster, pod, follows, lines), daemon=True).start()
    open_logs = len(pods)
    while open_logs:
        pod, text = lines.get()
        if text is None:
            open_logs -= 1
        else:
            say("line", text=f"{pod}  {text}" if len(pods) > 1 else text)
    say("result")


def read_log(cluster: Cluster, pod: str, follows: bool, lines: queue.Queue[tuple[str, str | None]]) -> None:
    rest = b""
    try:
        answer = client.CoreV1Api(cluster.api).read_namespaced_pod_log(
            pod, cluster.namespace, follow=follows, tail_lines=KEPT_LINES, _preload_content=False
        )
        for part in answer.stream():
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                lines.put((pod, line.decode(errors="replace")))
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        lines.put((pod, str(told(error).more.get("text", ""))))
    if rest:
        lines.put((pod, rest.decode(errors="replace")))
    lines.put((pod, None))


def ours(annotations: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in annotations.items() if name.startswith(f"{NAME}/") and name != APPLIED}
