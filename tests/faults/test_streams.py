"""Worker processes of a real cluster, killed and stopped under parallel streams: none is lost.

What each client is told is compared, token by token, with what a worker in a process of its own
says when nothing happens to it.
"""

import asyncio
import signal
from collections import Counter

import pytest
from tests.integration.story import make_pool, wait_until

from sluice.cli.demo.reference import run_worker
from sluice.devcluster.images import find_models

from .streams import end_worker, run_streams

POOL = "streams"
ROUNDS = {signal.SIGKILL: 4, signal.SIGSTOP: 2}
"""A stopped worker is taken out and its node must prove itself: that takes its time."""
PARALLEL = 12
NUMBERS = range(PARALLEL)
PINNED = "fp8-block"
"""What both classes can compute in, so that whoever goes on gives the same tokens. (A 70B model in
bfloat16 leaves two H100 no room for a cache.)"""


@pytest.fixture(params=[PINNED, pytest.param(None, marks=pytest.mark.full)], ids=["one", "own"])
def serve(sluice, request):
    """Serve a pool on both classes, in one numerics or in those of each; return which."""
    numerics = {"numerics": request.param} if request.param else {}
    variants = [
        {"acceleratorClass": "maia-200", "min": 3, "max": 4, **numerics},
        {"acceleratorClass": "h100", "min": 1, "max": 2, **numerics},
    ]
    # Patient: what is tested is what becomes of streams, not who is let in.
    slo = {"ttft": "30s", "tpot": "1s"}
    sluice.create(make_pool(POOL, variants=variants, slo=slo))
    try:
        wait_until(lambda: sluice.serving(POOL, "maia-200") >= 3, "its Maia workers serve")
        wait_until(lambda: sluice.serving(POOL, "h100") >= 1, "its GPU worker serves")
        yield request.param
    finally:
        # While the pool is there: a node that comes back climbs its ramp with a worker of it.
        for node in [one["metadata"]["name"] for one in sluice.get("nodes")["items"]]:
            if "sluice.dev/health" in sluice.annotations(node):
                sluice.release(node)
        sluice.delete_pool(POOL)


def strike_busiest(sluice, number, struck):
    """Return what ends, or stops, the worker on which most streams began."""

    def strike(found):
        counts = Counter(told.worker for told in found.values() if not told.ended)
        pods = {pod["metadata"]["name"]: pod for pod in sluice.workers(POOL)}
        for name, count in counts.most_common():
            if name in pods and end_worker(sluice, pods[name], number):
                struck.append((pods[name], count))
                return

    return strike


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_no_stream_is_lost_and_every_token_is_as_it_would_have_been(sluice, serve, number):
    url = sluice.gateway()
    expected = asyncio.run(answer_undisturbed(serve or PINNED))
    assert [told.error for told in expected.values() if told.error] == []
    hit = 0
    for _ in range(ROUNDS[number]):
        struck = []
        strike = strike_busiest(sluice, number, struck)
        try:
            found = asyncio.run(run_streams([url], POOL, NUMBERS, strike=strike))
        finally:
            for pod, _ in struck:
                end_worker(sluice, pod, signal.SIGCONT)
        hit += sum(count for _, count in struck)
        for told, undisturbed in zip(found.values(), expected.values(), strict=True):
            check(told, undisturbed, exact=serve is not None)
        wait_until(
            lambda: sluice.serving(POOL, "maia-200") + sluice.serving(POOL, "h100") >= 2,
            "two workers serve",
        )
    assert hit >= ROUNDS[number], "hardly a stream was on a worker when that was struck"


@pytest.fixture
def two_gateways(sluice):
    """Run a second gateway, on the only node for such; return the URLs of both.

    The first has an address of its node's that stays, which two pods cannot have.
    """
    url = sluice.gateway()
    first = sluice.get("-n", "sluice-system", "deployment", "sluice-gateway")["spec"]
    template = first["template"]
    del template["metadata"]["annotations"]["sluice.dev/stable-address"]
    labels = {**template["metadata"]["labels"], "app.kubernetes.io/instance": "second"}
    template["metadata"]["labels"] = labels
    metadata = {"name": "sluice-gateway-second", "namespace": "sluice-system"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    sluice.create(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    )
    named = ("-n", "sluice-system", "deployment", metadata["name"])
    try:
        wait_until(
            lambda: sluice.get(*named).get("status", {}).get("readyReplicas") == 1,
            "the second gateway is ready",
        )
        (pod,) = sluice.get(
            "-n", "sluice-system", "pods", "-l", "app.kubernetes.io/instance=second"
        )["items"]
        yield [url, f"http://{pod['status']['podIP']}:8080"]
    finally:
        sluice.run("delete", *named, "--wait=true")


def delete_busiest(sluice, found):
    """Drain the worker on which most streams began; return how many those were."""
    counts = Counter(told.worker for told in found.values() if not told.ended)
    pods = {pod["metadata"]["name"] for pod in sluice.workers(POOL)}
    name, count = next(one for one in counts.most_common() if one[0] in pods)
    sluice.run("delete", "pod", name, "--wait=false")
    return count


def roll_all(sluice, found):
    """Replace all workers, a few at a time; return how many streams ran."""
    sluice.run("rollout", "restart", "deployment", "-l", f"sluice.dev/pool={POOL}")
    return sum(not told.ended for told in found.values())


@pytest.mark.parametrize("act", [delete_busiest, roll_all], ids=["drained", "rolled"])
def test_streams_over_two_gateways_outlive_workers_that_go(sluice, serve, two_gateways, act):
    expected = asyncio.run(answer_undisturbed(serve or PINNED))
    before = {pod["metadata"]["uid"] for pod in sluice.workers(POOL)}
    running = []
    found = asyncio.run(
        run_streams(
            two_gateways, POOL, NUMBERS, strike=lambda told: running.append(act(sluice, told))
        )
    )
    assert running[0] >= 1, "no stream was on a worker when that had to go"
    for told, undisturbed in zip(found.values(), expected.values(), strict=True):
        check(told, undisturbed, exact=serve is not None)
    wait_until(
        lambda: (
            len(before - {pod["metadata"]["uid"] for pod in sluice.workers(POOL)})
            >= (1 if act is delete_busiest else len(before))
        ),
        "they are gone",
    )


async def answer_undisturbed(numerics):
    """Return what the streams are told by a worker that no gateway and no cluster knows of."""
    models = find_models()
    assert models is not None, "the compact model is not where the cluster's workers find it"
    async with run_worker(models / "compact", numerics) as url:
        return await run_streams([url], "compact", NUMBERS)


def check(told, undisturbed, *, exact):
    """Compare a stream with the undisturbed one.

    In numerics of their own, workers may go on otherwise, which has to be said; and a stream may
    begin on another class than it did undisturbed.
    """
    assert told.error == {}
    assert (told.done, len(told.ids), told.finishes) == (1, 1, undisturbed.finishes)
    assert told.usages == undisturbed.usages
    assert len(told.tokens) == len(undisturbed.tokens)
    if exact:
        assert (told.text, told.tokens) == (undisturbed.text, undisturbed.tokens)
        assert told.mark == {}
    else:
        assert told.mark in ({}, {"continuation": "approximate"})
