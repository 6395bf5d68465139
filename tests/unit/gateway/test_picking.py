"""Which of several workers a request goes to, by what is predicted of it there."""

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest

from sluice_gateway.affinity import BLOCK_BYTES, PrefixIndex, cut_prompt, read_lead
from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.goals import Goal, RequestClass
from sluice_gateway.routing import find_rules, rank_workers


@dataclass(frozen=True)
class Worker:
    uid: str
    group: str
    ttft: float = 0.1
    itl: float = 0.02
    added: float = 0.01
    inflight: int = 1


def need(kind=RequestClass.STANDARD):
    return Need(prompt=64, output=32, goal=Goal(kind, 1.0, 0.06), ttft=1.0)


def rank(workers, shares=None, sent=None, *, kind=RequestClass.STANDARD, capped=(), **more):
    groups = {worker.group for worker in workers}
    rules = find_rules(shares or {}, healthy=groups, usable=groups, capped=capped)
    return rank_workers(
        workers,
        order=("maia", "gpu"),
        rules=rules,
        sent=sent or {},
        **{
            "need": need(kind),
            "foresee": lambda one: Forecast(one.ttft, one.itl, one.added),
            "tie": 0.0,
            **more,
        },
    )


def first(*arguments, **more):
    return rank(*arguments, **more).workers[0].uid


def test_two_are_compared_when_both_are_safe():
    workers = [Worker(str(n), "maia", ttft=0.1 + n / 1000) for n in range(16)]
    found = [rank(workers, tie=n / 257) for n in range(257)]
    assert {len(ranking.looked) for ranking in found} == {2}
    chosen = Counter(ranking.workers[0].uid for ranking in found)
    assert len(chosen) >= 12
    assert chosen["0"] < 60


@pytest.mark.parametrize("ttft", [0.1, 0.9, 9.0], ids=["safe", "near", "late"])
@pytest.mark.parametrize("others", [0, 14])
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_equal_idle_workers_get_equal_parts(count, others, ttft):
    random = Random(7)
    workers = [Worker(f"m{n}", "maia", ttft, inflight=0) for n in range(count)]
    workers += [Worker(f"g{n}", "gpu", ttft, inflight=0) for n in range(others)]
    shares = {"maia": 1.0, "gpu": 0.0}
    for told in ({}, {"need": None, "foresee": None}):
        chosen = Counter(first(workers, shares, tie=random.random(), **told) for _ in range(8000))
        assert len(chosen) == count
        assert max(chosen.values()) < 1.25 * 8000 / count
        assert min(chosen.values()) > 0.75 * 8000 / count


def test_every_two_workers_are_compared():
    random = Random(8)
    workers = [Worker(str(n), "maia") for n in range(8)]
    found = [rank(workers, tie=random.random()).looked for _ in range(4000)]
    pairs = Counter(frozenset(worker.uid for worker, _ in looked) for looked in found)
    assert len(pairs) == 28
    assert max(pairs.values()) < 1.6 * min(pairs.values())


def test_who_is_looked_at_further_is_drawn_evenly_too():
    random = Random(9)
    workers = [Worker(str(n), "maia", ttft=0.9) for n in range(32)]
    found = [rank(workers, tie=random.random()).looked for _ in range(4000)]
    seen = Counter(worker.uid for looked in found for worker, _ in looked)
    assert len(seen) == 32
    assert max(seen.values()) < 1.3 * min(seen.values())


def test_more_are_looked_at_when_the_two_leave_no_room():
    workers = [Worker(str(n), "maia", ttft=0.9) for n in range(7)] + [Worker("good", "maia")]
    assert {first(workers, tie=n / 100) for n in range(100)} == {"good"}


def test_a_request_goes_elsewhere_when_it_would_be_late_where_it_is_due_and_does_not_count():
    workers = [Worker("m", "maia", ttft=1.5), Worker("g", "gpu", ttft=0.3)]
    ranking = rank(workers, {"maia": 1.0, "gpu": 0.0})
    assert (ranking.workers[0].uid, ranking.spilled_from, ranking.counts) == ("g", "maia", False)
    assert "it would be late where it was due: maia has 0 of 0" in ranking.reason
    assert "first token in 0.3 s, then 20 ms a token" in ranking.reason


