"""Streams of real workers that are killed, stopped or taken out in mid-stream: nobody notices."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from ..unit.gateway.gatewayworld import GatewayWorld, settings
from ..unit.gateway.polling import until
from ..unit.worker.checkpoints import write_byte_checkpoint
from ..unit.worker.workerprocess import WorkerProcess
from .streamcases import CASES, TEXT, Stream

PACED = ("--profile=maia-200", "--nominal=llama-3.3-70b")
"""A token every 25 ms."""
PATIENT = settings(relaying={"wait_for_worker": 20.0, "inflight_most": 16})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "bytes"
    return write_byte_checkpoint(path, max_position_embeddings=512)


@pytest.fixture
async def world():
    async with GatewayWorld(PATIENT) as world:
        await world.add_pool()
        await world.start_gateway()
        yield world


@pytest.fixture
async def start(world, checkpoint, tmp_path):
    """Start real workers, by name, and wait until they serve."""
    started = {}

    async def start(*names, variant="maia", numerics="float32"):
        for name in names:
            process = WorkerProcess(
                checkpoint, tmp_path, *PACED, f"--numerics={numerics}", uid=f"uid-{name}"
            )
            started[name] = process
        for name in names:
            await asyncio.to_thread(started[name].until, "/readyz", 200)
            pod = describe(name, started[name], variant)
            await world.publish(pod)
            started[name].pod = pod
        await world.until_usable(*started)
        return [started[name] for name in names]

    start.processes = started
    yield start
    for process in started.values():
        process.process.send_signal(signal.SIGCONT)
        process.close()


def describe(name, process, variant):
    """Return a worker process as the fake API server's pods are made of."""
    return SimpleNamespace(
        name=name,
        variant=variant,
        pool="chat",
        host="127.0.0.1",
        port=process.port,
        uid=f"uid-{name}",
    )


async def tell_undisturbed(world, cases):
    """Return what streams are when nothing happens."""
    streams = {name: Stream(world, *CASES[name]) for name in cases}
    return {name: await stream.end() for name, stream in streams.items()}


def check_same(disturbed, undisturbed):
    """Compare what a client was told with what it should have been."""
    assert disturbed.choices == undisturbed.choices
    assert disturbed.rest == undisturbed.rest
    assert disturbed.rest[-1] == "[DONE]"
    assert len(disturbed.heads) == 1


def count_running(world, name):
    return world.gateway.fleet.workers[f"uid-{name}"].inflight


async def test_workers_killed_one_after_the_other_change_nothing_of_any_stream(world, start):
    whole = await start("w1", "w2", "w3")
    expected = await tell_undisturbed(world, CASES)
    streams = {name: Stream(world, *case) for name, case in CASES.items()}
    for stream in streams.values():
        await stream.until(6)
    first, second = [one for one in whole if count_running(world, one.pod.name)][:2]
    first.process.kill()
    await asyncio.sleep(0.7)
    second.process.kill()
    for name, stream in streams.items():
        check_same(await stream.end(), expected[name])
    lines = world.request_lines()[len(CASES) :]
    assert {line["outcome"] for line in lines} == {"ok"}
    assert sum(line["continuations"] for line in lines) >= len(CASES) // 3
    assert not any(line["approximate"] for line in lines)
