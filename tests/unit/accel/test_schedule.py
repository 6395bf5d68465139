"""Faults that come and go: the same seed, the same history, for whoever looks and how often."""

from itertools import pairwise

import pytest

from sluice_accel.faults import DeviceState, Fault, FaultKind
from sluice_accel.schedule import find_spell, show_state

COME = 1000.0


def fault(kind=FaultKind.HANG, **over):
    return Fault(kind, COME, **over)


def history(one, periods=400):
    """Return whether the fault is there in each of its periods, at their middles."""
    return [
        find_spell(one, COME + (number + 0.5) * one.period) is not None for number in range(periods)
    ]


def test_a_fault_without_a_schedule_is_there_from_when_it_came():
    assert find_spell(fault(), COME - 0.1) is None
    assert find_spell(fault(), COME) == find_spell(fault(), COME + 1e6) == fault()


def test_a_repaired_fault_is_gone():
    one = fault(until=COME + 5)
    assert find_spell(one, COME + 4.9) == one
    assert find_spell(one, COME + 5) is None


@pytest.mark.parametrize("seed", [0, 1, 7, 1000])
def test_chance_is_as_often_as_told_and_its_seed_s_own(seed):
    often = fault(probability=0.5, seed=seed)
    assert 130 < sum(history(often)) < 270
    assert history(often) == history(often)
    assert history(often) != history(fault(probability=0.5, seed=seed + 1))


def test_what_happens_does_not_depend_on_when_somebody_looks():
    one = fault(probability=0.4, seed=3)
    spells = [find_spell(one, COME + moment / 4) for moment in range(400)]
    # In a spell its beginning stays; it began when it was not there just before.
    for before, after in pairwise(spells):
        if before is not None and after is not None:
            assert before.since == after.since
    begun = {spell.since for spell in spells if spell is not None}
    assert len(begun) > 1
    assert all((since - COME) % one.period == 0 for since in begun)
    for since in begun - {COME}:
        assert find_spell(one, since - 0.1) is None


def test_what_is_all_but_impossible_never_comes():
    for seed in range(20):
        assert find_spell(fault(FaultKind.ECC, probability=5e-324, seed=seed), 1e11) is None


@pytest.mark.parametrize("kind", [FaultKind.OFF_BUS, FaultKind.ECC])
def test_hardware_that_failed_by_chance_stays_failed_until_its_repair(kind):
    firsts = []
    for seed in range(200):
        seen = history(fault(kind, probability=0.1, seed=seed))
        first = seen.index(True)
        assert all(seen[first:])
        firsts.append(first)
    assert 6 < sum(firsts) / len(firsts) < 12  # 9 periods without it are the mean
    one = fault(kind, probability=0.1, until=COME + 300 * 10)
    assert not any(history(one)[300:])


def test_each_crash_by_chance_is_one_of_its_own():
    one = fault(FaultKind.CRASH, probability=0.9, seed=1)
    spells = [find_spell(one, COME + (number + 0.5) * one.period) for number in range(50)]
    begun = [spell.since for spell in spells if spell is not None]
    assert len(begun) == len(set(begun)) > 40


def test_a_fault_that_is_almost_always_there_is_found_at_once():
    one = fault(probability=0.999999, period=1.0)
    assert find_spell(one, COME + 1e6).since > COME


def test_a_state_shows_what_is_there_now():
    state = DeviceState("x/y", 0, (fault(), fault(FaultKind.ECC, until=COME + 1)))
    assert show_state(state, COME).faults == state.faults
    assert show_state(state, COME + 2).faults == (fault(),)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"probability": 0}, "probability 0 must be above 0"),
        ({"probability": 1.5}, "probability 1.5"),
        ({"held": 0}, "held 0 must be above 0"),
        ({"period": 0.5}, "period 0.5 must be 1 s at least"),
        ({"period": float("nan")}, "period nan"),
        ({"until": COME}, "until 1000 must be after since, 1000"),
        ({"until": float("nan")}, "until nan"),
    ],
)
def test_a_schedule_that_is_none_is_refused(over, said):
    with pytest.raises(ValueError, match=said):
        fault(**over)
