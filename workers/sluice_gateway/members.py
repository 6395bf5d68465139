"""What a fleet is made of: pools, their workers, and what runs on them."""

import asyncio
import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from sluice_gateway.affinity import PrefixIndex
from sluice_gateway.answerlengths import AnswerLengths
from sluice_gateway.engines import Steps
from sluice_gateway.forecast import Errors, Forecast, Load, Need, Work, count_sequences
from sluice_gateway.health import WorkerHealth
from sluice_gateway.line import Line, Waiter
from sluice_gateway.objects import UNDECIDED, PoolDecision, PoolSpec, WorkerPod
from sluice_gateway.overload import Drain, Takers
from sluice_gateway.pace import Mean, Outlook, Pace, Waiting, find_outlook
from sluice_gateway.retries import RetryBudget
from sluice_gateway.room import Room
from sluice_gateway.shares import ShareWindow
from sluice_gateway.transcript import Maker

_TOGETHER: Final = 1.0
"""Seconds within which connections of a worker break together; it does not start as soon again."""


class Running(Waiting, Work, Protocol):
    """A request that runs on a worker."""

    @property
    def pending_since(self) -> float | None:
        """When its client began to wait for a first token; None if it is not waiting for one."""

    def cut(self, why: str) -> None:
        """End it now: its worker is gone."""

    def give_up(self, why: str) -> None:
        """End it now: its worker gives nothing to anybody."""

    @property
    def cause(self) -> str:
        """Why it goes on with a stream that began elsewhere; empty if it does not."""

    def ask_to_leave(self, why: str) -> None:
        """Let it go on elsewhere, if there is a place for it."""

    def expire_after(self, now: float) -> None:
        """End it if what it waits for is late by now."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What runs on a worker, and how far off predictions for it are, as found at a time."""

    at: float
    load: Load
    step_error: float
    first_error: float


@dataclass(slots=True, eq=False)
class Worker:
    """One worker pod, what is known of its health and pace, and what runs on it.

    Attributes:
        group: The workers whose share of the traffic it takes part in.
        maker: What it computes in and the digest of its model, as it last said; None if unknown.
        continues: It has, as far as is known, the endpoint for streams that began elsewhere.
        errors: How far off predictions for it are, beyond those for its class.
        first_at: When a request on it last had its first token.
        judged: Tokens of its pace that its errors have learnt from.
        weight: What runs on it, as far as predictions go; None if it has changed since.
        steps: How long steps of its engine take; None of a foreign backend.
        named: It has answered a probe under its own uid.
        sequences: Places in its batch that what runs on it asks for; `batch` of those are batch
            work's.
        lost_at: When it last broke off under its requests.
        vouched: It says itself that it is ready, while nobody else can (`vouching`).
    """

    pod: WorkerPod
    health: WorkerHealth
    pace: Pace = field(default_factory=Pace)
    running: set[Running] = field(default_factory=set)
    held_until: float = 0.0
    group: str = ""
    maker: Maker | None = None
    continues: bool = True
    errors: Errors = field(default_factory=Errors)
    first_at: float = -math.inf
    judged: int = 0
    weight: Weight | None = None
    steps: Steps | None = None
    named: bool = False
    sequences: int = 0
    batch: int = 0
    lost_at: float = -math.inf
    vouched: bool = False

    @property
    def ready(self) -> bool:
        """Whether it is ready, by the cluster's word or by its own."""
        return self.pod.ready or self.vouched

    def take_pod(self, pod: WorkerPod) -> None:
        """Take what the cluster says of it now; its own word holds while that is nothing new."""
        same = (pod.host, pod.port) == (self.pod.host, self.pod.port)
        self.vouched = self.vouched and same and not pod.ready and not pod.leaving
        self.pod = pod

    def add_running(self, running: Running) -> None:
        """Count a request that begins on it."""
        if running not in self.running:
            self.running.add(running)
            self._count(running, 1)

    def remove_running(self, running: Running) -> None:
        """Count a request no longer."""
        if running in self.running:
            self.running.remove(running)
            self._count(running, -1)

    def _count(self, running: Running, times: int) -> None:
        sequences = times * count_sequences(running)
        self.sequences += sequences
        if running.need is not None and running.need.batch:
            self.batch += sequences
        self.weight = None

    def is_other(self, answering: str) -> bool:
        """Return whether an answer that names this uid, or none, comes from somebody else.

        Whoever has told its uid once goes on to do so.
        """
        return self.pod.is_other(answering) or (self.named and not answering)

    @property
    def uid(self) -> str:
        """Uid of the pod."""
        return self.pod.uid

    @property
    def variant(self) -> str:
        """Accelerator class."""
        return self.pod.variant

    @property
    def inflight(self) -> int:
        """Requests of this gateway on it."""
        return len(self.running)


