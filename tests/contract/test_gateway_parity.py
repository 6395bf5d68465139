"""Finished answers are scored by a worker of another accelerator, and nobody waits for it."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import math
from contextlib import asynccontextmanager

import pytest

from sluice.observe.signals import GatewayReport

from ..unit.gateway import objects
from ..unit.gateway.fakekube import POOLS
from ..unit.gateway.gatewayworld import GatewayWorld, expected_text, join_text, settings
from ..unit.gateway.polling import until, until_async
from .scoringworker import add_scoring

ALL = {"sample": "100%", "budget": "100%"}


def pool_with(parity, **more):
    raw = objects.pool(**more)
    raw["spec"]["parity"] = parity
    return raw


@asynccontextmanager
async def auditing(parity, *, shares=None, **told):
    """Run a gateway over a Maia and a GPU worker whose pool compares answers."""
    async with GatewayWorld(settings(auditing={"period": 0.01} | told)) as world:
        shares = shares or {"maia": "100%", "gpu": "0%"}
        await world.kube.put(POOLS, pool_with(parity, shares=shares))
        await world.start_gateway()
        maia = await add_scoring(world, "w1", "maia")
        gpu = await add_scoring(world, "w2", "gpu")
        await world.until_usable("w1", "w2")
        yield world, maia, gpu


async def read_pairs(world):
    pairs = (await world.signals())["pools"]["default/chat"]["parity"]
    return {(pair["class"], pair["reference"]): pair for pair in pairs}


async def audited(world, count=1):
    async def enough():
        return sum(pair["audits"] for pair in (await read_pairs(world)).values()) >= count

    await until_async(enough)


async def read_metric(world, name):
    async with world.http.get(f"{world.admin}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines if name in line}


async def test_a_stream_is_scored_by_its_maker_and_by_the_other_class():
    async with auditing(ALL) as (world, maia, gpu):
        text = join_text(await world.stream(max_tokens=6))
        assert text == expected_text(tokens=6)  # and not a token id of what was asked for
        await audited(world)
        pair = (await read_pairs(world))["maia", "gpu"]
        assert (pair["positions"], pair["judged"], pair["agreed"]) == (6, 6, 6)
        assert pair["divergence"] == 0
        for worker in (maia, gpu):
            (asked,) = worker.scored
            assert asked["prompt"] == [7, 8, 9, *range(100, 106)]
        await world.stream(max_tokens=6)
        await audited(world, 2)
        for worker in (maia, gpu):  # by now both have said that they are workers of ours
            asked = worker.scored[-1]
            assert (asked["max_tokens"], asked["priority"] > 10) == (0, True)
        tokens = await read_metric(world, "parity_tokens_total{")
        (agreed,) = [value for name, value in tokens.items() if '"agreed"' in name]
        assert float(agreed) == 12


async def test_what_another_accelerator_says_otherwise_is_seen_and_whose_it_is():
    async with auditing(ALL) as (world, _maia, gpu):
        gpu.likeliest = 8
        await world.stream(max_tokens=6)
        await audited(world)
        async with world.http.get(f"{world.admin}/signals?window=5") as response:
            report = GatewayReport.model_validate_json(await response.read())
        pair = (await read_pairs(world))["maia", "gpu"]
        assert (pair["judged"], pair["agreed"]) == (6, 0)
        # Only "0" is told by both: 0.005 each; all others as one, which agree.
        assert pair["divergence"] < 0.001
        workers = (await world.signals())["pools"]["default/chat"]["workers"]
        assert workers["uid-w1"]["parity"] == workers["uid-w2"]["parity"]
        assert report.pools["default/chat"].arrived == 1  # an audit is no request


async def test_the_divergence_is_that_of_what_both_tell():
    async with auditing(ALL) as (world, _maia, gpu):
        gpu.belief = 0.9
        await world.stream(max_tokens=4)
        await audited(world)
        pair = (await read_pairs(world))["maia", "gpu"]
        each = 0.99 * math.log(0.99 / 0.9) + 0.01 * math.log(0.01 / 0.1)
        assert pair["divergence"] == pytest.approx(4 * each, rel=1e-3)


async def test_where_neither_is_sure_nobody_is_judged():
    async with auditing(ALL) as (world, maia, gpu):
        maia.belief, gpu.belief, gpu.likeliest = 0.6, 0.7, 8
        await world.stream(max_tokens=4)
        await audited(world)
        pair = (await read_pairs(world))["maia", "gpu"]
        assert (pair["positions"], pair["judged"], pair["divergence"]) == (4, 0, 0)


async def test_an_answer_that_did_not_stream_is_compared_by_its_text():
    async with auditing(ALL) as (world, maia, gpu):
        status, _, _ = await world.ask(max_tokens=3)
        assert status == 200
        assert "return_token_ids" not in maia.got[0]
        await audited(world)
        assert maia.scored[0]["prompt"] == gpu.scored[0]["prompt"]


async def test_no_user_waits_for_an_audit():
    async with auditing(ALL) as (world, maia, gpu):
        maia.delay = gpu.delay = 3600.0
        await world.stream(max_tokens=2)
        await until(lambda: maia.scored)
        for _ in range(5):
            await world.stream(max_tokens=2)
        status, _, _ = await world.ask(max_tokens=2)
        assert status == 200
        assert not gpu.scored  # the audit hangs, and everybody was served


async def test_audits_end_with_the_budget():
    parity = {"sample": "100%", "budget": "0%"}
    async with auditing(parity, floor_seconds=0.0) as (world, maia, gpu):
        for _ in range(5):
            await world.stream(max_tokens=4)
        await audited(world)
        for _ in range(5):
            await world.stream(max_tokens=4)
        # The first was free, and what it took is earned back by nothing.
        assert (len(maia.scored), len(gpu.scored)) == (1, 1)


async def test_the_sample_is_a_fraction_where_every_class_has_its_traffic():
    parity = {"sample": "0%", "budget": "100%"}
    shares = {"maia": "50%", "gpu": "50%"}
    async with auditing(parity, shares=shares) as (world, maia, _gpu):
        for _ in range(10):
            await world.stream(max_tokens=2)
        raw = pool_with(ALL, shares=shares)
        await world.kube.put(POOLS, raw)
        await until(lambda: world.gateway.fleet.pools["default/chat"].spec.parity.sample == 1)
        await world.stream(max_tokens=2)
        await audited(world)
        assert len(maia.scored) == 1


@pytest.mark.parametrize(("floor", "most"), [(0.02, 3), (3600.0, 1)])
async def test_a_busy_pair_is_compared_whenever_it_was_not_for_long(floor, most):
    async with auditing(ALL, busy_most=-1, floor_seconds=floor) as (world, _maia, gpu):
        for _ in range(3):
            await world.stream(max_tokens=2)
        await audited(world, most)
        await asyncio.sleep(0.3)  # thirty looks
        assert len(gpu.scored) == most


async def test_the_queue_is_bounded_and_what_finds_no_room_is_counted():
    shares = {"maia": "50%", "gpu": "50%"}
    async with auditing(ALL, shares=shares, queue_most=2, period=3600.0) as (world, *_):
        for _ in range(5):
            await world.stream(max_tokens=2)
        dropped = await read_metric(world, "audits_dropped_total{")
        ((name, value),) = dropped.items()
        assert 'reason="no_room"' in name
        assert float(value) == 3


async def test_workers_of_two_models_are_not_compared():
    async with auditing(ALL) as (world, _maia, gpu):
        gpu.digest = "model-2"
        await world.stream(max_tokens=2)
        await until(lambda: gpu.scored)

        async def told():
            return await read_metric(world, 'parity_audits_total{accelerator_class="maia"')

        await until_async(told)
        ((name, _),) = (await told()).items()
        assert 'result="unscorable"' in name
        assert not await read_pairs(world)


async def test_a_worker_that_refuses_to_score_is_counted_and_serves_on():
    async with auditing(ALL) as (world, _maia, gpu):
        gpu.script = ["400"]
        await world.stream(max_tokens=2, prompt="a secret")
        await until(lambda: any(line["event"] == "audit without a result" for line in world.lines))
        assert join_text(await world.stream(max_tokens=2)) == expected_text(tokens=2)
        await audited(world)
        assert "secret" not in repr(world.lines)


async def test_no_text_is_logged():
    async with auditing(ALL) as (world, maia, _gpu):
        await world.ask(max_tokens=2, prompt="a secret")
        await audited(world)
        maia.script = ["nested"]
        await world.ask(max_tokens=2, prompt="another secret")
        assert "secret" not in repr(world.lines)


SHADOWED = {"sample": "0%", "budget": "100%", "shadow": "100%"}


async def read_shadow(world, uid):
    return (await world.signals())["pools"]["default/chat"]["workers"][uid]["shadow"]


async def mirrored(world, count, what="finished"):
    async def enough():
        return (await read_shadow(world, "uid-w2"))[what] >= count

    await until_async(enough)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_worker_without_traffic_answers_for_nobody_and_is_compared(stream):
    async with auditing(SHADOWED) as (world, _maia, gpu):
        if stream:
            assert join_text(await world.stream(max_tokens=6)) == expected_text(tokens=6)
        else:
            assert (await world.ask(max_tokens=6))[0] == 200
        await mirrored(world, 1)
        asked = next(body for body in gpu.got if body.get("stream"))
        assert (asked["prompt"], asked["seed"], asked["max_tokens"]) == ("hello", 1, 6)
        shadow = await read_shadow(world, "uid-w2")
        assert (shadow["failed"], sum(shadow["ttft"]), sum(shadow["tpot"])) == (0, 1, 1)

        async def compared():
            return ("gpu", "maia") in await read_pairs(world)

        await until_async(compared)
        pool = (await world.signals())["pools"]["default/chat"]
        assert (pool["arrived"], pool["finished"]) == (1, 1)  # nobody counts it as a user's
        assert pool["variants"]["gpu"]["sent"] == 0


async def test_a_shadow_that_hangs_or_fails_is_no_user_s_matter():
    # No audit runs, which would take a turn of the script.
    async with auditing(SHADOWED, period=3600.0) as (world, maia, gpu):
        gpu.script = ["500", "reset:2", "error:1", "hang:1"]
        for _ in range(4):
            text = join_text(await world.stream(max_tokens=3, prompt="a secret"))
            assert text == expected_text(prompt="a secret", tokens=3)
        await mirrored(world, 3, "failed")
        assert (await world.signals())["pools"]["default/chat"]["workers"]["uid-w2"]["errors"] == 0
        assert "secret" not in repr(world.lines)
        assert maia.most == 1


@pytest.mark.parametrize(
    ("parity", "shares"),
    [
        ({**SHADOWED, "shadow": "0%"}, {"maia": "100%", "gpu": "0%"}),
        (SHADOWED, {"maia": "50%", "gpu": "50%"}),
    ],
)
async def test_nothing_is_mirrored_that_nobody_asked_for_or_to_whom_has_traffic(parity, shares):
    async with auditing(parity, shares=shares) as (world, maia, gpu):
        for _ in range(6):
            await world.stream(max_tokens=2)
        await asyncio.sleep(0.1)
        sent = [body for one in (maia, gpu) for body in one.got if body.get("stream")]
        assert len(sent) == 6


async def test_mirrored_requests_beyond_a_batch_are_left_out_and_counted():
    told = settings(auditing={"period": 3600.0}, shadowing={"at_once": 2})
    async with GatewayWorld(told) as world:
        shares = {"maia": "100%", "gpu": "0%"}
        await world.kube.put(POOLS, pool_with(SHADOWED, shares=shares))
        await world.start_gateway()
        await add_scoring(world, "w1", "maia")
        gpu = await add_scoring(world, "w2", "gpu")
        await world.until_usable("w1", "w2")
        gpu.script = ["stall"] * 5
        for _ in range(5):
            await world.stream(max_tokens=2)
        await until(lambda: gpu.most == 2)
        dropped = await read_metric(world, "shadow_requests_dropped_total{")
        ((name, value),) = dropped.items()
        assert 'reason="no_worker"' in name
        assert float(value) == 3


async def test_without_a_word_of_it_in_the_pool_nothing_is_compared():
    async with GatewayWorld(settings(auditing={"period": 0.01})) as world:
        await world.add_pool(shares={"maia": "100%", "gpu": "0%"})
        await world.start_gateway()
        maia = await add_scoring(world, "w1", "maia")
        gpu = await add_scoring(world, "w2", "gpu")
        await world.until_usable("w1", "w2")
        await world.stream(max_tokens=2)
        auditor = world.gateway._auditor
        assert not auditor._waiting
        assert not maia.scored
        assert not gpu.scored
