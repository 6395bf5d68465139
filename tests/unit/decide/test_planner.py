"""What a user sees a pool do: scale, spill, go back, fall back, return; and what it never does."""

import itertools
from dataclasses import replace

import pytest

from sluice.model.keys import PoolKey
from sluice.model.memory import WorkerHealth, WorkerState
from sluice.model.plan import Finding

from .samples import CLASSES, pool_spec
from .settled import settle
from .world import World


@pytest.fixture
def world():
    return World()


def test_starts_with_the_minimum(world):
    world.run(20)
    assert world.wanted() == {"maia": 1, "gpu": 0}
    assert world.shares() == {"maia": 100, "gpu": 0}


def test_minima_on_two_classes_need_no_more_than_themselves():
    variants = [
        {"acceleratorClass": "maia", "min": 1, "max": 4},
        {"acceleratorClass": "gpu", "min": 1, "max": 4},
    ]
    world = World(specs={"chat": pool_spec(variants=variants)})
    world.run(60)
    assert world.wanted() == {"maia": 1, "gpu": 1}
    world.dead = {"gpu-0"}
    world.run(20)
    assert world.wanted()["maia"] == 2


def test_more_load_scales_the_preferred_variant_then_spills(world):
    world.run(20)
    world.rate["chat"] = 3.0
    world.run(20)
    assert world.wanted()["maia"] > 1
    assert world.wanted()["gpu"] == 0
    world.rate["chat"] = 7.0
    world.run(30)
    assert world.wanted()["maia"] == 4
    assert world.wanted()["gpu"] >= 1
    assert 0 < world.shares()["gpu"] < 50
    assert "full at 4" in world.told("Spill")[0]


def test_less_load_scales_back_one_at_a_time_and_never_inside_the_hold_down(world):
    world.rate["chat"] = 7.0
    world.run(60)
    world.rate["chat"] = 0.5
    world.run(400)
    assert world.wanted() == {"maia": 1, "gpu": 0}
    steps = list_steps(world)
    assert all(delta == -1 for _, _, delta in steps if delta < 0)
    for name in ("maia", "gpu"):
        of_one = [(at, delta) for at, kind, delta in steps if kind == name]
        for (before, first), (after, second) in itertools.pairwise(of_one):
            if second < 0 or first < 0 < second:
                assert after - before >= 12


def test_constant_load_moves_nothing(world):
    world.rate["chat"] = 2.5
    world.run(60)
    settled = world.wanted(), world.shares()
    for _ in range(300):
        world.step()
        assert (world.wanted(), world.shares()) == settled


@pytest.mark.parametrize("missing", ["gateway away", "slow"])
def test_missing_signals_or_a_broken_slo_never_scale_down(world, missing):
    world.rate["chat"] = 4.0
    world.run(60)
    before = world.wanted()
    world.rate["chat"] = 0.5
    if missing == "slow":
        world.slow = {"maia"}
        world.rate["chat"] = 4.0
    else:
        world.gateway = False
    world.run(200)
    assert all(world.wanted()[name] >= before[name] for name in before)


def test_a_lost_node_makes_gpu_take_over_and_the_node_comes_back():
    world = settle()
    before = world.wanted()
    assert before["maia"] >= 3
    world.dead = {"maia-0"}
    world.run(6)
    assert "maia-0" in world.marks
    assert world.wanted()["gpu"] > before["gpu"]
    assert world.wanted()["maia"] == before["maia"]
    assert "maia-0" in world.told("FallBack")[0]
    assert world.chat().fallback
    world.run(30)
    assert world.shares()["gpu"] > 0
    world.dead = set()
    world.run(60)
    assert not world.marks
    assert not world.chat().fallback
    assert world.shares()["gpu"] == 0
    world.run(200)
    assert world.wanted()["gpu"] == 0


