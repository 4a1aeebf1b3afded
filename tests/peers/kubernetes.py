"""A real control plane of Kubernetes: etcd, API server and the controllers of Deployments and StatefulSets.

Only the kubelet is ours: nothing runs, but pods are told to be what a word in their image says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers import system

TOKEN, LIMITED = "token-of-the-tests", "token-of-somebody"
START_S = 120
LOOK_S = 0.2
NODE = "gpu-1"  # where all pods are
CONTROLLERS = "deployment,replicaset,statefulset,garbagecollector,namespace,serviceaccount"
SCALED = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "scaledobjects.keda.sh"},
    "spec": {
        "group": "keda.sh",
        "scope": "Namespaced",
        "names": {"plural": "scaledobjects", "singular": "scaledobject", "kind": "ScaledObject"},
        "versions": [{
            "name": "v1alpha1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        }],
    },
}  # fmt: skip


@dataclass
class ControlPlane:
    """`config`: for KUBECONFIG, with the contexts `test`, who may do everything, and `somebody`; `broken`: words of
    images, and what becomes of their pods; `lingers_s`: how long a pod takes to end."""

    port: int
    config: Path
    certificate: Path
    broken: dict[str, str] = field(default_factory=dict)
    lingers_s: float = 0.0
    ending: dict[str, float] = field(default_factory=dict)  # since when, by the monotonic clock

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """Raises `AssertionError` with the server's own words."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 300 or answer.status == 404, f"{method} {path}: {answer.status} {text!r}"
        return json.loads(text) if text[:1] == b"{" and answer.status != 404 else None

    def names(self, path: str) -> list[str]:
        return sorted(each["metadata"]["name"] for each in self.ask("GET", path)["items"])

    def add_keda(self) -> None:
        self.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", SCALED)
        _until(lambda: self.ask("GET", "/apis/keda.sh/v1alpha1") is not None)

    def add_storage(self, name: str) -> None:
        metadata = {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
        body = {"metadata": metadata, "provisioner": "tests/none"}
        self.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", body)

    def allow(self, namespace: str, rights: list[tuple[str, str]]) -> None:
        """What `somebody` may do there: verbs with resources."""
        there = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        rules = [{"apiGroups": ["*"], "verbs": [verb], "resources": [resource]} for verb, resource in rights]
        self.ask("POST", f"{there}/roles", {"metadata": {"name": "rights"}, "rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rights"}
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}
        binding = {"metadata": {"name": "rights"}, "roleRef": role, "subjects": [user]}
        self.ask("POST", f"{there}/rolebindings", binding)

    def lead(self, namespace: str, port: int) -> None:
        """Have a program on this machine, which listens on all addresses, answer for the one pod there."""
        known = self.ask("GET", "/api/v1/namespaces/default/endpoints/kubernetes")
        address = known["subsets"][0]["addresses"][0]  # not loopback: such ones the server asks nothing
        there = f"/api/v1/namespaces/{namespace}"
        (pod,) = self.names(f"{there}/pods")
        status = {"podIP": address["ip"], "podIPs": [address]}
        self.ask("PATCH", f"{there}/pods/{pod}/status", {"status": status}, "application/merge-patch+json")
        target = {"kind": "Pod", "name": pod, "namespace": namespace}
        subset = {"addresses": [{**address, "targetRef": target}], "ports": [{"name": "http", "port": port}]}
        self.ask("POST", f"{there}/endpoints", {"metadata": {"name": "jingxiang"}, "subsets": [subset]})

    def add_node(self, cards: int) -> None:
        labels = {"nvidia.com/gpu.product": "NVIDIA-L20", "nvidia.com/gpu.memory": "46068",
                  "nvidia.com/cuda.driver.major": "550"}  # fmt: skip
        self.ask("POST", "/api/v1/nodes", {"metadata": {"name": NODE, "labels": labels}})
        there = {"nvidia.com/gpu": str(cards), "pods": "110", "cpu": "64", "memory": "512Gi"}
        patch = {"status": {"allocatable": there, "capacity": there}}
        self.ask("PATCH", f"/api/v1/nodes/{NODE}/status", patch, "application/merge-patch+json")

    def tend(self) -> None:
        """What kubelets would do, once: new pods get a status, those that are to go are gone."""
        for pod in self.ask("GET", "/api/v1/pods")["items"]:
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
            if "deletionTimestamp" in pod["metadata"]:
                if time.monotonic() >= self.ending.setdefault(path, time.monotonic()) + self.lingers_s:
                    self.ask("DELETE", path, {"gracePeriodSeconds": 0})
                continue
            image = pod["spec"]["containers"][0]["image"]
            fate = next((fate for word, fate in self.broken.items() if word in image), "runs")
            if fate != "waits" and "nodeName" not in pod["spec"]:
                target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
                name = pod["metadata"]["name"]
                self.ask("POST", f"{path}/binding", {"metadata": {"name": name}, "target": target})
            wanted = _status(pod, fate)
            if pod["status"].get("containerStatuses") != wanted["containerStatuses"]:
                self.ask("PATCH", f"{path}/status", {"status": wanted}, "application/merge-patch+json")


def _status(pod: dict[str, Any], fate: str) -> dict[str, Any]:
    container = pod["spec"]["containers"][0]
    now = "2026-01-01T00:00:00Z"
    states = {
        "runs": {"running": {"startedAt": now}},
        "ends": {"terminated": {"exitCode": 3, "reason": "Error", "startedAt": now, "finishedAt": now}},
        "stuck": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
        "waits": {"waiting": {"reason": "ContainerCreating"}},
    }
    ready = fate == "runs"
    found = {"name": container["name"], "image": container["image"], "imageID": "", "ready": ready, "started": ready,
             "restartCount": 0, "state": states[fate], "lastState": {}}  # fmt: skip
    conditions = [
        {"type": name, "status": str(ready), "lastTransitionTime": now} for name in ("Ready", "ContainersReady")
    ]
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}
    if fate == "waits":
        scheduled |= {"status": "False", "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}
    return {
        "phase": "Running" if ready else "Pending",
        "containerStatuses": [found],
        "conditions": [*conditions, scheduled],
    }


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Started from nothing, and gone afterwards. `folder`: empty."""
    binaries = system.kubernetes()
    ports = [system.free_port() for _ in range(4)]
    store, peer = (f"http://127.0.0.1:{port}" for port in ports[:2])
    config, certificate = folder / "kubeconfig", folder / "certificates" / "apiserver.crt"
    (folder / "tokens").write_text(f"{TOKEN},tests,1,system:masters\n{LIMITED},somebody,2\n")
    subprocess.run(["openssl", "genrsa", "-out", folder / "key", "2048"], check=True, capture_output=True)
    users = [{"name": name, "user": {"token": token}} for name, token in (("test", TOKEN), ("somebody", LIMITED))]
    cluster = {
        "name": "test",
        "cluster": {"server": f"https://127.0.0.1:{ports[2]}", "certificate-authority": str(certificate)},
    }
    contexts = [{"name": each["name"], "context": {"cluster": "test", "user": each["name"]}} for each in users]
    known = {"users": users, "clusters": [cluster], "contexts": contexts, "current-context": "test"}
    config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **known}))
    argvs: tuple[list[str | Path], ...] = (
        ["etcd", "--data-dir", folder / "etcd", "--listen-client-urls", store, "--advertise-client-urls", store,
         "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
         "--unsafe-no-fsync"],
        [binaries / "kube-apiserver", f"--etcd-servers={store}", f"--secure-port={ports[2]}",
         "--bind-address=127.0.0.1",
         f"--cert-dir={folder}/certificates", "--service-account-issuer=https://tests", "--api-audiences=tests",
         f"--service-account-key-file={folder}/key", f"--service-account-signing-key-file={folder}/key",
         f"--token-auth-file={folder}/tokens", "--authorization-mode=RBAC", "--insecure-port=0",
         "--service-cluster-ip-range=10.96.0.0/16"],
        [binaries / "kube-controller-manager", f"--kubeconfig={config}", "--port=0", f"--secure-port={ports[3]}",
         "--bind-address=127.0.0.1",
         f"--cert-dir={folder}/controllers", f"--controllers={CONTROLLERS}",
         f"--service-account-private-key-file={folder}/key", "--leader-elect=false"],
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        found = ControlPlane(ports[2], config, certificate)
        for argv in argvs:
            log = stack.enter_context((folder / f"{Path(str(argv[0])).name}.log").open("wb"))
            process = stack.enter_context(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            stack.callback(process.terminate)
            if "apiserver" in str(argv[0]):
                _until(lambda: found.ask("GET", "/api/v1/namespaces/default") is not None)
        _until(lambda: found.ask("GET", "/api/v1/namespaces/default/serviceaccounts/default") is not None)
        ended = threading.Event()
        kubelet = threading.Thread(target=_tend, args=(found, ended))
        kubelet.start()
        try:
            yield found
        finally:
            ended.set()
            kubelet.join()


def _tend(found: ControlPlane, ended: threading.Event) -> None:
    while not ended.wait(LOOK_S):
        with contextlib.suppress(AssertionError):  # somebody else changed the pod meanwhile; the next look will do
            found.tend()


def _until(holds: Any) -> None:
    end = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError, AssertionError):
            if holds():
                return
        assert time.monotonic() < end
        time.sleep(LOOK_S)
