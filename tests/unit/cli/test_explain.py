"""`sluice explain`: a pool, else a node, with what can be reached; sentences for the rest."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sluice.cli.errors import CommandError
from sluice.cli.main import sluice
from sluice.cli.stories import describe_node, describe_pool
from sluice.decide.timeline import Entry
from sluice.model.keys import PoolKey

from .fakeapi import serve_objects

POOLS = "/apis/sluice.dev/v1alpha1/namespaces/default/inferencepools"
MARK = {
    "state": "Latched",
    "since": 1_764_128_400.25,
    "reason": "worker chat-1: a wrong answer",
    "outs": [1_764_128_000.0, 1_764_128_400.25],
}
NODE = {
    "metadata": {
        "name": "maia-0",
        "annotations": {"sluice.dev/health": json.dumps(MARK), "sluice.dev/release": "yes"},
    },
    "spec": {"taints": [{"key": "sluice.dev/quarantine", "effect": "NoSchedule"}]},
    "status": {
        "conditions": [
            {"type": "AcceleratorHealthy", "status": "False", "reason": "X", "message": "off bus"}
        ]
    },
}
STATUS = {
    "placement": "maia 1/1 100%",
    "costPerHour": "10.00",
    "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "1 of 1"}],
    "variants": [
        {
            "acceleratorClass": "maia",
            "wanted": 1,
            "ready": 1,
            "serving": 1,
            "share": "100%",
            "numerics": "fp8-block",
            "ramp": {"share": "5%", "pods": ["chat-1"]},
        }
    ],
    "decisions": [{"time": "2026-01-01T00:00:00Z", "action": "ScaleUp", "reason": "maia 0 → 1"}],
}
EVENT = {
    "involvedObject": {"kind": "Node", "name": "maia-0"},
    "reason": "NodeNotReady",
    "message": "gone",
    "type": "Normal",
    "lastTimestamp": "2026-01-01T00:00:01Z",
}


# What an API server with a pool and a node gives, and an operator's admin port.
OBJECTS: dict[str, Any] = {
    f"{POOLS}/chat": {"metadata": {"name": "chat"}, "status": STATUS},
    "/api/v1/nodes/maia-0": NODE,
    "/api/v1/namespaces/default/events": {"items": []},
    "/api/v1/events": {"items": [EVENT]},
    "/api/v1/pods": {
        "items": [
            {
                "metadata": {
                    "name": "chat-1",
                    "namespace": "default",
                    "labels": {"app.kubernetes.io/name": "sluice-worker"},
                },
                "status": {"phase": "Running", "containerStatuses": [{"ready": True}]},
            },
            {"metadata": {"name": "other", "namespace": "default"}},
        ]
    },
    "/recording": b"",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve_objects(OBJECTS, tmp_path / "config") as url:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield url


def explain(*arguments: str):
    return CliRunner().invoke(sluice, ["explain", *arguments])


def test_a_pool_is_told_with_its_variants_and_its_time_line(server: str) -> None:
    result = explain("chat", "--url", server)
    assert result.exit_code == 0
    assert "default/chat: maia 1/1 100%, $10.00/h" in result.output
    assert "carries ?/s, computes in fp8-block; ramp: 5% of the pool to chat-1" in result.output
    assert "2026-01-01T00:00:00Z" in result.output
    assert "ScaleUp: maia 0 → 1" in result.output
    assert "Without" not in result.output


def test_a_node_is_told_where_no_pool_has_the_name(server: str) -> None:
    result = explain("maia-0", "--url", server)
    assert result.exit_code == 0
    for said in (
        "node maia-0: Latched, out since 2025-11-26T03:40:00.250Z",
        "a wrong answer; failed 2 times",
        "tainted sluice.dev/quarantine: no new workers",
        "annotated sluice.dev/release: yes",
        "off bus",
        "default/chat-1: Running, 1 of 1 containers ready",
        "NodeNotReady: gone",
    ):
        assert said in result.output
    assert "default/other" not in result.output


def test_a_name_that_is_neither_is_a_sentence_of_both(server: str) -> None:
    result = explain("nobody", "--url", server)
    assert isinstance(result.exception, CommandError)
    assert "neither an InferencePool 'nobody' in namespace 'default' nor a node" in str(
        result.exception
    )


def test_programs_get_the_entries(server: str) -> None:
    told = json.loads(explain("chat", "--url", server, "--output", "json").output)
    assert told["pool"] == "default/chat"
    assert [entry["what"] for entry in told["entries"]] == ["ScaleUp"]
    assert told["entries"][0]["time"] == "2026-01-01T00:00:00Z"


def test_what_is_older_than_asked_for_is_left_out(server: str) -> None:
    told = json.loads(explain("chat", "--url", server, "--since", "1s", "-o", "json").output)
    assert told["entries"] == [] or told["entries"][0]["at"] > 1_767_225_600 - 1
    assert explain("chat", "--since", "soon").exit_code == 2


def test_without_an_operator_the_rest_is_told_and_what_is_missing(server: str) -> None:
    result = explain("chat", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 0
    assert "ScaleUp" in result.output
    assert "Without the recorded passes of http://127.0.0.1:1: " in result.output
    assert "port-forward deploy/sluice-operator 8081" in explain("chat").output


def test_what_is_no_recording_is_said(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTS, "/recording", b'{"version": 1}\n')
    result = explain("chat", "--url", server)
    assert result.exit_code == 0
    assert "is no record of a pass" in result.output


def test_a_node_that_nothing_happened_to_and_one_edited_by_hand() -> None:
    plain = describe_node({"metadata": {"name": "n"}}, [], 0.0)
    # Its time line may tell of failures that were released, or are older than an hour.
    assert plain[0] == "node n: in service, and no failure counts against it"
    assert "no workers on it" in plain
    edited = {"metadata": {"name": "n", "annotations": {"sluice.dev/health": "{oops"}}}
    assert "cannot be read: '{oops'" in describe_node(edited, [], 0.0)[0]
    back = {**MARK, "state": "Healthy"}
    healed = {"metadata": {"name": "n", "annotations": {"sluice.dev/health": json.dumps(back)}}}
    assert "in service again since 2025-11-26" in describe_node(healed, [], 0.0)[0]


def marked(state: str, since: float, reason: str = "why", **more: Any) -> dict[str, Any]:
    text = json.dumps({"state": state, "since": since, "reason": reason, **more})
    return {"metadata": {"name": "n", "annotations": {"sluice.dev/health": text}}}


def entered(at: float, what: str) -> Entry:
    return Entry(at, "node n", what, node="n", pools=frozenset([PoolKey("default", "chat")]))


def test_a_state_is_told_since_it_was_entered_and_not_since_the_node_went_out() -> None:
    out = 1_764_128_400.0
    story = [entered(out, "quarantined"), entered(out + 32, "in probation")]
    head = describe_node(marked("Probation", out), [], out + 34, story)[0]
    assert head == (
        "node n: Probation since 2025-11-26T03:40:32.000Z (2.0 s),"
        " out since 2025-11-26T03:40:00.000Z (34.0 s): why"
    )
    # An operator that was started meanwhile tells the same state once more, later.
    again = [*story, entered(out + 33, "in probation")]
    assert describe_node(marked("Probation", out), [], out + 34, again)[0] == head
    failed = describe_node(marked("Failed", out), [], out + 1, story[:1])[0]
    assert failed == "node n: Failed since 2025-11-26T03:40:00.000Z (1.0 s): why"
    # Where nothing tells, or only of another time, all that is known is since when it is out.
    unknown = "node n: Probation, out since 2025-11-26T03:40:00.000Z (34.0 s): why"
    for known in ([], story[:1], [entered(out - 500, "in probation")]):
        assert describe_node(marked("Probation", out), [], out + 34, known)[0] == unknown


def test_a_node_that_is_back_without_a_worker_says_what_it_waits_for() -> None:
    node, story = marked("Ramp", 1_764_128_400.0), [entered(1_764_128_400.0, "returned")]
    lines = describe_node(node, [], 1_764_128_500.0, story)
    assert lines[0] == "node n: Ramp since 2025-11-26T03:40:00.000Z (1 min 40 s): why"
    assert lines[1].startswith("  waits for a worker: no ready one of any pool is on it")
    assert "may come here (from default/chat)" in lines[1]
    assert "like any other from 2025-11-26T04:40:00Z on" in lines[1]
    assert "(from" not in describe_node(node, [], 1_764_128_500.0)[1]
    worker: dict[str, Any] = {
        "metadata": {"name": "chat-1", "labels": {"app.kubernetes.io/name": "sluice-worker"}},
        "status": {"containerStatuses": [{"ready": True}]},
    }
    assert "waits" not in "".join(describe_node(node, [worker], 1_764_128_500.0))
    starting = {**worker, "status": {"containerStatuses": [{"ready": False}]}}
    assert "waits" in describe_node(node, [starting], 1_764_128_500.0)[1]
    assert "waits" not in "".join(describe_node(marked("Failed", 1.0), [], 2.0))


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            marked(
                "Latched",
                1_764_128_400.0,
                "a wrong answer; stays out until somebody runs: sluice node release n",
            ),
            ("So far it was Latched, out since 2025-11-26T03:40:00.000Z (", "): a wrong answer. "),
        ),
        (marked("Probation", 1.0), ("It proves itself already, and goes on;",)),
        (marked("Ramp", 1.0), ("It is back already, and climbs as before;",)),
        (marked("Healthy", 1.0, outs=[1.0]), ("It is in service already; only the times",)),
        ({"metadata": {"name": "n"}}, ("It bore no mark of Sluice: nothing will change.",)),
        (
            {"metadata": {"name": "n", "annotations": {"sluice.dev/health": "{oops"}}},
            ("Its mark tells nothing: the annotation sluice.dev/health cannot be read: '{oops'.",),
        ),
    ],
)
def test_a_release_is_a_sentence_of_what_it_does(
    server: str, monkeypatch: pytest.MonkeyPatch, node: dict[str, Any], said: tuple[str, ...]
) -> None:
    monkeypatch.setitem(OBJECTS, "/api/v1/nodes/n", node)
    result = CliRunner().invoke(sluice, ["node", "release", "n"])
    assert result.exit_code == 0
    assert result.output.startswith("The operator is asked to release n (sluice.dev/release). ")
    for part in said:
        assert part in result.output
    assert '"state"' not in result.output
    assert "until somebody runs" not in result.output


def test_a_pool_that_nobody_looked_at() -> None:
    assert describe_pool("default/chat", {}) == [
        "default/chat: the operator has not looked at it yet. Is it running?"
    ]
