"""Gateways that know nothing of each other do not all follow the same best worker."""

from collections import Counter

import pytest

from .simworld import Ask, simulate

WORKERS = ("maia",) * 8
EACH = 4
"""Requests that each gateway gets at the same moment."""


def burst(gateways, start=0.0):
    """Return requests that come to all gateways at once: none has seen what the others do."""
    return [Ask(start, prompt=48, output=24, most=160) for _ in range(EACH * gateways)]


def count_by_worker(results):
    assert {result.status for result in results} == {200}
    return Counter(result.worker for result in results)


@pytest.mark.parametrize("gateways", [8, 16, 32])
def test_a_burst_at_all_of_them_is_spread_over_all_workers(gateways):
    results, _ = simulate(burst(gateways), WORKERS, gateways=gateways)
    by_worker = count_by_worker(results)
    mean = len(results) / len(WORKERS)
    assert len(by_worker) == len(WORKERS)
    assert max(by_worker.values()) <= 2.5 * mean


def test_the_fastest_worker_does_not_get_everything():
    # Each gateway has learnt that one worker is faster; together they would drown it.
    gateways = 8
    slow = {f"uid-w{number}": 1.5 for number in range(1, len(WORKERS))}
    asks = [ask for second in range(6) for ask in burst(gateways, 0.8 * second)]
    results, _ = simulate(asks, WORKERS, gateways=gateways, slow=slow)
    late = [result for result in results if result.arrival >= 3.0]
    by_worker = count_by_worker(late)
    assert len(by_worker) == len(WORKERS)
    assert max(by_worker.values()) <= 2.5 * len(late) / len(WORKERS)
