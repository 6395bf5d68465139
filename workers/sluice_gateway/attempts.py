"""One request, and its attempts on workers: the record that relay, signals and log share."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

from sluice_gateway.calls import Call
from sluice_gateway.events import StreamProgress, Usage, read_usage
from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.gaps import Gaps
from sluice_gateway.goals import Asked, Goal
from sluice_gateway.members import Choice, Look, Pool, Worker
from sluice_gateway.pace import Phase
from sluice_gateway.retries import BROKE_OFF
from sluice_gateway.tracing import Trace
from sluice_gateway.transcript import Transcript

_PROMPT_SECONDS = 0.005
"""A client that takes what it is sent sooner than this does not keep its worker waiting."""


@dataclass(slots=True, eq=False, kw_only=True)
class Attempt:
    """One dispatch of a request to a worker.

    Attributes:
        reason: Why this worker.
        dispatched: Monotonic seconds; `dispatched_at` is the same as wall time.
        pending_since: When its client began to wait for a first token; None if it is not.
        size: Bytes of the prompt, as often as the request has choices.
        streaming: It gives tokens as they come.
        tokens_most: The longest answer; None if the request does not say.
        alone: Nothing else ran on the worker when it began.
        deadline: Monotonic seconds at which what it waits for (`phase`) is late.
        waiting_since: Since when it has been waiting for that.
        token_at: When a token last came; None before the first.
        cut_why: Set when its worker failed the probes, with the reason.
        silent_why: Set when its worker gave nothing to anybody, with the reason.
        outcome: Short word for the log, from a fixed set.
        progress: What has come of a stream.
        usage: The worker's own count of tokens, of an answer that does not stream.
        begun: The client has been sent a part of what came of this attempt.
        gave: A token came of it.
        need: What the request asked of its worker; `bid` is what was predicted, `looked` all that
            was compared, `spilled_from` the group that would have missed the objective.
        transcript: What the client has been given of the stream, from this worker and others.
        cause: Why it goes on with a stream that began elsewhere; empty if it does not.
        source: The class that the stream came from, if so.
        exact: It goes on as the stream would have gone on undisturbed; None while not known.
        leave_why: Why it should go on elsewhere, since it was last asked to.
        find_refuge: Returns whether there is a place elsewhere, given why it should go there.
        losses: How often a worker of its pool had broken off when it began.
        trace: Its span, which its worker is told of.
        ended_at: Wall time of its end; 0 while it runs.
        gaps: Between the tokens that came of it, the first of which ends a pause if it goes on.
    """

    worker: Worker
    reason: str
    dispatched: float
    dispatched_at: float
    pending_since: float | None
    size: int = 0
    streaming: bool = False
    tokens_most: int | None = None
    alone: bool = False
    deadline: float = float("inf")
    waiting_since: float = 0.0
    token_at: float | None = None
    phase: Phase = Phase.FIRST
    cut_why: str = ""
    silent_why: str = ""
    outcome: str = "running"
    progress: StreamProgress | None = None
    usage: Usage | None = None
    begun: bool = False
    gave: bool = False
    need: Need | None = None
    bid: Forecast | None = None
    looked: tuple[Look, ...] = ()
    spilled_from: str = ""
    transcript: Transcript | None = None
    cause: str = ""
    source: str = ""
    exact: bool | None = None
    find_refuge: Callable[[str], bool] | None = None
    leave_why: str = ""
    losses: int = 0
    trace: Trace | None = None
    ended_at: float = 0.0
    gaps: Gaps = field(default_factory=Gaps)
    _scope: asyncio.Timeout | None = None

    def cut(self, why: str) -> None:
        """End it now: its worker is gone. It leaves its scope with a TimeoutError."""
        if not self.cut_why:
            self.cut_why = why
            self.expire()

    def give_up(self, why: str) -> None:
        """End it now: its worker is silent. What waits for its client is left to it."""
        if self.phase is not Phase.CLIENT and not self.silent_why:
            self.silent_why = why
            self.expire()

    def expire(self) -> None:
        """End it now: what it waits for is late. It leaves its scope with a TimeoutError."""
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def expire_after(self, now: float) -> None:
        """End it if what it waits for is late by now."""
        if self.deadline < now:
            self.expire()

    def ask_to_leave(self, why: str) -> None:
        """Let it go on elsewhere, if there is a place for it: at its next event."""
        if self.begun:
            self.leave_why = why

    def find_way_out(self) -> str:
        """Return why it leaves now, with a place elsewhere; nothing if it stays.

        The place is looked for once each time that it is asked to leave.
        """
        why, self.leave_why = self.leave_why, ""
        return why if self.find_refuge is not None and self.find_refuge(why) else ""

    def begin_leg(self, now: float) -> None:
        """It is sent to its worker, once more if a stream goes on in several requests."""
        self.dispatched = self.waiting_since = now
        self.token_at = None
        self.phase = Phase.FIRST

    def count_tokens(self) -> tuple[int, int]:
        """Return prompt and output tokens of the answer."""
        if self.progress is None:
            return read_usage(self.usage, otherwise=0)
        return self.progress.count_tokens()

    def await_again(
        self, phase: Phase, waiting_since: float, deadline: float, *, pause: float
    ) -> None:
        """Wait for what was waited for before, less the time that went by on the client's side."""
        self.phase = phase
        self.waiting_since = waiting_since + pause
        self.deadline = deadline + pause

    @property
    def computed(self) -> bool:
        """Whether tokens were computed: they came, or an answer in one piece ran so long."""
        if self.gave or self.streaming or self.bid is None:
            return self.gave
        return self.ended_at - self.dispatched_at > self.bid.ttft

    @property
    def work(self) -> float:
        """Seconds that its prompt alone is predicted to take; 0 if nothing is."""
        return self.bid.work if self.bid is not None else 0.0

    @property
    def was_queueing(self) -> bool:
        """Whether it had no token yet while others on its worker got on: a long line, no fault."""
        return self.phase is Phase.FIRST and self.worker.pace.progressed_at > self.dispatched

    @property
    def was_silence(self) -> bool:
        """Whether nothing at all came of its worker while it waited."""
        return self.worker.pace.progressed_at <= self.waiting_since

    def measure_pace(self, *, fresh: bool) -> None:
        """Let the worker's pace learn from what came now, if the worker sent it only now."""
        progress = self.progress
        if progress is None or progress.last_at is None:
            return
        self.gave = True
        before, self.token_at = self.token_at, progress.last_at
        if not fresh or before == self.token_at:
            return
        pace = self.worker.pace
        if before is None:
            pace.first.add(self.token_at - self.dispatched)
            if self.alone and self.size:
                pace.prefill.add((self.token_at - self.dispatched) / self.size)
        elif self.waiting_since - before < _PROMPT_SECONDS:
            pace.token.add(self.token_at - before)

    @contextmanager
    def guarded_by(self, scope: asyncio.Timeout) -> Iterator[None]:
        """Let `cut` and `expire` end what runs inside, through the scope around it."""
        self._scope = scope
        try:
            yield
        finally:
            self._scope = None


