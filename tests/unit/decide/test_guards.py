"""What holds a scaling step back, and what never does."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.decide.guards import Wish, guard_count, remember_recommendation
from sluice.model.memory import Direction, Step, VariantMemory

HOLD = 120.0


def wish(**over):
    values = {
        "current": 3,
        "workers": 3,
        "forced": False,
        "load": 3.0,
        "capacity": 1.0,
        "minimum": 0,
        "maximum": 8,
        "settled": True,
    } | over
    return Wish(**values)


def memory(step=None, recommendations=()):
    return VariantMemory(step=step, recommendations=recommendations)


def count(w, m, at=1000.0):
    return guard_count(w, m, at=at, hold_down=HOLD)[0]


def test_up_is_never_held_back_after_an_up():
    assert count(wish(workers=7), memory(Step(Direction.UP, 999))) == 7


def test_up_after_a_recent_down_waits_inside_the_dead_band():
    recent = memory(Step(Direction.DOWN, 990))
    assert count(wish(workers=4, load=3.2), recent) == 3
    assert count(wish(workers=4, load=3.4), recent) == 4
    assert count(wish(workers=4, load=3.2, forced=True), recent) == 4
    assert count(wish(workers=4, load=3.2), memory(Step(Direction.DOWN, 800))) == 4


def test_down_goes_one_at_a_time():
    assert count(wish(workers=0), memory(recommendations=((900, 0),))) == 2


def test_down_waits_for_the_window_to_be_low_throughout():
    assert count(wish(workers=1), memory(recommendations=((900, 3), (950, 1)))) == 3


def test_down_waits_for_the_hold_down_after_any_step():
    low = ((900, 1),)
    assert count(wish(workers=1), memory(Step(Direction.UP, 950), low)) == 3
    assert count(wish(workers=1), memory(Step(Direction.DOWN, 950), low)) == 3
    assert count(wish(workers=1), memory(Step(Direction.DOWN, 870), low)) == 2


def test_nothing_goes_down_unsettled():
    assert count(wish(workers=1, settled=False), memory(recommendations=((900, 1),))) == 3


def test_a_lowered_maximum_acts_at_once():
    assert count(wish(current=8, workers=8, maximum=2), memory(Step(Direction.UP, 999))) == 2


def test_a_raised_minimum_acts_at_once():
    assert count(wish(current=1, workers=4, minimum=4), memory(Step(Direction.DOWN, 999))) == 4


@given(
    samples=st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 9)), min_size=1, max_size=60),
    length=st.floats(1, 300),
)
def test_the_window_keeps_its_maximum_first(samples, length):
    window, seen, at = (), [], 0.0
    for gap, workers in samples:
        at += gap
        seen.append((at, workers))
        window = remember_recommendation(window, at, workers, length)
        inside = [count for time, count in seen if time > at - length]
        assert window[0][1] == max(inside)
        assert len(window) <= 10
