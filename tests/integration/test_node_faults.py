"""Broken devices against the real control plane: what the node says, and what processes see."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import Kubectl

from sluice.devcluster.cluster import Cluster
from sluice.devcluster.errors import NodeError

from .story import restrict

DEADLINE_SECONDS = 60.0
MAIA = "sluice.dev/maia"
WATCH = """
import os, socket
paths = os.environ["SLUICE_DEVICE_SOCKETS"].split(",")
assert len(paths) == 1, paths
with socket.socket(socket.AF_UNIX) as device:
    device.connect(paths[0])
    for line in device.makefile():
        print(line, end="", flush=True)
"""


@pytest.fixture
def healed(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.act_on_node("maia-1", "heal")
    cluster.act_on_node("maia-1", "start")


def await_node(
    kubectl: Kubectl, condition: Callable[[dict[str, Any]], bool], name: str = "maia-1"
) -> dict[str, Any]:
    """Return the node's status once the condition holds of it."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        status: dict[str, Any] = kubectl("get", "node", name)["status"]
        if condition(status):
            return status
        assert time.monotonic() < deadline, json.dumps(status, indent=1)
        time.sleep(0.1)


def read_verdict(status: dict[str, Any]) -> tuple[str, str]:
    """Return status and reason of the condition; empty where there is none."""
    for condition in status["conditions"]:
        if condition["type"] == "AcceleratorHealthy":
            return condition["status"], condition["reason"]
    return "", ""


def is_whole(status: dict[str, Any]) -> bool:
    return read_verdict(status)[0] == "True" and status["allocatable"][MAIA] == "2"


def read_xids(entry: dict[str, Any]) -> dict[str, float]:
    """Return the last XID by device."""
    return read_field(entry, "XID_ERRORS")


def read_field(entry: dict[str, Any], field: str) -> dict[str, float]:
    """Return a metric by device, from where a node's entry in the cluster's status says."""
    with urllib.request.urlopen(entry["metrics"], timeout=10) as response:  # noqa: S310  # http
        text = response.read().decode()
    return {
        sample.labels["device"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"DCGM_FI_DEV_{field}"
    }


def test_a_broken_device_shows_where_the_field_looks_and_heals(healed: Cluster, kubectl: Kubectl):
    await_node(kubectl, is_whole)
    entry = healed.act_on_node("maia-1", "break", fault="off-bus", device=1)
    status = await_node(kubectl, lambda found: read_verdict(found)[0] == "False")
    assert read_verdict(status) == ("False", "AcceleratorMissing")
    assert (status["capacity"][MAIA], status["allocatable"][MAIA]) == ("2", "1")
    assert [c["status"] for c in status["conditions"] if c["type"] == "Ready"] == ["True"]
    assert read_xids(entry) == {"maia0": 0, "maia1": 79}
    healed.act_on_node("maia-1", "heal")
    await_node(kubectl, is_whole)
    assert read_xids(entry) == {"maia0": 0, "maia1": 0}


def test_a_fault_that_is_due_later_comes_and_is_repaired_by_itself(
    healed: Cluster, kubectl: Kubectl
):
    await_node(kubectl, is_whole)
    entry = healed.act_on_node(
        "maia-1", "break", fault="ecc", after=2, repairAfter=600, timeCompression=100
    )
    [told] = entry["faults"]
    assert (told["present"], told["until"] - told["since"]) == (False, pytest.approx(6))
    assert is_whole(kubectl("get", "node", "maia-1")["status"])
    status = await_node(kubectl, lambda found: read_verdict(found)[0] == "False")
    assert read_verdict(status) == ("False", "UncorrectableECCError")
    await_node(kubectl, is_whole)
    log = (healed.state.log_of("supervisor")).read_text()
    assert '"timeCompression": 100' in log


def test_memory_that_something_else_holds_shows_in_telemetry_alone(
    healed: Cluster, kubectl: Kubectl
):
    await_node(kubectl, is_whole)
    entry = healed.act_on_node("maia-1", "break", fault="out-of-memory", device=1, held=0.75)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while read_field(entry, "FB_USED")["maia1"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert read_field(entry, "FB_USED") == {
        "maia0": 0,
        "maia1": pytest.approx(0.75 * 216e9 / 2**20, abs=1),
    }
    assert is_whole(kubectl("get", "node", "maia-1")["status"])
    assert read_xids(entry) == {"maia0": 0, "maia1": 0}


def test_what_breaks_while_a_node_is_dead_is_broken_when_it_comes_back(
    healed: Cluster, kubectl: Kubectl
):
    healed.act_on_node("maia-1", "kill")
    healed.act_on_node("maia-1", "break", fault="ecc", device="all")
    healed.act_on_node("maia-1", "start")
    status = await_node(kubectl, lambda found: read_verdict(found)[0] == "False")
    assert read_verdict(status) == ("False", "UncorrectableECCError")
    assert status["allocatable"][MAIA] == "0"


def test_a_process_learns_what_the_node_cannot_see(healed: Cluster, kubectl: Kubectl):
    await_node(kubectl, is_whole)
    container = {
        "name": "c",
        "image": "sluice-worker:0.1.0",
        "command": ["python", "-c", WATCH],
        "resources": {"limits": {MAIA: "1"}},
    }
    spec = {"nodeName": "maia-1", "terminationGracePeriodSeconds": 1, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "watcher"}}
    pod["spec"] = restrict(spec)
    kubectl("create", "-f", "-", stdin=json.dumps(pod))
    try:
        await_log(healed, '"faults":[]')
        healed.act_on_node("maia-1", "break", fault="corruption", device="all", rate=0.5)
        await_log(healed, '"corruption"')
        assert is_whole(kubectl("get", "node", "maia-1")["status"])
    finally:
        run_kubectl(healed, "delete", "pod", "watcher", "--wait=true", "--timeout=50s")


def run_kubectl(cluster: Cluster, *arguments: str) -> str:
    program = cluster.read_status()["binaries"]["kubectl"]
    completed = subprocess.run(
        [program, "--kubeconfig", cluster.kubeconfig, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return completed.stdout


def await_log(cluster: Cluster, words: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while words not in (said := run_kubectl(cluster, "logs", "watcher")):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_the_command_breaks_heals_and_refuses(
    healed: Cluster, kubectl: Kubectl, environment: dict[str, str]
):
    sluice = Path(sys.executable).parent / "sluice"

    def run(*arguments: str) -> tuple[int, str]:
        completed = subprocess.run(
            [sluice, "node", *arguments, "--name", healed.name],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        return completed.returncode, completed.stdout + completed.stderr

    code, said = run("break", "maia-1", "--fault", "ecc")
    assert (code, said) == (0, "maia-1 is broken: its device 0 has the fault 'ecc'.\n")
    await_node(kubectl, lambda found: read_verdict(found) == ("False", "UncorrectableECCError"))
    code, said = run("heal", "maia-1")
    assert (code, said) == (0, "maia-1 is healed: its devices have no fault.\n")
    await_node(kubectl, is_whole)
    code, said = run("break", "maia-1", "--fault", "ecc", "--device", "5")
    assert (code, said) == (
        7,
        "Error: maia-1 has no device 5. Its devices: 0, 1 (sluice.dev/maia).\n",
    )


def test_a_node_without_devices_speaks_of_none(cluster: Cluster, kubectl: Kubectl):
    status = await_node(kubectl, lambda found: bool(found["conditions"]), name="system-0")
    assert read_verdict(status) == ("", "")
    with pytest.raises(NodeError, match="system-0 has no devices to break"):
        cluster.act_on_node("system-0", "break", fault="ecc")
