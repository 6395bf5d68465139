"""Power, temperature and energy: bounded, steady, and hot only when cooling fails."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_accel.thermal import (
    COOLANT,
    ThermalState,
    draw_power,
    step_energy,
    utilise,
    warm,
)
from sluice_accel.timing import StepWork, time_work

H100 = PROFILES["h100"]
SMALL = NOMINAL_MODELS["llama-3.1-8b"]
FAILED_COOLING = 50.0
shares = st.floats(0, 1)


def test_power_goes_from_idle_to_design():
    assert draw_power(H100, 0) == H100.idle_power.value == pytest.approx(105)
    assert draw_power(H100, 1) == 700
    assert draw_power(H100, 1, slowdown=2) == pytest.approx(105 + 595 / 2)


@given(shares, st.floats(0, 1000), st.floats(0, 1000))
def test_two_steps_warm_as_much_as_one_of_both_lengths(utilisation, first, second):
    start = ThermalState()
    twice = warm(H100, warm(H100, start, utilisation, first), utilisation, second)
    once = warm(H100, start, utilisation, first + second)
    assert twice.temperature == pytest.approx(once.temperature)


@given(shares, shares, st.floats(0, 1000))
def test_a_cooled_device_never_throttles_and_busier_is_never_cooler(one, other, seconds):
    states = [warm(H100, ThermalState(), share, seconds) for share in sorted((one, other))]
    assert states[0].temperature <= states[1].temperature < 87
    assert not states[1].throttled


def test_without_cooling_it_throttles_which_cools_it_and_then_recovers():
    state, seen = ThermalState(), []
    for _ in range(600):
        state = warm(H100, state, 1.0, 1.0, coolant=FAILED_COOLING)
        seen.append(state)
    assert {each.slowdown for each in seen} == {1.0, 2.0}
    first = next(index for index, each in enumerate(seen) if each.throttled)
    assert seen[first].temperature > 87
    assert not any(each.shut_down for each in seen)
    # Lowered clocks cool it to where it runs at full speed again, and so on.
    assert any(not each.throttled for each in seen[first:])
    changes = sum(a.throttled != b.throttled for a, b in itertools.pairwise(seen))
    assert 2 < changes < 100  # in ten minutes


def test_far_too_warm_it_shuts_down_for_good_and_cools():
    state = warm(H100, ThermalState(), 1.0, 300, coolant=90)
    assert state.shut_down
    later = warm(H100, state, 1.0, 300)
    assert later.shut_down
    assert later.temperature == pytest.approx(COOLANT.value, abs=0.1)


def test_energy_a_token_falls_with_the_batch_and_is_power_times_time():
    work = [StepWork(batch, batch * 1000) for batch in (1, 8, 64)]
    tokens = [step_energy(H100, SMALL, 1, each) / each.decoding for each in work]
    assert tokens == sorted(tokens, reverse=True)
    assert 0 < utilise(H100, SMALL, 1, work[0]) < 1
    watts = step_energy(H100, SMALL, 2, work[0]) / time_work(H100, SMALL, 2, work[0])
    assert 2 * 105 < watts < 2 * 700
    assert step_energy(H100, SMALL, 1, StepWork()) == 0
