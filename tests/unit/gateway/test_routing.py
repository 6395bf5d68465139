"""Routing: shares first, then load; pure, so tested with plain values."""

import ast
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice_gateway import (
    affinity,
    answerlengths,
    engines,
    forecast,
    goals,
    health,
    line,
    overload,
    picking,
    retries,
    routing,
    shares,
    windows,
)
from sluice_gateway.routing import find_effective_shares, find_rules, rank_workers
from sluice_gateway.shares import ShareWindow

VARIANTS = ("maia", "gpu", "spare")


@dataclass(frozen=True)
class Worker:
    uid: str
    group: str
    inflight: int = 0


def rank(workers, decided=None, sent=None, *, full=(), capped=(), **more):
    """Rank usable workers; groups of `full` have healthy ones, too, but none with room."""
    usable = {worker.group for worker in workers}
    rules = find_rules(decided or {}, healthy={*usable, *full}, usable=usable, capped=capped)
    order = (*VARIANTS, *capped)
    return rank_workers(workers, order=order, rules=rules, sent=sent or {}, **more)


def uids(ranking):
    return [worker.uid for worker in ranking.workers]


def test_without_shares_the_least_loaded_comes_first():
    workers = [Worker("a", "maia", 3), Worker("b", "gpu", 1), Worker("c", "maia", 2)]
    ranking = rank(workers)
    assert uids(ranking) == ["b", "c", "a"]
    assert not ranking.counts
    assert "no shares decided; 3 workers" in ranking.reason


def test_the_variant_furthest_behind_its_share_comes_first():
    workers = [Worker("m", "maia", 0), Worker("g1", "gpu", 5), Worker("g2", "gpu", 4)]
    ranking = rank(workers, {"maia": 0.3, "gpu": 0.7}, {"maia": 4, "gpu": 6})
    assert uids(ranking) == ["g2", "g1", "m"]
    assert ranking.counts
    assert ranking.reason == (
        "gpu has 6 of 10 requests at a share of 70%; least in flight there: 4"
    )


def test_a_variant_without_workers_leaves_its_share_to_the_others():
    ranking = rank([Worker("g", "gpu")], {"maia": 0.9, "gpu": 0.1}, {"gpu": 5})
    assert uids(ranking) == ["g"]
    assert "share of 100%" in ranking.reason


def test_a_variant_without_share_serves_only_when_no_other_can():
    workers = [Worker("s", "spare", 0), Worker("m", "maia", 9)]
    decided = {"maia": 1.0, "spare": 0.0}
    assert uids(rank(workers, decided)) == ["m", "s"]
    alone = rank(workers[:1], decided)
    assert uids(alone) == ["s"]
    assert not alone.counts


def test_excluded_workers_are_left_out():
    workers = [Worker("a", "maia"), Worker("b", "maia")]
    assert uids(rank(workers, excluded={"a"})) == ["b"]
    nobody = rank(workers, excluded={"a", "b"})
    assert uids(nobody) == []
    assert nobody.reason == "none of 2 usable workers is left to try"


def test_ties_are_broken_by_the_number_passed_in():
    workers = [Worker(name, "maia") for name in "abcd"]
    firsts = {uids(rank(workers, tie=tie))[0] for tie in (0.0, 0.25, 0.5, 0.999)}
    assert firsts == set("abcd")


@given(
    weights=st.dictionaries(st.sampled_from(VARIANTS), st.integers(1, 100), min_size=1),
    rounds=st.integers(1, 120),
)
def test_shares_hold_to_within_one_request(weights, rounds):
    total = sum(weights.values())
    decided = {name: weight / total for name, weight in weights.items()}
    workers = [Worker(name, name) for name in weights]
    sent = Counter()
    for _ in range(rounds):
        sent[rank(workers, decided, sent).workers[0].group] += 1
    for name, share in decided.items():
        assert abs(sent[name] - share * rounds) < len(weights)


