"""The arithmetic of parity audits, their budget, and what is read of workers' answers."""

import json
import math

import pytest

from sluice_gateway.calls import parse_call
from sluice_gateway.objects import PoolDecision, Ramp
from sluice_gateway.parity import (
    LAST,
    Budget,
    ScoreError,
    compare,
    find_unproven,
    find_unserved,
    read_scores,
    read_texts,
    read_tokens,
)
from sluice_gateway.shadow import render_mirrored


def place(**likely):
    """Return a place by its tokens' probabilities: `place(t5=0.9, t6=0.1)`."""
    return {int(token[1:]): math.log(part) for token, part in likely.items()}


def test_the_same_scores_agree_everywhere():
    scores = [place(t5=0.9, t6=0.1), place(t1=0.99, t2=0.005)]
    found = compare(scores, scores)
    assert (found.positions, found.judged, found.agreed, found.divergence) == (2, 2, 2, 0.0)


def test_the_divergence_counts_what_only_one_tells_as_the_rest():
    mine, theirs = [place(t1=0.9, t2=0.06)], [place(t1=0.8, t3=0.15)]
    expected = 0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2)
    assert compare(mine, theirs).divergence == pytest.approx(expected)


def test_the_divergence_is_never_more_than_the_whole_one():
    mine = place(t1=0.85, t2=0.1, t3=0.04, t4=0.01)
    theirs = place(t1=0.7, t2=0.1, t3=0.1, t4=0.1)
    whole = sum(math.exp(p) * (p - theirs[token]) for token, p in mine.items())
    told = {token: p for token, p in mine.items() if token < 3}
    assert 0 < compare([told], [theirs]).divergence <= whole


def test_one_that_is_sure_is_enough_to_be_judged():
    unsure, sure = [place(t1=0.5, t2=0.4)], [place(t2=0.9, t1=0.05)]
    for found in (compare(unsure, sure), compare(sure, unsure)):
        assert (found.judged, found.agreed) == (1, 0)
        assert found.divergence > 0.1
    assert compare(unsure, [place(t2=0.7)]).judged == 0


def test_tokens_that_are_equally_likely_do_not_differ():
    mine = [{4: -0.1, 3: -0.1}]
    assert compare(mine, [{3: -0.1, 4: -0.1}]).agreed == 1


def test_impossible_tokens_are_far_and_not_infinitely():
    found = compare([place(t1=0.99)], [{1: -9999.0, 2: 0.0}])
    assert 15 < found.divergence < 25


def test_lengths_that_differ_are_refused():
    with pytest.raises(ScoreError, match="1 scores against 2"):
        compare([place(t1=1.0)], [place(t1=1.0)] * 2)


def answer(*places):
    return json.dumps({"choices": [{"prompt_logprobs": [None, *places]}]}).encode()


def test_scores_are_read_from_the_first_place_on():
    told = {"5": {"logprob": -0.5, "rank": 1}, "6": {"logprob": -2, "rank": 2}}
    assert read_scores(answer(told, told, told), 2) == [{5: -0.5, 6: -2.0}] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 20_000,
        b'{"choices": []}',
        b'{"choices": [{}]}',
        answer(),
        answer(None),
        answer({}),
        answer({"x": {"logprob": 0}}),
        answer({"1": {"logprob": "x"}}),
        answer({"1": 3}),
        answer({"1": {"logprob": math.nan}}),
    ],
)
def test_what_scores_nothing_is_refused_in_a_sentence(body):
    with pytest.raises(ScoreError, match="prompt_logprobs"):
        read_scores(body, 1)


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"tokens": 3}', b'{"tokens": ["a"]}', b"[" * 9999])
def test_what_are_no_tokens_is_refused(body):
    with pytest.raises(ScoreError, match="no tokens"):
        read_tokens(body)


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "asked", "choice", "found"),
    [
        (TEXT, {"prompt": "a"}, {"text": "b"}, ({"prompt": "a"}, "b")),
        (TEXT, {"prompt": "a", "echo": True}, {"text": "ab"}, None),
        (TEXT, {"prompt": [1, 2]}, {"text": "b"}, None),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "a"}]},
            {"message": {"content": "b"}},
            ({"messages": [{"role": "user", "content": "a"}]}, "b"),
        ),
        (CHAT, {"messages": []}, {"message": {"content": None}}, ({"messages": []}, "")),
        (CHAT, {"messages": []}, {}, None),
    ],
)
def test_prompt_and_answer_of_what_did_not_stream(path, asked, choice, found):
    call = parse_call(path, json.dumps({"model": "m", **asked}).encode(), seed=1)
    assert read_texts(call, json.dumps({"choices": [choice]}).encode()) == found


def test_who_comes_back_and_who_gets_nothing_is_unproven():
    shares = {"maia": 0.3, "gpu": 0.7, "old": 0.0}
    decision = PoolDecision(shares, frozenset(), {"maia": Ramp(0.05, frozenset({"pod"}))})
    assert find_unproven(decision) == {"old", "maia (returning)"}
    assert find_unproven(PoolDecision({}, frozenset())) == set()


def test_only_groups_without_traffic_are_mirrored_to():
    ramps = {"maia": Ramp(0.05, frozenset({"pod"})), "tpu": Ramp(0.0, frozenset({"other"}))}
    decision = PoolDecision({"maia": 0.5, "tpu": 0.5, "gpu": 0.0}, frozenset(), ramps)
    assert find_unserved(decision) == {"gpu", "tpu (returning)"}
    assert find_unserved(PoolDecision({}, frozenset(), ramps)) == set()


@pytest.mark.parametrize("ours", [True, False])
def test_a_mirrored_request_is_one_stream_at_the_end_of_the_line(ours):
    asked = {"model": "m", "prompt": "a", "n": 3, "logprobs": 2, "priority": -10, "echo": True}
    call = parse_call(TEXT, json.dumps(asked).encode(), seed=9)
    mirrored = render_mirrored(call, ours=ours)
    document = json.loads(mirrored.body)
    assert (mirrored.streaming, mirrored.choices, document["seed"]) == (True, 1, 9)
    assert document["return_token_ids"] is True
    assert document.get("priority", 0) == (LAST if ours else 0)
    assert not {"logprobs", "echo"} & document.keys()


def test_a_budget_is_a_fraction_of_the_time():
    budget = Budget(0.02, 0.0)
    taken = now = 0.0
    while now < 1000.0:
        if budget.is_open(now):
            budget.spend(0.3, now)
            taken += 0.3
        now += 0.2
    assert 0.019 * now < taken < 0.02 * now + 0.3


def test_what_a_budget_saves_is_bounded():
    budget = Budget(0.5, 0.0, most=1.0)
    assert budget.is_open(1000.0)
    budget.spend(1.5, 1000.0)
    assert not budget.is_open(1000.5)
    assert budget.is_open(1001.0)
