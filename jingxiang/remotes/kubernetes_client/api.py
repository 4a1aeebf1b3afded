"""A namespace of a cluster: find, list, apply and delete, through what the server says that it has.

What is applied is owned by the field manager `jingxiang` (server-side apply), so that what others own in the same
objects, such as the number of replicas by an autoscaler, is left to them.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from jingxiang.manifests import APPLIED, NAME, Manifest
from jingxiang.remotes.client import Problem

Key = tuple[str, str, str]  # apiVersion, kind, name

MANAGED = f"app.kubernetes.io/managed-by={NAME}"
ERRORS = (ApiException, ConfigException, urllib3.exceptions.HTTPError)
VERSION, ROLE = "app.kubernetes.io/version", "app.kubernetes.io/component"
REQUEST_S = 30  # no single request takes longer, unless it follows a log
KEPT_LINES = 500  # of a log


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster."""

    api: client.ApiClient
    dynamic: DynamicClient
    namespace: str

    def find(self, version: str, kind: str, name: str) -> Manifest | None:
        try:
            return self._call("get", version, kind, name=name)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    def list(self, version: str, kind: str, selector: str = MANAGED) -> list[Manifest]:
        return list(self._call("get", version, kind, label_selector=selector)["items"])

    def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply: whatever we applied before and do not any more goes."""
        return self._call(
            "server_side_apply", manifest["apiVersion"], manifest["kind"], body=manifest, field_manager=NAME,
            force_conflicts=True,
        )  # fmt: skip

    def create(self, manifest: Manifest) -> Manifest:
        return self._call("create", manifest["apiVersion"], manifest["kind"], body=manifest)

    def replace(self, manifest: Manifest) -> Manifest:
        """Of the `resourceVersion` in it alone: 409 where somebody else has changed it since."""
        return self._call("replace", manifest["apiVersion"], manifest["kind"], body=manifest)

    def delete(self, version: str, kind: str, name: str, *, only: Manifest | None = None) -> None:
        """`only`: if it still is as in this answer."""
        metadata = only["metadata"] if only else {}
        same = {"preconditions": {field: metadata[field] for field in ("uid", "resourceVersion")}} if only else {}
        with contextlib.suppress(ResourceNotFoundError):
            try:
                self._call("delete", version, kind, name=name, body={"propagationPolicy": "Background", **same})
            except ApiException as error:
                if error.status != 404:
                    raise

    def has(self, version: str, kind: str) -> bool:
        try:
            self.dynamic.resources.get(api_version=version, kind=kind)
        except ResourceNotFoundError:
            return False
        return True

    def _call(self, verb: str, version: str, kind: str, **more: Any) -> Manifest:
        resource = self.dynamic.resources.get(api_version=version, kind=kind)
        call = getattr(self.dynamic, verb)
        answer = call(resource, namespace=self.namespace, serialize=False, _request_timeout=REQUEST_S, **more)
        return dict(json.loads(answer.data))


def applied(cluster: Cluster, manifest: Manifest) -> Manifest | None:
    """How we applied an object last, as it carries that itself."""
    found = cluster.find(*key(manifest))
    text = found and found["metadata"].get("annotations", {}).get(APPLIED)
    return json.loads(text) if text else None


def key(manifest: Manifest) -> Key:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def replica_sets(cluster: Cluster, deployment: Manifest) -> list[Manifest]:
    """Those of a Deployment, the newest first."""
    selector = deployment["spec"]["selector"]["matchLabels"]
    found = cluster.list("apps/v1", "ReplicaSet", ",".join(f"{name}={value}" for name, value in selector.items()))
    return sorted(found, key=revision, reverse=True)


def revision(replica_set: Manifest) -> int:
    return int(replica_set["metadata"].get("annotations", {}).get("deployment.kubernetes.io/revision", 0))


def label(found: Manifest) -> str:
    return str(found["spec"]["template"]["metadata"]["labels"].get(VERSION, ""))


def role(found: Manifest) -> str:
    return str(found["metadata"].get("labels", {}).get(ROLE, ""))


def told(error: Exception) -> Problem:
    """What went wrong, one of `ERRORS`, without the traceback's half of it."""
    if isinstance(error, ConfigException):
        return Problem("config", text=str(error))
    if not isinstance(error, ApiException):
        return Problem("unreachable", text=str(getattr(error, "reason", None) or error))
    try:
        text = json.loads(error.body or "")["message"]
    except (ValueError, KeyError, TypeError):
        text = str(error.reason)
    return Problem("refused", status=error.status, text=text)
