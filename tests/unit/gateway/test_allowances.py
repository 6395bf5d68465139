"""The limits of a key: how they are used up, refill, and what its headers say."""

import pytest

from sluice_gateway.allowances import Allowance, Level, render_wait
from sluice_gateway.apikeys import KeyLimits


def test_a_minute_s_limit_can_be_used_at_once_and_refills_steadily():
    level = Level(60, now=0.0)
    for _ in range(60):
        assert level.find_wait(1, 0.0) == 0
        level.take(1, 0.0)
    assert level.find_wait(1, 0.0) == pytest.approx(1.0)
    assert level.find_wait(1, 1.0) == 0
    assert level.read(1000.0) == 60


def test_what_was_reserved_and_not_used_is_given_back():
    level = Level(100, now=0.0)
    level.take(80, 0.0)
    level.take(5 - 80, 0.0)
    assert level.read(0.0) == 95


def test_more_than_was_foreseen_is_waited_for():
    level = Level(60, now=0.0)
    level.take(90, 0.0)
    assert level.find_wait(1, 0.0) == pytest.approx(31.0)


def test_a_changed_limit_keeps_what_was_used():
    allowance = Allowance()
    allowance.adopt(KeyLimits(requests_per_minute=10), 0.0)
    allowance.requests.take(8, 0.0)
    allowance.adopt(KeyLimits(requests_per_minute=20), 0.0)
    assert allowance.requests.read(0.0) == 12
    allowance.adopt(KeyLimits(requests_per_minute=5), 0.0)
    assert allowance.requests.read(0.0) == -3
    allowance.adopt(KeyLimits(), 0.0)
    assert allowance.requests is None


def test_headers_are_openai_s_and_only_of_what_is_limited():
    allowance = Allowance()
    allowance.adopt(KeyLimits(tokens_per_minute=6000), 0.0)
    allowance.tokens.take(1500, 0.0)
    assert allowance.render_headers(0.0) == {
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4500",
        "x-ratelimit-reset-tokens": "15s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (6.54, "6.5s"), (60, "1m0s"), (90.04, "1m30s")],
)
def test_times_are_written_as_openai_does(seconds, text):
    assert render_wait(seconds) == text
