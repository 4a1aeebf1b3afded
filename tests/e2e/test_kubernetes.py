"""k8s:// against a real API server with the real controllers; only the kubelet is played (tests/peers/kubernetes.py)"""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jingxiang import mirrors, remotes, targets
from jingxiang.commands import engines
from jingxiang.deploy_plan import DOWN, LOCKED, RESTORED, DeployError, NotReady, Order
from jingxiang.errors import UnknownName, UsageError
from jingxiang.findings import NOTE, PROBLEM
from jingxiang.places import here
from jingxiang.remotes.kubernetes import Kubernetes
from tests.peers import kubernetes
from tests.peers.images import Versions
from tests.peers.kubernetes import ControlPlane

pytestmark = pytest.mark.e2e
ORDER = Order(registry="registry.example/video", timeout_s=60)
NUMBERS = itertools.count(1)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with kubernetes.control_plane(tmp_path_factory.mktemp("plane")) as found:
        found.add_node(2)
        found.add_storage("standard")
        yield found


@pytest.fixture
def remote(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    """A namespace of the test's own."""
    monkeypatch.setenv("KUBECONFIG", str(plane.config))
    monkeypatch.delenv("JINGXIANG_JOBS", raising=False)
    plane.broken.clear()
    plane.lingers_s = 0
    return in_namespace(f"test-{next(NUMBERS)}")


def in_namespace(name: str, options: str = "", context: str = "test") -> Kubernetes:
    address = f"k8s://{context}/{name}{options}"
    found = remotes.of(
        targets.parse(address), address,
        lambda tool: engines.tools(here(), mirrors.load(here().root), mirror="auto", name=tool),
    )  # fmt: skip
    assert isinstance(found, Kubernetes)
    return found


def namespace(remote: Kubernetes) -> str:
    return remote.target.namespace


def images_there(plane: ControlPlane, remote: Kubernetes) -> dict[str, str]:
    """The image of each Deployment, by the word in it."""
    items = plane.ask("GET", DEPLOYMENTS.format(namespace(remote)))["items"]
    containers = {each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0] for each in items}
    return {name: found["image"].split("/")[2].split("@")[0] for name, found in containers.items()}


