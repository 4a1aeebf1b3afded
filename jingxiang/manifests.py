"""What runs in a namespace of Kubernetes, as values: the manifests of a deployment.

One GPU: one pod that serves the page and makes videos, its queue and videos on a volume. Several: a page, and workers
of one GPU each over one PostgreSQL, pictures and videos in a bucket or on a volume that all of them mount. The page
comes after the workers: it starts when one of them takes jobs, and so is the gate for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jingxiang.container_plan import DRAIN_S
from jingxiang.digest import canonical_json
from jingxiang.image_definition import Definition
from jingxiang.redaction import HIDDEN
from jingxiang.targets import BUCKET_KEYS, KubernetesTarget

Manifest: TypeAlias = dict[str, Any]

NAME = "jingxiang"
APP, WEB, WORKER, DATABASE = "app", "web", "worker", "database"
SECRET, FAILED = f"{NAME}-secrets", f"{NAME}-failed"  # FAILED: a ConfigMap with the log of what did not get ready
# What the Secret holds: the file of those who may log in, the address of the job store, the database's own password
# (and what a bucket is opened with: `targets.BUCKET_KEYS`).
PASSWORDS, JOBS, DATABASE_PASSWORD = "passwords", "JINGXIANG_JOBS", "POSTGRES_PASSWORD"
SECRETS_FOLDER = "/run/secrets/jingxiang"
MEDIA = "/media"  # where the volume is that several pods share
EDITION = f"{NAME}/secrets"  # changes with the Secret, so that pods are made again that have read it
# What `status` and `rollback` read, kept by Kubernetes with each version. APPLIED: the manifest itself.
IMAGE, BY, AT, HOW, APPLIED = (f"{NAME}/{word}" for word in ("image", "by", "at", "how", "applied"))
KEDA = "keda.sh/v1alpha1"
# Pinned by its major version alone: it gets security fixes, and its files stay as they are.
POSTGRES = "docker.io/library/postgres:17-bookworm"
POSTGRES_USER = 999  # in that image
KEPT = 3  # versions that can be rolled back to
# Videos of more than 20 GB are deleted by the app (--keep-gb); the rest is for pictures, the job store and logs.
OUTPUTS_SIZE, DATABASE_SIZE = "30Gi", "5Gi"
STARTUP_EVERY_S = 10
MARGIN_S = 30  # between the end of that and being killed
TCP = {"protocol": "TCP"}  # said, because server-side apply finds an entry by it
CONFINED = {
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """What is to run there. `image`: HOST/NAME@DIGEST; `on_gpu`: whether pods that make videos get a card;
    `ready_s`: seconds that a version may take to get ready; `drain_s`: seconds that a job may still take when its pod
    is to go; `edition`: of the Secret; `notes`: annotations of the release; `has_keda`: whether the cluster scales on
    queue length; `owns_database`: whether PostgreSQL is ours, too."""

    target: KubernetesTarget
    definition: Definition
    image: str
    version: str
    on_gpu: bool = True
    ready_s: int = 900
    drain_s: int = DRAIN_S
    edition: str = ""
    notes: Mapping[str, str] | None = None
    has_keda: bool = False
    owns_database: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether several pods have one queue."""
        return self.target.gpus > 1


@dataclass(frozen=True)
class Stage:
    """What is applied together; then its Deployments and StatefulSets must get ready before the next one."""

    manifests: tuple[Manifest, ...]


def stages(cluster: Cluster) -> tuple[Stage, ...]:
    """All but the Secret, in the order to apply."""
    if not cluster.is_shared:
        return (Stage((_volume(cluster, "ReadWriteOnce"), _service(), _app(cluster))),)
    shared = () if cluster.target.media else (_volume(cluster, "ReadWriteMany"),)
    database = (_database_service(), _database(cluster)) if cluster.owns_database else ()
    scaled = (_scaled(cluster),) if cluster.has_keda else ()
    first = (Stage((*shared, *database)),) if shared or database else ()
    return (*first, Stage((_worker(cluster), *scaled)), Stage((_service(WEB), _web(cluster))))


