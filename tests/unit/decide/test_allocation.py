"""The preferred variant is filled first; what it cannot carry spills; what is lost falls back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.decide.allocation import Offer
from sluice.decide.allocation import allocate_workers as allocate_in_order
from sluice.decide.fallback import cover_losses


def offer(name, **over):
    values = {
        "minimum": 0,
        "maximum": 4,
        "allocated": 0,
        "serving": 0,
        "capacity": 1.0,
    } | over
    return Offer(name, **values)


def allocate_workers(required, offers):
    """Return the fills, losses covered."""
    return cover_losses(*allocate_in_order(required, offers), offers=offers)[0]


def test_fills_the_preferred_variant_first():
    fills = allocate_workers(2.5, [offer("maia"), offer("gpu")])
    assert (fills["maia"].workers, fills["gpu"].workers) == (3, 0)


def test_spills_what_the_preferred_variant_cannot_carry():
    fills = allocate_workers(5.5, [offer("maia"), offer("gpu")])
    assert (fills["maia"].workers, fills["gpu"].workers) == (4, 2)


def test_keeps_the_minimum_without_any_demand():
    fills = allocate_workers(0.0, [offer("maia", minimum=1), offer("gpu")])
    assert (fills["maia"].workers, fills["gpu"].workers) == (1, 0)


@pytest.mark.parametrize(("required", "maia"), [(2.0, 1), (3.0, 2), (0.5, 0)])
def test_what_a_later_minimum_carries_anyway_needs_no_earlier_worker(required, maia):
    fills = allocate_workers(required, [offer("maia"), offer("gpu", minimum=1)])
    assert (fills["maia"].workers, fills["gpu"].workers) == (maia, 1)


def test_a_later_minimum_that_is_lost_carries_nothing():
    lost = offer("gpu", minimum=1, allocated=1, impaired="node lost")
    assert allocate_workers(2.0, [offer("maia"), lost])["maia"].workers == 2


def test_a_largest_share_bounds_the_preferred_variant():
    fills = allocate_workers(4.0, [offer("maia", max_share=0.5), offer("gpu")])
    assert (fills["maia"].workers, fills["gpu"].workers) == (2, 2)


@pytest.mark.parametrize(
    ("required", "serving", "gpu_capacity", "gpu"),
    [(4.0, 2, 1.0, 2), (4.0, 0, 1.0, 4), (3.0, 2, 0.4, 3), (2.0, 2, 1.0, 0)],
    ids=["half lost", "all lost", "small gpu", "enough left"],
)
def test_fallback_follows_the_formula(required, serving, gpu_capacity, gpu):
    maia = offer("maia", allocated=4, serving=serving, impaired="node lost")
    fills = allocate_workers(required, [maia, offer("gpu", capacity=gpu_capacity, maximum=9)])
    assert fills["gpu"].workers == gpu
    assert gpu == max(0, math.ceil((required - serving) / gpu_capacity))


def test_fallback_is_clipped_to_the_maximum():
    maia = offer("maia", allocated=4, impaired="node lost")
    fills = allocate_workers(9.0, [maia, offer("gpu", maximum=2)])
    assert fills["gpu"].workers == 2


def test_starting_workers_count_while_nothing_is_lost():
    fills = allocate_workers(4.0, [offer("maia", allocated=4, serving=0), offer("gpu")])
    assert fills["gpu"].workers == 0


def test_a_loss_of_the_last_variant_goes_to_the_first_past_its_share():
    maia = offer("maia", max_share=0.5, maximum=8)
    gpu = offer("gpu", allocated=2, serving=0, impaired="node lost")
    assert allocate_workers(4.0, [maia, gpu])["maia"].workers == 4


def test_without_a_capacity_one_more_worker_while_the_slo_is_broken():
    unknown = offer("maia", capacity=None, allocated=2, serving=2, breached=True)
    assert allocate_workers(1.0, [unknown, offer("gpu")])["maia"].workers == 3


def test_without_a_capacity_a_full_variant_over_its_slo_spills():
    unknown = offer("maia", capacity=None, allocated=4, serving=4, breached=True)
    fills = allocate_workers(2.0, [unknown, offer("gpu")])
    assert (fills["maia"].workers, fills["gpu"].workers) == (4, 1)


offers = st.lists(
    st.builds(
        lambda low, room, serving, capacity, impaired: (
            low,
            low + room,
            serving,
            capacity,
            impaired,
        ),
        st.integers(0, 3),
        st.integers(0, 6),
        st.integers(0, 9),
        st.floats(0.05, 5.0),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@given(required=st.floats(0, 50), drawn=offers)
def test_never_leaves_the_bounds_and_covers_what_it_can(required, drawn):
    made = [
        offer(
            f"class-{i}",
            minimum=low,
            maximum=high,
            serving=min(serving, high),
            capacity=capacity,
            impaired="lost" if impaired else "",
        )
        for i, (low, high, serving, capacity, impaired) in enumerate(drawn)
    ]
    fills = allocate_workers(required, made)
    for o in made:
        assert o.minimum <= fills[o.accelerator_class].workers <= o.maximum
    covered = sum(fill.covered for fill in fills.values())
    room = sum((min(o.serving, o.maximum) if o.impaired else o.maximum) * o.capacity for o in made)
    assert covered <= required + 1e-6
    if not any(o.impaired for o in made):
        assert covered == pytest.approx(min(required, room), abs=1e-6)
