"""Answers are compared between the classes that serve, and a way back waits for it."""

import json

import pytest

from .story import Load, serve_on_both_maia, wait_until

ENOUGH = {"sample": "100%", "budget": "50%", "maxKL": "0.05"}
"""The bound is wider than the default: the load's one question is far from what the model has
learnt, and goes on past its end, where healthy numerics differ by 0.013 nat."""
NEXT_TO_NOTHING = ENOUGH | {"budget": "0%"}
"""Each worker has one answer compared, and never pays for it: fewer than a verdict takes."""


def compare(sluice, rules):
    patch = json.dumps({"spec": {"parity": rules}})
    sluice.run("patch", "ipool", "chat", "--type", "merge", "-p", patch)


@pytest.fixture
def chat(sluice):
    with serve_on_both_maia(sluice, gpu=1):
        yield sluice
        for text in ("sluice.dev/quarantine-", "sluice.dev/release=yes"):
            sluice.run("annotate", "node", "maia-1", text, "--overwrite", check=False)
        wait_until(lambda: "maia-1" not in sluice.tainted(), "no node is out", 240)


def read_status(sluice):
    return sluice.get("ipool", "chat")["status"]


def find_ramp(sluice):
    variants = read_status(sluice)["variants"]
    return next((v["ramp"] for v in variants if "ramp" in v), None)


def list_decisions(sluice):
    return [decision["action"] for decision in read_status(sluice)["decisions"]]


def test_a_ramp_waits_until_its_workers_were_compared_and_goes_on_then(chat):
    compare(chat, ENOUGH)
    with Load(chat.gateway(), "chat", rate=1.5) as load:
        wait_until(lambda: chat.condition("chat", "ParityMet") == "True", "classes agree")
        pairs = read_status(chat)["parity"]
        assert {pair["verdict"] for pair in pairs} <= {"Agrees", "Awaits"}
        assert all(pair["audits"] > 0 for pair in pairs)
        compare(chat, NEXT_TO_NOTHING)
        chat.run("annotate", "node", "maia-1", "sluice.dev/quarantine=new firmware")
        wait_until(lambda: "maia-1" in chat.tainted(), "it is out")
        wait_until(
            lambda: not [w for w in chat.workers("chat") if w["spec"].get("nodeName") == "maia-1"],
            "its workers are gone",
        )
        chat.run("annotate", "node", "maia-1", "sluice.dev/quarantine-")
        chat.run("annotate", "node", "maia-1", "sluice.dev/release=yes")
        wait_until(
            lambda: (find_ramp(chat) or {}).get("hold") == "AwaitingParity",
            "the ramp waits for answers that were compared",
        )
        held = find_ramp(chat)
        assert held["step"] == "1/2"
        assert "RampHold" in list_decisions(chat)
        compare(chat, ENOUGH)
        wait_until(lambda: "RampDone" in list_decisions(chat), "it has climbed to the top")
    assert load.lost == []
    assert "ParityFailed" not in list_decisions(chat)
