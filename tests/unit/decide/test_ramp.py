"""Traffic comes back in steps, each gated; the others keep what the ramp does not let through."""

import re

import pytest

from sluice.decide.ramp import find_failed_gate, merge_signals
from sluice.model.snapshot import Distribution, WorkerSignals

from .samples import BOUNDS, one_bucket, pool_spec
from .settled import settle
from .world import World

STEPS = {"steps": ["10%", "50%"], "dwell": "6s"}


def wait_for_ramp(world, node="maia-0"):
    """Let a node die, heal and prove itself, until its workers begin to climb."""
    world.dead = {node}
    world.run(12)
    world.dead = set()
    for _ in range(200):
        world.step()
        if ramp(world) is not None:
            return
    raise AssertionError("no ramp began")


def variant(world, name="maia"):
    return next(v for v in world.chat().variants if v.accelerator_class == name)


def ramp(world):
    return variant(world).ramp


@pytest.fixture
def world():
    return settle()


def test_the_share_climbs_step_by_step_and_each_lasts_its_dwell(world):
    wait_for_ramp(world)
    pods = {w.name for w in world.workers.values() if w.node == "maia-0" and w.ready}
    assert set(ramp(world).pods) <= pods
    steps, since = [], []
    while ramp(world) is not None:
        if not steps or steps[-1] != ramp(world).step:
            steps.append(ramp(world).step)
            since.append(ramp(world).since)
        world.step()
    assert steps == [1, 2]
    assert since[1] - since[0] >= 6
    assert world.told("RampDone")
    assert "maia-0" not in world.marks


def test_until_it_has_climbed_the_others_keep_what_they_took_over(world):
    wait_for_ramp(world)
    gpu = world.wanted()["gpu"]
    assert gpu > 0
    while ramp(world) is not None:
        assert world.wanted()["gpu"] >= gpu
        assert world.chat().fallback
        world.step()
    world.run(300)
    assert world.wanted()["gpu"] == 0
    assert not world.chat().fallback


def test_returning_workers_get_no_more_than_their_step_while_others_can_carry_the_rest():
    world = World(
        specs={
            "chat": pool_spec(
                variants=[
                    {"acceleratorClass": "maia", "min": 4, "max": 4},
                    {"acceleratorClass": "gpu", "min": 4, "max": 4},
                ]
            )
        }
    )
    world.rate["chat"] = 2.0
    world.run(80)
    wait_for_ramp(world)
    seen = set()
    while ramp(world) is not None:
        seen.add((ramp(world).step, ramp(world).share))
        world.step()
    assert (1, 10) in seen
    assert {step for step, _ in seen} == {1, 2}
    assert all(10 < share <= 50 for step, share in seen if step == 2)


def test_in_need_what_has_proven_itself_takes_more_than_its_step(world):
    world.specs["chat"] = pool_spec(variants=[{"acceleratorClass": "maia", "min": 4, "max": 4}])
    world.run(40)
    world.rate["chat"] = 5.5
    wait_for_ramp(world)
    assert ramp(world).step == 1
    assert ramp(world).share > 10
    assert sum(world.shares().values()) == 100


def test_a_failed_gate_goes_back_a_step_and_then_to_no_traffic_and_climbs_again(world):
    wait_for_ramp(world)
    world.failing = {"maia-0"}
    world.run(32)
    assert ramp(world).step == 0
    assert ramp(world).share == 0
    back = world.told("RampBack")
    all_failed = r"back to 0% of the traffic: (\d+) of \1 attempts ended in an error or a timeout"
    assert re.search(all_failed, back[0])
    world.failing = set()
    world.run(60)
    assert ramp(world) is None
    assert world.told("RampDone")


def test_the_failures_of_one_step_are_not_held_against_the_next(world):
    wait_for_ramp(world)
    while ramp(world).step < 2:
        world.step()
    world.failing = {"maia-0"}
    while not world.told("RampBack"):
        world.step()
    # The gateways' window of 30 s tells of the failures for longer than a dwell of 6 s.
    world.run(20)
    assert len(world.told("RampBack")) == 1
    world.failing = set()
    world.run(60)
    assert len(world.told("RampBack")) == 1
    assert world.told("RampDone")


def test_a_node_that_fails_while_it_climbs_is_out_again_and_has_flapped(world):
    wait_for_ramp(world)
    world.dead = {"maia-0"}
    world.run(8)
    assert world.marks["maia-0"].state == "Failed"
    assert "flap 1" in world.marks["maia-0"].reason
    assert ramp(world) is None


