"""Emulated nodes against the real control plane: what a pod, and a node in trouble, look like."""

import base64
import contextlib
import json
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster

DEADLINE_SECONDS = 60.0
SERVE = (
    "import http.server as h,os;h.test(h.SimpleHTTPRequestHandler,bind=os.environ['IP'],port=8000)"
)

pytestmark = pytest.mark.usefixtures("namespace")


class Kube:
    """kubectl on the shared cluster, in a namespace of the test's own."""

    def __init__(self, cluster: Cluster, kubectl: Path, namespace: str) -> None:
        self._command = [kubectl, "--kubeconfig", cluster.kubeconfig, "--namespace", namespace]
        self.cluster = cluster

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def say(self, *arguments: str, stdin: str | None = None) -> str:
        completed = self.run(*arguments, stdin=stdin)
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object, or {} if there is none."""
        text = self.say("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else {}

    def start(self, name: str, *command: str, **more: Any) -> None:
        """Create a pod of one container `c` on maia-0; `container=` adds to that container."""
        container = {
            "name": "c",
            "image": "sluice-worker:0.1.0",
            "command": list(command),
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            **more.pop("container", {}),
        }
        metadata = {"name": name, "annotations": more.pop("annotations", {})}
        spec = {
            "nodeName": "maia-0",
            "terminationGracePeriodSeconds": 2,
            "containers": [container],
            **more,
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.say("apply", "-f", "-", stdin=json.dumps(pod))

    def await_pod(self, name: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the pod once the condition holds of it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            pod = self.get("pod", name)
            if condition(pod):
                return pod
            assert time.monotonic() < deadline, json.dumps(pod.get("status"), indent=1)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, binaries: Binaries) -> Iterator[Kube]:
    name = f"node-{secrets.token_hex(3)}"
    kube = Kube(cluster, binaries.kubectl, name)
    kube.say("create", "namespace", name)
    # Until its token controller has made it, pods that need an account are refused.
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not kube.get("serviceaccount", "default"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield kube
    kube.say("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kube(namespace: Kube) -> Iterator[Kube]:
    yield namespace
    for node in ("maia-0", "maia-1"):
        namespace.cluster.act_on_node(node, "start")
    namespace.say("delete", "pods,configmaps", "--all", "--wait=true", "--timeout=50s")


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def state_of(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return statuses[0].get("state", {})


def restarts_of(pod: dict[str, Any]) -> int:
    return pod["status"]["containerStatuses"][0]["restartCount"]


def answers(address: str, path: str = "/") -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:8000{path}", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


def test_nodes_are_registered_with_what_schedulers_look_at(kube: Kube):
    node = kube.get("node", "maia-0")
    assert node["metadata"]["labels"]["sluice.dev/accelerator"] == "maia-200"
    assert {"key": "sluice.dev/maia", "value": "present", "effect": "NoSchedule"} in node["spec"][
        "taints"
    ]
    assert node["status"]["allocatable"]["sluice.dev/maia"] == "2"
    assert is_ready(node)


def test_a_pod_serves_and_its_logs_are_readable(kube: Kube):
    script = f"import sys;print('hello');sys.stdout.flush();{SERVE}"
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}
    kube.start(
        "web",
        "python",
        "-c",
        script,
        container={
            "ports": [{"name": "http", "containerPort": 8000}],
            "startupProbe": {**probe, "failureThreshold": 60},
            "readinessProbe": probe,
            "livenessProbe": probe,
        },
    )
    pod = kube.await_pod("web", is_ready)
    assert answers(pod["status"]["podIP"])
    assert kube.say("logs", "web").splitlines()[0] == "hello"
    assert len(kube.say("logs", "web", "--tail=1").splitlines()) == 1
    assert kube.say("logs", "web", "--since=1h").splitlines()[0] == "hello"
    reasons = kube.say("events", "--for=pod/web")
    assert "Pulled" in reasons
    assert "Started" in reasons


def test_config_maps_reach_a_pod_and_follow_changes(kube: Kube):
    kube.say("create", "configmap", "settings", "--from-literal=key=one")
    kube.start(
        "reader",
        "python",
        "-c",
        f"import os;os.chdir('/');os.chdir(__import__('sys').argv[1]);{SERVE}",
        "/etc/settings",
        container={"volumeMounts": [{"name": "s", "mountPath": "/etc/settings"}]},
        volumes=[{"name": "s", "configMap": {"name": "settings"}}],
    )
    address = kube.await_pod("reader", is_ready)["status"]["podIP"]

    def read() -> str:
        with contextlib.suppress(urllib.error.URLError):
            url = f"http://{address}:8000/key"
            with urllib.request.urlopen(url, timeout=2) as response:
                return response.read().decode()
        return ""

    await_text(read, "one")
    kube.say("patch", "configmap", "settings", "-p", '{"data":{"key":"two"}}')
    await_text(read, "two")


def await_text(read: Callable[[], str], text: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while read() != text:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_pod_speaks_to_the_api_server_as_its_service_account(kube: Kube):
    script = (
        "import kubernetes as k;k.config.load_kube_config();"
        "print(k.client.AuthenticationV1Api().create_self_subject_review("
        "k.client.V1SelfSubjectReview()).status.user_info.username)"
    )
    kube.start("who", "python", "-c", script, restartPolicy="Never")
    kube.await_pod("who", lambda pod: pod["status"].get("phase") == "Succeeded")
    assert kube.say("logs", "who").strip().endswith(":default")


def test_a_crash_is_backed_off_and_its_words_are_kept(kube: Kube):
    kube.start("crash", "sh", "-c", "echo oops; exit 3")
    pod = kube.await_pod("crash", lambda p: "CrashLoopBackOff" in json.dumps(state_of(p)))
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["message"]) == (3, "oops\n")
    assert kube.say("logs", "crash", "--previous") == "oops\n"
    assert "BackOff" in kube.say("events", "--for=pod/crash")


def test_unknown_images_and_missing_devices_are_said(kube: Kube):
    kube.start("stranger", "true", container={"image": "nginx"})
    limits = {"resources": {"limits": {"sluice.dev/maia": "3"}}}
    kube.start("greedy", "true", container=limits)
    pod = kube.await_pod("stranger", lambda p: "waiting" in state_of(p) and "Err" in str(p))
    assert state_of(pod)["waiting"]["reason"] == "ErrImagePull"
    assert "sluice-worker:0.1.0" in state_of(pod)["waiting"]["message"]
    pod = kube.await_pod("greedy", lambda p: p["status"].get("phase") == "Failed")
    assert pod["status"]["reason"] == "UnexpectedAdmissionError"


def test_addresses_are_stable_where_asked_and_rest_otherwise(kube: Kube):
    kube.start("fixed", "sleep", "1000", annotations={"sluice.dev/stable-address": "77"})
    kube.start("free", "sleep", "1000")
    fixed = kube.await_pod("fixed", is_ready)["status"]["podIP"]
    free = kube.await_pod("free", is_ready)["status"]["podIP"]
    assert fixed.split(".")[2:] == ["0", "77"]
    kube.say("delete", "pod", "fixed", "free")
    kube.start("fixed", "sleep", "1000", annotations={"sluice.dev/stable-address": "77"})
    kube.start("free", "sleep", "1000")
    assert kube.await_pod("fixed", is_ready)["status"]["podIP"] == fixed
    assert kube.await_pod("free", is_ready)["status"]["podIP"] != free


def test_a_killed_node_takes_its_pods_along_and_runs_them_again(kube: Kube):
    kube.start("web", "python", "-c", SERVE)
    kube.start("leaving", "sleep", "1000")
    pod = kube.await_pod("web", is_ready)
    kube.await_pod("leaving", is_ready)
    address = pod["status"]["podIP"]
    await_text(lambda: str(answers(address)), "True")
    kube.cluster.act_on_node("maia-0", "kill")
    await_text(lambda: str(answers(address)), "False")
    kube.say("delete", "pod", "leaving", "--wait=false")
    kube.cluster.act_on_node("maia-0", "start")
    pod = kube.await_pod("web", lambda p: is_ready(p) and restarts_of(p) == 1)
    assert pod["status"]["podIP"] == address
    await_text(lambda: str(answers(address)), "True")
    kube.await_pod("leaving", lambda p: not p)


def test_a_silent_node_serves_on_and_catches_up(kube: Kube):
    kube.start("web", "python", "-c", SERVE)
    address = kube.await_pod("web", is_ready)["status"]["podIP"]
    await_text(lambda: str(answers(address)), "True")
    kube.cluster.act_on_node("maia-0", "stop")
    await_text(lambda: str(kube.run("logs", "web").returncode), "1")
    kube.say("delete", "pod", "web", "--wait=false")
    kube.start("late", "sleep", "1000")
    assert answers(address)
    assert not kube.get("pod", "late")["status"].get("podIP")
    kube.cluster.act_on_node("maia-0", "start")
    kube.await_pod("web", lambda p: not p)
    kube.await_pod("late", is_ready)
    assert not answers(address)


def test_a_frozen_node_hangs_and_thaws_as_it_was(kube: Kube):
    kube.start("web", "python", "-c", SERVE)
    address = kube.await_pod("web", is_ready)["status"]["podIP"]
    await_text(lambda: str(answers(address)), "True")
    kube.cluster.act_on_node("maia-0", "freeze")
    assert not answers(address)
    kube.cluster.act_on_node("maia-0", "start")
    await_text(lambda: str(answers(address)), "True")
    assert restarts_of(kube.get("pod", "web")) == 0


def test_a_deleted_node_comes_back_with_its_pods(kube: Kube):
    before = kube.get("node", "maia-1")["metadata"]["uid"]
    kube.say("delete", "node", "maia-1")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while kube.get("node", "maia-1").get("metadata", {}).get("uid", before) == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    kube.say("wait", "node/maia-1", "--for=condition=Ready", "--timeout=30s")


def ask_kubelet(kube: Kube, kubeconfig: Path | None, directory: Path) -> bytes:
    """GET /healthz of maia-0 with a kubeconfig's certificate; empty if the handshake fails."""
    status = kube.get("node", "maia-0")["status"]
    address, port = (
        status["addresses"][0]["address"],
        status["daemonEndpoints"]["kubeletEndpoint"]["Port"],
    )
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if kubeconfig is not None:
        user = json.loads(kubeconfig.read_text())["users"][0]["user"]
        pem = directory / "client.pem"
        keys = ("client-certificate-data", "client-key-data")
        pem.write_bytes(b"\n".join(base64.b64decode(user[key]) for key in keys))
        context.load_cert_chain(pem)
    with socket.create_connection((address, port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return connection.recv(100)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_a_node_answers_nobody_but_the_control_plane(kube: Kube, tmp_path: Path):
    admin = kube.cluster.kubeconfig
    other_node = admin.parent / "node-maia-1.kubeconfig"
    assert ask_kubelet(kube, None, tmp_path) == b""
    assert b" 403 " in ask_kubelet(kube, other_node, tmp_path)
    assert b" 200 " in ask_kubelet(kube, admin, tmp_path)
