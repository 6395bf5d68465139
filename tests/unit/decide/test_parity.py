"""A ramp goes on only with answers that agree; what differs is told, and shown in the status."""

from dataclasses import replace

import pytest

from sluice.api.pool import Parity
from sluice.decide import limits
from sluice.decide.parity import judge_parity
from sluice.decide.status import pool_status
from sluice.model.memory import PoolMemory
from sluice.model.plan import ParityVerdict, Results
from sluice.model.snapshot import Distribution, PairSignals, ParitySignals, WorkerSignals

from . import traffic
from . import world as world_module
from .samples import BOUNDS, one_bucket, pool_spec
from .settled import settle
from .test_ramp import ramp, wait_for_ramp

RULES = Parity()
GOOD = ParitySignals(audits=20, judged=400, agreed=400, divergence=0.2)
BAD = ParitySignals(audits=20, judged=400, agreed=370, divergence=12.0)
FEW = ParitySignals(audits=limits.PARITY_AUDITS - 1, judged=400, agreed=400)


@pytest.fixture
def world():
    world = settle()
    world.specs["chat"] = pool_spec(parity={})
    return world


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (GOOD, "Agrees"),
        (ParitySignals(), "Awaits"),
        (FEW, "Awaits"),
        (ParitySignals(20, limits.PARITY_TOKENS - 1, 0, 100.0), "Awaits"),
        (ParitySignals(20, 100, 97, 2.0), "Agrees"),
        (ParitySignals(20, 100, 96, 0.0), "Differs"),
        (ParitySignals(20, 100, 100, 2.01), "Differs"),
    ],
)
def test_both_bounds_have_to_be_kept_by_enough(found, verdict):
    assert judge_parity(RULES, found) == ParityVerdict(verdict)


def test_two_gateways_add_up():
    total = GOOD.plus(BAD)
    assert (total.audits, total.judged, total.agreed) == (40, 800, 770)
    assert total.agreement == pytest.approx(0.9625)
    assert total.mean_divergence == pytest.approx(12.2 / 800)


def test_a_ramp_waits_for_answers_that_were_compared_and_says_so(world):
    wait_for_ramp(world)
    world.run(60)
    assert ramp(world).step == 1
    assert ramp(world).hold == "AwaitingParity"
    (told,) = world.told("RampHold")
    assert "0 answers compared and 0 tokens judged, of at least 5 and 100" in told
    world.compared = {"maia-0": GOOD}
    while not world.told("RampStep"):
        world.step()
    assert ramp(world).hold == ""
    world.run(30)
    assert ramp(world) is None
    assert world.told("RampDone")


def test_only_the_workers_that_climb_speak_for_their_ramp(world):
    world.compared = {"maia-1": GOOD, "gpu-0": GOOD, "gpu-1": GOOD}
    wait_for_ramp(world)
    world.run(40)
    assert (ramp(world).step, ramp(world).hold) == (1, "AwaitingParity")


def test_answers_that_differ_take_all_traffic_at_once_and_it_climbs_when_they_agree(world):
    world.compared = {"maia-0": GOOD}
    wait_for_ramp(world)
    while ramp(world).step < 2:
        world.step()
    world.compared = {"maia-0": BAD}
    world.step()
    assert (ramp(world).step, ramp(world).share, ramp(world).hold) == (0, 0, "ParityFailed")
    (told,) = world.told("ParityFailed")
    assert "same likeliest token 92.50% (at least 97%), mean KL 0.03 nat" in told
    world.run(60)
    assert (ramp(world).step, ramp(world).hold) == (0, "ParityFailed")
    assert len(world.told("ParityFailed")) == 1
    world.compared = {"maia-0": ParitySignals(audits=2, judged=400, agreed=400)}  # of each of two
    world.run(20)
    assert (ramp(world).step, ramp(world).hold) == (0, "AwaitingParity")
    world.compared = {"maia-0": GOOD}
    world.run(60)
    assert ramp(world) is None


def test_errors_take_a_ramp_back_also_while_it_waits(world):
    wait_for_ramp(world)
    world.run(20)
    assert ramp(world).hold == "AwaitingParity"
    world.failing = {"maia-0"}
    world.run(32)
    assert ramp(world).step == 0
    assert world.told("RampBack")


