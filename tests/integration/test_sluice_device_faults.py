"""Faults that no driver logs, on a cluster: memory, slow starts, and one device of several.

What a worker and telemetry show of them is tested without a cluster (tests/contract); here it is
what Kubernetes and the pool make of them.
"""

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .story import Load, ask, serve_on_both_maia, wait_until

MAIA = ("maia-0", "maia-1")
NODES = (*MAIA, "gpu-0", "gpu-1")

full = pytest.mark.full


@pytest.fixture
def chat(sluice):
    """A pool on both Maia nodes and a GPU node; every node is well again after the test."""
    with serve_on_both_maia(sluice, gpu=1):
        yield sluice
        for node in NODES:
            sluice.cluster.act_on_node(node, "heal")
            sluice.run("annotate", "node", node, "sluice.dev/release=yes", "--overwrite")
        wait_until(lambda: not sluice.tainted(), "no node is out", 240)


def read_condition(sluice, node):
    """Return status and reason of the condition that the node's health agent sets."""
    conditions = sluice.get("node", node)["status"]["conditions"]
    found = next(c for c in conditions if c["type"] == "AcceleratorHealthy")
    return found["status"], found["reason"]


def read_metric(sluice, node, field):
    """Return a field of a node's devices, by number."""
    entries = sluice.cluster.read_status()["nodes"]
    url = next(entry["metrics"] for entry in entries if entry["name"] == node)
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # http
        text = answer.read().decode()
    return {
        int(sample.labels["gpu"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"DCGM_FI_DEV_{field}"
    }


def workers_on(sluice, node):
    return [w for w in sluice.workers("chat") if w["spec"].get("nodeName") == node]


def count_restarts(workers):
    return sum(s["restartCount"] for w in workers for s in w["status"].get("containerStatuses", ()))


def is_ready(worker):
    return any(
        c["type"] == "Ready" and c["status"] == "True"
        for c in worker["status"].get("conditions", ())
    )


@full
def test_exhausted_memory_restarts_workers_in_vain_and_no_condition_says_so(chat):
    with Load(chat.gateway(), "chat", rate=1.5) as load:
        chat.cluster.act_on_node("maia-1", "break", fault="out-of-memory", device="all")
        wait_until(
            lambda: count_restarts(workers_on(chat, "maia-1")) or "maia-1" in chat.tainted(),
            "a worker has ended for want of memory",
        )
        # Half of 216 GB at least, in MiB: who ended for want of memory has given its own back.
        assert min(read_metric(chat, "maia-1", "FB_USED").values()) >= 216e9 / 2**20 // 2
        assert set(read_metric(chat, "maia-1", "XID_ERRORS").values()) == {0}
        assert read_condition(chat, "maia-1") == ("True", "AcceleratorIsHealthy")
        wait_until(
            lambda: not any(map(is_ready, workers_on(chat, "maia-1"))), "none is ready there"
        )
        wait_until(lambda: ask(chat.gateway(), "chat")[0] == 200, "others answer")
        chat.cluster.act_on_node("maia-1", "heal")
        wait_until(lambda: chat.serving("chat", "maia-200") >= 3, "all serve again", 240)
    assert load.answers


@full
def test_a_slow_start_is_overdue_and_others_carry_its_load_until_it_is_there(chat):
    for node in MAIA:
        chat.cluster.act_on_node(node, "break", fault="slow-start", device="all", slowdown=1e4)
    [first, *_] = workers_on(chat, "maia-1")
    with Load(chat.gateway(), "chat", rate=1.5) as load:
        chat.run("delete", "pod", first["metadata"]["name"], "--wait=false")
        wait_until(lambda: chat.condition("chat", "FallbackActive") == "True", "it falls back")
        wait_until(lambda: chat.serving("chat", "h100") >= 2, "another GPU worker serves")
        for node in MAIA:
            assert read_condition(chat, node)[0] == "True"
            chat.cluster.act_on_node(node, "heal")
        wait_until(lambda: chat.serving("chat", "maia-200") >= 3, "it serves at last", 240)
    assert load.lost == []


@full
def test_one_throttled_device_of_two_is_named_and_the_other_is_not(chat):
    [worker] = [w for node in ("gpu-0", "gpu-1") for w in workers_on(chat, node)]
    node = worker["spec"]["nodeName"]
    chat.cluster.act_on_node(node, "break", fault="throttle", device=1, slowdown=4)
    wait_until(
        lambda: read_condition(chat, node) == ("False", "ClockThrottling"), "it has lasted", 90
    )
    conditions = chat.get("node", node)["status"]["conditions"]
    message = next(c["message"] for c in conditions if c["type"] == "AcceleratorHealthy")
    assert "device 1 (nvidia.com/gpu)" in message
    assert "device 0" not in message
    clocks = read_metric(chat, node, "SM_CLOCK")
    assert clocks[1] < clocks[0] / 3
    wait_until(lambda: node in chat.tainted(), f"{node} is out")


@full
def test_lost_cooling_is_noticed_once_load_has_heated_the_device(chat):
    # Answers long enough for every worker to be at one all the time: only then is it too hot.
    with Load(chat.gateway(), "chat", rate=3.0, tokens=200) as load:
        chat.cluster.act_on_node("maia-1", "break", fault="cooling", device="all")
        # From cold to too hot, and then 30 s of throttling before it counts.
        wait_until(
            lambda: read_condition(chat, "maia-1") == ("False", "ClockThrottling"),
            "heat has lowered its clocks",
            300,
        )
        assert max(read_metric(chat, "maia-1", "GPU_TEMP").values()) > 80
        wait_until(lambda: "maia-1" in chat.tainted(), "maia-1 is out")
    assert load.lost == []
