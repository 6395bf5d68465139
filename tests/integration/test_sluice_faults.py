"""Each fault of a device, on one node and on all: noticed where the real one would be, and undone.

A hang and wrong values run with the other tests; the rest belongs to the full matrix.
"""

import json
import time

import pytest

from .story import Load, serve_on_both_maia, wait_until

MAIA = ("maia-0", "maia-1")
NOTICED = {
    "off-bus": "AcceleratorHealthy is False",
    "ecc": "AcceleratorHealthy is False",
    "throttle": "AcceleratorHealthy is False",
    "hang": "device call late",
    "corruption": "wrong answer to a known question",
}
"""What the node's mark says, by fault; a crash leaves none, for the next process starts."""
LATCHES = ("corruption",)

full = pytest.mark.full


@pytest.fixture
def chat(sluice):
    """A pool whose Maia workers stand on both nodes; every node is well again after the test."""
    with serve_on_both_maia(sluice):
        yield sluice
        for node in MAIA:
            sluice.cluster.act_on_node(node, "heal")
            quarantine = "sluice.dev/quarantine-"
            sluice.run("annotate", "node", node, quarantine, "--overwrite", check=False)
            sluice.run("annotate", "node", node, "sluice.dev/release=yes", "--overwrite")
        wait_until(
            lambda: not any(read_mark(sluice, node) for node in MAIA), "no mark is left", 240
        )


def read_mark(sluice, node):
    """Return what a node's mark says, or {}."""
    annotations = sluice.get("node", node)["metadata"].get("annotations", {})
    return json.loads(annotations.get("sluice.dev/health", "{}"))


def state(sluice, node):
    return read_mark(sluice, node).get("state", "Healthy")


def probation_pods(sluice):
    items = sluice.get("-n", "sluice-system", "pods", "-l", "app.kubernetes.io/name=sluice-probe")[
        "items"
    ]
    return {item["metadata"]["name"] for item in items}


@pytest.mark.parametrize(
    "nodes", [pytest.param(("maia-1",), id="one"), pytest.param(MAIA, id="all", marks=full)]
)
@pytest.mark.parametrize(
    "fault",
    [
        "hang",
        "corruption",
        pytest.param("off-bus", marks=full),
        pytest.param("ecc", marks=full),
        pytest.param("throttle", marks=full),
    ],
)
def test_a_fault_is_noticed_carried_by_gpu_repaired_proven_and_gone(chat, fault, nodes):
    with Load(chat.gateway(), "chat", rate=1.5) as load:
        for node in nodes:
            chat.cluster.act_on_node(node, "break", fault=fault, device="all")
        for node in nodes:
            wait_until(lambda node=node: node in chat.tainted(), f"{node} is out")
            mark = read_mark(chat, node)
            assert NOTICED[fault] in mark["reason"]
            assert mark["state"] == ("Latched" if fault in LATCHES else "Failed")
        wait_until(lambda: chat.condition("chat", "FallbackActive") == "True", "it falls back")
        wait_until(lambda: chat.serving("chat", "h100") >= 1, "GPU serves")
        for node in nodes:
            chat.cluster.act_on_node(node, "heal")
            if fault in LATCHES:
                chat.run("annotate", "node", node, "sluice.dev/release=yes", "--overwrite")
        seen = follow(chat, nodes[-1])
    assert seen[-2:] == ["Probation", "Ramp"]
    wait_until(lambda: chat.condition("chat", "FallbackActive") == "False", "it is over")
    wait_until(lambda: not probation_pods(chat), "no probation pod is left")
    assert load.lost == []
    assert_told(chat, nodes[-1], NOTICED[fault])


def assert_told(sluice, node, cause):
    """See that operators tell the story afterwards, also from what they have on disk."""
    for options in ((), ("--since", "10m")):
        told = sluice.explain(node, *options)
        assert told["missing"] == []
        story = [json.dumps(entry) for entry in told["entries"]]
        taken_out = [number for number, entry in enumerate(story) if cause in entry]
        assert taken_out, f"{cause!r} is not in {story}"
        assert any("Ramp" in entry for entry in story[taken_out[0] :]), story
    assert any(node in json.dumps(entry) for entry in sluice.explain("chat")["entries"])


def follow(sluice, node, until="Healthy"):
    """Return the states that a node goes through until one is entered again, without that."""
    seen = [state(sluice, node)]

    def entered():
        now = state(sluice, node)
        if now != seen[-1]:
            seen.append(now)
        return now == until and len(seen) > 1

    wait_until(entered, f"{node} is {until}, after {seen}", 240)
    return seen[:-1]


