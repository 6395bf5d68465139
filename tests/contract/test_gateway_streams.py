"""Streams of real workers that are killed, stopped or taken out in mid-stream: nobody notices."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import asyncio
import signal
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from sluice.cli.main import sluice

from ..unit.gateway.gatewayworld import GatewayWorld, settings
from ..unit.gateway.polling import until
from ..unit.worker.checkpoints import write_byte_checkpoint
from ..unit.worker.workerprocess import WorkerProcess
from .streamcases import CASES, TEXT, Stream

PACED = ("--profile=maia-200", "--nominal=llama-3.3-70b", "--max-num-seqs=32")
"""A token every 25 ms, and all cases at once."""
PATIENT = settings(relaying={"wait_for_worker": 20.0, "inflight_most": 16, "hearten_seconds": 0.2})


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
    started, published = {}, {}

    async def start(*names, variant="maia", numerics="float32", publish=True):
        for name in names:
            process = WorkerProcess(
                checkpoint, tmp_path, *PACED, f"--numerics={numerics}", uid=f"uid-{name}"
            )
            started[name] = process
        for name in names:
            await asyncio.to_thread(started[name].until, "/readyz", 200)
            started[name].pod = describe(name, started[name], variant)
            if publish:
                await world.publish(started[name].pod)
                published[name] = started[name]
        await world.until_usable(*published)
        return [started[name] for name in names]

    start.processes = published
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


def hold(world, *names):
    """Have the gateway send workers nothing."""
    for name in names:
        world.gateway.fleet.workers[f"uid-{name}"].held_until = float("inf")


def release(world, *names):
    for name in names:
        world.gateway.fleet.workers[f"uid-{name}"].held_until = 0.0


def count_running(world, name):
    return world.gateway.fleet.workers[f"uid-{name}"].inflight


async def test_workers_killed_one_after_the_other_change_nothing_of_any_stream(world, start):
    whole = await start("w1", "w2", "w3")
    expected = await tell_undisturbed(world, CASES)
    hold(world, "w2", "w3")
    streams = {name: Stream(world, *case) for name, case in CASES.items()}
    for stream in streams.values():
        await stream.until(5)
    release(world, "w2", "w3")
    ended = len(world.request_lines())  # not all have a place beside each other
    for _ in range(2):
        busiest = max(whole, key=lambda one: count_running(world, one.pod.name))
        whole.remove(busiest)
        seen = {name: stream.told.count for name, stream in streams.items()}
        busiest.process.kill()
        for name, stream in streams.items():
            await stream.until(seen[name] + 5)
    for name, stream in streams.items():
        check_same(await stream.end(), expected[name])
    assert {line["outcome"] for line in world.request_lines()} == {"ok"}
    lines = world.request_lines()[ended:]
    moved = [line["continuations"] > 0 for line in lines if line["output_tokens"] > 60]
    assert sum(moved) > len(moved) / 2  # of the others all had come, and lay in a buffer
    assert max(line["continuations"] for line in lines) == 2
    assert not any(line["approximate"] for line in lines)


async def test_a_stopped_worker_s_streams_go_on(world, start):
    whole = await start("w1", "w2")
    chosen = ("sampled, with usage", "greedy chat of two", "echo, with scores", "stop text")
    expected = await tell_undisturbed(world, chosen)
    streams = {name: Stream(world, *CASES[name]) for name in chosen}
    for stream in streams.values():
        await stream.until(5)
    stopped = next(one for one in whole if count_running(world, one.pod.name))
    stopped.process.send_signal(signal.SIGSTOP)
    for name, stream in streams.items():
        check_same(await stream.end(), expected[name])
    causes = {
        attempt["outcome"]
        for line in world.request_lines()[len(chosen) :]
        for attempt in line["attempts"][:-1]
    }
    assert causes <= {"silent", "probes_failed"}
    assert causes


async def test_a_lone_worker_that_comes_back_goes_on_with_its_stream(world, start):
    (worker,) = await start("w1")
    expected = await tell_undisturbed(world, ["sampled, with usage"])
    stream = Stream(world, *CASES["sampled, with usage"])
    await stream.until(5)
    worker.process.send_signal(signal.SIGSTOP)
    await until(lambda: not count_running(world, "w1"))
    worker.process.send_signal(signal.SIGCONT)
    check_same(await stream.end(), expected["sampled, with usage"])


@pytest.mark.parametrize("how", ["deleting", "quarantined"])
async def test_streams_leave_a_worker_that_is_taken_out_while_it_serves(world, start, how):
    await start("w1", "w2")
    chosen = ("sampled, with usage", "greedy chat of two")
    expected = await tell_undisturbed(world, chosen)
    streams = {name: Stream(world, *CASES[name]) for name in chosen}
    for stream in streams.values():
        await stream.until(5)
    name = streams[chosen[0]].worker
    if how == "deleting":
        await world.publish(start.processes[name].pod, deleting=True)
    else:
        await world.add_pool(shares={"maia": "100%"}, quarantined=[name])
    await until(lambda: not count_running(world, name))
    for case, stream in streams.items():
        check_same(await stream.end(), expected[case])
    causes = {
        attempt.get("goes_on_after")
        for line in world.request_lines()[len(chosen) :]
        for attempt in line["attempts"]
    }
    assert causes >= {"drain" if how == "deleting" else "quarantine"}
    assert (await world.signals())["pools"]["default/chat"]["failed"] == 0


async def test_streams_stay_on_a_draining_worker_if_nobody_can_take_them(world, start):
    await start("w1")
    await start("w2", variant="gpu", numerics="bfloat16")
    expected = await tell_undisturbed(world, ["sampled, with usage"])
    hold(world, "w2")
    stream = Stream(world, *CASES["sampled, with usage"])
    await stream.until(5)
    await world.publish(start.processes["w1"].pod, deleting=True)
    release(world, "w2")  # it would go on otherwise
    check_same(await stream.end(), expected["sampled, with usage"])
    assert world.request_lines()[-1]["continuations"] == 0


async def test_going_on_in_other_numerics_is_said(world, start):
    (worker,) = await start("w1")
    await start("w2", variant="gpu", numerics="bfloat16")
    hold(world, "w2")
    stream = Stream(world, *CASES["sampled, with usage"])
    silent = Stream(world, TEXT, {"n": 2})
    await stream.until(5)
    await silent.until(5)
    release(world, "w2")
    worker.process.kill()
    told, uncounted = await stream.end(), await silent.end()
    (mark,) = told.marks
    assert mark == {"continuation": "approximate"}
    assert told.rest[0]["usage"]["completion_tokens"] == told.count == 80
    assert told.rest[0]["sluice"] == mark
    assert uncounted.marks == [mark]
    lasts = [documents[-1] for documents in uncounted.choices.values()]
    assert sum("sluice" in document for document in lasts) == 1
    async with world.http.get(f"{world.admin}/metrics") as response:
        metrics = await response.text()
    assert (
        'sluice_gateway_continuations_total{cause="reset",from_class="maia",pool="default/chat",'
        'result="approximate",to_class="gpu"} 2.0'
    ) in metrics


async def test_a_stream_that_was_kept_alive_goes_on_like_any_other(world, start):
    first, second = await start("w1", "w2", publish=False)
    stream = Stream(world, *CASES["chat, with usage"])
    await until(lambda: stream.comments)
    await world.publish(first.pod)
    await stream.until(5)
    comments = stream.comments
    first.process.kill()
    await until(lambda: stream.comments > comments)
    await world.publish(second.pod)
    told = await stream.end()
    check_same(told, (await tell_undisturbed(world, ["chat, with usage"]))["chat, with usage"])
    assert stream.worker == ""  # nobody had it when the response began
    line = world.request_lines()[0]
    assert (line["outcome"], line["continuations"], line["approximate"]) == ("ok", 1, False)


async def test_a_continued_stream_counts_once(world, start):
    first, _ = await start("w1", "w2")
    stream = Stream(world, *CASES["sampled, with usage"])
    await stream.until(10)
    if stream.worker != "w1":
        first = start.processes[stream.worker]
    first.process.kill()
    await stream.end()
    signals = (await world.signals())["pools"]["default/chat"]
    assert (signals["finished"], signals["failed"], signals["outputTokens"]) == (1, 0, 80)
    assert sum(signals["variants"]["maia"]["ttft"]) == 1
    assert sum(signals["variants"]["maia"]["tpot"]) == 1
    workers = {told["pod"]: told for told in signals["workers"].values()}
    assert workers[stream.worker]["errors"] == 1
    line = world.request_lines()[-1]
    # Over the whole of it, and not over the part of one worker alone; its end may come late.
    assert line["tpot"] > (line["duration"] - line["ttft"]) / 120
    assert [attempt["outcome"] for attempt in line["attempts"]] == ["reset", "ok"]
    arguments = ["route", "explain", line["request_id"], "--url", world.admin]
    story = await asyncio.to_thread(CliRunner().invoke, sluice, arguments)
    assert "  goes on with the stream after reset: token by token" in story.stdout


@pytest.mark.parametrize("kept", [False, True])
async def test_without_another_worker_a_stream_ends_with_an_error_after_the_wait(kept):
    wait, often = (3.0, 0.1) if kept else (0.5, 5.0)
    told = settings(relaying={"wait_for_worker": wait, "hearten_seconds": often})
    async with GatewayWorld(told) as world:
        await world.add_pool()
        await world.start_gateway()
        fake = await world.add_worker("w1", start=not kept)
        fake.script = ["known:3"]
        if not kept:
            await world.until_usable("w1")
        stream = Stream(world, TEXT, {"max_tokens": 5})
        if kept:
            await until(lambda: stream.comments)
            await world.publish(fake)
        await stream.until(3)
        await fake.kill()
        told = await stream.end()
        assert told.rest[-1]["error"]["code"] == "worker_lost"
        assert world.request_lines()[-1]["outcome"] == "broken"
        assert world.request_lines()[-1]["waited"] >= wait
