"""Finds the worker that goes on with a stream which its client has seen a part of.

Such a stream comes before all new requests, and may wait like a request while a failover is on its
way. It goes where it goes on token by token if such a worker has room. How much of a dead worker's
load one survivor takes at a time is bounded by what it can compute of prompts.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sluice_gateway.admission import Admission
from sluice_gateway.answers import Answer, Refusal
from sluice_gateway.attempts import Attempt, Exchange
from sluice_gateway.continuation import can_go_on
from sluice_gateway.fleet import Fleet
from sluice_gateway.forecast import Need
from sluice_gateway.foresight import remember
from sluice_gateway.members import Choice, Pool, Worker
from sluice_gateway.pace import Phase
from sluice_gateway.retries import Fault, FaultKind
from sluice_gateway.settings import Relaying
from sluice_gateway.transcript import Transcript

_LOOK_SECONDS = 0.5
"""How often a waiting stream looks around, whoever wakes it or not; and how long it waits before
it tries a worker again that has failed it."""


class Failover:
    """Says whether a stream may go on elsewhere, and where.

    Args:
        clock: Monotonic seconds.
        random: Returns numbers in [0, 1).
    """

    def __init__(
        self,
        fleet: Fleet,
        admission: Admission,
        *,
        relaying: Relaying,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._admission = admission
        self._relaying = relaying
        self._clock = clock
        self._random = random

    def allow_move(self, exchange: Exchange, pool: Pool, attempt: Attempt, fault: Fault) -> None:
        """Return if a stream may go on elsewhere after a fault.

        That is free, once for each worker and kind of fault; more of the same takes from the
        pool's budget for retries.

        Raises:
            Refusal: If it may not, or if too little is known of it.
        """
        worker = attempt.worker
        exchange.excluded.add(worker.uid)
        refusal = Refusal(fault.answer, "broken")
        if not _is_known(exchange, exchange.transcript):
            raise refusal
        # A worker that gave a token before it was lost was not lost by this stream's doing; but no
        # stream may end one worker after the other for ever.
        told, made = self._relaying, len(exchange.attempts)
        if len(exchange.fruitless) >= told.moves_most or made >= told.dispatches_most:
            raise refusal
        cause = (fault.kind.value, worker.uid)
        if cause in exchange.moved and not pool.budget.take_retry(self._clock()):
            raise refusal
        exchange.moved.add(cause)

    def find_refuge(self, exchange: Exchange, attempt: Attempt, why: str) -> bool:
        """Find a place for a stream whose worker still serves it; return whether there is one.

        Off a worker that drains as it should only to one where it goes on token by token: else it
        is better off where it is.
        """
        pool, transcript = exchange.pool, attempt.transcript
        if pool is None or transcript is None or not _is_known(exchange, transcript):
            return False
        if transcript.complete or len(exchange.attempts) > self._relaying.moves_most // 2:
            return False  # what is left is for faults
        if (FaultKind.MOVED.value, attempt.worker.uid) in exchange.moved:
            return False
        left = {*exchange.excluded, attempt.worker.uid}
        levels = [self._list_others(pool, transcript, attempt.worker)]
        if why != "drain":
            levels.append(set())
        exchange.refuge = self._choose(exchange, pool, transcript, left, levels)
        return exchange.refuge is not None

    async def find_worker(self, exchange: Exchange, pool: Pool, last: Answer) -> Choice:
        """Return the worker that a stream goes on from, waiting for one if there is none now.

        Raises:
            Refusal: If that takes too long; with what the last attempt ended with.
        """
        refuge, exchange.refuge = exchange.refuge, None
        if refuge is not None:
            return refuge
        began = heartened = self._clock()
        try:
            while True:
                if not self._fleet.is_current(pool):
                    pool = self._admission.find_pool(pool.spec.model)
                waited = self._clock() - began
                choice = self._choose_any(exchange, pool, again=waited >= _LOOK_SECONDS)
                if choice is not None:
                    return choice
                left = self._relaying.wait_for_worker - waited
                if left <= 0:
                    raise Refusal(last, "broken")
                await self._wait(pool, min(left, _LOOK_SECONDS))
                if self._clock() - heartened >= self._relaying.hearten_seconds:
                    heartened = self._clock()
                    await _hearten(exchange)
        finally:
            exchange.waited += self._clock() - began

    def measure(self, exchange: Exchange) -> int:
        """Return the bytes of a prompt that going on with a stream is like."""
        transcript = exchange.transcript
        return self._measure(exchange, transcript) if transcript is not None else 0

    @staticmethod
    async def _wait(pool: Pool, seconds: float) -> None:
        """Wait until something has changed, or for a while."""
        mover: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pool.movers.append(mover)
        try:
            await asyncio.wait({mover}, timeout=seconds)
        finally:
            pool.movers.remove(mover)

    def _choose_any(self, exchange: Exchange, pool: Pool, *, again: bool) -> Choice | None:
        """Choose a worker: best one that goes on token by token.

        At worst, and with `again`, it is one that has failed the stream before.
        """
        transcript, worker = exchange.transcript, exchange.worker
        if transcript is None or worker is None:
            return None
        levels = [self._list_others(pool, transcript, worker), set()]
        choose = partial(self._choose, exchange, pool, transcript, levels=levels)
        choice = choose(exchange.excluded)
        return choice or (choose(set()) if again else None)

    def _choose(
        self,
        exchange: Exchange,
        pool: Pool,
        transcript: Transcript,
        excluded: set[str],
        levels: list[set[str]],
    ) -> Choice | None:
        """Choose among the workers with room, leaving out those of each level in turn.

        As for any request, by what is predicted; but it counts towards no share, and is never late.
        """
        need, known = self._admission.assess(exchange, pool, transcript)
        full = {
            worker.uid
            for worker in pool.workers.values()
            if need is not None and not self._has_room(pool, worker, need)
        }
        for others in levels:
            choice = self._fleet.choose_worker(
                pool,
                excluded={*excluded, *full, *others},
                counted=False,
                tie=self._random(),
                need=need,
                known=known,
            )
            if choice is not None:
                if exchange.call is not None and need is not None:
                    remember(pool, choice.worker, exchange.call, exchange.asked.session, need)
                return choice
        return None

    def _has_room(self, pool: Pool, worker: Worker, need: Need) -> bool:
        """Return whether a worker can compute one more stream's prompt soon."""
        coming = [
            one.bid.work
            for one in worker.running
            if one.cause and one.phase is Phase.FIRST and one.bid is not None
        ]
        if not coming:
            return True
        work = self._fleet.foresight.foresee(pool, worker, need, self._clock()).work
        return sum(coming) + work <= self._relaying.move_seconds

    @staticmethod
    def _list_others(pool: Pool, transcript: Transcript, before: Worker) -> set[str]:
        """Return the workers that may go on otherwise than the stream would have.

        One that has not said what it computes in is taken for the same as others of its class.
        """
        return {
            worker.uid
            for worker in pool.workers.values()
            if (
                worker.variant != before.variant
                if worker.maker is None
                else worker.maker != transcript.maker
            )
        }

    @staticmethod
    def _measure(exchange: Exchange, transcript: Transcript) -> int:
        call = exchange.call
        prompt = call.prompt_size // call.prompts if call else 0
        left = sum(not choice.finished for choice in transcript.choices)
        return prompt * max(1, left) + transcript.count_characters()


async def _hearten(exchange: Exchange) -> None:
    """Send the client a sign of life; one that is behind with reading needs none."""
    if exchange.hearten is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await exchange.hearten()


def _is_known(exchange: Exchange, transcript: Transcript | None) -> bool:
    """Return whether enough is known of a stream for another worker to go on with it."""
    call = exchange.call
    return call is not None and transcript is not None and can_go_on(call, transcript)
