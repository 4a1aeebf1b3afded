"""One deployment at a time: a Lease in the namespace says who deploys there.

It is renewed as long as that goes on. One that was not for a while counts no more: whoever held it has gone. Each step
names the version of the Lease that it has seen, so that of two who come at once one finds that it was too late.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator

from kubernetes.client.exceptions import ApiException

from jingxiang.manifests import NAME, Manifest
from jingxiang.remotes.client import Problem, undisturbed
from jingxiang.remotes.kubernetes_client.api import ERRORS, Cluster, key

LEASE = f"{NAME}-deploy"
HEAD: Manifest = {
    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
    "metadata": {"name": LEASE, "labels": {"app.kubernetes.io/managed-by": NAME}},
}  # fmt: skip
# Longer than some requests that get no answer, and than clocks differ; renewed more often than that.
LASTS_S, RENEWED_S = 600, 30.0


class Lock:
    """A Lease that is ours."""

    def __init__(self, cluster: Cluster, lease: Manifest) -> None:
        self._cluster, self._lease = cluster, lease
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Now and then. Raises `Problem` (taken) if somebody else has broken it."""
        if time.monotonic() < self._renewed + RENEWED_S:
            return
        spec = {**self._lease["spec"], "renewTime": _now()}
        try:
            self._lease = self._cluster.replace({**self._lease, "spec": spec})
        except ApiException as error:
            if error.status not in (404, 409):
                raise
            raise Problem("taken", **_holder(self._cluster.find(*key(HEAD)))) from error
        self._renewed = time.monotonic()

    def release(self) -> None:
        """That of somebody else stays."""
        with contextlib.suppress(*ERRORS):
            self._cluster.delete(*key(HEAD), only=self._lease)


@contextlib.contextmanager
def lock(cluster: Cluster, *, by: str, is_broken: bool) -> Iterator[Lock]:
    """Hold the Lease. Raises `Problem` (locked) where somebody else does, unless that one `is_broken`."""
    held: Lock | None = None
    try:
        with undisturbed():
            held = Lock(cluster, _taken(cluster, by, is_broken=is_broken))
        yield held
    finally:
        if held:
            with undisturbed():
                held.release()


def _taken(cluster: Cluster, by: str, *, is_broken: bool) -> Manifest:
    found, now = cluster.find(*key(HEAD)), _now()
    if found and not (is_broken or _is_over(found)):
        raise Problem("locked", **_holder(found))
    spec = {"holderIdentity": by, "acquireTime": now, "renewTime": now, "leaseDurationSeconds": LASTS_S}
    try:
        return cluster.replace({**found, "spec": spec}) if found else cluster.create({**HEAD, "spec": spec})
    except ApiException as error:
        if error.status not in (404, 409):
            raise
        if error.status == 404 and not found:  # there is no such namespace
            raise Problem("absent") from error
        raise Problem("locked", **_holder(cluster.find(*key(HEAD)))) from error  # somebody was faster


def _is_over(lease: Manifest) -> bool:
    spec = lease["spec"]
    renewed = datetime.datetime.fromisoformat((spec.get("renewTime") or spec["acquireTime"]).replace("Z", "+00:00"))
    seconds = (datetime.datetime.now(datetime.timezone.utc) - renewed).total_seconds()
    return bool(seconds > spec["leaseDurationSeconds"])


def _holder(lease: Manifest | None) -> dict[str, str]:
    spec = lease["spec"] if lease else {}
    return {"by": spec.get("holderIdentity", ""), "since": spec.get("acquireTime", "")}


def _now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")
