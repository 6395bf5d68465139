"""A changed template rolls one variant at a time; it adds first, takes first, or waits."""

from dataclasses import replace

import pytest

from sluice.decide.recall import recall_pool
from sluice.decide.rollout import choose_rolls
from sluice.decide.variants import Fleet, view_variant
from sluice.model.memory import WorkerHealth, WorkerState
from sluice.model.plan import Finding
from sluice.model.snapshot import Deployment

from .samples import pool_spec
from .world import World

OLD = Deployment(1, "t0", updated=1, total=1, observed=True, paused=False)
"""All of the template before, which is what its controller calls updated."""


def choose(world, forced="", **deployments):
    """Return the rolls and findings for deployments by class; the wanted template is t1."""
    snapshot = world.snapshot()
    workers = {uid: WorkerHealth(WorkerState.HEALTHY, 0.0) for uid in world.workers}
    fleet = Fleet(snapshot, workers, {})
    pool = replace(snapshot.pools[0], deployments=deployments, force_roll=forced)
    views = [
        view_variant(
            fleet, pool, spec, world.classes[spec.accelerator_class], recall_pool(pool, 0.0)
        )
        for spec in pool.spec.variants
        if spec.accelerator_class in deployments
    ]
    rolls, problems = choose_rolls(fleet, pool, views)
    return rolls, [problem.finding for problem in problems]


@pytest.fixture
def world():
    """A world whose pool runs one worker on each class."""
    made = World(
        specs={
            "chat": pool_spec(
                variants=[
                    {"acceleratorClass": "maia", "min": 1, "max": 4},
                    {"acceleratorClass": "gpu", "min": 1, "max": 4},
                ]
            )
        }
    )
    made.run(20)
    return made


def occupy(world, kind):
    """Let workers of somebody else's hold every free device of a class."""
    world.nodes = {name: k for name, k in world.nodes.items() if k != kind or name.endswith("0")}
    world.devices = {kind: 1}


def leave_one_worker(world):
    """Let the pool have a single worker, on Maia."""
    world.workers = dict(list(world.workers.items())[:1])
    assert [w.accelerator_class for w in world.workers.values()] == ["maia"]


def test_adds_a_worker_first_while_a_device_is_free(world):
    rolls, found = choose(world, maia=OLD)
    assert (rolls["maia"].surge, rolls["maia"].paused, found) == (True, False, [])


def test_takes_one_away_first_where_no_device_is_free_and_others_serve(world):
    occupy(world, "maia")
    current = replace(OLD, template_hash="t1")
    rolls, found = choose(world, maia=OLD, gpu=current)
    assert (rolls["maia"].surge, rolls["maia"].paused, found) == (False, False, [])


def test_a_lone_worker_without_a_free_device_waits_for_a_person(world):
    occupy(world, "maia")
    leave_one_worker(world)
    rolls, found = choose(world, maia=OLD)
    assert (rolls["maia"].paused, found) == (True, [Finding.ROLL_WAITS])


def test_one_variant_rolls_at_a_time(world):
    rolls, _ = choose(world, maia=OLD, gpu=OLD)
    assert (rolls["maia"].paused, rolls["gpu"].paused) == (False, True)
    begun = Deployment(1, "t1", updated=1, total=2, observed=True, paused=False)
    rolls, _ = choose(world, maia=OLD, gpu=begun)
    assert (rolls["maia"].paused, rolls["gpu"].paused) == (True, False)


def test_a_waiting_roll_goes_when_a_device_becomes_free_or_a_person_says_so(world):
    waiting = replace(OLD, template_hash="t1", updated=0, paused=True)
    rolls, found = choose(world, maia=waiting)
    assert (rolls["maia"].surge, rolls["maia"].paused, found) == (True, False, [])
    occupy(world, "maia")
    leave_one_worker(world)
    rolls, found = choose(world, maia=waiting)
    assert (rolls["maia"].paused, found) == (True, [Finding.ROLL_WAITS])
    rolls, found = choose(world, forced="1", maia=waiting)
    assert (rolls["maia"].surge, rolls["maia"].paused, found) == (False, False, [])


def test_a_roll_under_way_goes_on_as_it_began(world):
    occupy(world, "maia")
    begun = Deployment(1, "t1", updated=1, total=2, observed=True, paused=False)
    rolls, found = choose(world, maia=begun)
    assert (rolls["maia"].surge, rolls["maia"].paused, found) == (True, False, [])