def test_without_signals_a_ramp_stays_where_it_is(world):
    wait_for_ramp(world)
    world.gateway = False
    world.run(120)
    assert ramp(world).step == 1
    world.gateway = True
    world.run(30)
    assert ramp(world) is None


def test_an_idle_pool_climbs_too_for_nothing_is_at_risk(world):
    wait_for_ramp(world)
    world.rate["chat"] = 0.0
    world.run(40)
    assert ramp(world) is None


def test_a_restart_in_the_middle_of_a_ramp_goes_on_from_the_same_step(world):
    wait_for_ramp(world)
    while ramp(world).step < 2:
        world.step()
    began = ramp(world).since
    world.restart_operator()
    world.step()
    # Status keeps whole seconds.
    assert (ramp(world).step, int(ramp(world).since)) == (2, int(began))


def test_a_restart_between_the_last_step_and_the_mark_does_not_climb_again(world):
    wait_for_ramp(world)
    while world.memory.nodes.get("maia-0"):
        mark = world.returned["maia-0"]
        world.step()
    world.returned["maia-0"] = mark  # the patch did not get there
    world.restart_operator()
    began = len(world.told("RampStart"))
    world.run(30)
    assert len(world.told("RampStart")) == began
    assert world.returned["maia-0"].state == "Healthy"


def measured(ttft=0, tpot=0, errors=0, timeouts=0, count=20):
    spread = (Distribution(BOUNDS, one_bucket(index, count)) for index in (ttft, tpot))
    return WorkerSignals(30.0, count, errors, timeouts, *spread)


class OnlySlo:
    """A pool as far as gates look at it."""

    spec = pool_spec()


@pytest.mark.parametrize(
    ("own", "others", "says"),
    [
        (measured(), measured(), ""),
        (
            measured(ttft=6),
            measured(),
            "p95 TTFT 8 s against the SLO's 2 s, the others' 0.1",
        ),
        (measured(ttft=6), measured(ttft=6), ""),
        (measured(tpot=3), None, "p95 time per token 1 s against the SLO's 0.2 s"),
        (measured(errors=1), measured(), ""),
        (measured(errors=2), measured(), "2 of 22 attempts ended in an error or a timeout"),
        (measured(timeouts=4), measured(), "4 of 24 attempts"),
        (None, measured(), ""),
    ],
)
def test_gates_compare_with_the_slo_and_with_the_other_workers(own, others, says):
    found = find_failed_gate(OnlySlo, own, others)
    assert found.startswith(says) if says else found == ""


def test_signals_of_several_workers_add_up():
    both = merge_signals([measured(errors=1), None, measured(timeouts=2)])
    assert (both.finished, both.errors, both.timeouts) == (40, 1, 2)
    assert sum(both.ttft.counts) == 40
    assert merge_signals([None]) is None


def test_a_ramp_past_the_last_step_of_an_edited_pool_fails_its_gate_like_any_other(world):
    longer = {"steps": ["10%", "20%", "30%", "40%"], "dwell": "6s"}
    world.specs["chat"] = pool_spec(shift={"holdDown": "12s", "ramp": longer})
    wait_for_ramp(world)
    while ramp(world).step < 4:
        world.step()
    world.specs["chat"] = pool_spec()
    world.failing = {"maia-0"}
    world.run(32)
    assert world.told("RampBack")[0].startswith("maia: back to 10% of the traffic")
    assert ramp(world).step == 1


def test_a_ramp_that_takes_longer_than_an_hour_is_not_cut_short(world):
    slow = {"steps": ["10%", "50%"], "dwell": "2h"}
    world.specs["chat"] = pool_spec(shift={"holdDown": "12s", "ramp": slow})
    wait_for_ramp(world)
    world.tick = 120.0
    world.run(5000)
    assert ramp(world).step == 1


def test_a_node_that_keeps_failing_its_gates_gets_its_traffic_at_no_time(world):
    wait_for_ramp(world)
    world.failing = {"maia-0"}
    world.tick = 20.0
    world.run(4000)
    assert ramp(world) is not None
    assert ramp(world).share <= 10


def test_a_node_that_nobody_uses_any_more_is_like_any_other_after_an_hour(world):
    wait_for_ramp(world)
    world.specs["chat"] = pool_spec(variants=[{"acceleratorClass": "gpu", "min": 1, "max": 4}])
    world.workers = {u: w for u, w in world.workers.items() if w.node != "maia-0"}
    world.tick = 120.0
    world.run(4000)
    assert "maia-0" not in world.memory.nodes