def secrets(plane: ControlPlane, remote: Kubernetes) -> dict[str, str]:
    data = plane.ask("GET", f"/api/v1/namespaces/{namespace(remote)}/secrets/jingxiang-secrets")["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def test_from_nothing_to_a_second_version_back_and_away(
    plane: ControlPlane, remote: Kubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remote.status().state == "absent"
    seen = Versions("one")
    done = remote.deploy(ORDER, seen)
    assert done.strategy == "Recreate"
    assert done.hint.endswith("port-forward service/jingxiang 7860:80")
    assert [(card.name, card.driver, card.memory_bytes >> 30) for card in seen.seen[0].cards] == [
        ("NVIDIA-L20", "550", 44)
    ]
    assert images_there(plane, remote) == {"jingxiang-app": "one"}
    made = secrets(plane, remote)
    assert set(made) == {"edition", "passwords"}
    name, password = made["passwords"].strip().split(":")
    assert f"user {name}, password {password}" in capsys.readouterr().err

    remote.deploy(ORDER, Versions("two"))
    assert secrets(plane, remote) == made  # nobody has to log in anew
    status = remote.status()
    assert (status.state, status.kept) == ("ready", (done.version,))
    assert [each.how for each in status.releases] == ["deploy", "deploy"]
    with pytest.raises(UnknownName):
        remote.rollback(ORDER, "12345678")
    assert remote.rollback(ORDER, "").version == done.version
    assert images_there(plane, remote) == {"jingxiang-app": "one"}
    assert remote.status().releases[0].how == "rollback"

    remote.destroy(ORDER, volumes=False)
    there = f"/api/v1/namespaces/{namespace(remote)}"
    assert plane.names(f"{there}/persistentvolumeclaims") == ["jingxiang-outputs"]
    assert images_there(plane, remote) == {}
    remote.deploy(ORDER, Versions("one"))
    assert secrets(plane, remote) == made
    remote.destroy(ORDER, volumes=True)
    assert plane.names(f"{there}/services") == []
    assert "jingxiang-secrets" not in plane.names(f"{there}/secrets")


@pytest.mark.parametrize(("fate", "words"), [
    ("ends", "ended with exit code 3"), ("stuck", "ImagePullBackOff: Back-off pulling image"),
    ("waits", "was not ready within 5 s: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
])  # fmt: skip
def test_what_does_not_get_ready_is_undone(plane: ControlPlane, remote: Kubernetes, fate: str, words: str) -> None:
    """At first there is nothing to go back to, later there is."""
    order = replace(ORDER, timeout_s=5 if fate == "waits" else 60)
    plane.broken["bad"] = fate
    with pytest.raises(DeployError) as caught:
        remote.deploy(order, Versions("bad"))
    assert words in caught.value.message
    assert caught.value.message.endswith("nothing is serving; what was applied was taken back")
    assert caught.value.exit_code == DOWN
    assert images_there(plane, remote) == {}

    good = remote.deploy(ORDER, Versions("good"))
    with pytest.raises(DeployError) as caught:
        remote.deploy(order, Versions("bad"))
    assert caught.value.exit_code == RESTORED
    assert caught.value.message.endswith(f"still serving: {good.version}")
    assert images_there(plane, remote) == {"jingxiang-app": "good"}
    assert remote.status().state == "ready"


@pytest.mark.parametrize(("before", "number"), [("", signal.SIGINT), ("good", signal.SIGINT), ("good", signal.SIGTERM)])
def test_an_interruption_is_undone_and_leaves_no_lock(
    plane: ControlPlane, remote: Kubernetes, before: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C or a polite kill, while the pod of the new version waits for a card."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, end)
    serves = remote.deploy(ORDER, Versions(before)).version if before else ""
    plane.broken["bad"] = "waits"
    pods = f"/api/v1/namespaces/{namespace(remote)}/pods"

    def interrupt() -> None:
        while not any("/bad@" in each["spec"]["containers"][0]["image"] for each in plane.ask("GET", pods)["items"]):
            time.sleep(0.1)
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        remote.deploy(ORDER, Versions("bad"))
    watcher.join()
    signal.signal(signal.SIGTERM, earlier)
    assert images_there(plane, remote) == ({"jingxiang-app": "good"} if before else {})
    assert plane.names(LEASES.format(namespace(remote))) == []
    said = f"still serving: {serves}" if before else "nothing is serving; what was applied was taken back"
    assert capsys.readouterr().err.endswith(f"serving  {said}\n")
    if before:
        assert remote.status().state == "ready"


def test_passwords_of_a_version_that_was_undone_are_not_kept(
    plane: ControlPlane, remote: Kubernetes, tmp_path: Path
) -> None:
    remote.deploy(ORDER, Versions("good"))
    made = secrets(plane, remote)
    (tmp_path / "passwords").write_text("li:correct-horse\n")
    order = replace(ORDER, passwords=tmp_path / "passwords")
    plane.broken["bad"] = "ends"
    with pytest.raises(DeployError):
        remote.deploy(order, Versions("bad"))
    assert secrets(plane, remote) == made
    with pytest.raises(DeployError):
        in_namespace(namespace(remote), "?gpus=2").deploy(order, Versions("bad"))
    there = secrets(plane, remote)
    assert {name: there[name] for name in made} == made
    assert set(there) - set(made) == {"JINGXIANG_JOBS", "POSTGRES_PASSWORD"}  # its database stays, and has no other
    remote.deploy(order, Versions("fine"))
    assert secrets(plane, remote)["passwords"] == "li:correct-horse\n"


def test_a_video_that_is_being_made_is_not_counted_against_the_new_version(
    plane: ControlPlane, remote: Kubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.deploy(ORDER, Versions("one"))
    plane.lingers_s = 12
    remote.deploy(replace(ORDER, timeout_s=6), Versions("two"))
    assert images_there(plane, remote) == {"jingxiang-app": "two"}
    assert capsys.readouterr().err.count(" finishes the videos that it is at\n") == 1


def test_several_cards(plane: ControlPlane, remote: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = remote.deploy(ORDER, Versions("one"))
    many = in_namespace(namespace(remote), "?gpus=2")
    plane.broken["bad"] = "ends"
    with pytest.raises(DeployError) as caught:
        many.deploy(ORDER, Versions("bad"))
    assert caught.value.message.endswith(f"still serving: {first.version}")
    assert images_there(plane, many) == {"jingxiang-app": "one"}
    done = many.deploy(ORDER, Versions("two"))
    assert images_there(plane, many) == {"jingxiang-web": "two", "jingxiang-worker": "two"}  # that of one card has gone
    found = secrets(plane, many)
    host = f"jingxiang-database.{namespace(many)}.svc/jingxiang"
    assert found["JINGXIANG_JOBS"] == f"postgresql://jingxiang:{found['POSTGRES_PASSWORD']}@{host}"
    assert found["POSTGRES_PASSWORD"] not in many.plan(ORDER, Versions("two"))

    with pytest.raises(DeployError) as caught:
        many.deploy(ORDER, Versions("bad"))
    assert caught.value.message.endswith(f"still serving: {done.version}")
    assert images_there(plane, many) == {"jingxiang-web": "two", "jingxiang-worker": "two"}

    # the number of workers is left to whoever scales them
    plane.add_keda()
    many = in_namespace(namespace(remote), "?gpus=2")
    many.deploy(ORDER, Versions("three"))
    path = f"{DEPLOYMENTS.format(namespace(many))}/jingxiang-worker"
    assert plane.names(f"/apis/keda.sh/v1alpha1/namespaces/{namespace(many)}/scaledobjects") == ["jingxiang-worker"]
    plane.ask("PATCH", path, {"spec": {"replicas": 3}}, "application/merge-patch+json")
    # each of them takes ten seconds and more, one after the other: the time is that of one
    in_namespace(namespace(remote), "?gpus=2").deploy(replace(ORDER, timeout_s=20), Versions("four"))
    assert plane.ask("GET", path)["spec"]["replicas"] == 3
    assert many.rollback(ORDER, "").version != done.version
    assert set(images_there(plane, many).values()) == {"three"}

    # one that the user brings is kept, too
    monkeypatch.setenv("JINGXIANG_JOBS", "postgresql+psycopg://u:p@db.example/jobs")
    in_namespace(namespace(remote), "?gpus=2").deploy(ORDER, Versions("four"))
    assert secrets(plane, many)["JINGXIANG_JOBS"] == "postgresql://u:p@db.example/jobs"


def test_one_deployment_at_a_time(plane: ControlPlane, remote: Kubernetes) -> None:
    remote.deploy(ORDER, Versions("one"))
    leases = LEASES.format(namespace(remote))
    assert plane.names(leases) == []
    spec = {"holderIdentity": "li@desk", "acquireTime": "2126-01-01T00:00:00.000000Z", "leaseDurationSeconds": 60}
    plane.ask("POST", leases, {"metadata": {"name": "jingxiang-deploy"}, "spec": spec})
    with pytest.raises(DeployError) as caught:
        remote.deploy(ORDER, Versions("two"))
    assert caught.value.exit_code == LOCKED
    assert "li@desk deploys there since 2126-01-01" in caught.value.message
    assert images_there(plane, remote) == {"jingxiang-app": "one"}
    remote.deploy(replace(ORDER, breaks_lock=True), Versions("two"))
    assert images_there(plane, remote) == {"jingxiang-app": "two"}
    plane.ask("POST", leases, {"metadata": {"name": "jingxiang-deploy"},
                               "spec": spec | {"acquireTime": "2026-01-01T00:00:00.000000Z"}})  # fmt: skip
    remote.deploy(ORDER, Versions("three"))  # it has run out


# Two that have found the same Lease, which has run out; then the first is deprived of it.
TWO = """\
import json, sys
sys.path.append(sys.argv[1])
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from jingxiang.remotes.client import Problem
from jingxiang.remotes.kubernetes_client import lease
from jingxiang.remotes.kubernetes_client.api import Cluster, key
api = config.new_client_from_config(context="test")
cluster = Cluster(api, DynamicClient(api, cache_file=sys.argv[3]), sys.argv[2])
found = cluster.find(*key(lease.HEAD))
class Late(Cluster):
    seen = False
    def find(self, *name):
        was, Late.seen = Late.seen, True
        return cluster.find(*name) if was else found
lease.RENEWED_S = 0
said = []
with lease.lock(cluster, by="first", is_broken=False) as first:
    first.renew()
    try:
        lease._taken(Late(api, cluster.dynamic, cluster.namespace), "second", is_broken=False)
    except Problem as problem:
        said.append([problem.kind, problem.more["by"]])
    lease._taken(cluster, "third", is_broken=True)
    try:
        first.renew()
    except Problem as problem:
        said.append([problem.kind, problem.more["by"]])
print(json.dumps(said))
"""


def test_of_two_who_find_a_lock_that_has_run_out_one_gets_it_and_nobody_removes_that_of_another(
    plane: ControlPlane, remote: Kubernetes, tmp_path: Path
) -> None:
    remote.deploy(ORDER, Versions("one"))
    leases = LEASES.format(namespace(remote))
    spec = {"holderIdentity": "li@desk", "acquireTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 60}
    plane.ask("POST", leases, {"metadata": {"name": "jingxiang-deploy"}, "spec": spec})
    python = remote.tools("kubernetes")
    argv = [str(python), "-I", "-c", TWO, str(here().root), namespace(remote), str(tmp_path / "discovery")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["locked", "first"], ["taken", "third"]]
    assert plane.ask("GET", f"{leases}/jingxiang-deploy")["spec"]["holderIdentity"] == "third"


def test_what_the_check_says_is_needed_suffices(plane: ControlPlane, remote: Kubernetes) -> None:
    """Somebody who may do nothing gets what is missing, as it is said, and no more; with that all of it works."""
    name = namespace(remote)
    plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    address = f"k8s://somebody/{name}?gpus=2&media=s3://bucket/videos"
    theirs = in_namespace(name, "?gpus=2&media=s3://bucket/videos", context="somebody")
    (problem,) = [each for each in theirs.check(ORDER, Versions()) if each.state == PROBLEM]
    assert problem.subject == "rights"
    needed = problem.text.removeprefix("you may not: ").split(", ")
    assert {"create statefulsets", "delete deployments", "update leases"} <= set(needed)
    plane.allow(name, [(verb, resource) for verb, _, resource in (each.partition(" ") for each in needed)])
    assert not [each for each in theirs.check(ORDER, Versions()) if each.state == PROBLEM]
    first = theirs.deploy(ORDER, Versions("one"))
    plane.broken["bad"] = "ends"
    with pytest.raises(DeployError) as caught:
        theirs.deploy(ORDER, Versions("bad"))
    assert caught.value.exit_code == RESTORED
    assert caught.value.hints == (f"python3 tasks.py deploy-logs '{address}' --failed",)
    assert list(theirs.logs(follows=False, failed=True)) == []
    assert theirs.status().version == first.version
    theirs.destroy(ORDER, volumes=False)
    assert images_there(plane, remote) == {}


class Page(BaseHTTPRequestHandler):
    """Says what one does that a worker is missing for, which has jobs."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps({"page": True, "queued": 2, "running": 1}).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_jobs_are_not_left_behind_in_the_queue_of_another_number_of_cards(
    plane: ControlPlane, remote: Kubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.deploy(ORDER, Versions("one"))
    many = in_namespace(namespace(remote), "?gpus=2")
    (said,) = [each for each in many.check(ORDER, Versions()) if "stay behind" in each.text]
    assert said.state == NOTE  # nobody answers
    with ThreadingHTTPServer(("", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        plane.lead(namespace(remote), server.server_address[1])
        assert (remote.status().queued, remote.status().running) == (2, 1)
        with pytest.raises(NotReady):
            many.deploy(ORDER, Versions("two"))
        server.shutdown()
    assert "3 jobs wait or run in the queue of the other number of cards" in capsys.readouterr().err
    assert images_there(plane, remote) == {"jingxiang-app": "one"}


def test_flags_that_are_not_heeded_and_passwords_that_the_app_would_not_take_are_said(
    remote: Kubernetes, tmp_path: Path
) -> None:
    (tmp_path / "passwords").write_text("li\n")
    order = replace(ORDER, strategy="bluegreen", passwords=tmp_path / "passwords")
    found = {each.subject: each for each in remote.check(order, Versions())}
    assert (found["flags"].state, found["flags"].text) == (NOTE, "of no use with this target: --strategy")
    assert found["passwords"].state == PROBLEM
    assert found["passwords"].text.startswith(f"{tmp_path}/passwords:1: must be NAME:PASSWORD")


def test_what_is_in_the_way_is_said_before_anything_is_changed(
    plane: ControlPlane, remote: Kubernetes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotReady):
        remote.deploy(replace(ORDER, registry=""), Versions())
    assert "a cluster pulls images from a registry" in capsys.readouterr().err
    assert plane.ask("GET", f"/api/v1/namespaces/{namespace(remote)}") is None
    with pytest.raises(UsageError, match="nothing is deployed there"):
        remote.rollback(ORDER, "")

    (problem,) = [each for each in in_namespace("x", "?storage=fast").check(ORDER, Versions()) if each.state == PROBLEM]
    assert problem.text == "no storage class named 'fast'; there is standard"

    known = json.loads(plane.config.read_text())
    broken = plane.config.with_name("elsewhere")
    known["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    broken.write_text(json.dumps(known))
    monkeypatch.setenv("KUBECONFIG", str(broken))
    (problem,) = [each for each in in_namespace("x").check(ORDER, Versions()) if each.state == PROBLEM]
    assert problem.text.startswith("the cluster does not answer")
    plan = in_namespace("x").plan(ORDER, Versions())
    assert "kind: Deployment" in plan
    assert "; planned as if nothing were there\n" in capsys.readouterr().err