@full
def test_a_crash_of_the_runtime_costs_a_restart_and_no_node(chat):
    before = {w["metadata"]["uid"] for w in chat.workers("chat")}
    chat.cluster.act_on_node("maia-1", "break", fault="crash", device="all")
    wait_until(
        lambda: any(
            status["restartCount"]
            for w in chat.workers("chat")
            if w["spec"]["nodeName"] == "maia-1"
            for status in w["status"].get("containerStatuses", ())
        ),
        "a container restarts",
    )
    wait_until(lambda: chat.serving("chat", "maia-200") >= 3, "all serve again")
    assert {w["metadata"]["uid"] for w in chat.workers("chat")} == before
    assert state(chat, "maia-1") == "Healthy"


def test_a_hand_takes_a_node_out_without_cutting_a_stream_and_lets_it_back(chat):
    with Load(chat.gateway(), "chat", rate=1.5) as load:
        chat.run("annotate", "node", "maia-1", "sluice.dev/quarantine=new firmware")
        wait_until(lambda: state(chat, "maia-1") == "Latched", "it is out")
        assert "taken out by hand: new firmware" in read_mark(chat, "maia-1")["reason"]
        wait_until(
            lambda: not [w for w in chat.workers("chat") if w["spec"].get("nodeName") == "maia-1"],
            "its workers are gone",
        )
        chat.run("annotate", "node", "maia-1", "sluice.dev/quarantine-")
        chat.run("annotate", "node", "maia-1", "sluice.dev/release=yes")
        assert follow(chat, "maia-1")[-2:] == ["Probation", "Ramp"]
    assert load.lost == []
    assert not load.unequal


@full
def test_what_answers_wrongly_in_its_proof_is_latched_again(chat):
    chat.cluster.act_on_node("maia-1", "break", fault="corruption", device="all", rate=0.1)
    wait_until(lambda: state(chat, "maia-1") == "Latched", "it is out")
    chat.run("annotate", "node", "maia-1", "sluice.dev/release=yes", "--overwrite")
    assert follow(chat, "maia-1", until="Latched")[-1] == "Probation"
    assert "gave a wrong answer in probation" in read_mark(chat, "maia-1")["reason"]
    assert "maia-1" in chat.tainted()
    chat.cluster.act_on_node("maia-1", "heal")
    chat.run("annotate", "node", "maia-1", "sluice.dev/release=yes", "--overwrite")
    assert follow(chat, "maia-1")[-2:] == ["Probation", "Ramp"]


@full
def test_what_fails_on_its_way_back_goes_out_again_and_waits_longer(chat):
    def break_in(at):
        wait_until(lambda: state(chat, "maia-1") == at, f"it is in {at}", 240)
        chat.cluster.act_on_node("maia-1", "break", fault="off-bus", device="all")
        wait_until(lambda: state(chat, "maia-1") == "Failed", f"it fails in {at}")
        assert "maia-1" in chat.tainted()
        chat.cluster.act_on_node("maia-1", "heal")
        return len(read_mark(chat, "maia-1")["outs"])

    with Load(chat.gateway(), "chat", rate=1.0) as load:
        outs = [break_in("Healthy"), break_in("Probation"), break_in("Ramp")]
        assert follow(chat, "maia-1")[-2:] == ["Probation", "Ramp"]
    assert outs == [1, 2, 3]
    assert load.lost == []


@full
def test_a_short_silence_makes_a_worker_suspect_and_no_more(chat, tmp_path):
    for attempt in range(10):
        chat.cluster.act_on_node("maia-1", "freeze")
        time.sleep(1.2)  # long enough for one probe to miss, too short for three
        chat.cluster.act_on_node("maia-1", "start")
        time.sleep(3)
        file = tmp_path / f"{attempt}.jsonl"
        chat.replay(file)
        states = list_worker_states(file, "maia-1")
        if any("Suspect" in seen for seen in states.values()):
            break
    suspects = [seen for seen in states.values() if "Suspect" in seen]
    assert suspects, states
    assert all(seen[-1] == "Healthy" and "Failed" not in seen for seen in suspects), states
    assert state(chat, "maia-1") == "Healthy"


def list_worker_states(file, node):
    """Return the states that each worker of a node went through, by uid, from a recording."""
    seen = {}
    for line in file.read_text().splitlines():
        record = json.loads(line)
        pools = record["snapshot"]["pools"]
        here = {w["uid"] for pool in pools for w in pool["workers"] if w["node"] == node}
        for uid, held in record["memory"]["workers"].items():
            if uid in here and seen.setdefault(uid, [held["state"]])[-1] != held["state"]:
                seen[uid].append(held["state"])
    return seen