@dataclass(slots=True, eq=False)
class Exchange:
    """One request from arrival to end.

    Attributes:
        arrival: Monotonic seconds; `arrived_at` is the same as wall time.
        waited: Seconds spent waiting for a usable worker; of those, `excused` while none was
            healthy.
        excluded: Uids of workers that failed it.
        asked: What the request says of its class and deadline.
        goal: What follows from that and from its pool.
        met: Whether it was inside its own goal; None until it is answered.
        hearten: Sends the client of a stream a sign of life; None if it does not stream.
        first_at: When its first token came, and `last_at` its last, in monotonic seconds.
        ttft: Seconds from arrival to the first token; streams only.
        tpot: Seconds per output token after the first; streams of two tokens and more only.
        tokens: Prompt and output tokens, as far as known.
        transcript: What the client was given of a stream that has left its first worker.
        refuge: Where it goes on next, if that was found before it left.
        moved: Why it left which workers, by uid: once each is free.
        outcome: Short word for log and metrics, from a fixed set.
        key: Name of the API key that it came with; empty if none is needed.
        trace: Its span.
        headers: What its answer says of the client's key and limits.
    """

    request_id: str
    path: str
    arrival: float
    arrived_at: float
    pool: Pool | None = None
    call: Call | None = None
    attempts: list[Attempt] = field(default_factory=list)
    excluded: set[str] = field(default_factory=set)
    error_answers: int = 0
    asked: Asked = field(default_factory=Asked)
    goal: Goal | None = None
    met: bool | None = None
    hearten: Callable[[], Awaitable[None]] | None = None
    waited: float = 0.0
    excused: float = 0.0
    first_at: float | None = None
    last_at: float | None = None
    ttft: float | None = None
    tpot: float | None = None
    transcript: Transcript | None = None
    refuge: Choice | None = None
    moved: set[tuple[str, str]] = field(default_factory=set)
    tokens: tuple[int, int] = (0, 0)
    status: int = 0
    outcome: str = ""
    key: str = ""
    trace: Trace | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_patient(self) -> bool:
        """Whether it may wait longer than its pool's objective says."""
        pool, goal = self.pool, self.goal
        return pool is not None and goal is not None and goal.ttft > pool.spec.slo.ttft

    @property
    def worker(self) -> Worker | None:
        """The worker of the last attempt."""
        return self.attempts[-1].worker if self.attempts else None

    @property
    def fruitless(self) -> list[Attempt]:
        """Attempts since the last token came; those left out whose worker refused to begin."""
        since = takewhile(lambda one: not one.gave, reversed(self.attempts))
        return [one for one in since if not one.outcome.startswith("refused")][::-1]

    @property
    def breaks(self) -> list[Attempt]:
        """Those of them whose workers broke off before they had computed any."""
        return [one for one in self.fruitless if one.outcome in BROKE_OFF and not one.computed]

    def count_suspicious(self, losses: int) -> int:
        """Return how many more those are than the workers that were lost without it meanwhile.

        Args:
            losses: How often a worker of its pool has broken off until now, under requests that
                had ended none before.
        """
        tried = self.fruitless
        others = max(0, losses - tried[0].losses - 1) if tried else 0
        return len(self.breaks) - others

    def note_token(self, attempt: Attempt, at: float) -> None:
        """A token came of an attempt: the time since the last is a gap, whoever gave that."""
        if self.last_at is not None and at > self.last_at:
            attempt.gaps.add(at - self.last_at)
        self.last_at = at

    def find_tpot(self, tokens: float) -> float | None:
        """Return seconds per token after the first, for a stream of that many; else None."""
        return find_tpot(self.first_at, self.last_at, tokens)


def find_tpot(first_at: float | None, last_at: float | None, tokens: float) -> float | None:
    """Return seconds per token after the first, of that many between two moments; else None."""
    if first_at is None or last_at is None or tokens < 2:  # noqa: PLR2004
        return None
    return (last_at - first_at) / (tokens - 1)
