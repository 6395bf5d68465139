"""Routing: shares first, then load; pure, so tested with plain values."""

import ast
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice_gateway import health, retries, routing, shares, windows
from sluice_gateway.routing import find_effective_shares, rank_workers
from sluice_gateway.shares import ShareWindow

VARIANTS = ("maia", "gpu", "spare")


@dataclass(frozen=True)
class Worker:
    uid: str
    group: str
    inflight: int = 0


def rank(workers, decided=None, sent=None, **more):
    return rank_workers(workers, order=VARIANTS, shares=decided or {}, sent=sent or {}, **more)


def uids(ranking):
    return [worker.uid for worker in ranking.workers]


def test_without_shares_the_least_loaded_comes_first():
    workers = [Worker("a", "maia", 3), Worker("b", "gpu", 1), Worker("c", "maia", 2)]
    ranking = rank(workers)
    assert uids(ranking) == ["b", "c", "a"]
    assert not ranking.by_share
    assert "no shares decided; 3 workers" in ranking.reason


def test_the_variant_furthest_behind_its_share_comes_first():
    workers = [Worker("m", "maia", 0), Worker("g1", "gpu", 5), Worker("g2", "gpu", 4)]
    ranking = rank(workers, {"maia": 0.3, "gpu": 0.7}, {"maia": 4, "gpu": 6})
    assert uids(ranking) == ["g2", "g1", "m"]
    assert ranking.by_share
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
    assert not alone.by_share


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
    found = find_effective_shares({"maia": 0.5, "gpu": 0.3, "spare": 0.0}, [Worker("g", "gpu")])
    assert found == {"gpu": 1.0}


def test_capped_groups_get_no_more_than_their_share_while_others_can_serve():
    decided = {"maia": 0.45, "maia (returning)": 0.05, "gpu": 0.5}
    back, gpu, maia = Worker("r", "maia (returning)"), Worker("g", "gpu"), Worker("m", "maia")

    def effective(*workers):
        found = find_effective_shares(decided, workers, {"maia (returning)"})
        return {name: round(share, 6) for name, share in found.items()}

    assert effective(back, gpu, maia) == decided
    assert effective(back, gpu) == {"maia (returning)": 0.05, "gpu": 0.95}
    assert effective(gpu, maia) == {"maia": round(0.45 / 0.95, 6), "gpu": round(0.5 / 0.95, 6)}
    assert effective(back) == {"maia (returning)": 1.0}
    none = find_effective_shares({**decided, "maia (returning)": 0.0}, [back], {back.group})
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
    found = find_effective_shares(decided, [Worker(name, name) for name in present], capped)
    assert not found or sum(found.values()) == pytest.approx(1.0)
    assert all(
        found[name] <= decided[name] + 1e-9
        for name in found
        if found.keys() - capped and name in capped
    )


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


@pytest.mark.parametrize("module", [routing, shares, health, retries, windows])
def test_the_deciding_modules_are_pure(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    pure = {"bisect", "collections", "collections.abc", "dataclasses", "enum", "math", "typing"}
    assert imported <= pure | {"sluice_gateway.answers"}
