"""Where a stream goes on whose worker was lost, and when it may not."""

import asyncio
import json
from array import array
from dataclasses import replace

import pytest
import structlog

from sluice_gateway.access import count_tokens
from sluice_gateway.answers import Refusal
from sluice_gateway.attempts import Attempt
from sluice_gateway.calls import parse_call
from sluice_gateway.continuation import begin_transcript
from sluice_gateway.failover import Failover
from sluice_gateway.faults import tell_lost
from sluice_gateway.forecast import Forecast
from sluice_gateway.goals import RequestClass
from sluice_gateway.pace import Phase
from sluice_gateway.settings import Patience, Relaying
from sluice_gateway.sweep import Sweep

from . import objects
from .polling import until
from .test_fleet import World

SLOW, FAST = (
    [
        "--profile=maia-100",
        "--nominal=llama-3.3-70b",
        "--devices=4",
        f"--token-scale={scale}",
        "--max-num-seqs=8",
        "--max-num-batched-tokens=16",
    ]
    for scale in (256, 1)
)
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
        relaying=Relaying(wait_for_worker=5.0, moves_most=4, hearten_seconds=2.0),
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
    world.admission.prepare(exchange, exchange.call, exchange.pool)
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


def send_there(world, name, *, work):
    """Let a stream that goes on be on its way to a worker; its prompt takes so many seconds."""
    worker, attempt = world.run_on(name)
    attempt.cause, attempt.bid = "reset", Forecast(ttft=work, itl=0.01, work=work)
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
    exchange, attempt = begin(world)
    lose(world, exchange, attempt)
    _, on_w2 = send_there(world, "w2", work=0.999)  # and 30 tokens more would take above a second
    assert await find(world, exchange) == "w3"
    send_there(world, "w3", work=0.999)
    assert await find(world, exchange) == "g1"
    send_there(world, "g1", work=10.0)
    finding = asyncio.create_task(find(world, exchange))
    await until(lambda: exchange.pool.movers)
    on_w2.phase = Phase.NEXT
    world.fleet.wake_waiters(exchange.pool)
    assert await finding == "w2"


async def test_it_goes_where_what_is_left_of_it_is_foreseen_to_end_soonest(world):
    world.workers.put(objects.worker("w2", args=SLOW))
    world.workers.put(objects.worker("w3", args=FAST))
    for name in ("w2", "w3"):
        world.fleet.workers[f"uid-{name}"].maker = OURS
    exchange, attempt = begin(world)
    exchange.goal = replace(exchange.goal, kind=RequestClass.BATCH)  # that would look at the cost
    exchange.transcript.prompts[0] = array("q", range(40))
    exchange.transcript.choices[0].tokens.extend(range(24))
    lose(world, exchange, attempt)
    world.fleet.hold_worker(attempt.worker, 100.0)
    world.run_on("w3")  # by load alone it would be w2
    choice = await world.failover.find_worker(exchange, exchange.pool, FAULT.answer)
    assert choice.worker.pod.name == "w3"
    assert choice.need.prompt == 64
    assert choice.need.goal.kind is RequestClass.INTERACTIVE
    assert choice.bid.ttft < next(look for look in choice.looked if look.pod == "w2").forecast.ttft


async def test_it_is_never_late_and_counts_towards_no_share(world):
    world.pools.put(objects.pool(shares={"maia": "50%", "gpu": "50%"}))
    for name in ("w1", "w2", "w3", "g1"):
        variant = "gpu" if name == "g1" else "maia"
        world.workers.put(objects.worker(name, variant=variant, args=SLOW))
        if name != "w1":
            world.run_on(name)
    exchange, attempt = begin(world)
    lose(world, exchange, attempt)
    world.fleet.hold_worker(attempt.worker, 100.0)
    exchange.goal = replace(exchange.goal, ttft=0.001)
    choice = await world.failover.find_worker(exchange, exchange.pool, FAULT.answer)
    assert choice.bid.ttft > exchange.goal.ttft
    shares = exchange.pool.decision.find_group_shares()
    assert not any(exchange.pool.window.read_counts(shares, world.clock()).values())
    await world.find()
    assert sum(exchange.pool.window.read_counts(shares, world.clock()).values()) == 1


@pytest.mark.parametrize(("cause", "learnt"), [("", 1), ("reset", 0)])
def test_a_part_of_an_answer_teaches_nothing_of_how_long_answers_are(world, cause, learnt):
    worker, attempt = world.run_on("w2")
    attempt.cause, attempt.size = cause, 10
    attempt.usage = {"prompt_tokens": 7, "completion_tokens": 2}
    world.fleet.stop_running(worker, attempt)
    assert world.fleet.pools["default/chat"].lengths.output.count == learnt


def test_a_stream_that_ends_broken_costs_its_key_what_all_its_workers_gave(world):
    exchange, attempt = begin(world)
    exchange.transcript.prompts[0] = array("q", range(40))
    exchange.transcript.choices[0].tokens.extend(range(24))
    lose(world, exchange, attempt)
    assert count_tokens(exchange, exchange.call, gone=False) == (40, 24)


async def test_a_stream_that_waits_to_go_on_is_kept_alive(world):
    signs = []

    async def hearten():
        signs.append(world.clock())

    exchange, attempt = begin(world)
    exchange.hearten = hearten
    lose(world, exchange, attempt)
    for name in ("w1", "w2", "w3", "g1"):
        world.fleet.hold_worker(world.fleet.workers[f"uid-{name}"], 100.0)
    finding = asyncio.create_task(find(world, exchange))
    for seconds, expected in ((1.9, 0), (0.2, 1), (1.8, 1), (0.3, 2)):
        await until(lambda: exchange.pool.movers)
        world.clock.now += seconds
        world.fleet.wake_waiters(exchange.pool)
        await asyncio.sleep(0.01)
        assert len(signs) == expected
    finding.cancel()


async def test_new_requests_do_not_pass_it(world):
    exchange, attempt = begin(world)
    lose(world, exchange, attempt)
    for name in ("w1", "w2", "w3", "g1"):
        world.fleet.hold_worker(world.fleet.workers[f"uid-{name}"], 100.0)
    going = asyncio.create_task(world.failover.find_worker(exchange, exchange.pool, FAULT.answer))
    await until(lambda: exchange.pool.movers)
    world.start("w4")
    world.run_on("w4")  # there is one place

    async def go_on():
        choice = await going
        world.run_on(choice.worker.pod.name)

    moved = asyncio.create_task(go_on())
    new = asyncio.create_task(world.find())
    await moved
    await asyncio.sleep(0.01)
    assert not new.done()
    new.cancel()


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


def test_what_counts_are_attempts_in_a_row_that_gave_no_token(world):
    exchange, attempt = begin(world)
    exchange.attempts += [attempt] * 9
    assert len(exchange.fruitless) == 10
    with pytest.raises(Refusal):
        lose(world, exchange, attempt)
    _, fruitful = world.run_on("w2")
    fruitful.gave = True
    exchange.attempts.append(fruitful)
    lose(world, exchange, fruitful)
    assert exchange.fruitless == []
    exchange.attempts += [attempt] * 3
    lose(world, exchange, attempt)
    exchange.attempts += [fruitful] * 40
    exchange.moved.clear()
    with pytest.raises(Refusal):
        lose(world, exchange, fruitful)


def test_a_worker_that_refuses_to_begin_is_no_try(world):
    exchange, attempt = begin(world)
    _, refused = world.run_on("w2", outcome="refused_503")
    exchange.attempts += [refused] * 9
    lose(world, exchange, attempt)
    assert exchange.fruitless == [attempt]


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