def test_without_traffic_mirrored_requests_have_to_be_fast_enough(world, monkeypatch):
    def measure_worker(*, failing, parity):
        one = traffic.measure_worker(failing=failing, parity=parity)
        return replace(one, shadow=shadow)

    monkeypatch.setattr(world_module, "measure_worker", measure_worker)
    world.specs["chat"] = pool_spec(parity={"shadow": "10%"})
    world.compared = {"maia-0": GOOD}
    slow = Distribution(BOUNDS, one_bucket(len(BOUNDS), 20))
    shadow = WorkerSignals(300.0, 20, 0, 0, slow, slow)
    wait_for_ramp(world)
    world.failing = {"maia-0"}
    world.run(40)
    world.failing = set()
    world.run(60)
    assert (ramp(world).step, ramp(world).hold) == (0, "ShadowFailed")
    assert "of mirrored requests p95 TTFT" in world.told("RampHold")[-1]
    shadow = None
    world.run(60)
    assert ramp(world) is None


@pytest.mark.parametrize("why", ["idle", "nobody to compare with", "not wanted"])
def test_what_cannot_be_compared_is_not_waited_for(world, why):
    if why == "nobody to compare with":
        alone = [{"acceleratorClass": "maia", "min": 4, "max": 4}]
        world.specs["chat"] = pool_spec(parity={}, variants=alone)
        world.run(40)
    if why == "not wanted":
        world.specs["chat"] = pool_spec()
    wait_for_ramp(world)
    if why == "idle":
        world.rate["chat"] = 0.0
    world.run(60)
    assert ramp(world) is None
    assert not world.told("RampHold")


def test_a_pair_that_differs_is_told_once_and_again_when_it_agrees(world):
    world.pairs = [PairSignals("maia", "gpu", GOOD)]
    world.run(10)
    assert not world.told("ParityKept")
    world.pairs = [PairSignals("maia", "gpu", BAD)]
    world.run(10)
    (told,) = world.told("ParityFailed")
    assert told.startswith("maia against gpu: same likeliest token 92.50%")
    world.pairs = [PairSignals("maia", "gpu", FEW)]
    world.run(10)
    world.gateway = False
    world.run(10)
    world.gateway = True
    assert not world.told("ParityKept")
    world.pairs = [PairSignals("maia", "gpu", GOOD)]
    world.run(10)
    assert len(world.told("ParityKept")) == 1
    assert len(world.told("ParityFailed")) == 1


def write(world):
    """Return the status document of the pool as the last pass planned it."""
    (pool,) = world.seen.pools
    return pool_status(pool, world.chat(), PoolMemory(), Results(), "", world.now)


def find_condition(status):
    return next((c for c in status["conditions"] if c["type"] == "ParityMet"), None)


@pytest.mark.parametrize(
    ("found", "state", "reason"),
    [(GOOD, "True", "Agrees"), (BAD, "False", "ParityFailed"), (FEW, "Unknown", "AwaitingParity")],
)
def test_the_status_has_each_pair_and_a_condition(world, found, state, reason):
    world.pairs = [PairSignals("maia", "gpu", found), PairSignals("gone", "gpu", BAD)]
    world.run(4)
    status = write(world)
    (pair,) = status["parity"]
    assert (pair["acceleratorClass"], pair["reference"]) == ("maia", "gpu")
    assert pair["verdict"] == judge_parity(RULES, found)
    condition = find_condition(status)
    assert (condition["status"], condition["reason"]) == (state, reason)


def test_numbers_stand_in_the_status_and_a_hold_does(world):
    world.pairs = [PairSignals("maia", "gpu", BAD)]
    wait_for_ramp(world)
    world.run(20)
    status = write(world)
    (pair,) = status["parity"]
    assert (pair["agreement"], pair["kl"], pair["audits"]) == ("92.5%", "0.03", 20)
    (held,) = [v["ramp"]["hold"] for v in status["variants"] if "ramp" in v]
    assert held == "AwaitingParity"


def test_a_pool_that_does_not_ask_for_it_hears_nothing_of_it(world):
    world.specs["chat"] = pool_spec()
    world.pairs = [PairSignals("maia", "gpu", BAD)]
    world.run(4)
    status = write(world)
    assert "parity" not in status
    assert find_condition(status) is None
    assert not world.told("ParityFailed")