@given(
    st.lists(st.tuples(st.sampled_from([*VARIANTS, "unknown"]), st.integers(0, 9)), max_size=12),
    st.dictionaries(st.sampled_from(VARIANTS), st.floats(0, 1), max_size=3),
    st.floats(0, 1, exclude_max=True),
)
def test_every_candidate_is_ranked_once(rows, decided, tie):
    workers = [Worker(str(place), *row) for place, row in enumerate(rows)]
    ranking = rank(workers, decided, tie=tie)
    assert sorted(uids(ranking)) == sorted(worker.uid for worker in workers)


def test_effective_shares_add_up():
    found = find_effective_shares({"maia": 0.5, "gpu": 0.3, "spare": 0.0}, {"gpu"})
    assert found == {"gpu": 1.0}


def test_capped_groups_get_no_more_than_their_share_while_others_can_serve():
    decided = {"maia": 0.45, "maia (returning)": 0.05, "gpu": 0.5}
    back, gpu, maia = "maia (returning)", "gpu", "maia"

    def effective(*able):
        found = find_effective_shares(decided, able, {back})
        return {name: round(share, 6) for name, share in found.items()}

    assert effective(back, gpu, maia) == decided
    assert effective(back, gpu) == {"maia (returning)": 0.05, "gpu": 0.95}
    assert effective(gpu, maia) == {"maia": round(0.45 / 0.95, 6), "gpu": round(0.5 / 0.95, 6)}
    assert effective(back) == {"maia (returning)": 1.0}
    none = find_effective_shares({**decided, back: 0.0}, [back], {back})
    assert none == {}


PERCENT = st.integers(0, 100_000).map(lambda thousandths: thousandths / 100_000)
"""A share as status can say it: a percentage with at most three decimals."""


@given(
    st.dictionaries(st.sampled_from(VARIANTS), PERCENT, max_size=3),
    st.sets(st.sampled_from(VARIANTS)),
    st.sets(st.sampled_from(VARIANTS)),
)
@example(decided={"maia": 5e-324, "gpu": 1.0}, present={"maia"}, capped=set())
def test_effective_shares_always_add_up_to_one_or_nothing(decided, present, capped):
    total = sum(decided.values())
    decided = {name: share / total for name, share in decided.items()} if total > 1e-6 else {}
    found = find_effective_shares(decided, present, capped)
    assert not found or sum(found.values()) == pytest.approx(1.0)
    assert all(
        found[name] <= decided[name] + 1e-9
        for name in found
        if found.keys() - capped and name in capped
    )


BACK = "maia (returning)"
STEP = {"maia": 0.5, BACK: 0.1, "gpu": 0.4}


def test_full_groups_keep_their_share_and_others_help_out_uncounted():
    ranking = rank([Worker("g", "gpu", 3)], STEP, {"maia": 4, "gpu": 5}, full={"maia"})
    assert uids(ranking) == ["g"]
    assert not ranking.counts
    assert ranking.reason == (
        "nobody is free where it was due: maia has 4 of 9 requests at a share of 55.6%; "
        "gpu has 5 of 9 requests at a share of 44.4%; least in flight there: 3"
    )


def test_a_capped_group_is_left_out_when_it_is_not_behind():
    workers = [Worker("r", BACK), Worker("g", "gpu")]
    more = {"full": {"maia", "gpu"}, "capped": {BACK}}
    assert uids(rank(workers, STEP, {"maia": 4, "gpu": 4, BACK: 1}, **more)) == ["g"]
    nobody = rank(workers[:1], STEP, {"maia": 4, "gpu": 4, BACK: 1}, **more)
    assert not nobody.workers
    assert nobody.reason == (
        "none of 1 usable workers is left to try: "
        "maia (returning) has 1 of 9 requests at a share of 10%, and no more"
    )


