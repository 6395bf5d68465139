"""Numerics that a device has not: said, and nothing that runs is touched for them."""

import pytest

from sluice.decide.planner import plan
from sluice.decide.probation import choose_start
from sluice.model.memory import Memory
from sluice.model.plan import Finding

from .world import World, pool_spec


def make_spec(**maia):
    variants = [
        {"acceleratorClass": "maia", "min": 1, "max": 4} | maia,
        {"acceleratorClass": "gpu", "min": 0, "max": 4},
    ]
    return pool_spec(variants=variants)


def find_problem(world):
    (found,) = (p for p in world.chat().problems if p.finding is Finding.NUMERICS_UNSUPPORTED)
    return found.message


@pytest.fixture
def world():
    """A world whose pool is well, and then asks Maia for numerics that only Maia 100 has."""
    made = World(rate={"chat": 2.0})
    made.run(60)
    made.specs["chat"] = make_spec(numerics="mx9")
    return made


def test_the_pool_says_which_numerics_and_what_to_choose(world):
    world.step()
    assert find_problem(world) == (
        "variant maia asks for numerics mx9, which the device of profile maia-200 does not"
        " multiply: its workers stay as they are, and none is added; choose one of float32,"
        " bfloat16, fp8-row, fp8-block, fp4, or another class"
    )


def test_workers_serve_on_and_do_not_roll(world):
    before, shares = dict(world.replicas), world.shares()
    world.run(30)
    planned = {v.accelerator_class: v for v in world.chat().variants}
    assert world.replicas == before
    assert world.shares() == shares
    assert planned["maia"].paused
    assert not planned["gpu"].paused


def test_what_they_cannot_carry_goes_to_the_next_variant(world):
    world.run(4)
    wanted = world.wanted()["maia"]
    world.rate["chat"] = 20.0
    world.run(60)
    assert world.wanted()["maia"] == wanted
    assert world.wanted()["gpu"] > 0


def test_a_pool_that_begins_so_spills_at_once_and_starts_nothing_there():
    fresh = World(specs={"chat": make_spec(min=0, numerics="mx6")}, rate={"chat": 2.0})
    fresh.run(30)
    assert fresh.wanted()["maia"] == 0
    assert fresh.wanted()["gpu"] > 0
    assert all(v.paused for v in fresh.chat().variants if v.accelerator_class == "maia")


def test_no_node_has_to_prove_itself_in_them(world):
    snapshot = world.snapshot()
    node = next(n for n in snapshot.nodes if n.name == "maia-0")
    assert choose_start(snapshot, node) is None
    world.specs["chat"] = make_spec(numerics="fp4")
    snapshot = world.snapshot()
    assert choose_start(snapshot, node).accelerator_class == "maia"


def test_corrected_numerics_roll_as_any_edit(world):
    world.run(10)
    world.specs["chat"] = make_spec(numerics="fp4")
    world.step()
    assert not any(p.finding is Finding.NUMERICS_UNSUPPORTED for p in world.chat().problems)
    assert not any(v.paused for v in world.chat().variants)


def test_status_tells_what_each_variant_computes_in(world):
    world.specs["chat"] = make_spec(numerics="fp4")
    planned, _ = plan(world.snapshot(), Memory())
    (pool,) = planned.pools.values()
    told = {v.accelerator_class: v.numerics for v in pool.variants}
    assert told == {"maia": "fp4", "gpu": "fp8-row"}
