"""How long answers are: what is learnt of those that ended, and when a slot is free by it."""

import math
from random import Random

import pytest

from sluice_gateway.answerlengths import AnswerLengths, Spread, find_end


def learn(lengths):
    known = AnswerLengths()
    for length in lengths:
        known.add(length)
    return known.spread


def test_nothing_is_said_of_a_few_answers_as_the_short_ones_come_first():
    assert learn([3] * 7) is None
    assert learn([3] * 8).mean == 3


def test_what_is_left_of_an_answer_is_the_mean_of_the_longer_ones():
    spread = Spread([10] * 50 + [100] * 50)
    assert spread.expect_left(0, math.inf) == pytest.approx(55)
    assert spread.expect_left(9, math.inf) == pytest.approx(46)
    assert spread.expect_left(10, math.inf) == 90  # it is no short one
    assert spread.expect_left(40, math.inf) == 60


def test_an_answer_longer_than_all_known_ones_lacks_some_and_at_least_one_token():
    spread = Spread([10] * 20)
    assert spread.expect_left(80, math.inf) == 20
    assert spread.expect_left(10, math.inf) == 2.5
    assert spread.expect_left(80, 81) == 1
    assert spread.expect_left(80, 80) == 1
    assert min(spread.list_left(9.9, math.inf)) == 1


def test_no_answer_is_thought_to_get_longer_than_its_request_allows():
    spread = Spread([10] * 50 + [100] * 50)
    assert spread.expect_left(0, 40) == pytest.approx(25)
    assert max(spread.list_left(0, 40)) == 40
    assert spread.expect_left(20, 40) == 20


def test_the_mean_is_that_of_what_may_be_left():
    random = Random(1)
    spread = Spread(random.expovariate(1 / 50) for _ in range(500))
    for given in (0.0, 5.0, 60.0, 200.0):
        left = spread.list_left(given, math.inf)
        assert spread.expect_left(given, math.inf) == pytest.approx(sum(left) / len(left))
    # Of answers without a memory as much is left at any time.
    assert spread.expect_left(60, math.inf) == pytest.approx(50, rel=0.2)


def test_what_came_lately_counts():
    assert learn([100] * 512 + [10] * 512).mean == 10
    assert learn([100] * 512 + [10] * 256).mean == pytest.approx(55)


def test_the_first_of_several_ends_long_before_their_mean():
    random = Random(2)
    spread = Spread(random.expovariate(1 / 80) for _ in range(512))
    left = [spread.list_left(0, math.inf)] * 8
    firsts, fourths = [], []
    for _ in range(500):
        ends = sorted(random.expovariate(1 / 80) for _ in range(8))
        firsts.append(ends[0])
        fourths.append(ends[3])
    assert find_end(left, 1) == pytest.approx(sum(firsts) / 500, rel=0.4)
    assert find_end(left, 4) == pytest.approx(sum(fourths) / 500, rel=0.2)
    assert find_end(left, 1) < 0.25 * spread.mean


def test_lengths_that_are_known_end_when_they_do():
    assert [find_end([[30], [10], [20]], ends) for ends in (1, 2, 3)] == [10, 20, 30]
    assert find_end([], 1) == 0