def strategy(cluster: Cluster) -> str:
    """How versions follow each other, as Kubernetes calls it."""
    return "RollingUpdate" if cluster.is_shared else "Recreate"


def secret(values: Mapping[str, str], edition: str) -> Manifest:
    """The Secret. Values go into it and nowhere else."""
    return {
        **_head("v1", "Secret", SECRET, ""),
        "type": "Opaque",
        "stringData": {**values, "edition": edition},
    }


def recorded(manifest: Manifest) -> Manifest:
    """A manifest that carries itself: to apply that again brings its version back."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: canonical_json(manifest).decode()}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def to_yaml(manifests: Sequence[Manifest]) -> str:
    """As files for `kubectl apply` have it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes what occurs twice twice: anchors are for machines."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    return str(yaml.dump_all(manifests, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120))


def database_url(target: KubernetesTarget, password: str) -> str:
    """Of the PostgreSQL that is ours. With the namespace: KEDA asks it, too, and lives in another one."""
    host = f"{_name(DATABASE)}.{target.namespace}.svc"
    return f"postgresql://{NAME}:{password}@{host}/{NAME}"


def shown(cluster: Cluster, names: Sequence[str]) -> str:
    """Everything as YAML, with the names of what the Secret holds and not what they are."""
    hidden = secret(dict.fromkeys(names, HIDDEN), cluster.edition or HIDDEN)
    return to_yaml([hidden, *(manifest for stage in stages(cluster) for manifest in stage.manifests)])


def _app(cluster: Cluster) -> Manifest:
    """Page and worker in one pod; another one cannot have the same card, nor the same SQLite."""
    pod = _pod(cluster, APP, [])
    return _deployment(cluster, APP, pod, rollout={"type": "Recreate"}, replicas=1)


def _web(cluster: Cluster) -> Manifest:
    pod = _pod(cluster, WEB, ["serve", "--workers", "0"])
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    return _deployment(cluster, WEB, pod, rollout=rolling, replicas=1)


def _worker(cluster: Cluster) -> Manifest:
    """One after the other: there is no card for one more. With KEDA their number is not ours to say."""
    pod = _pod(cluster, WORKER, ["worker"])
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    replicas = None if cluster.has_keda else cluster.target.gpus
    return _deployment(cluster, WORKER, pod, rollout=rolling, replicas=replicas)


def _deployment(cluster: Cluster, role: str, pod: Manifest, *, rollout: Manifest, replicas: int | None) -> Manifest:
    found = _head("apps/v1", "Deployment", _name(role), role)
    found["metadata"]["annotations"] = {IMAGE: cluster.image, **(cluster.notes or {})}
    labels = {**_labels(role), "app.kubernetes.io/version": cluster.version}
    template = {"metadata": {"labels": labels, "annotations": {EDITION: cluster.edition}}, "spec": pod}
    return {
        **found,
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": KEPT,
            "progressDeadlineSeconds": cluster.ready_s,
            # A worker has nothing to be asked by: it counts when it has not ended for so long.
            "minReadySeconds": 0 if role != WORKER else 10,
            "strategy": rollout,
            "selector": {"matchLabels": _labels(role)},
            "template": template,
        },
    }


def _pod(cluster: Cluster, role: str, args: Sequence[str]) -> Manifest:
    makes_videos, serves = role != WEB, role != WORKER
    target = cluster.target
    volumes, mounts = _storage(cluster, serves=serves)
    container: Manifest = {
        "name": role,
        "image": cluster.image,
        **({"args": list(args)} if args else {}),
        "env": _environment(cluster, serves=serves, makes_videos=makes_videos),
        "resources": _resources(cluster, makes_videos=makes_videos),
        "securityContext": CONFINED,
        "volumeMounts": mounts,
    }
    if serves:
        container["ports"] = [{"name": "http", "containerPort": cluster.definition.port, **TCP}]
        container |= _probes(cluster)
    return {
        # Longer than a video that is being made may still take. The app bounds no job as such: what takes longer than
        # that is made anew by the next version.
        "terminationGracePeriodSeconds": _drain_s(cluster, makes_videos=makes_videos) + MARGIN_S,
        **_hardening(cluster.definition.user),
        **_pull(target),
        "containers": [container],
        "volumes": volumes,
    }