def test_a_capped_group_that_is_behind_gets_a_request_that_counts():
    ranking = rank(
        [Worker("r", BACK)], STEP, {"maia": 9, "gpu": 4}, full={"maia", "gpu"}, capped={BACK}
    )
    assert uids(ranking) == ["r"]
    assert ranking.counts
    assert "maia (returning) has 0 of 13 requests at a share of 10%" in ranking.reason


def test_a_capped_group_is_not_behind_by_an_error_of_rounding():
    decided, sent = {"maia": 0.93, BACK: 0.07}, {"maia": 92, BACK: 7}
    assert 0.07 * 100 - 7 > 0
    assert not rank([Worker("r", BACK)], decided, sent, full={"maia"}, capped={BACK}).workers


@pytest.mark.parametrize("full", [(), {"spare"}])
def test_a_capped_group_takes_all_when_no_settled_group_with_a_share_is_healthy(full):
    for share in (0.0, 0.1):
        decided = {"maia": 1 - share, BACK: share, "spare": 0.0}
        ranking = rank([Worker("r", BACK)], decided, {BACK: 50}, full=full, capped={BACK})
        assert uids(ranking) == ["r"]


def test_a_doubted_worker_gets_its_trial_though_its_group_has_no_healthy_one():
    workers = [Worker("m", "maia"), Worker("g", "gpu")]
    rules = find_rules({"maia": 0.6, "gpu": 0.4}, healthy={"gpu"}, usable={"maia", "gpu"})
    assert uids(rank_workers(workers, order=VARIANTS, rules=rules, sent={})) == ["m", "g"]


def test_the_window_forgets_what_is_both_old_and_beyond_the_last_fifty():
    window = ShareWindow(seconds=10, requests=5)
    rules = {"maia": 1.0}
    window.read_counts(rules, 0.0)
    for second in range(8):
        window.add("maia", float(second))
    assert window.read_counts(rules, 9.0)["maia"] == 8
    assert window.read_counts(rules, 12.5)["maia"] == 5
    assert window.read_counts(rules, 1000.0)["maia"] == 5


@pytest.mark.parametrize("share", [0.01, 0.005, 0.002])
@pytest.mark.parametrize("others", [1, 3])
def test_the_smallest_share_gets_its_turns_however_low_the_traffic(share, others):
    rules = {"small": share} | {f"large {n}": (1 - share) / others for n in range(others)}
    workers = [Worker(name, name) for name in rules]
    window = ShareWindow(seconds=10, requests=50)
    sent = Counter()
    for second in range(10_000):
        counts = window.read_counts(rules, float(second))
        group = rank(workers, rules, counts).workers[0].group
        window.add(group, float(second))
        sent[group] += 1
    assert sent["small"] == pytest.approx(10_000 * share, rel=0.25, abs=1)


def test_the_window_is_bounded_however_small_a_share_is():
    window = ShareWindow(seconds=10, requests=50)
    rules = {"maia": 5e-324, "gpu": 1.0}
    window.read_counts(rules, 0.0)
    for _ in range(2000):
        window.add("gpu", 0.0)
    assert window.read_counts(rules, 1000.0)["gpu"] == 1000


def test_other_rules_start_a_new_window():
    window = ShareWindow()
    window.read_counts({"maia": 1.0}, 0.0)
    window.add("maia", 0.0)
    assert window.read_counts({"maia": 0.5, "gpu": 0.5}, 0.0)["maia"] == 0


PURE = (
    *(routing, picking, forecast, engines, goals, affinity, line, overload),
    *(shares, health, retries, windows, answerlengths),
)


@pytest.mark.parametrize("module", PURE)
def test_the_deciding_modules_are_pure(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    pure = {"bisect", "collections", "collections.abc", "dataclasses", "enum", "math", "typing"}
    pure |= {"contextlib", "functools", "heapq", "itertools"}
    pure |= {module.__name__ for module in PURE} | {"sluice_gateway.answers", "sluice_gateway.pace"}
    pure |= {"sluice_gateway", "sluice_gateway.names"}
    assert {name for name in imported if not name.startswith("sluice_accel.")} <= pure
