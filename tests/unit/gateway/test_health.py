"""One worker's health, and the retry budget."""

from sluice_gateway.health import Verdict, WorkerHealth
from sluice_gateway.retries import RetryBudget


def miss(health, times):
    for _ in range(times):
        health.note_missed_probe(started=health.last_success + 1)


def test_one_miss_makes_suspect_three_make_failed_one_answer_heals():
    health = WorkerHealth(0.0)
    assert health.verdict is Verdict.LIVE
    miss(health, 1)
    assert health.verdict is Verdict.SUSPECT
    miss(health, 1)
    assert health.verdict is Verdict.SUSPECT
    miss(health, 1)
    assert health.verdict is Verdict.FAILED
    health.note_success(5.0)
    assert health.verdict is Verdict.LIVE
    assert (health.misses, health.failures, health.last_success) == (0, 0, 5.0)


def test_broken_requests_make_suspect_however_many():
    health = WorkerHealth(0.0)
    for _ in range(8):
        health.note_broken_request()
    assert health.verdict is Verdict.SUSPECT
    assert health.failures == 8
    miss(health, 2)
    assert health.verdict is Verdict.FAILED


def test_a_probe_missed_while_tokens_came_does_not_count():
    health = WorkerHealth(0.0)
    health.note_success(10.2)
    health.note_missed_probe(started=10.0)
    assert health.verdict is Verdict.LIVE


def test_a_late_request_is_told_but_not_judged():
    health = WorkerHealth(0.0)
    health.note_late_request()
    assert health.verdict is Verdict.LIVE
    assert health.failures == 1


def test_the_budget_allows_a_fifth_of_traffic():
    budget = RetryBudget()
    granted = 0
    for number in range(1000):
        now = number / 100
        budget.note_request(now)
        granted += budget.take_retry(now)
    assert 200 <= granted <= 210


def test_a_quiet_pool_may_retry_a_little():
    budget = RetryBudget()
    assert [budget.take_retry(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not budget.take_retry(1.0)
    assert budget.take_retry(6.0)


def test_a_long_quiet_time_saves_up_no_storm():
    budget = RetryBudget()
    for _ in range(10_000):
        budget.note_request(0.0)
    assert sum(budget.take_retry(3600.0) for _ in range(100)) == 20
