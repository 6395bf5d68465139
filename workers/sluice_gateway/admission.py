"""Finds a worker for a request, or lets it wait for one: bounded in number and in time."""

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
from sluice_gateway.fleet import Choice, Fleet, Pool
from sluice_gateway.settings import Relaying

_RETRY_AFTER_SECONDS = 5


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
        if pool.waiting >= self._relaying.waiting_most and last is None:
            message = f"{pool.waiting} requests already wait for a worker of this model"
            answer = answer_overloaded(message, code="queue_full", retry_after=_RETRY_AFTER_SECONDS)
            raise Refusal(answer, "queue_full")
        began = self._clock()
        try:
            async with asyncio.timeout(self._relaying.wait_for_worker):
                return await self._wait(exchange, pool)
        except TimeoutError as error:
            raise Refusal(last or self._answer_no_worker(pool), "no_worker") from error
        finally:
            exchange.waited += self._clock() - began

    async def _wait(self, exchange: Exchange, pool: Pool) -> Choice:
        """Wait in line until a worker can be chosen."""
        again = False
        while True:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # Whoever was woken for a place that somebody else took keeps the head of the line.
            (pool.waiters.appendleft if again else pool.waiters.append)(waiter)
            pool.waiting += 1
            try:
                await waiter
            except asyncio.CancelledError:
                self._pass_on(pool, waiter)
                raise
            finally:
                pool.waiting -= 1
            again = True
            if not self._fleet.is_current(pool):
                pool = self.find_pool(pool.spec.model)
                again = False
            choice = self._choose(exchange, pool)
            if choice is not None:
                return choice

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
        elif waiter.done() and not waiter.cancelled():
            self._fleet.wake_waiters(pool)

    def _answer_no_worker(self, pool: Pool) -> Answer:
        workers = pool.workers.values()
        healthy = sum(self._fleet.is_healthy(pool, worker) for worker in workers)
        state = (
            f"all {healthy} healthy workers are busy"
            if healthy
            else f"none of its {len(workers)} workers is ready and healthy"
        )
        waited = f"{self._relaying.wait_for_worker:g} s"
        message = f"no worker for {pool.spec.model!r} within {waited}: {state}"
        return answer_unavailable(message, code="no_worker", retry_after=_RETRY_AFTER_SECONDS)
