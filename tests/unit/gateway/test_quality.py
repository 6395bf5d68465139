"""What users get of routing and admission on mixed Maia and GPU workers, in virtual time."""

from collections import Counter

import pytest

from sluice_gateway.goals import Asked, RequestClass

from .simworld import draw_requests, find_capacity, find_met, simulate

CLASSES = ("maia", "maia", "gpu", "gpu")
SECONDS = 12
OBJECTIVE = 1.0
"""Seconds to the first token, as the simulated pool has it."""


@pytest.fixture(scope="module")
def capacity():
    """Requests a second that the four workers end when they are never idle."""
    return find_capacity(CLASSES)


@pytest.fixture(scope="module")
def overloaded(capacity):
    asks = draw_requests(3 * capacity, SECONDS, seed=5)
    return simulate(asks, CLASSES)[0]


def quantile(values, share):
    return sorted(values)[int(share * len(values))]


@pytest.mark.parametrize(("load", "times"), [(0.6, 1.0), (0.8, 1.5), (0.95, 2.0)])
def test_fewer_requests_miss_their_objectives_than_with_balancers_that_predict_nothing(
    capacity, load, times
):
    asks = draw_requests(load * capacity, SECONDS, seed=4)
    missed = 1 - find_met(simulate(asks, CLASSES)[0])
    for policy in ("round-robin", "least-requests", "power-of-two"):
        others = 1 - find_met(simulate(asks, CLASSES, policy=policy)[0])
        assert missed * times <= others, policy


def test_two_gateways_that_do_not_know_of_each_other_do_not_herd(capacity):
    asks = draw_requests(capacity, 2 * SECONDS, seed=4)
    together = simulate(asks, CLASSES, gateways=2)[0]
    assert find_met(together) >= find_met(
        simulate(asks, CLASSES, policy="power-of-two", gateways=2)[0]
    )
    assert find_met(together) >= 0.9 * find_met(simulate(asks, CLASSES)[0])


def test_of_foreign_backends_what_they_show_is_enough(capacity):
    asks = draw_requests(0.8 * capacity, SECONDS, seed=4)
    ours = find_met(simulate(asks, CLASSES, foreign=True)[0])
    assert ours >= find_met(simulate(asks, CLASSES, policy="power-of-two")[0])


def test_predictions_are_right_enough_though_the_constants_are_not(capacity):
    asks = draw_requests(0.8 * capacity, SECONDS, seed=4)
    results = simulate(asks, CLASSES)[0]
    ratios = [r.ttft / r.bid.ttft for r in results[len(results) // 2 :] if r.status == 200]
    assert 0.75 < quantile(ratios, 0.5) < 1.33


def test_what_is_let_in_at_three_times_the_load_meets_the_objective(overloaded, capacity):
    served = [result for result in overloaded if result.status == 200]
    assert quantile([result.ttft for result in served], 0.5) <= OBJECTIVE
    assert quantile([result.ttft for result in served], 0.95) <= 1.25 * OBJECTIVE
    assert find_met(overloaded) * len(overloaded) >= 0.8 * capacity * SECONDS


def test_what_cannot_be_served_is_told_soon(overloaded):
    shed = [result for result in overloaded if result.status == 429]
    assert len(shed) + sum(r.status == 200 for r in overloaded) == len(overloaded)
    assert quantile([result.took for result in shed], 0.5) <= 0.1 * OBJECTIVE
    assert max(result.took for result in shed) <= 1.1 * OBJECTIVE


def test_a_key_that_floods_takes_nothing_from_another(capacity):
    flood = draw_requests(3 * capacity, SECONDS, seed=5, key="flood")
    modest = draw_requests(0.2 * capacity, SECONDS, seed=6, key="modest")
    results = simulate(sorted([*flood, *modest], key=lambda ask: ask.at), CLASSES)[0]
    served = {key: find_met([r for r in results if r.key == key]) for key in ("flood", "modest")}
    assert served["modest"] >= 0.8
    assert served["modest"] >= 2.0 * served["flood"]


@pytest.mark.parametrize("kind", [None, RequestClass.INTERACTIVE, RequestClass.BATCH])
def test_the_shares_hold_whatever_the_classes_ask_for(capacity, kind):
    asks = draw_requests(0.7 * capacity, SECONDS, seed=4)
    for number, ask in enumerate(asks):
        ask.asked = Asked(kind=kind if number % 8 else None)
    results, _ = simulate(asks, CLASSES, shares={"maia": "60%", "gpu": "40%"})
    sent = [r.worker in ("w0", "w1") for r in results if r.worker and not r.spilled]
    for end in range(50, len(sent), 25):
        last = Counter(sent[end - 50 : end])
        assert 0.48 <= last[True] / 50 <= 0.72
    assert sum(sent) / len(sent) == pytest.approx(0.6, abs=0.06)


def test_urgent_classes_come_first_when_there_is_too_much(capacity):
    asks = draw_requests(1.5 * capacity, SECONDS, seed=4)
    for number, ask in enumerate(asks):
        ask.asked = Asked(kind=RequestClass.INTERACTIVE if number % 3 else RequestClass.BATCH)
    results = simulate(asks, CLASSES)[0]
    interactive = find_met([r for r in results if r.kind == "interactive"])
    batch = find_met([r for r in results if r.kind == "batch"])
    assert interactive > 1.2 * batch
    assert any(r.status == 200 for r in results if r.kind == "batch")


def test_conversations_go_where_their_beginning_is_known_if_that_pays(capacity):
    asks = draw_requests(0.8 * capacity, SECONDS, seed=4)
    for number, ask in enumerate(asks):
        ask.prompt = 160
        talk = 1 if number % 2 else number % 80  # one is much more popular than the others
        ask.lead = tuple(hash((talk, block)) for block in range(8))
    affine, other = (
        [r.ttft for r in simulate(asks, CLASSES, affine=affine)[0] if r.status == 200]
        for affine in (True, False)
    )
    assert len(affine) >= len(other)
    assert sum(affine) / len(affine) <= 0.9 * sum(other) / len(other)


def test_a_worker_that_is_slower_than_its_kind_is_known_to_be_and_gets_less(capacity):
    asks = draw_requests(0.7 * capacity, SECONDS, seed=4)
    results, _ = simulate(asks, CLASSES, slow={"uid-w2": 2.0})
    late = results[len(results) // 2 :]
    ratios = [r.tpot / r.bid.itl for r in late if r.worker == "w2" and r.tpot]
    assert quantile(ratios, 0.5) < 1.35
    sent = Counter(r.worker for r in late)
    assert sent["w2"] <= 0.6 * sent["w3"]
    assert sent["w2"] > 0
