"""Takes a request through its attempts: find a worker, carry, and move on when it is lost.

Until its client has seen something of it, a request is sent again as a whole. A stream that has
begun goes on from another worker instead, from what its `Transcript` remembers; it ends with an
error event if that is not possible, or no worker turns up.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from sluice_gateway.admission import Admission
from sluice_gateway.answers import Answer, Refusal
from sluice_gateway.attempts import Attempt, Exchange
from sluice_gateway.calls import Call
from sluice_gateway.events import render_event
from sluice_gateway.failover import Failover
from sluice_gateway.faults import answer_breaker
from sluice_gateway.fleet import Fleet
from sluice_gateway.goals import Goal
from sluice_gateway.health import double
from sluice_gateway.members import Choice, Pool, Worker
from sluice_gateway.metrics import Metrics
from sluice_gateway.objects import Slo
from sluice_gateway.pace import Phase
from sluice_gateway.retries import BROKE_OFF, Fault, FaultKind
from sluice_gateway.settings import Relaying
from sluice_gateway.signals import Signals
from sluice_gateway.upstream import ClientLostError, ClientStream, Upstream

_END_SECONDS = 1.0
_ERRORS_IN_ROW = 3
"""So many error answers and no token between them are no chance any more."""
_HEARTENING = b": waiting for a worker\n\n"
"""A comment, which clients of event streams leave out."""
_LEAST_SIZE = 4
"""Bytes of a prompt that count in any case, for what a template puts around it."""


class Relay:
    """Serves requests with the fleet's workers.

    Args:
        probe_now: Asks the prober to look at a worker at once.
        on_answered: Each is told of a request that was answered in full, when it has been.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        random: Returns numbers in [0, 1).
    """

    def __init__(
        self,
        fleet: Fleet,
        admission: Admission,
        failover: Failover,
        upstream: Upstream,
        *,
        relaying: Relaying,
        signals: Signals,
        metrics: Metrics,
        probe_now: Callable[[Worker], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Callable[[], float],
        on_answered: Sequence[Callable[[Exchange, Pool, Attempt, Call, Answer | None], None]] = (),
    ) -> None:
        self._fleet = fleet
        self._admission = admission
        self._failover = failover
        self._upstream = upstream
        self._relaying = relaying
        self._signals = signals
        self._metrics = metrics
        self._probe_now = probe_now
        self._clock = clock
        self._wall = wall
        self._random = random
        self._on_answered = on_answered

    async def serve(self, exchange: Exchange, call: Call, client: ClientStream) -> Answer | None:
        """Serve one request.

        Returns:
            The whole answer, still to be sent; or None if it was streamed to the client.

        Raises:
            Refusal: If the gateway must answer itself.
            ClientLostError: If the client went away.
        """
        pool = exchange.pool = self._admission.find_pool(call.model)
        self._signals.count_request(pool, "arrived")
        pool.budget.note_request(self._clock())
        call = self._admission.prepare(exchange, call, pool)
        if call.streaming:
            exchange.hearten = partial(client.send, _HEARTENING)
        try:
            return await self._try_workers(exchange, pool, call, client)
        except Refusal as refusal:
            if exchange.transcript is None:
                raise
            await self._end_broken(exchange, client, refusal.answer)
            return None

    async def _try_workers(
        self, exchange: Exchange, pool: Pool, call: Call, client: ClientStream
    ) -> Answer | None:
        """Try workers until one has served the request, or the last part of it."""
        last: Fault | None = None
        while True:
            choice = await self._find_worker(exchange, pool, last)
            pool = exchange.pool = choice.pool
            attempt = self._dispatch(exchange, choice, call, last)
            try:
                answer = await self._run(exchange, attempt, call, client)
            except Fault as fault:
                last = fault
                self._note_fault(exchange, pool, attempt, fault)
                if attempt.begun:
                    exchange.transcript = attempt.transcript
                transcript = exchange.transcript
                if transcript is None or not transcript.needs_no_worker:
                    await self._allow_another(exchange, pool, attempt, fault)
                    continue
                answer = None
                await _send_end(client, transcript.render_end(), "slow_reader")
            self._note_served(exchange, pool, attempt, call, answer)
            return answer

    async def _find_worker(self, exchange: Exchange, pool: Pool, last: Fault | None) -> Choice:
        answer = last.answer if last is not None else None
        if answer is None:
            return await self._find_first(exchange, pool)
        if exchange.transcript is None:
            return await self._admission.find_worker(exchange, pool, answer)
        return await self._failover.find_worker(exchange, pool, answer)

    async def _find_first(self, exchange: Exchange, pool: Pool) -> Choice:
        """Find a new request's worker, and note what it waited in line, with or without success."""
        choice: Choice | None = None
        try:
            choice = await self._admission.find_worker(exchange, pool, None)
            pool = choice.pool
            return choice
        finally:
            if choice is not None or exchange.waited:
                self._signals.observe_queue_wait(pool, exchange)
                self._metrics.observe_queue_wait(pool.spec.key, exchange)

    def _dispatch(
        self, exchange: Exchange, choice: Choice, call: Call, last: Fault | None
    ) -> Attempt:
        """Record that a request, or what is left of it, goes to a worker."""
        now = self._clock()
        transcript, before = exchange.transcript, exchange.worker
        size = max(_LEAST_SIZE, call.prompt_size) * call.choices
        attempt = Attempt(
            worker=choice.worker,
            reason=choice.reason,
            dispatched=now,
            dispatched_at=self._wall(),
            pending_since=exchange.arrival if call.streaming and transcript is None else None,
            size=size if transcript is None else self._failover.measure(exchange),
            streaming=call.streaming,
            tokens_most=call.tokens_most,
            alone=not choice.worker.running,
            waiting_since=now,
            need=choice.need,
            bid=choice.bid,
            looked=choice.looked,
            spilled_from=choice.spilled_from,
            transcript=transcript,
            losses=choice.pool.losses,
            cause=last.code if transcript is not None and last is not None else "",
            source=before.variant if before is not None else "",
            trace=exchange.trace.begin_child() if exchange.trace else None,
        )
        attempt.find_refuge = partial(self._failover.find_refuge, exchange, attempt)
        exchange.attempts.append(attempt)
        self._signals.count_dispatch(choice.pool, choice.worker)
        if choice.spilled_from:
            self._signals.count_request(choice.pool, "spilled")
            labels = (choice.pool.spec.key, choice.spilled_from, choice.worker.group)
            self._metrics.spills.labels(*labels).inc()
        return attempt

    async def _run(
        self, exchange: Exchange, attempt: Attempt, call: Call, client: ClientStream
    ) -> Answer | None:
        """Run one attempt, and see to it that it has an outcome whatever happens."""
        worker = attempt.worker
        note_progress = partial(self._note_progress, exchange, attempt)
        self._fleet.start_running(worker, attempt)
        try:
            answer = await self._upstream.carry(
                attempt, call, exchange.request_id, client, note_progress
            )
        except Fault as fault:
            attempt.outcome = fault.code
            raise
        except (ClientLostError, asyncio.CancelledError) as lost:
            attempt.outcome = lost.outcome if isinstance(lost, ClientLostError) else "cancelled"
            raise
        else:
            attempt.outcome = "ok" if answer is None or answer.status == 200 else "refused"  # noqa: PLR2004
            return answer
        finally:
            attempt.ended_at = self._wall()
            self._fleet.stop_running(worker, attempt)
            key = exchange.pool.spec.key if exchange.pool else ""
            self._metrics.attempts.labels(key, worker.variant, attempt.outcome).inc()
            self._metrics.count_continuation(key, attempt)
            self._metrics.observe_gaps(key, worker.variant, attempt.gaps)

    def _note_progress(self, exchange: Exchange, attempt: Attempt, fresh: bool) -> None:  # noqa: FBT001 - a callback's argument
        """A worker answered, or tokens came: if it sent them now, it lives; the first is timed."""
        if fresh:
            self._fleet.note_progress(attempt.worker)
        attempt.measure_pace(fresh=fresh)
        progress = attempt.progress
        if progress is None or progress.first_at is None or progress.last_at is None:
            return
        exchange.note_token(attempt, progress.last_at)
        if attempt.cause and attempt.phase is Phase.FIRST and exchange.pool is not None:
            if not attempt.begun:  # what it takes in further legs nobody has predicted
                self._fleet.note_first_token(attempt.worker, attempt)
            self._fleet.wake_waiters(exchange.pool)  # the next that goes on there may go
        if attempt.pending_since is None:
            return
        attempt.pending_since = None
        exchange.first_at = progress.first_at
        self._fleet.note_first_token(attempt.worker, attempt)
        exchange.ttft = progress.first_at - exchange.arrival
        if exchange.pool is not None and not exchange.is_patient:
            self._signals.observe_first_token(exchange.pool, attempt.worker, exchange.ttft)
        if exchange.pool is not None:
            key = exchange.pool.spec.key
            self._metrics.observe_first_token(key, attempt.worker, exchange.ttft)

    def _note_served(
        self, exchange: Exchange, pool: Pool, attempt: Attempt, call: Call, answer: Answer | None
    ) -> None:
        """Count a request that a worker answered."""
        if answer is not None and answer.status != 200:  # noqa: PLR2004
            exchange.outcome = "client_error"
            return
        exchange.outcome = "ok"
        transcript = exchange.transcript
        exchange.tokens = (
            attempt.count_tokens() if transcript is None else transcript.count_tokens()
        )
        per_choice = exchange.tokens[1] / call.sequences
        exchange.tpot = exchange.find_tpot(per_choice)
        slo = pool.spec.slo
        took = self._clock() - exchange.arrival
        exchange.met = judge_answer(exchange, exchange.goal, took, per_choice)
        own = exchange.goal if exchange.is_patient else None
        met = bool(judge_answer(exchange, own or slo, took, per_choice))
        self._signals.observe_finish(
            pool, attempt.worker, met=met, tpot=exchange.tpot, tokens=exchange.tokens
        )
        self._metrics.observe_finish(
            pool.spec.key,
            attempt.worker,
            met=met,
            tpot=exchange.tpot,
            tokens=exchange.tokens,
        )
        for tell in self._on_answered:
            tell(exchange, pool, attempt, call, answer)

    def _note_fault(self, exchange: Exchange, pool: Pool, attempt: Attempt, fault: Fault) -> None:
        """Put what an attempt says of its worker where routing and the operator see it."""
        worker = attempt.worker
        now = self._clock()
        if fault.kind is FaultKind.MOVED:
            return
        if fault.kind is FaultKind.REFUSED:  # by a worker that is busy or leaving, as it should
            self._fleet.hold_worker(worker, fault.hold)
        elif fault.kind is FaultKind.ERROR:
            self._blame_worker(worker, "error")
            self._rest_worker(pool, worker)
        elif fault.kind is FaultKind.LOST:
            if fault.code in BROKE_OFF:
                # A request that has ended one already is no excuse for another.
                pool.note_loss(worker, now, counts=len(exchange.breaks) <= 1)
            if fault.code != "probes_failed":  # that was us, not the request
                self._blame_worker(worker, "error")
                worker.health.note_broken_request(now, held=worker.held_until > now)
            self._hold_worker(worker, worker.health.breaks - 1)
            self._probe_now(worker)
        elif not attempt.was_queueing:
            self._blame_worker(worker, "timeout")
            self._metrics.timeouts.labels(pool.spec.key, worker.variant, attempt.phase.value).inc()
            worker.health.note_late_request(now)
            if attempt.was_silence:
                self._fleet.doubt_worker(worker)
                self._probe_now(worker)

    def _blame_worker(self, worker: Worker, result: str) -> None:
        """Count an `error` or a `timeout` of a worker."""
        self._signals.count_worker(worker, f"{result}s")
        self._metrics.workers.count_fault(worker, result)

    def _rest_worker(self, pool: Pool, worker: Worker) -> None:
        """Send a worker that answers with nothing but errors less, if another does better.

        It would draw most requests else: nobody is as idle as who fails at once.
        """
        errors = worker.health.note_error_answer()
        failing = {one.uid for one in pool.workers.values() if one.health.errors}
        if errors >= _ERRORS_IN_ROW and self._fleet.has_other(pool, failing):
            self._hold_worker(worker, errors - _ERRORS_IN_ROW)

    def _hold_worker(self, worker: Worker, doublings: int) -> None:
        """Send a worker no new requests for a while: longer each time."""
        told = self._relaying
        self._fleet.hold_worker(worker, double(told.breath, doublings, most=told.breath_most))

    async def _allow_another(
        self, exchange: Exchange, pool: Pool, attempt: Attempt, fault: Fault
    ) -> None:
        """Return when a request may be tried on another worker, or its stream go on there.

        Raises:
            Refusal: If it may not.
        """
        breaks, most = len(exchange.breaks), self._relaying.losses_most
        if exchange.count_suspicious(pool.losses) >= most:
            raise Refusal(answer_breaker(breaks), "broke_workers")
        if exchange.transcript is None:
            self._allow_retry(exchange, pool, attempt, fault)
        else:
            self._failover.allow_move(exchange, pool, attempt, fault)
        if breaks >= most - 1 and fault.code in BROKE_OFF:
            pause = self._relaying.loss_pause * (0.5 + self._random())
            exchange.waited += pause
            await asyncio.sleep(pause)

    def _allow_retry(self, exchange: Exchange, pool: Pool, attempt: Attempt, fault: Fault) -> None:
        """Return if the request may be tried again.

        Moving off a dead or silent worker is free, as is moving off one that refuses because it is
        going away. A retry after an error answer needs the pool's budget whatever else is known of
        the worker: a missed probe makes nobody else able to serve what workers fail at. After an
        error (not a mere refusal) it also needs another worker to try.

        Raises:
            Refusal: If it may not; with what the last worker answered.
        """
        worker = attempt.worker
        exchange.excluded.add(worker.uid)
        refusal = Refusal(fault.answer, "worker_error")
        if len(exchange.attempts) >= self._relaying.moves_most:
            raise refusal
        leaving = fault.kind is FaultKind.REFUSED and not self._fleet.is_wanted(pool, worker)
        if fault.kind in (FaultKind.LOST, FaultKind.SILENT) or leaving:
            return
        exchange.error_answers += 1
        others = fault.kind is FaultKind.REFUSED or self._fleet.has_other(pool, exchange.excluded)
        if exchange.error_answers >= self._relaying.attempts_most or not others:
            raise refusal
        if not pool.budget.take_retry(self._clock()):
            self._metrics.denied.labels(pool.spec.key).inc()
            raise refusal

    async def _end_broken(self, exchange: Exchange, client: ClientStream, answer: Answer) -> None:
        """End a stream that the client has seen a part of, and whose worker is lost."""
        exchange.outcome = "broken"
        await _send_end(client, render_event(answer.body), "broken")


async def _send_end(client: ClientStream, data: bytes, outcome: str) -> None:
    """Send the last of a stream, and end it.

    Raises:
        ClientLostError: If the client takes nothing of it; with the given outcome.
    """
    try:
        async with asyncio.timeout(_END_SECONDS):
            if data:
                await client.send(data)
            await client.end()
    except TimeoutError as error:
        raise ClientLostError(outcome) from error


def judge_answer(
    exchange: Exchange, objective: Slo | Goal | None, took: float, tokens: float
) -> bool | None:
    """Return whether a whole answer was inside an objective; None if there is none.

    One that does not stream was, if it took no longer than a stream inside may; a deadline of its
    own is one for the whole answer.
    """
    if objective is None:
        return None
    if exchange.ttft is not None:
        return exchange.ttft <= objective.ttft and (exchange.tpot or 0.0) <= objective.tpot
    strict = isinstance(objective, Goal) and objective.strict
    rest = 0.0 if strict else max(0.0, tokens - 1) * objective.tpot
    return took <= objective.ttft + rest
