"""The emulated clock: close to what is published, slow enough to be emulated, honest about it."""

import pytest

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES, perturb
from sluice_accel.quantities import Tag
from sluice_accel.timing import StepBatch, step_time

LARGE = NOMINAL_MODELS["llama-3.3-70b"]


def decode(profile, devices, batch, context=5000):
    return step_time(PROFILES[profile], LARGE, devices, StepBatch((), (context,) * batch))


def test_reproduces_the_published_inter_token_latency():
    # NIM 1.8.0, Llama-3.3-70B FP8 on two H100, concurrency 1: 18.6 ms.
    assert decode("h100", 2, 1) == pytest.approx(0.0186, rel=0.1)


@pytest.mark.parametrize(("profile", "devices"), [("maia-200", 1), ("h100", 2)])
def test_steps_are_long_enough_to_be_emulated(profile, devices):
    assert decode(profile, devices, 1, context=500) >= 0.018


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_more_work_never_takes_less_time(profile):
    times = [decode(profile, 1, batch) for batch in range(1, 40)]
    # A larger batch may leave the small-batch penalty behind, which is what the knob means.
    assert times[-1] > times[0]
    with_prompt = StepBatch(((1024, 0),), (5000,) * 4)
    assert step_time(PROFILES[profile], LARGE, 1, with_prompt) > decode(profile, 1, 4)


def test_no_work_takes_no_time():
    assert step_time(PROFILES["h100"], LARGE, 1, StepBatch()) == 0


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_number_says_how_it_is_known(profile):
    for quantity in PROFILES[profile].list_quantities().values():
        assert quantity.source
        assert quantity.tag in set(Tag)


def test_what_nobody_has_published_of_maia_is_assumed():
    quantities = PROFILES["maia-200"].list_quantities()
    published = {name for name, q in quantities.items() if q.tag is Tag.PUBLISHED}
    assert published == {"memory_bandwidth", "peak_compute", "memory"}
    assert quantities["step_overhead"].tag is Tag.ASSUMED


def test_the_planners_copy_errs_within_its_spread_and_the_same_each_time():
    exact = PROFILES["h100"]
    copy = perturb(exact, seed=7)
    assert copy == perturb(exact, seed=7)
    assert copy != perturb(exact, seed=8)
    for name, quantity in exact.list_quantities().items():
        assert getattr(copy, name).value == pytest.approx(quantity.value, rel=0.2)
    assert copy.memory_bandwidth.value != exact.memory_bandwidth.value
