"""Where a stream goes on whose worker was lost, and when it may not."""

import asyncio
import json

import pytest
import structlog

from sluice_gateway.answers import Refusal
from sluice_gateway.attempts import Attempt
from sluice_gateway.calls import parse_call
from sluice_gateway.continuation import begin_transcript
from sluice_gateway.failover import Failover
from sluice_gateway.faults import tell_lost
from sluice_gateway.pace import Phase
from sluice_gateway.settings import Patience, Relaying
from sluice_gateway.sweep import Sweep

from . import objects
from .polling import until
from .test_fleet import World

OURS, OTHER = ("fp8-block", "sha256:1"), ("mx9", "sha256:1")
FAULT = tell_lost("reset", "the connection broke")


@pytest.fixture
def world():
    world = World()
    world.pools.put(objects.pool())
    world.start("w1", "w2", "w3")
    world.start("g1", variant="gpu")
    world.failover = Failover(
        world.fleet,
        world.admission,
        relaying=Relaying(wait_for_worker=5.0, moves_most=4),
        clock=world.clock,
        random=lambda: 0.0,
    )
    return world


def begin(world, name="w1"):
    """Return a stream that has begun on a worker, and its attempt."""
    body = {"model": "compact", "prompt": "x" * 100, "stream": True}
    exchange = world.exchange()
    exchange.call = parse_call("/v1/completions", json.dumps(body).encode(), seed=1)
    exchange.pool = world.fleet.pools["default/chat"]
    worker, attempt = world.run_on(name)
    attempt.begun = True
    exchange.attempts.append(attempt)
    exchange.transcript = attempt.transcript = begin_transcript(exchange.call)
    exchange.transcript.head = {"id": "x", "created": 1}
    exchange.transcript.maker = worker.maker = OURS
    return exchange, attempt


def lose(world, exchange, attempt):
    world.fleet.stop_running(attempt.worker, attempt)
    world.failover.allow_move(exchange, exchange.pool, attempt, FAULT)


async def find(world, exchange):
    choice = await world.failover.find_worker(exchange, exchange.pool, FAULT.answer)
    return choice.worker.pod.name


def send_there(world, name, *, size=1000):
    """Let a stream that goes on be on its way to a worker."""
    worker, attempt = world.run_on(name)
    attempt.cause, attempt.size = "reset", size
    return worker, attempt


async def test_it_goes_where_it_goes_on_token_by_token_if_it_can(world):
    world.fleet.workers["uid-w2"].maker = OTHER
    exchange, attempt = begin(world)
    lose(world, exchange, attempt)
    assert await find(world, exchange) == "w3"
    for _ in range(2):
        world.run_on("w3")  # and then it is full
    assert await find(world, exchange) in {"w2", "g1"}


async def test_survivors_are_given_as_much_as_they_can_compute(world):
    for name in ("w2", "w3"):
        world.fleet.workers[f"uid-{name}"].maker = OURS
        for _ in range(5):
            world.fleet.workers[f"uid-{name}"].pace.prefill.add(0.001)
    exchange, attempt = begin(world)
    lose(world, exchange, attempt)
    _, on_w2 = send_there(world, "w2", size=950)  # and 100 bytes more would take above a second
    assert await find(world, exchange) == "w3"
    send_there(world, "w3", size=950)
    assert await find(world, exchange) == "g1"
    send_there(world, "g1", size=10_000)
    finding = asyncio.create_task(find(world, exchange))
    await until(lambda: exchange.pool.movers)
    on_w2.phase = Phase.NEXT
    world.fleet.wake_waiters(exchange.pool)
    assert await finding == "w2"


async def test_it_comes_before_whoever_waits_in_line(world):
    exchange, attempt = begin(world)
    world.fleet.hold_worker(attempt.worker, 100.0)
    for name in ("w2", "w3", "w3", "g1", "g1"):
        world.run_on(name)
    worker, other = world.run_on("w2")
    waiting = asyncio.create_task(world.find())
    await world.wait_until_waiting(1)
    lose(world, exchange, attempt)

    async def go_on():
        world.run_on(await find(world, exchange))

    going = asyncio.create_task(go_on())
    await until(lambda: exchange.pool.movers)
    world.fleet.stop_running(worker, other)
    await going
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()


async def test_a_wait_without_end_ends_with_what_went_wrong(world):
    exchange, attempt = begin(world)
    lose(world, exchange, attempt)
    for name in ("w1", "w2", "w3", "g1"):
        world.fleet.hold_worker(world.fleet.workers[f"uid-{name}"], 100.0)
    finding = asyncio.create_task(find(world, exchange))
    await until(lambda: exchange.pool.movers)
    world.clock.now += 6.0
    world.fleet.wake_waiters(exchange.pool)
    with pytest.raises(Refusal) as refused:
        await finding
    assert refused.value.answer is FAULT.answer
    assert not exchange.pool.movers
    assert exchange.waited == 6.0


def test_moves_are_free_once_for_each_worker_and_bounded(world):
    exchange, attempt = begin(world)
    while exchange.pool.budget.take_retry(world.clock()):
        pass
    lose(world, exchange, attempt)
    other = Attempt(
        worker=world.fleet.workers["uid-w2"],
        reason="",
        dispatched=0.0,
        dispatched_at=0.0,
        pending_since=None,
    )
    exchange.attempts.append(other)
    lose(world, exchange, other)
    with pytest.raises(Refusal):
        lose(world, exchange, other)
    exchange.attempts += [other] * 2
    exchange.moved.clear()
    with pytest.raises(Refusal):
        lose(world, exchange, other)


def test_a_stream_that_nothing_is_known_of_does_not_go_on(world):
    exchange, attempt = begin(world)
    exchange.transcript.trackable = False
    with pytest.raises(Refusal):
        lose(world, exchange, attempt)


@pytest.mark.parametrize(
    ("why", "makers", "expected"),
    [
        ("drain", {"w2": OURS}, "w2"),
        ("drain", {"w2": OTHER, "w3": OTHER}, None),
        ("quarantine", {"w2": OTHER, "w3": OTHER}, "w2"),
    ],
)
def test_a_stream_leaves_a_draining_worker_only_if_nothing_of_it_changes(
    world, why, makers, expected
):
    for name, maker in makers.items():
        world.fleet.workers[f"uid-{name}"].maker = maker
    world.fleet.workers["uid-w3"].maker = OTHER
    exchange, attempt = begin(world)
    attempt.find_refuge = lambda why: world.failover.find_refuge(exchange, attempt, why)
    attempt.ask_to_leave(why)
    assert attempt.find_way_out() == (why if expected else "")
    assert (exchange.refuge and exchange.refuge.worker.pod.name) == expected
    assert attempt.find_way_out() == ""


def test_the_round_asks_what_runs_on_workers_that_go_away_to_leave(world):
    _, attempt = begin(world)
    worker = attempt.worker
    assert world.fleet.explain_leaving(worker) == ""
    world.start("w1", deleting=True)
    assert world.fleet.explain_leaving(worker) == "drain"
    world.start("w1", ready=False)
    assert world.fleet.explain_leaving(worker) == "unready"
    world.pools.put(objects.pool(shares={"maia": "100%"}, quarantined=["w1"]))
    assert world.fleet.explain_leaving(worker) == "quarantine"
    assert attempt.leave_why == ""
    sweep = Sweep(
        world.fleet,
        patience=Patience(),
        probe_now=print,
        clock=world.clock,
        log=structlog.get_logger(),
    )
    sweep.sweep(world.clock(), slept=0.0)
    assert attempt.leave_why == "quarantine"
