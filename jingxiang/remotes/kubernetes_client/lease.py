"""One deployment at a time: a Lease in the namespace says who deploys there."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator

from kubernetes.client.exceptions import ApiException

from jingxiang.manifests import NAME
from jingxiang.remotes.kubernetes_client.api import Cluster, Problem, key

LEASE = f"{NAME}-deploy"
MARGIN_S = 1500  # beyond the time that two versions get: what runs before either may finish its videos


@contextlib.contextmanager
def lock(cluster: Cluster, *, by: str, timeout_s: int, is_broken: bool) -> Iterator[None]:
    """One deployment at a time, by a Lease that says who. One that has run out counts no more."""
    now = datetime.datetime.now(datetime.timezone.utc)
    spec = {
        "holderIdentity": by, "acquireTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "leaseDurationSeconds": 2 * timeout_s + MARGIN_S,  # to get ready, and to be undone
    }  # fmt: skip
    metadata = {"name": LEASE, "labels": {"app.kubernetes.io/managed-by": NAME}}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    found = cluster.find(*key(lease))
    if found:
        since = datetime.datetime.fromisoformat(found["spec"]["acquireTime"].replace("Z", "+00:00"))
        is_over = (now - since).total_seconds() > found["spec"]["leaseDurationSeconds"]
        if not (is_over or is_broken):
            raise Problem("locked", by=found["spec"]["holderIdentity"], since=found["spec"]["acquireTime"])
        cluster.delete(*key(lease))
    try:
        cluster.create(lease)
    except ApiException as error:
        if error.status == 404:  # there is no such namespace
            raise Problem("absent") from error
        if error.status != 409:
            raise
        raise Problem("locked", by="", since="") from error  # somebody was faster
    try:
        yield
    finally:
        cluster.delete(*key(lease))