def test_failed_workers_are_deleted_by_name_and_get_no_traffic():
    world = settle()
    world.dead = {"maia-0"}
    world.step()
    world.step()
    # The taint first: the replacement must not be bound to the node that just failed.
    assert world.chat().deletes == ()
    assert "maia-0" in world.marks
    world.step()
    deleted = {d.name for d in world.chat().deletes}
    quarantined = {name for v in world.chat().variants for name in v.quarantined}
    assert deleted
    assert deleted == quarantined
    assert {world.workers[uid].node for uid in deleted} == {"maia-0"}


def test_the_breaker_stops_deletion_but_not_the_shift():
    world = settle()
    world.dead = {"maia-0", "maia-1"}
    world.run(10)
    deleted = {
        world.workers[d.uid].node
        for _, p in world.history
        for d in p.pools[world.chat().key].deletes
    }
    assert len(deleted) == 1
    assert set(world.marks) == {"maia-0", "maia-1"}
    assert world.wanted()["gpu"] >= 3
    assert Finding.BREAKER_OPEN in {p.finding for p in world.chat().problems}


@pytest.mark.parametrize("doubt", ["own target silent", "every class misses at once"])
def test_a_suspect_observer_fails_nobody(doubt):
    world = settle(7.0)
    if doubt == "own target silent":
        world.observer_ok = False
        world.dead = {"maia-0"}
    else:
        world.dead = set(world.nodes)
    world.run(20)
    assert not world.marks
    assert not any(p.pools[world.chat().key].deletes for _, p in world.history)


@pytest.mark.parametrize("blind", ["itself", "everywhere"])
def test_what_failed_before_is_not_deleted_once_the_observer_is_in_doubt(blind):
    world = settle()
    world.specs["other"] = pool_spec(
        model=model("other"), variants=[{"acceleratorClass": "gpu", "min": 1, "max": 1}]
    )
    world.run(20)
    world.dead = {"maia-0"}
    world.memory = replace(world.memory, workers=fail_workers(world, "maia-0"))
    if blind == "itself":
        world.observer_ok = False
    else:
        world.dead = set(world.nodes)
    world.step()
    assert world.chat().deletes == ()
    (held,) = (p for p in world.chat().problems if p.finding is Finding.BREAKER_OPEN)
    assert "not deleted while" in held.message
    world.observer_ok, world.dead = True, {"maia-0"}
    world.run(4)  # the node is marked first
    assert world.chat().deletes


def test_a_paused_fallback_counts_lost_capacity_as_if_it_were_there():
    world = World(specs={"chat": pool_spec(fallback={"mode": "Paused"})})
    world.rate["chat"] = 4.0
    world.run(80)
    before = world.wanted()
    world.dead = {"maia-0"}
    world.run(30)
    assert world.wanted() == before


def test_paused_autoscaling_keeps_the_counts():
    world = World(specs={"chat": pool_spec(autoscaling={"mode": "Paused"})})
    world.run(20)
    world.rate["chat"] = 7.0
    world.run(40)
    assert world.wanted() == {"maia": 1, "gpu": 0}


def test_an_slo_broken_under_load_lowers_the_reckoned_capacity(world):
    world.rate["chat"] = 2.0
    world.run(60)
    before = world.wanted()["maia"]
    world.slow = {"maia"}
    world.run(60)
    assert world.wanted()["maia"] > before
    assert "p95 TTFT" in world.told("SLOBroken")[0]


def test_the_older_pool_owns_a_model_name():
    world = World(specs={"old": pool_spec(), "new": pool_spec()})
    world.run(20)
    assert world.wanted("old")["maia"] == 1
    newer = world.plan.pools[PoolKey("default", "new")]
    assert not newer.workers
    assert "default/old" in newer.problems[0].message


def test_a_higher_priority_takes_devices_from_what_lies_above_the_others_minimum():
    low = pool_spec(model=model("low"))
    high = pool_spec(model=model("high"), priority=10)
    world = World(specs={"low": low, "high": high})
    world.rate = {"low": 3.2}
    world.run(60)
    assert world.wanted("low")["maia"] == 3
    world.rate = {"low": 3.2, "high": 3.2}
    world.run(60)
    assert world.wanted("high")["maia"] == 3
    assert world.wanted("low")["maia"] == 1
    assert world.wanted("low")["gpu"] >= 2