@dataclass(slots=True)
class Lengths:
    """How long a pool's prompts and answers are.

    Attributes:
        per_byte: Tokens for each byte of a prompt.
        output: Tokens of a choice, in the mean.
        answers: Likewise, how many are how long.
    """

    per_byte: Mean = field(default_factory=Mean)
    output: Mean = field(default_factory=Mean)
    answers: AnswerLengths = field(default_factory=AnswerLengths)


@dataclass(slots=True, eq=False)
class Pool:
    """One pool and its workers.

    Attributes:
        waiters: The line of requests that wait for a worker; those woken have left it.
        woken: How many of those have not looked yet, and `claimed`, on how many places they have a
            claim.
        waiting: Requests in line, and woken ones.
        movers: Streams that wait for a worker to go on with them: ahead of the line.
        lengths: How long its prompts and answers are.
        errors: How far off predictions for a class's workers are, by variant.
        prefixes: Which worker has computed which prompts.
        drain: How fast the line moves.
        takers: Which keys have taken how much of it.
        room: How much of its workers batch work leaves to others.
        losses: How often one of its workers broke off, with whatever ran there.
    """

    spec: PoolSpec
    decision: PoolDecision = UNDECIDED
    workers: dict[str, Worker] = field(default_factory=dict)
    window: ShareWindow = field(default_factory=ShareWindow)
    budget: RetryBudget = field(default_factory=RetryBudget)
    waiters: Line = field(default_factory=Line)
    woken: int = 0
    claimed: int = 0
    waiting: int = 0
    movers: deque[asyncio.Future[None]] = field(default_factory=deque)
    lengths: Lengths = field(default_factory=Lengths)
    errors: defaultdict[str, Errors] = field(default_factory=lambda: defaultdict(Errors.of_class))
    prefixes: PrefixIndex = field(default_factory=PrefixIndex)
    drain: Drain = field(default_factory=Drain)
    takers: Takers = field(default_factory=Takers)
    room: Room = field(default_factory=Room)
    losses: int = 0

    def note_loss(self, worker: Worker, now: float, *, counts: bool) -> None:
        """A worker broke off under a request; what it had beside that breaks with it."""
        self.losses += counts and now - worker.lost_at > _TOGETHER
        worker.lost_at = now

    def wake(self, places: int, batch: int) -> None:
        """Wake who waits for so many places, and new batch work for up to `batch` of them."""
        while places > 0:
            waiter = self.waiters.pop(urgent=batch <= 0)
            if waiter is None:
                return
            places -= waiter.sequences
            batch -= waiter.sequences
            waiter.woken = True
            self.woken += 1
            self.claimed += waiter.sequences
            waiter.wake()

    def drop_claim(self, waiter: Waiter) -> None:
        """A request that was woken has looked, or left."""
        self.woken -= 1
        self.claimed -= waiter.sequences

    def find_outlook(self, worker: Worker, chunk: int) -> Outlook:
        """Return what can be expected of one of its workers.

        `chunk` is the bytes of a prompt that a step of an unknown worker takes at least.
        """
        siblings = [one.pace for one in self.workers.values() if one.variant == worker.variant]
        return find_outlook(worker.pace, siblings, tpot=self.spec.slo.tpot, chunk=chunk)


@dataclass(frozen=True, slots=True)
class Look:
    """A worker that was considered for an attempt, and what was predicted of it there."""

    pod: str
    variant: str
    inflight: int
    forecast: Forecast


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The worker for one attempt, of which pool, and why.

    Attributes:
        need: What the request asked for; None if nobody told.
        bid: What is predicted of it on the worker.
        looked: Everybody who was compared.
        spilled_from: The group that would have missed the objective, if it had to go elsewhere.
        late: By how many seconds it would be late: more than it may, so it was not counted.
    """

    pool: Pool
    worker: Worker
    reason: str
    need: Need | None = None
    bid: Forecast | None = None
    looked: tuple[Look, ...] = ()
    spilled_from: str = ""
    late: float = 0.0
