"""Finds a worker for a request, or lets it wait for one: bounded in number and in time.

While workers are healthy and all busy, what cannot be served soon is shed with a 429: a short line
that moves. While none is healthy a failover may be on its way: more may wait, and longer, and get
a 503 if none comes.
"""

import asyncio
from collections.abc import Callable

from sluice_gateway.answers import (
    Answer,
    Refusal,
    answer_overloaded,
    answer_unavailable,
    refuse_model,
)
from sluice_gateway.attempts import Exchange
from sluice_gateway.fleet import Fleet
from sluice_gateway.members import Choice, Pool
from sluice_gateway.settings import Relaying

_RETRY_AFTER_SECONDS = 5
_LOOK_SECONDS = 0.5
"""How often a waiting request looks whether anybody is healthy, or due."""


class Admission:
    """Gives requests their workers.

    Args:
        clock: Monotonic seconds.
        random: Returns numbers in [0, 1).
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        relaying: Relaying,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._relaying = relaying
        self._clock = clock
        self._random = random

    def find_pool(self, model: str) -> Pool:
        """Return the pool that serves a model.

        Raises:
            Refusal: With a 404, if none does.
        """
        pool = self._fleet.find_pool(model)
        if pool is None:
            served = [known.spec.model for known in self._fleet.list_models()]
            raise Refusal(refuse_model(model, served), "unknown_model")
        return pool

    async def find_worker(self, exchange: Exchange, pool: Pool, last: Answer | None) -> Choice:
        """Return a worker, waiting for one if none is usable now.

        Args:
            exchange: The request; what it waits is added to it.
            pool: Where it belongs. If the pool goes away meanwhile, its model is looked up again.
            last: What the last attempt ended with; given back if no worker turns up in time.

        Raises:
            Refusal: If too many wait already, or the wait was too long.
        """
        choice = self._choose(exchange, pool)
        if choice is not None:
            return choice
        if last is None:
            self._check_line(pool)
        began = self._clock()
        try:
            return await self._wait(exchange, pool, _Wait(self._relaying, began), last)
        finally:
            exchange.waited += self._clock() - began

    def _check_line(self, pool: Pool) -> None:
        """Return if one more may wait.

        Raises:
            Refusal: With a 429, if too many wait already.
        """
        relaying = self._relaying
        most = relaying.waiting_most
        healthy = self._fleet.count_healthy(pool)
        if healthy:
            soon = max(relaying.waiting_least, relaying.waiting_per_worker * healthy)
            most = min(most, soon)
        if pool.waiting < most:
            return
        message = f"{pool.waiting} requests already wait for a worker of this model"
        answer = answer_overloaded(message, code="queue_full", retry_after=_RETRY_AFTER_SECONDS)
        raise Refusal(answer, "queue_full")

    async def _wait(
        self, exchange: Exchange, pool: Pool, wait: "_Wait", last: Answer | None
    ) -> Choice:
        """Wait in line until a worker can be chosen.

        Raises:
            Refusal: If it takes too long; with what the last attempt ended with, if there was one.
        """
        again = False
        while True:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # Whoever was woken for a place that somebody else took keeps the head of the line.
            (pool.waiters.appendleft if again else pool.waiters.append)(waiter)
            pool.waiting += 1
            try:
                await self._watch(pool, waiter, wait, last)
            except (asyncio.CancelledError, Refusal):
                self._pass_on(pool, waiter)
                raise
            finally:
                pool.waiting -= 1
            pool.woken -= 1
            again = True
            if not self._fleet.is_current(pool):
                pool = self.find_pool(pool.spec.model)
                again = False
            choice = self._choose(exchange, pool)
            if choice is not None:
                return choice

    async def _watch(
        self, pool: Pool, waiter: asyncio.Future[None], wait: "_Wait", last: Answer | None
    ) -> None:
        """Return when the waiter was woken; it keeps its place in the line while it looks around.

        Raises:
            Refusal: If it has waited too long.
        """
        while True:
            healthy = self._fleet.count_healthy(pool)
            left = wait.find_left(self._clock(), busy=healthy > 0)
            if left <= 0:
                if last is None:
                    last = self._answer_overdue(pool, healthy)
                raise Refusal(last, "too_busy" if healthy else "no_worker")
            done, _ = await asyncio.wait({waiter}, timeout=min(left, _LOOK_SECONDS))
            wait.note(self._clock(), busy=healthy > 0)
            if done:
                return
            if pool.waiters[0] is waiter:
                self._fleet.wake_waiters(pool)  # time alone can make a group due

    def _choose(self, exchange: Exchange, pool: Pool) -> Choice | None:
        """Choose among the workers that have not failed this request, else among all.

        A worker that failed it is usable again only when it has recovered, or its hold is over.
        """
        counted = not exchange.attempts
        tie = self._random()
        choose = self._fleet.choose_worker
        choice = choose(pool, excluded=exchange.excluded, counted=counted, tie=tie)
        if choice is None and exchange.excluded:
            choice = choose(pool, excluded=(), counted=False, tie=tie)
        return choice

    def _pass_on(self, pool: Pool, waiter: asyncio.Future[None]) -> None:
        """Leave the line; give the place that this request was woken for to the next."""
        if waiter in pool.waiters:
            pool.waiters.remove(waiter)
        else:
            pool.woken -= 1
            self._fleet.wake_waiters(pool)

    def _answer_overdue(self, pool: Pool, healthy: int) -> Answer:
        """Answer who has waited too long: 429 if there is too much to do, 503 if nobody does it."""
        relaying, model = self._relaying, repr(pool.spec.model)
        if healthy:
            message = (
                f"no worker for {model} within {relaying.wait_while_busy:g} s: "
                f"all {healthy} healthy workers are busy; try again later"
            )
            return answer_overloaded(message, code="too_busy", retry_after=_RETRY_AFTER_SECONDS)
        message = (
            f"no worker for {model} within {relaying.wait_for_worker:g} s: "
            f"none of its {len(pool.workers)} workers is ready and healthy"
        )
        return answer_unavailable(message, code="no_worker", retry_after=_RETRY_AFTER_SECONDS)


class _Wait:
    """How long one request has waited, in all and while there were healthy workers."""

    def __init__(self, relaying: Relaying, now: float) -> None:
        self._relaying = relaying
        self._began = now
        self._noted = now
        self._busy = 0.0

    def note(self, now: float, *, busy: bool) -> None:
        """Count the time since the last note."""
        if busy:
            self._busy += now - self._noted
        self._noted = now

    def find_left(self, now: float, *, busy: bool) -> float:
        """Return the seconds that it may still wait, if things stay as they are."""
        left = self._began + self._relaying.wait_for_worker - now
        return min(left, self._relaying.wait_while_busy - self._busy) if busy else left
