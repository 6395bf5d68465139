"""Gateways and workers in virtual time: the gateway's own fleet, admission and relay, over workers
that take as long as `sluice_accel` says, by constants that the gateway does not know.
"""

import asyncio
import heapq
import itertools
import json
import math
import selectors
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import structlog
from prometheus_client import CollectorRegistry

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.rounding import find_profile
from sluice_accel.timing import StepBatch, step_time
from sluice_gateway.admission import Admission
from sluice_gateway.affinity import BLOCK_BYTES, PrefixIndex
from sluice_gateway.answers import Refusal
from sluice_gateway.attempts import Exchange
from sluice_gateway.calls import Call
from sluice_gateway.cluster import PoolSink, WorkerSink
from sluice_gateway.continuation import begin_transcript
from sluice_gateway.engines import Engine
from sluice_gateway.events import StreamProgress
from sluice_gateway.failover import Failover
from sluice_gateway.fleet import Fleet
from sluice_gateway.goals import Asked
from sluice_gateway.members import Choice
from sluice_gateway.metrics import Metrics
from sluice_gateway.pace import Phase
from sluice_gateway.relay import Relay
from sluice_gateway.settings import Patience, Relaying
from sluice_gateway.signals import Signals

from . import objects

NOMINAL = "llama-3.3-70b"
SCALE = 32
"""Nominal tokens for one of prompt and context."""
ENGINES = {
    "maia": Engine("maia-100", None, NOMINAL, 4, SCALE, slots=8, chunk=16),
    "gpu": Engine("h100", None, NOMINAL, 2, SCALE, slots=8, chunk=16),
}
CALL = Call(
    path="/v1/completions",
    model="compact",
    body=b'{"prompt":""}',
    streaming=True,
    wants_usage=False,
    choices=1,
    tokens_most=8,
    prompt_size=40,
)
TOKEN = b'data: {"choices":[{"index":0,"text":"x"}]}'
END = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}'


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.clock.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of waiting for it."""

    def __init__(self):
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self):
        return self.now


def run_virtually(coroutine):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


@dataclass(eq=False)
class Job:
    prompt: int
    output: int
    priority: int = 0
    tell: object = None
    done: int = 0
    given: int = 0


class SimWorker:
    """A worker by the true constants: chunked prefill, continuous batching, priorities."""

    def __init__(self, engine, seed=0):
        self._engine = engine
        self._profile = find_profile(engine.profile, engine.numerics)
        self._model = NOMINAL_MODELS[engine.nominal]
        self._random = Random(seed)
        self._numbers = itertools.count()
        self._queue = []
        self._running = []
        self._stir = asyncio.Event()
        self.slowdown = 1.0
        self._blocks = set()

    def add(self, job, lead=()):
        """Let a job wait; what the worker has computed of its prompt is not computed again."""
        for block in lead:
            if block not in self._blocks:
                break
            job.done = min(job.prompt - 1, job.done + BLOCK_BYTES // 4)
        self._blocks.update(lead)
        heapq.heappush(self._queue, (job.priority, next(self._numbers), job))
        self._stir.set()

    def start_step(self):
        """Return the seconds that the next step takes, and what it computes."""
        while self._queue and len(self._running) < self._engine.slots:
            self._running.append(heapq.heappop(self._queue))
            self._running.sort()
        budget = self._engine.chunk
        prefill, decode, work = [], [], []
        for _, _, job in self._running:
            if job.done >= job.prompt:
                decode.append((job.prompt + job.given) * SCALE)
                work.append((job, 0))
            elif budget > 0:
                size = min(budget, job.prompt - job.done)
                budget -= size
                prefill.append((size * SCALE, job.done * SCALE))
                work.append((job, size))
        batch = StepBatch(tuple(prefill), tuple(decode))
        seconds = step_time(self._profile, self._model, self._engine.devices, batch)
        return seconds * self.slowdown * (0.97 + 0.06 * self._random.random()), work

    def end_step(self, work):
        for job, size in work:
            job.done += size
            if job.done >= job.prompt:
                job.given += 1
                if job.tell is not None:
                    job.tell(last=job.given >= job.output)
        self._running = [entry for entry in self._running if entry[2].given < entry[2].output]

    async def run(self):
        while True:
            if not (self._queue or self._running):
                self._stir.clear()
                await self._stir.wait()
            seconds, work = self.start_step()
            await asyncio.sleep(seconds)
            self.end_step(work)


def measure_rate(engine, lengths, seed=0):
    """Return the requests a second that a worker that is never idle ends."""
    worker = SimWorker(engine, seed)
    jobs = [Job(prompt, output) for prompt, output in lengths]
    for number, job in enumerate(jobs):
        worker._queue.append((0, number, job))
    at = 0.0
    while worker._queue:
        seconds, work = worker.start_step()
        worker.end_step(work)
        at += seconds
    return (len(jobs) - len(worker._running)) / at


class Forgetful(PrefixIndex):
    """Remembers nothing."""

    def note(self, blocks, uid):
        """Forget it."""


class NoClient:
    """Takes all, and keeps nothing."""

    async def send(self, data):
        """Take it."""

    async def end(self):
        """Take it."""


class SimUpstream:
    """Carries attempts to simulated workers, as `Upstream` does to real ones."""

    def __init__(self, workers):
        self._workers = workers

    async def carry(self, attempt, call, request_id, client, on_progress):
        loop = asyncio.get_running_loop()
        progress = attempt.progress = StreamProgress(begin_transcript(call), wants_usage=False)
        ended = loop.create_future()
        output = int(request_id)
        priority = json.loads(call.body).get("priority", 0)

        def tell(*, last):
            events = [TOKEN]
            if last:
                events += [END % (call.prompt_size // 4, output), b"data: [DONE]"]
            progress.take(events, loop.time())
            on_progress(True)  # noqa: FBT003 - as Upstream calls it
            attempt.phase = Phase.NEXT
            attempt.waiting_since = loop.time()
            if last and not ended.done():
                ended.set_result(None)

        self._workers[attempt.worker.uid].add(
            Job(max(1, call.prompt_size // 4), output, priority, tell), call.lead
        )
        await ended


@dataclass
class Result:
    arrival: float
    kind: str
    key: str
    ttft: float | None
    tpot: float | None
    status: int
    took: float
    worker: str = ""
    bid: object = None
    spilled: bool = False


@dataclass
class Ask:
    """One request: when it comes, how long it is, and what it says."""

    at: float
    prompt: int
    output: int
    most: int
    asked: Asked = field(default_factory=Asked)
    key: str = ""
    lead: tuple[int, ...] = ()


def draw_lengths(random):
    """Return tokens of prompt and answer, as in traces: a few are very long."""
    prompt = min(300, max(4, int(random.lognormvariate(math.log(48), 0.7))))
    output = min(160, max(2, int(random.lognormvariate(math.log(24), 0.6))))
    return prompt, output


def draw_requests(rate, seconds, seed, **more):
    random = Random(seed)
    at, asks = 0.0, []
    while True:
        at += random.expovariate(rate)
        if at > seconds:
            return asks
        prompt, output = draw_lengths(random)
        asks.append(Ask(at, prompt, output, most=160, **more))


def find_capacity(classes, seed=7):
    random = Random(seed)
    lengths = [draw_lengths(random) for _ in range(150)]
    rates = {name: measure_rate(ENGINES[name], lengths) for name in set(classes)}
    return sum(rates[name] for name in classes)


class SimGateway:
    """One gateway: everything of it but sockets."""

    def __init__(self, workers, classes, seed, *, told=(), foreign=False, affine=True):
        clock = asyncio.get_running_loop().time
        random = Random(seed)
        relaying = replace(Relaying(), **dict(told))
        self.fleet = Fleet(
            clock=clock,
            inflight_most=relaying.inflight_most,
            failures_to_fail=3,
            patience=Patience(),
        )
        log = structlog.wrap_logger(None, processors=[structlog.testing.LogCapture()])
        self.pools = PoolSink(self.fleet, log)
        self.decide(None)
        if not affine:
            self.fleet.pools["default/chat"].prefixes = Forgetful()
        sink = WorkerSink(self.fleet, log)
        for number, name in enumerate(classes):
            args = () if foreign else list_arguments(ENGINES[name])
            sink.put(objects.worker(f"w{number}", variant=name, args=args))
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry, self.fleet)
        self.signals = Signals(self.fleet, uid="g", clock=clock, started_at=0.0)
        self.admission = Admission(self.fleet, relaying=relaying, clock=clock, random=random.random)
        failover = Failover(
            self.fleet, self.admission, relaying=relaying, clock=clock, random=random.random
        )
        self.relay = Relay(
            self.fleet,
            self.admission,
            failover,
            SimUpstream(workers),
            relaying=relaying,
            signals=self.signals,
            metrics=metrics,
            probe_now=lambda worker: None,
            clock=clock,
            wall=clock,
            random=random.random,
        )

    def decide(self, shares):
        self.pools.put(objects.pool(shares=shares, ttft="1s", tpot="60ms"))

    async def serve(self, ask):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(ask.at - loop.time())
        exchange = Exchange(str(ask.output), "/v1/completions", loop.time(), loop.time())
        exchange.asked, exchange.key = ask.asked, ask.key
        call = replace(CALL, tokens_most=ask.most, prompt_size=4 * ask.prompt, lead=ask.lead)
        status = 200
        try:
            await self.relay.serve(exchange, call, NoClient())
        except Refusal as refusal:
            status = refusal.answer.status
        took = loop.time() - exchange.arrival
        attempt = exchange.attempts[-1] if exchange.attempts else None
        return Result(
            exchange.arrival,
            str(exchange.goal.kind),
            ask.key,
            exchange.ttft,
            exchange.tpot,
            status,
            took,
            attempt.worker.pod.name if attempt else "",
            attempt.bid if attempt else None,
            bool(attempt and attempt.spilled_from),
        )


def list_arguments(engine):
    return [
        f"--profile={engine.profile}",
        f"--nominal={engine.nominal}",
        f"--devices={engine.devices}",
        f"--token-scale={engine.token_scale}",
        f"--max-num-seqs={engine.slots}",
        f"--max-num-batched-tokens={engine.chunk}",
    ]


def choose_by(kind, random):
    """Return what chooses a worker as load balancers do that predict nothing."""
    turn = itertools.count()

    def choose(fleet, pool, **_):
        workers = list(pool.workers.values())
        if kind == "round-robin":
            worker = workers[next(turn) % len(workers)]
        elif kind == "least-requests":
            random.shuffle(workers)
            worker = min(workers, key=lambda one: one.inflight)
        else:
            worker = min(random.sample(workers, 2), key=lambda one: one.inflight)
        return Choice(pool, worker, kind)

    return choose


def simulate(asks, classes, *, gateways=1, policy=None, shares=None, seed=1, slow=(), **more):
    """Return what became of requests; they are dealt to gateways in turn.

    `slow` says how many times as long the steps of some workers take.
    """

    async def run():
        workers = {f"uid-w{n}": SimWorker(ENGINES[c], seed + n) for n, c in enumerate(classes)}
        for uid, slowdown in dict(slow).items():
            workers[uid].slowdown = slowdown
        tasks = [asyncio.create_task(worker.run()) for worker in workers.values()]
        told = dict(more)
        if policy:
            told["told"] = {"inflight_most": 10**6}
        doors = [SimGateway(workers, classes, seed + n, **told) for n in range(gateways)]
        for number, door in enumerate(doors):
            if policy:
                choose = choose_by(policy, Random(seed + number))
                door.fleet.choose_worker = partial(choose, door.fleet)
            if shares:
                door.decide(shares)
        turns = itertools.cycle(doors)
        results = await asyncio.gather(*(next(turns).serve(ask) for ask in asks))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return results, doors

    return run_virtually(run())


def find_met(results, *, ttft=1.0, tpot=0.06):
    met = [r for r in results if r.status == 200 and r.ttft <= ttft and (r.tpot or 0.0) <= tpot]
    return len(met) / len(results)
