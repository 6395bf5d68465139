"""Traffic follows what serves: never ahead of it, never away from it without a cause."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sluice.decide.allocation import Offer
from sluice.decide.shares import hold_shares, share_traffic, split_returning


def offer(name, serving, capacity=1.0, max_share=1.0):
    return Offer(name, 0, 9, serving, serving, capacity, max_share)


def test_the_preferred_variant_takes_all_it_carries():
    assert share_traffic(2.0, [offer("maia", 3), offer("gpu", 2)]) == {"maia": 100, "gpu": 0}


def test_the_rest_spills():
    assert share_traffic(4.0, [offer("maia", 3), offer("gpu", 2)]) == {"maia": 75, "gpu": 25}


def test_overload_is_spread_by_capacity():
    assert share_traffic(50.0, [offer("maia", 3), offer("gpu", 1)]) == {"maia": 75, "gpu": 25}


def test_a_largest_share_holds_while_others_serve():
    assert share_traffic(2.0, [offer("maia", 3, max_share=0.3), offer("gpu", 2)]) == {
        "maia": 30,
        "gpu": 70,
    }


def test_a_largest_share_gives_way_when_nobody_else_serves():
    assert share_traffic(2.0, [offer("maia", 3, max_share=0.3), offer("gpu", 0)]) == {
        "maia": 100,
        "gpu": 0,
    }


def test_nothing_serving_means_no_share_at_all():
    assert share_traffic(2.0, [offer("maia", 0), offer("gpu", 0)]) == {"maia": 0, "gpu": 0}


def test_a_small_change_moves_nothing():
    before = {"maia": 80, "gpu": 20}
    assert hold_shares({"maia": 74, "gpu": 26}, before, {"m": 1}, {"m": 1}) == before
    assert hold_shares({"maia": 60, "gpu": 40}, before, {"m": 1}, {"m": 1}) != before


def test_a_change_in_what_serves_moves_at_once():
    before = {"maia": 80, "gpu": 20}
    wanted = {"maia": 74, "gpu": 26}
    assert hold_shares(wanted, before, {"m": 1}, {"m": 2}) == wanted


@given(
    required=st.floats(0, 100),
    drawn=st.lists(
        st.tuples(st.integers(0, 5), st.none() | st.floats(0.1, 5), st.floats(0.05, 1)),
        min_size=1,
        max_size=5,
    ),
)
def test_shares_add_up_and_never_go_where_nothing_serves(required, drawn):
    offers = [offer(f"c{i}", n, c, s) for i, (n, c, s) in enumerate(drawn)]
    shares = share_traffic(required, offers)
    assert sum(shares.values()) == (100 if any(o.serving for o in offers) else 0)
    for o in offers:
        assert shares[o.accelerator_class] >= 0
        if not o.serving:
            assert shares[o.accelerator_class] == 0


def returning(name, serving, ramp_share, **over):
    return replace(offer(name, serving, **over), returning=serving, ramp_share=ramp_share)


def test_an_idle_pool_whose_only_workers_failed_their_gate_still_has_shares():
    assert share_traffic(0.0, split_returning([returning("maia", 2, 0.0)])) == {
        "maia (returning)": 100,
        "maia": 0,
    }


def test_a_largest_share_of_the_others_lets_nobody_past_a_step():
    offers = [returning("maia", 4, 0.05), offer("gpu", 4, max_share=0.5)]
    assert share_traffic(2.0, split_returning(offers), 2.0) == {
        "maia (returning)": 5,
        "maia": 0,
        "gpu": 95,
    }


def test_an_overload_sends_nothing_to_workers_that_failed_their_gate():
    offers = [returning("maia", 4, 0.0), offer("gpu", 2, max_share=0.5)]
    assert share_traffic(9.0, split_returning(offers), 9.0)["maia (returning)"] == 0
