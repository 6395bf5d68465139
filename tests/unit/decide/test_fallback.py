"""What others take over when capacity is lost: partial, total, flapping, and with nothing left."""

import math

import pytest

from sluice.model.keys import PoolKey
from sluice.model.plan import Finding

from .samples import pool_spec
from .settled import settle
from .world import World


def model(name):
    return {
        "name": name,
        "source": {"path": "/models/compact"},
        "emulation": {"nominal": "llama-3.3-70b", "tokenScale": 96},
    }


def capacity(world, kind, pool="chat"):
    planned = world.plan.pools[PoolKey("default", pool)]
    return next(v.capacity for v in planned.variants if v.accelerator_class == kind)


def serving(world, kind):
    return next(v.serving for v in world.chat().variants if v.accelerator_class == kind)


def short(world, pool="chat"):
    planned = world.plan.pools[PoolKey("default", pool)]
    return [p.message for p in planned.problems if p.finding is Finding.CAPACITY_SHORT]


@pytest.fixture
def world():
    return settle(3.0)


def test_a_partial_loss_wants_what_is_missing_by_the_formula(world):
    world.dead = {"maia-0"}
    world.run(4)
    required = 3.0 * 1.2
    left = required - serving(world, "maia") * capacity(world, "maia")
    assert world.wanted()["gpu"] == min(4, math.ceil(left / capacity(world, "gpu")))


def test_a_total_loss_wants_all_of_it_at_once(world):
    world.dead = {"maia-0", "maia-1"}
    world.run(4)
    assert serving(world, "maia") == 0
    assert world.wanted()["gpu"] == min(4, math.ceil(3.6 / capacity(world, "gpu")))
    world.run(10)
    assert world.shares() == {"maia": 0, "gpu": 100}


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (3.0, "required (demand 3.00/s + 20% headroom) /"),
        (0.1, "required (what spec.min of the variants carries; demand 0.10/s + 20% headroom is"),
    ],
)
def test_the_decision_says_what_the_required_capacity_is_made_of(rate, said):
    world = settle(rate)
    world.dead = {"maia-0", "maia-1"}
    world.run(4)
    assert said in world.told("FallBack")[0]


def test_a_flapping_loss_keeps_the_fallback_up_all_the_time(world):
    world.dead = {"maia-0", "maia-1"}
    world.run(6)
    fallen = world.wanted()["gpu"]
    for _ in range(10):
        world.dead = set() if world.dead else {"maia-0", "maia-1"}
        world.run(10)
        assert world.wanted()["gpu"] >= fallen


def test_what_finds_no_worker_is_named_and_gone_when_it_is_back(world):
    world.specs["chat"] = pool_spec(
        variants=[
            {"acceleratorClass": "maia", "min": 1, "max": 4},
            {"acceleratorClass": "gpu", "min": 0, "max": 2},
        ]
    )
    world.rate["chat"] = 5.0
    world.run(40)
    assert short(world) == []
    world.dead = {"maia-0", "maia-1"}
    world.run(8)
    (message,) = short(world)
    assert "/s of 6.00/s (headroom included) find no worker" in message
    assert "maia serves 0" in message
    assert "gpu has at most 2" in message
    world.dead = set()
    world.run(200)
    assert short(world) == []


def test_the_pool_of_higher_priority_falls_back_first_when_not_all_fit():
    variants = [
        {"acceleratorClass": "maia", "min": 1, "max": 2},
        {"acceleratorClass": "gpu", "min": 0, "max": 4},
    ]
    world = World(
        specs={
            "batch": pool_spec(model=model("batch"), variants=variants, priority=1),
            "chat": pool_spec(model=model("chat"), variants=variants, priority=100),
        }
    )
    world.rate |= {"chat": 2.0, "batch": 2.0}
    world.run(80)
    world.dead = {"maia-0", "maia-1"}
    world.rate["chat"] = 8.0
    world.run(12)
    assert world.wanted("chat")["gpu"] == 4
    assert world.wanted("batch")["gpu"] == 0
    assert short(world, "batch")


def test_broken_devices_of_a_node_that_is_out_are_still_counted_on(world):
    world.rate["chat"] = 4.0
    world.run(60)
    before = world.wanted()["maia"]
    assert before >= 3
    world.broken = world.gone_devices = {"maia-0"}
    world.run(30)
    assert "maia-0" in world.marks
    assert world.wanted()["maia"] == before
    assert not [one for one in world.told("ScaleDown") if "devices" in one]
    assert not world.told("CapacityBack")


def test_a_paused_fallback_moves_no_capacity(world):
    world.specs["chat"] = pool_spec(fallback={"mode": "Paused"})
    world.dead = {"maia-0"}
    world.run(20)
    assert world.wanted()["gpu"] == 0
    assert world.chat().fallback == ""