def _environment(cluster: Cluster, *, serves: bool, makes_videos: bool) -> list[Manifest]:
    """What is in the image's own environment is not repeated."""
    media = cluster.target.media
    found = [{"name": "JINGXIANG_DRAIN_S", "value": str(_drain_s(cluster, makes_videos=makes_videos))}]
    found += [_from_secret(JOBS)] if cluster.is_shared else []
    if media or cluster.is_shared:
        found += [{"name": "JINGXIANG_MEDIA", "value": media or MEDIA}]
    if media:
        found += [_from_secret(name, is_optional=True) for name in BUCKET_KEYS]
    if serves:
        found += [{"name": "JINGXIANG_PASSWORD_FILE", "value": f"{SECRETS_FOLDER}/{PASSWORDS}"}]
    return found


def _drain_s(cluster: Cluster, *, makes_videos: bool) -> int:
    return cluster.drain_s if makes_videos else MARGIN_S


def _storage(cluster: Cluster, *, serves: bool) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes, and where they are mounted. Of several pods each has its own logs; only videos are shared."""
    claim: Manifest = {"persistentVolumeClaim": {"claimName": _volume_name(cluster)}}
    outputs: Manifest = {"emptyDir": {}} if cluster.is_shared else claim
    volumes: list[Manifest] = [{"name": "outputs", **outputs}, {"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [
        {"name": "outputs", "mountPath": cluster.definition.outputs},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 (in the pod)
    ]
    if cluster.is_shared and not cluster.target.media:
        volumes.append({"name": "media", **claim})
        mounts.append({"name": "media", "mountPath": MEDIA})
    if serves:
        items = [{"key": PASSWORDS, "path": PASSWORDS}]
        # optional is said because podman 4.3 falls over where it is not
        source = {"secretName": SECRET, "items": items, "defaultMode": 0o440, "optional": False}
        volumes.append({"name": "secrets", "secret": source})
        mounts.append({"name": "secrets", "mountPath": SECRETS_FOLDER, "readOnly": True})
    return volumes, mounts


def _probes(cluster: Cluster) -> Manifest:
    """Ready once, when a worker takes jobs; then as long as the server answers: the page itself says that a worker is
    gone, and takes jobs for the next one."""
    failures = -(-cluster.ready_s // STARTUP_EVERY_S)
    return {
        "startupProbe": {**_get("/readyz"), "periodSeconds": STARTUP_EVERY_S, "failureThreshold": failures},
        "readinessProbe": {**_get("/healthz"), "periodSeconds": 5},
        "livenessProbe": {**_get("/healthz"), "periodSeconds": 15, "failureThreshold": 4},
    }


def _get(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5}


def _resources(cluster: Cluster, *, makes_videos: bool) -> Manifest:
    """Requests so that a node is not overbooked; no limit of memory: loading a model takes more for a moment."""
    requests = {"cpu": "1", "memory": "4Gi"} if makes_videos else {"cpu": "250m", "memory": "512Mi"}
    card = {"limits": {"nvidia.com/gpu": "1"}} if makes_videos and cluster.on_gpu else {}
    return {"requests": requests, **card}


def _hardening(user: int) -> Manifest:
    return {
        "automountServiceAccountToken": False,
        # else a Service called jingxiang would put JINGXIANG_PORT=tcp://… into the environment
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip


def _pull(target: KubernetesTarget) -> Manifest:
    return {"imagePullSecrets": [{"name": target.pull}]} if target.pull else {}


def _service(role: str = APP) -> Manifest:
    """Reached from within the cluster only: whoever wants more puts an Ingress with TLS in front."""
    spec = {"selector": _labels(role), "ports": [{"name": "http", "port": 80, "targetPort": "http", **TCP}]}
    return {**_head("v1", "Service", NAME, role), "spec": {"type": "ClusterIP", **spec}}


def _volume(cluster: Cluster, access: str) -> Manifest:
    head = _head("v1", "PersistentVolumeClaim", _volume_name(cluster), "")
    return {**head, "spec": _claim(cluster, access, OUTPUTS_SIZE)}


def _claim(cluster: Cluster, access: str, size: str) -> Manifest:
    storage = {"storageClassName": cluster.target.storage} if cluster.target.storage else {}
    return {"accessModes": [access], **storage, "resources": {"requests": {"storage": size}}}


def _volume_name(cluster: Cluster) -> str:
    """Not the same: how a volume is accessed cannot be changed, and what the other one holds must not be lost."""
    return f"{NAME}-media" if cluster.is_shared else f"{NAME}-outputs"


def _database_service() -> Manifest:
    ports = [{"name": "postgres", "port": 5432, "targetPort": "postgres", **TCP}]
    spec = {"clusterIP": "None", "selector": _labels(DATABASE), "ports": ports}
    return {**_head("v1", "Service", _name(DATABASE), DATABASE), "spec": spec}


def _database(cluster: Cluster) -> Manifest:
    ready = {"exec": {"command": ["pg_isready", "-U", NAME, "-d", NAME]}, "periodSeconds": 5, "timeoutSeconds": 5}
    data = "/var/lib/postgresql/data"
    mounts = [("data", data), ("run", "/var/run/postgresql"), ("tmp", "/tmp")]  # noqa: S108 (in the pod)
    container = {
        "name": DATABASE,
        "image": cluster.target.database or POSTGRES,
        "env": [
            {"name": "POSTGRES_USER", "value": NAME},
            {"name": "POSTGRES_DB", "value": NAME},
            _from_secret(DATABASE_PASSWORD),
            {"name": "PGDATA", "value": f"{data}/pgdata"},  # a volume's own folder may hold lost+found
        ],
        "ports": [{"name": "postgres", "containerPort": 5432, **TCP}],
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}},
        "readinessProbe": ready,
        "securityContext": CONFINED,
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts],
    }
    claim: Manifest = {
        "metadata": {"name": "data", "labels": {"app.kubernetes.io/managed-by": NAME}},
        "spec": _claim(cluster, "ReadWriteOnce", DATABASE_SIZE),
    }
    pod = {
        "terminationGracePeriodSeconds": MARGIN_S,
        **_hardening(POSTGRES_USER),
        **_pull(cluster.target),
        "containers": [container],
        "volumes": [{"name": "run", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    spec = {
        "serviceName": _name(DATABASE),
        "replicas": 1,
        "selector": {"matchLabels": _labels(DATABASE)},
        "template": {"metadata": {"labels": _labels(DATABASE)}, "spec": pod},
        "volumeClaimTemplates": [claim],
    }
    return {**_head("apps/v1", "StatefulSet", _name(DATABASE), DATABASE), "spec": spec}


def _scaled(cluster: Cluster) -> Manifest:
    """One card for each job that waits or runs, up to all of them; one worker always stays."""
    trigger = {
        "type": "postgresql",
        "metadata": {
            "connectionFromEnv": JOBS,
            "query": "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')",
            "targetQueryValue": "1",
        },
    }
    spec = {
        "scaleTargetRef": {"name": _name(WORKER)},
        "minReplicaCount": 1,
        "maxReplicaCount": cluster.target.gpus,
        "triggers": [trigger],
    }
    return {**_head(KEDA, "ScaledObject", _name(WORKER), WORKER), "spec": spec}


def _head(version: str, kind: str, name: str, role: str) -> Manifest:
    labels = {**_labels(role), "app.kubernetes.io/managed-by": NAME}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}}


def _labels(role: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": NAME, **({"app.kubernetes.io/component": role} if role else {})}


def _name(role: str) -> str:
    return f"{NAME}-{role}"


def _from_secret(name: str, *, is_optional: bool = False) -> Manifest:
    found: Manifest = {"name": SECRET, "key": name}
    return {"name": name, "valueFrom": {"secretKeyRef": found | ({"optional": True} if is_optional else {})}}