def test_pools_of_one_priority_leave_each_other_what_they_hold():
    world = World(specs={"a": pool_spec(model=model("a")), "b": pool_spec(model=model("b"))})
    world.rate = {"b": 4.0}
    world.run(60)
    held = world.wanted("b")["maia"]
    world.rate = {"a": 5.0, "b": 4.0}
    world.run(60)
    assert world.wanted("b")["maia"] == held
    assert world.wanted("a")["maia"] + held == 4


@pytest.mark.parametrize("gone", ["devices", "labels"])
def test_devices_that_vanish_under_running_workers_remove_none(world, gone):
    world.rate["chat"] = 3.0
    world.run(120)
    before = world.wanted()
    assert before["maia"] > 1
    world.vanished = gone
    world.run(40)
    assert world.wanted() == before
    world.vanished = ""
    world.run(40)
    assert world.wanted() == before


@pytest.mark.parametrize(
    ("variant", "vanished", "said"),
    [
        ({"devices": 3}, "", "the 3 sluice.dev/maia of one worker; the most is 2 of 2 nodes"),
        ({}, "devices", "the 1 sluice.dev/maia of one worker; the most is 0 of 2 nodes"),
    ],
    ids=["more than a node has", "nobody offers the resource"],
)
def test_nodes_that_could_never_hold_a_worker_are_told_of(variant, vanished, said):
    variants = [{"acceleratorClass": "maia", "max": 4} | variant]
    world = World(specs={"chat": pool_spec(variants=variants)}, vanished=vanished)
    world.rate["chat"] = 2.0
    world.run(20)
    assert world.wanted() == {"maia": 0}
    (problem,) = world.chat().problems
    assert problem.finding is Finding.NO_DEVICES
    assert said in problem.message


def test_a_class_deleted_while_in_use_freezes_its_variant(world):
    world.rate["chat"] = 2.0
    world.run(60)
    before = world.wanted()["maia"]
    world.classes = {"gpu": CLASSES["gpu"]}
    world.run(20)
    frozen = next(v for v in world.chat().variants if v.accelerator_class == "maia")
    assert frozen.frozen
    assert frozen.wanted == frozen.serving == before
    assert Finding.CLASS_MISSING in {p.finding for p in world.chat().problems}


def test_a_class_that_cannot_be_read_releases_no_node(world):
    world.rate["chat"] = 2.0
    world.run(60)
    world.dead = {"maia-0"}
    world.run(10)
    assert "maia-0" in world.marks
    world.classes, world.unreadable = {"gpu": CLASSES["gpu"]}, {"maia": "spec.price: found 'dear'"}
    world.run(10)
    assert "maia-0" in world.marks
    (said,) = (p.message for p in world.chat().problems if p.finding is Finding.CLASS_MISSING)
    assert "cannot be read (spec.price: found 'dear')" in said
    world.classes, world.unreadable = dict(CLASSES), {}
    world.run(4)
    assert "maia-0" in world.marks


def list_steps(world):
    """Return (time, class, change) of every change of a wanted count."""
    steps, before = [], {}
    for at, planned in world.history:
        for variant in planned.pools[world.chat().key].variants:
            name, wanted = variant.accelerator_class, variant.wanted
            if wanted != before.get(name, wanted):
                steps.append((at, name, wanted - before[name]))
            before[name] = wanted
    return steps


def fail_workers(world, node):
    """Return the judged health with all workers of a node Failed."""
    failed = WorkerHealth(WorkerState.FAILED, world.now, "three probes missed")
    return {
        uid: failed if world.workers[uid].node == node else health
        for uid, health in world.memory.workers.items()
        if uid in world.workers
    }


def model(name):
    return {
        "name": name,
        "source": {"path": "/models/compact"},
        "emulation": {"nominal": "llama-3.3-70b", "tokenScale": 96},
    }
