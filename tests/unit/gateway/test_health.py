"""One worker's health, and the retry budget."""

import pytest

from sluice_gateway.health import Verdict, WorkerHealth, double
from sluice_gateway.retries import RetryBudget


def miss(health, times):
    for _ in range(times):
        health.note_missed_probe(started=health.last_success + 1)


def fall_silent(health, now):
    health.note_silence(now, first=10.0, most=80.0)


def test_one_miss_makes_suspect_three_make_failed_one_answer_heals():
    health = WorkerHealth(0.0)
    assert health.verdict is Verdict.LIVE
    miss(health, 1)
    assert health.verdict is Verdict.SUSPECT
    miss(health, 1)
    assert health.verdict is Verdict.SUSPECT
    miss(health, 1)
    assert health.verdict is Verdict.FAILED
    health.note_answer(5.0)
    assert health.verdict is Verdict.LIVE
    assert (health.misses, health.last_success) == (0, 5.0)


def test_broken_requests_make_suspect_however_many():
    health = WorkerHealth(0.0)
    for _ in range(8):
        health.note_broken_request(1.0)
    assert health.verdict is Verdict.SUSPECT
    assert health.count_failures(1.0) == 8
    miss(health, 2)
    assert health.verdict is Verdict.FAILED


def test_what_breaks_together_is_one_break():
    health = WorkerHealth(0.0)
    health.note_broken_request(1.0)
    for _ in range(7):
        health.note_broken_request(1.0, held=True)
    assert health.breaks == 1
    health.note_progress(2.0)
    assert health.breaks == 0


def test_a_probe_missed_while_tokens_came_does_not_count():
    health = WorkerHealth(0.0)
    health.note_progress(10.2)
    health.note_missed_probe(started=10.0)
    assert health.verdict is Verdict.LIVE


def test_a_late_request_is_told_but_not_judged():
    health = WorkerHealth(0.0)
    health.note_late_request(1.0)
    assert health.verdict is Verdict.LIVE
    assert health.count_failures(1.0) == 1


def test_missed_probes_are_no_failed_requests():
    health = WorkerHealth(0.0)
    miss(health, 3)
    assert health.count_failures(1.0) == 0


def test_only_a_request_that_gets_on_takes_back_what_requests_said():
    health = WorkerHealth(0.0)
    health.note_late_request(1.0)
    fall_silent(health, 1.0)
    health.note_answer(2.0)
    assert health.verdict is Verdict.SUSPECT
    assert health.count_failures(2.0) == 1
    health.note_progress(3.0)
    assert health.verdict is Verdict.LIVE
    assert health.count_failures(3.0) == 0


def test_failed_requests_of_long_ago_are_no_evidence():
    health = WorkerHealth(0.0)
    health.note_late_request(1.0)
    health.note_late_request(2.0)
    assert health.count_failures(100.0) == 2
    assert health.count_failures(200.0) == 0
    health.note_late_request(200.0)
    assert health.count_failures(200.0) == 1


def test_a_silent_worker_is_tried_when_its_hold_is_over_and_earlier_if_there_is_nobody_else():
    health = WorkerHealth(0.0)
    assert not health.may_be_tried(1.0, early=True)
    fall_silent(health, 100.0)
    assert [health.may_be_tried(now) for now in (100.0, 109.9, 110.0)] == [False, False, True]
    early = [health.may_be_tried(now, early=True) for now in (100.0, 101.9, 102.1)]
    assert early == [False, False, True]
    assert health.find_trial_times() == pytest.approx((102.0, 110.0))
    miss(health, 1)
    assert not health.may_be_tried(120.0)


def test_every_silence_doubles_the_hold_until_it_has_served_for_long():
    health = WorkerHealth(0.0)
    now, holds = 100.0, []
    for _ in range(5):
        fall_silent(health, now)
        fall_silent(health, now + 1)  # what else ran on it
        holds.append(health.held_until - now)
        now = health.held_until + 2
        health.note_progress(now)
        now += 1
    assert holds == [10, 20, 40, 80, 80]
    now += 90
    fall_silent(health, now)
    assert health.held_until - now == 10


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


def test_no_number_of_doublings_is_too_many():
    assert double(0.25, -1, most=10.0) == 0.25
    assert double(0.25, 3, most=10.0) == 2.0
    assert double(0.25, 100_000, most=10.0) == 10.0
