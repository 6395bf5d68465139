"""Answers that are none: wrong if the worker itself gave them, and else nobody's."""

import json

import pytest

from sluice.model.snapshot import KnownAnswers
from sluice.observe import asking

from .fakeworker import find, target, until

MODEL = {"modelDigest": "sha256:ab", "numerics": "float32"}
NONSENSE = {
    "no JSON": b"x",
    "nothing": b"",
    "no answer": b"[]",
    "names no model": b'{"output": [4, 5]}',
    "no tokens": json.dumps(MODEL).encode(),
    "text for tokens": json.dumps(MODEL | {"output": ["4", "5"]}).encode(),
    "tokens below 0": json.dumps(MODEL | {"output": [-4, 5]}).encode(),
    "text for scores": json.dumps(MODEL | {"output": [4, 5], "logprobs": ["-1", "-1"]}).encode(),
    "booleans for scores": json.dumps(MODEL | {"output": [4, 5], "logprobs": [True] * 2}).encode(),
    "far too many scores": json.dumps(
        MODEL | {"output": [4, 5], "logprobs": [-1.5] * 9000}
    ).encode(),
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
async def test_a_worker_that_answers_nonsense_answers_wrongly(prober, worker, body):
    worker.body = body
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).wrong >= 1)
    found = find(prober)
    assert found.detail.startswith("prompt 1: the answer cannot be read: ")
    assert len(found.detail) < 300
    assert (found.right, found.unavailable) == (0, "")


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_that_names_no_worker_is_held_against_none(prober, worker, body):
    worker.body, worker.signed = body, False
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "answer to prompt 1 cannot be read, and names no worker" in find(prober).unavailable
    assert (find(prober).right, find(prober).wrong) == (0, 0)


async def test_an_endless_answer_is_cut_off_and_wrong(prober, worker, monkeypatch):
    monkeypatch.setattr(asking, "BODY_LIMIT", 1 << 10)
    worker.body = b"[" + b"1," * (1 << 17)
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).wrong)
    assert "the answer cannot be read: it has more than 1024 bytes" in find(prober).detail


async def test_an_endless_list_is_no_list(prober, worker, monkeypatch):
    monkeypatch.setattr(asking, "BODY_LIMIT", 1 << 10)
    worker.given = b"[" + b"1," * (1 << 17)
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "list of known answers cannot be read: it has more than 1024" in find(prober).unavailable


async def test_nonsense_of_another_pod_at_the_address_does_not_count(prober, worker):
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 1)
    worker.body, worker.uid = b"x", "another"
    before = prober.unanswered
    await until(lambda: prober.unanswered >= before + 2)
    assert (find(prober).wrong, find(prober).unavailable) == (0, "")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_nonsense_with_another_status_is_no_answer(prober, worker, status):
    worker.refusal, worker.said = status, ["x"]
    prober.set_targets([target(worker)])
    await until(lambda: prober.unanswered >= 2)
    assert find(prober) == KnownAnswers()


async def test_nonsense_of_another_model_than_the_list_is_not_judged(prober, worker):
    worker.body = json.dumps(MODEL | {"numerics": "mx9", "output": "x"}).encode()
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "both must be of what is loaded" in find(prober).unavailable
    assert find(prober).wrong == 0