def test_where_everybody_would_be_late_the_shares_hold():
    workers = [Worker("m", "maia", ttft=3.0), Worker("g", "gpu", ttft=1.1)]
    ranking = rank(workers, {"maia": 1.0, "gpu": 0.0})
    assert (ranking.workers[0].uid, ranking.spilled_from, ranking.counts) == ("m", "", True)


def test_workers_that_get_their_share_and_no_more_take_no_spill():
    workers = [Worker("m", "maia", ttft=1.5), Worker("back", "back", ttft=0.1)]
    shares = {"maia": 0.9, "back": 0.1}
    assert first(workers, shares, {"maia": 2, "back": 1}, capped={"back"}) == "m"


def test_tokens_too_far_apart_are_a_miss_as_well():
    workers = [Worker("m", "maia", itl=0.09), Worker("g", "gpu", itl=0.03, ttft=0.5)]
    assert first(workers, {"maia": 1.0, "gpu": 0.0}) == "g"


FAST, CHEAP = Worker("g", "gpu", ttft=0.1), Worker("m", "maia", ttft=0.3, added=0.001)


@pytest.mark.parametrize(
    ("kind", "uid"), [(RequestClass.INTERACTIVE, "g"), (RequestClass.BATCH, "m")]
)
def test_near_its_turn_a_group_gets_what_suits_it(kind, uid):
    for sent in ({"maia": 25, "gpu": 25}, {"maia": 26, "gpu": 25}, {"maia": 25, "gpu": 26}):
        ranking = rank([FAST, CHEAP], {"maia": 0.5, "gpu": 0.5}, sent, kind=kind)
        assert (ranking.workers[0].uid, ranking.counts) == (uid, True)


@pytest.mark.parametrize("kind", list(RequestClass))
def test_far_from_its_turn_no_group_gets_anything(kind):
    sent = {"maia": 30, "gpu": 20}
    assert first([FAST, CHEAP], {"maia": 0.5, "gpu": 0.5}, sent, kind=kind) == "g"
    sent = {"maia": 20, "gpu": 30}
    assert first([FAST, CHEAP], {"maia": 0.5, "gpu": 0.5}, sent, kind=kind) == "m"


def test_a_worker_that_may_know_the_prompt_is_compared_in_any_case():
    workers = [Worker(str(n), "maia", ttft=0.3) for n in range(20)] + [Worker("knows", "maia")]
    assert first(workers, familiar={"knows": 60.0}) == "knows"
    busy = [*workers[:-1], Worker("knows", "maia", ttft=0.45)]
    assert first(busy, familiar={"knows": 60.0}) != "knows"


TEXT = "all work and no play makes a dull day. " * 20


def test_prompts_share_as_many_blocks_as_they_begin_alike():
    one = cut_prompt(read_lead(TEXT))
    other = cut_prompt(read_lead(TEXT[: 3 * BLOCK_BYTES + 5] + "otherwise" * 40))
    index = PrefixIndex()
    index.note(one, "w1")
    index.note(other[:1], "w2")
    assert index.find(other) == {"w1": 3, "w2": 1}
    assert index.find(cut_prompt(b"new" * 200)) == {}


def test_a_chat_s_next_turn_begins_with_the_last_one():
    turn = [{"role": "system", "content": TEXT}, {"role": "user", "content": "hi" * 40}]
    said = [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]
    first_turn, second = cut_prompt(read_lead(turn)), cut_prompt(read_lead(turn + said + turn))
    assert second[: len(first_turn)] == first_turn
    assert len(second) > len(first_turn)


def test_what_is_remembered_is_bounded():
    index = PrefixIndex(most=50)
    for number in range(300):
        index.note(cut_prompt(str(number).encode() * 200), f"w{number}")
        index.note_session(str(number), "w", 5.0)
    assert len(index) <= 100
    assert index.find_session("299") == ("w", 5.0)
    assert index.find_session("0") == ("", 0.0)
    assert len(cut_prompt(read_lead([TEXT] * 1000))) <= 64


@pytest.mark.parametrize("prompt", [None, 7, [], [[1, 2]], {"a": 1}, [None], "", [{"content": 5}]])
def test_prompts_that_are_odd_have_a_beginning_too(prompt):
    assert isinstance(read_lead(prompt), bytes)
