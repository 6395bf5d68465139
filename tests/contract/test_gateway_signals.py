"""The shape of /signals and /metrics, which the operator and dashboards read."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice.model import names as operator_names
from sluice.observe.signals import GatewayReport
from sluice_gateway import names

from ..unit.gateway.gatewayworld import GatewayWorld

NUMBER = (int, float)
POOL = {
    "arrived": int,
    "finished": int,
    "met": int,
    "failed": int,
    "rejected": int,
    "waiting": int,
    "promptTokens": int,
    "outputTokens": int,
    "spilled": int,
    "shed": int,
    "classes": dict,
    "parity": list,
    "variants": dict,
    "workers": dict,
}
VARIANT = {
    "sent": int,
    "finished": int,
    "met": int,
    "inflight": int,
    "oldestPendingSeconds": NUMBER,
    "ttft": list,
    "tpot": list,
}
WORKER = {
    "pod": str,
    "variant": str,
    "inflight": int,
    "finished": int,
    "errors": int,
    "timeouts": int,
    "consecutiveFailures": int,
    "lastSuccessAgeSeconds": NUMBER,
    "missedProbes": int,
    "suspect": bool,
    "parity": dict,
    "shadow": dict,
    "ttft": list,
    "tpot": list,
}


@pytest.fixture
async def world():
    async with GatewayWorld() as world:
        await world.add_pool()
        await world.start_gateway()
        await world.add_worker("w1")
        await world.until_usable("w1")
        yield world


def check(document, shape):
    assert document.keys() == shape.keys()
    for field, kind in shape.items():
        assert isinstance(document[field], kind), field


async def test_signals_have_the_agreed_shape(world):
    await world.stream(max_tokens=6)
    await world.ask(max_tokens=4)
    signals = await world.signals()
    assert signals.keys() == {
        "version",
        "gateway",
        "seq",
        "windowSeconds",
        "observedSeconds",
        "bounds",
        "pools",
    }
    assert signals["version"] == 1
    assert signals["gateway"]["uid"] == "gateway-1"
    assert signals["gateway"]["startedAt"] > 1.7e9
    assert signals["windowSeconds"] == 30.0
    assert 0 < signals["observedSeconds"] < 30
    bounds = signals["bounds"]
    assert bounds["ttft"] == sorted(bounds["ttft"])
    assert (bounds["ttft"][0], bounds["ttft"][-1]) == (0.05, 60.0)
    assert (bounds["tpot"][0], bounds["tpot"][-1]) == (0.005, 2.0)
    pool = signals["pools"]["default/chat"]
    check(pool, POOL)
    assert pool["classes"].keys() == {"interactive", "standard", "batch"}
    assert (bounds["queueWait"][0], bounds["queueWait"][-1]) == (0.01, 60.0)
    at_once = [2] + [0] * len(bounds["queueWait"])
    counts = {"ended": 2, "finished": 2, "met": 2, "shed": 0, "queueWait": at_once}
    assert pool["classes"]["standard"] == counts
    assert pool["variants"].keys() == {"maia", "gpu"}
    for variant in pool["variants"].values():
        check(variant, VARIANT)
        assert len(variant["ttft"]) == len(bounds["ttft"]) + 1
        assert len(variant["tpot"]) == len(bounds["tpot"]) + 1
    assert pool["workers"].keys() == {"uid-w1"}
    check(pool["workers"]["uid-w1"], WORKER)
    assert len(pool["workers"]["uid-w1"]["ttft"]) == len(bounds["ttft"]) + 1
    assert len(pool["workers"]["uid-w1"]["tpot"]) == len(bounds["tpot"]) + 1


async def test_signals_count_what_happened(world):
    await world.stream(max_tokens=6)
    await world.ask(max_tokens=4)
    await world.ask(model="unknown")
    pool = (await world.signals())["pools"]["default/chat"]
    counts = {name: pool[name] for name in ("arrived", "finished", "met", "failed", "rejected")}
    assert counts == {"arrived": 2, "finished": 2, "met": 2, "failed": 0, "rejected": 0}
    assert (pool["promptTokens"], pool["outputTokens"]) == (6, 10)
    maia = pool["variants"]["maia"]
    assert (maia["sent"], maia["finished"], maia["inflight"]) == (2, 2, 0)
    assert (sum(maia["ttft"]), sum(maia["tpot"])) == (1, 1)  # of the stream
    worker = pool["workers"]["uid-w1"]
    assert (worker["pod"], worker["variant"], worker["finished"]) == ("w1", "maia", 2)
    assert (sum(worker["ttft"]), sum(worker["tpot"])) == (1, 1)
    assert worker["lastSuccessAgeSeconds"] < 5


async def test_a_slow_answer_does_not_meet_the_slo(world):
    await world.add_pool(ttft="1us")
    await world.stream()
    await world.ask(max_tokens=1)
    pool = (await world.signals())["pools"]["default/chat"]
    assert (pool["finished"], pool["met"]) == (2, 0)


async def test_the_operator_can_read_them(world):
    await world.stream()
    async with world.http.get(f"{world.admin}/signals?window=7.5") as response:
        report = GatewayReport.model_validate_json(await response.read())
    pool = report.pools["default/chat"]
    assert (pool.finished, pool.variants["maia"].finished) == (1, 1)
    assert sum(pool.variants["maia"].ttft) == 1
    assert pool.workers["uid-w1"].consecutive_failures == 0


async def test_before_pools_are_known_there_are_no_signals():
    async with GatewayWorld() as world:
        world.kube.fail_status = 500
        await world.start_gateway(wait=False)
        async with world.http.get(f"{world.admin}/signals") as response:
            assert response.status == 503


@pytest.mark.parametrize("window", ["0", "301", "x", "-1", "", "nan"])
async def test_a_bad_window_gets_a_sentence(world, window):
    async with world.http.get(f"{world.admin}/signals?window={window}") as response:
        assert response.status == 400
        assert "1 to 300" in await response.text()


async def test_metrics_are_named_and_labelled(world):
    await world.stream()
    await world.ask(model="unknown")
    async with world.http.get(f"{world.admin}/metrics") as response:
        families = {f.name: f for f in text_string_to_metric_families(await response.text())}
    assert all(name.startswith("sluice_gateway_") for name in families)
    requests = {
        tuple(sample.labels[name] for name in ("pool", "accelerator_class", "code"))
        for sample in families["sluice_gateway_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests == {("default/chat", "maia", "200"), ("", "", "404")}
    (live,) = families["sluice_gateway_workers"].samples
    assert (live.labels["state"], live.value) == ("live", 1.0)
    assert families["sluice_gateway_ttft_seconds"].type == "histogram"
    watches = {
        s.labels["kind"]: s.value for s in families["sluice_gateway_watch_connected"].samples
    }
    assert watches == {"pools": 1.0, "workers": 1.0}


async def test_metrics_of_a_deleted_pool_are_removed(world):
    await world.stream()
    world.gateway.fleet.remove_pool("default/chat")
    async with world.http.get(f"{world.admin}/metrics") as response:
        assert "default/chat" not in await response.text()


def test_the_gateway_s_names_are_the_operator_s():
    pairs = {
        "GROUP": "GROUP",
        "VERSION": "VERSION",
        "POOL_PLURAL": "POOL_PLURAL",
        "LABEL_NAME": "LABEL_NAME",
        "LABEL_POOL": "LABEL_POOL",
        "LABEL_CLASS": "LABEL_CLASS",
        "WORKER": "WORKER",
        "WORKER_PORT": "WORKER_PORT",
    }
    for ours, theirs in pairs.items():
        assert getattr(names, ours) == getattr(operator_names, theirs)
