"""The shared cluster as its users meet it: nodes, pods, rights, and the commands on it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Kubectl

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster

from .story import restrict

DEADLINE_SECONDS = 90.0  # a silent node is noticed by Kubernetes after 50
SLUICE = Path(sys.executable).parent / "sluice"
NODES = ["gpu-0", "gpu-1", "maia-0", "maia-1", "system-0"]

Sluice = Callable[..., "subprocess.CompletedProcess[str]"]


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return value


@pytest.fixture
def sluice(cluster: Cluster, environment: dict[str, str]) -> Sluice:
    """Return a function that runs `sluice` on the shared cluster."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # What stands behind `--` is kubectl's.
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        command = [SLUICE, *arguments[:cut], "--name", cluster.name, *arguments[cut:]]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def is_ready(node: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
    return conditions.get("Ready") == "True"


def render_pod(name: str, script: str, node: str) -> str:
    container: dict[str, Any] = {
        "name": "main",
        "image": "sluice-operator:0.1.0",
        "command": ["python3", "-c", script],
    }
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [container],
    }
    if node.startswith("maia"):
        taint = {"key": "sluice.dev/maia", "operator": "Exists", "effect": "NoSchedule"}
        spec["tolerations"] = [taint]
        container["resources"] = {"limits": {"sluice.dev/maia": "1"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": restrict(spec)}
    return json.dumps(pod)


SAY_PID = "import os, time\nprint('pid', os.getpid(), flush=True)\nwhile True: time.sleep(1)"


@pytest.fixture
def pod_process(kubectl: Kubectl, sluice: Sluice) -> Iterator[Callable[[str], int]]:
    """Return a function that runs a pod on a node and returns its process number."""
    names: list[str] = []

    def run(node: str) -> int:
        name = f"probe-{node}-{len(names)}"
        names.append(name)
        kubectl("apply", "--server-side", "-f", "-", stdin=render_pod(name, SAY_PID, node))

        def read_pid() -> int | None:
            logs = sluice("cluster", "kubectl", "--", "logs", name).stdout.split()
            return int(logs[1]) if logs[:1] == ["pid"] else None

        pid: int = wait_for(read_pid)
        return pid

    yield run
    for name in names:
        sluice("cluster", "kubectl", "--", "delete", "pod", name, "--force", "--grace-period=0")


def read_state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def test_nodes_register_with_labels_taints_and_devices(kubectl: Kubectl) -> None:
    nodes = {node["metadata"]["name"]: node for node in kubectl("get", "nodes")["items"]}
    assert sorted(nodes) == NODES
    assert all(is_ready(node) for node in nodes.values())
    assert nodes["maia-0"]["status"]["allocatable"]["sluice.dev/maia"] == "2"
    assert nodes["gpu-1"]["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    assert nodes["gpu-1"]["metadata"]["labels"]["nvidia.com/gpu.family"] == "hopper"
    taints = [taint["key"] for taint in nodes["maia-1"]["spec"]["taints"]]
    assert taints == ["sluice.dev/maia"]
    assert "taints" not in nodes["system-0"]["spec"]


def test_a_pod_is_scheduled_runs_and_is_read(
    kubectl: Kubectl, pod_process: Callable[[str], int]
) -> None:
    pid = pod_process("maia-0")
    assert read_state(pid) in ("S", "R")
    pod = kubectl("get", "pod", "probe-maia-0-0")
    assert pod["spec"]["nodeName"] == "maia-0"
    assert pod["status"]["podIP"].startswith("127.")


def test_what_is_done_to_a_node_happens_to_its_pods(
    cluster: Cluster, sluice: Sluice, pod_process: Callable[[str], int]
) -> None:
    node = "maia-1"
    pid = pod_process(node)
    try:
        assert sluice("node", "freeze", node).returncode == 0
        wait_for(lambda: read_state(pid) == "T")
        refused = sluice("node", "stop", node)
        assert refused.returncode == 7
        assert f"{node} is frozen" in refused.stderr
        assert sluice("node", "start", node).returncode == 0
        wait_for(lambda: read_state(pid) in ("S", "R"))

        assert sluice("node", "stop", node).returncode == 0
        assert read_state(pid) in ("S", "R")
        assert sluice("node", "start", node).returncode == 0

        killed = sluice("node", "kill", node, "--output", "json")
        assert json.loads(killed.stdout)["state"] == "killed"
        wait_for(lambda: read_state(pid) in (None, "Z"))
    finally:
        assert sluice("node", "start", node).returncode == 0
    states = {entry["name"]: entry["state"] for entry in cluster.read_status()["nodes"]}
    assert states == dict.fromkeys(NODES, "running")


def test_a_killed_node_that_is_started_runs_its_pods_again(
    kubectl: Kubectl, sluice: Sluice, pod_process: Callable[[str], int]
) -> None:
    pod_process("system-0")
    name = "probe-system-0-0"
    assert sluice("node", "kill", "system-0").returncode == 0
    assert sluice("node", "start", "system-0").returncode == 0

    def has_restarted() -> bool:
        statuses = kubectl("get", "pod", name)["status"].get("containerStatuses", [])
        return any(each["restartCount"] == 1 and each["ready"] for each in statuses)

    wait_for(has_restarted)
    wait_for(lambda: is_ready(kubectl("get", "node", "system-0")))


@pytest.mark.full
def test_a_frozen_node_is_noticed_by_kubernetes_and_returns(
    kubectl: Kubectl, sluice: Sluice
) -> None:
    assert sluice("node", "freeze", "gpu-0").returncode == 0
    try:
        wait_for(lambda: not is_ready(kubectl("get", "node", "gpu-0")))
    finally:
        assert sluice("node", "start", "gpu-0").returncode == 0
    wait_for(lambda: is_ready(kubectl("get", "node", "gpu-0")))


def test_pod_security_restricted_is_enforced_where_a_namespace_says_so(
    kubectl: Kubectl, sluice: Sluice
) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "strict",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(namespace))
    refused = sluice(
        "cluster", "kubectl", "--", "run", "-n", "strict", "--image=sluice-worker:0.1.0", "careless"
    )
    assert refused.returncode == 1
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr
    sluice("cluster", "kubectl", "--", "delete", "namespace", "strict", "--wait=false")


def test_a_node_has_no_more_rights_than_a_node(cluster: Cluster, binaries: Binaries) -> None:
    kubeconfig = cluster.state.root / "node-maia-0.kubeconfig"

    def try_as_node(*arguments: str) -> str:
        completed = subprocess.run(
            [binaries.kubectl, "--kubeconfig", kubeconfig, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert completed.returncode != 0
        return completed.stderr

    assert "forbidden" in try_as_node("get", "secrets", "--all-namespaces")
    assert "forbidden" in try_as_node("get", "pods", "--all-namespaces")
    assert "forbidden" in try_as_node("label", "node", "maia-1", "a=b")


def test_the_audit_log_names_who_did_what(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl("get", "configmaps", "-n", "kube-public")

    def find_listing() -> dict[str, Any] | None:
        # Controllers write ConfigMaps there too.
        for line in cluster.state.audit_log.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            about = entry.get("objectRef", {})
            where = (entry["verb"], about.get("resource"), about.get("namespace"))
            if where == ("list", "configmaps", "kube-public"):
                return entry
        return None

    assert wait_for(find_listing)["user"]["username"] == "sluice-admin"


def test_commands_that_scripts_rely_on(
    cluster: Cluster, sluice: Sluice, environment: dict[str, str]
) -> None:
    path = sluice("cluster", "kubeconfig").stdout.strip()
    assert Path(path) == cluster.kubeconfig
    assert os.stat(path).st_mode & 0o777 == 0o600  # noqa: PTH116
    unknown = sluice("node", "kill", "maia-9")
    assert unknown.returncode == 7
    assert "has no node 'maia-9'. Its nodes: maia-0, maia-1, gpu-0, gpu-1, system-0." in (
        unknown.stderr
    )
    failed = sluice("cluster", "kubectl", "--", "get", "pod", "nobody")
    assert failed.returncode == 1
    assert 'pods "nobody" not found' in failed.stderr
    other = sluice("cluster", "up", "--maia=1")
    assert other.returncode == 4
    assert "is running with other nodes or settings" in other.stderr
    same = sluice("cluster", "up", "--output=json")
    assert same.returncode == 0
    assert json.loads(same.stdout)["phase"] == "ready"
    listed = subprocess.run(
        [SLUICE, "cluster", "list", "-o", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    entry = next(each for each in json.loads(listed.stdout) if each["name"] == cluster.name)
    assert entry["shape"] == {"maia": 2, "gpu": 2, "system": 1}
