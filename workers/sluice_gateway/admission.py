"""Finds a worker for a request, or lets it wait for one: bounded in number and in time.

While workers are healthy and all busy, what cannot be served in time is shed with a 429, as soon as
that can be told: by what is predicted when it arrives, by its objective while it waits. While none
is healthy a failover may be on its way: more may wait, and longer, and get a 503 if none comes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sluice_gateway.answers import (
    Answer,
    Refusal,
    answer_overloaded,
    answer_unavailable,
    refuse_model,
)
from sluice_gateway.attempts import Exchange
from sluice_gateway.calls import Call
from sluice_gateway.fleet import Fleet
from sluice_gateway.forecast import Need
from sluice_gateway.foresight import assess, assess_rest, recall, remember
from sluice_gateway.goals import RequestClass, set_goal
from sluice_gateway.line import Waiter
from sluice_gateway.members import Choice, Pool
from sluice_gateway.overload import find_allowance, find_first, find_retry_after
from sluice_gateway.settings import Relaying
from sluice_gateway.transcript import Transcript
from sluice_gateway.waits import Wait

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

    @staticmethod
    def prepare(exchange: Exchange, call: Call, pool: Pool) -> Call:
        """Set a request's goal; return its call with the priority that goes with it.

        A foreign backend may refuse a priority that it was not set up for: it gets none of ours.
        A client may put its request behind others of its class, not ahead of them.
        """
        slo = pool.spec.slo
        goal = set_goal(exchange.asked, rule=pool.spec.request_class, ttft=slo.ttft, tpot=slo.tpot)
        exchange.call, exchange.goal = call, goal
        priority = max(goal.kind.priority, call.priority or goal.kind.priority)
        workers = pool.workers.values()
        own = all(worker.pod.engine is not None for worker in workers)
        if not workers or not own or priority == (call.priority or 0):
            return call
        # The last of two equal names counts (RFC 8259 leaves it open; our workers' parser says so).
        body = b'%b,"priority":%d}' % (call.body.rstrip()[:-1], priority)
        call = exchange.call = replace(call, body=body)
        return call

    async def find_worker(self, exchange: Exchange, pool: Pool, last: Answer | None) -> Choice:
        """Return a worker, waiting for one if none is usable now.

        Args:
            exchange: The request; what it waits is added to it.
            pool: Where it belongs. If the pool goes away meanwhile, its model is looked up again.
            last: What the last attempt ended with; given back if no worker turns up in time. Who
                has one comes ahead of new requests, and is not turned away for being late.

        Raises:
            Refusal: If too many wait already, it waited too long, or it would be served too late.
        """
        moving = last is not None
        urgent = exchange.goal is None or exchange.goal.kind is not RequestClass.BATCH
        if urgent and not moving:
            self._fleet.note_urgency(pool, exchange.call.sequences if exchange.call else 1)
        # Nobody passes those who wait, but for streams that have to move. Batch work that waits
        # found no place that it may have: whoever takes another passes nobody.
        ahead = pool.waiters.urgent_sequences if urgent else len(pool.waiters)
        if moving or not (ahead or pool.woken or pool.movers):
            choice = self._choose(exchange, pool, moving=moving)
            if choice is not None:
                return choice
        first = find_first(worker.pace for worker in pool.workers.values())
        if not moving:
            self._check_line(exchange, pool, first)
        wait = Wait(self._relaying, self._clock(), None if moving else exchange, first)
        try:
            return await self._wait(exchange, pool, wait, last)
        finally:
            exchange.waited += self._clock() - wait.began
            exchange.excused += wait.idle

    def _check_line(self, exchange: Exchange, pool: Pool, first: float) -> None:
        """Return if one more may wait; another may have to make room for it.

        Raises:
            Refusal: With a 429, if too many wait already, or it would wait too long.
        """
        relaying, line = self._relaying, pool.waiters
        kind = exchange.goal.kind if exchange.goal else RequestClass.STANDARD
        most = relaying.waiting_most
        healthy = self._fleet.count_healthy(pool)
        if healthy:
            soon = max(relaying.waiting_least, relaying.waiting_per_worker * healthy)
            most = min(most, soon)
            wait = pool.drain.expect(line.count_before(kind, exchange.key))
            self._check_wait(exchange, pool, wait, first)
        full = pool.waiting >= relaying.waiting_most
        if not full and line.count_class(kind) + pool.woken < most:
            return
        loser = line.find_less_urgent(kind) if full else None
        loser = loser or line.find_greedy(kind, exchange.key)
        if loser is None:
            raise self._refuse_full(pool)
        line.remove(loser)
        loser.turned_away = True
        loser.turn_away()

    def _check_wait(self, exchange: Exchange, pool: Pool, wait: float, first: float) -> None:
        """Return if a request that waits so long, and then so long for a token, is in time.

        Raises:
            Refusal: With a 429, if it is not.
        """
        need, _ = self.assess(exchange, pool)
        if need is None or wait <= 0:
            return
        portion = pool.takers.find_portion(exchange.key, self._clock())
        late = wait + first - find_allowance(need, portion=portion)
        if late > 0:
            raise self._shed(need, pool, wait + first, late)

    async def _wait(
        self, exchange: Exchange, pool: Pool, wait: Wait, last: Answer | None
    ) -> Choice:
        """Wait in line until a worker can be chosen.

        Raises:
            Refusal: If it takes too long; with what the last attempt ended with, if there was one.
        """
        moving, waiter = last is not None, None
        while True:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            again = waiter is not None
            waiter = self._build_waiter(exchange, pool, future, waiter, moving=moving)
            pool.waiters.put(waiter)
            pool.waiting += 1
            try:
                if not again:
                    self._fleet.wake_waiters(pool)  # there may be a place that nobody was told of
                await self._watch(exchange, pool, waiter, future, wait, last)
            except BaseException:
                self._pass_on(pool, waiter)
                raise
            finally:
                pool.waiting -= 1
            pool.drop_claim(waiter)
            exchange.excused += wait.take_idle()
            if not self._fleet.is_current(pool):
                pool, waiter = self.find_pool(pool.spec.model), None
            choice = self._look(exchange, pool, moving=moving)
            if choice is not None:
                return choice

    def _look(self, exchange: Exchange, pool: Pool, *, moving: bool) -> Choice | None:
        """Choose for a request that was woken; what it does not take is for others.

        Raises:
            Refusal: As in `_choose`.
        """
        try:
            choice = self._choose(exchange, pool, moving=moving)
        except Refusal:
            self._fleet.wake_waiters(pool)
            raise
        if choice is None:
            self._fleet.wake_urgent(pool)
        return choice

    def _build_waiter(
        self,
        exchange: Exchange,
        pool: Pool,
        future: asyncio.Future[None],
        before: Waiter | None,
        *,
        moving: bool,
    ) -> Waiter:
        """Return a place in line; where the request was, if it was there before."""
        wake = partial(future.set_result, None)

        def turn_away() -> None:
            future.set_exception(self._refuse_full(pool))

        if before is not None:
            return replace(before, wake=wake, turn_away=turn_away)
        goal = exchange.goal
        need, _ = self.assess(exchange, pool)
        return Waiter(
            wake=wake,
            turn_away=turn_away,
            kind=goal.kind if goal else RequestClass.STANDARD,
            key=exchange.key,
            due=exchange.arrival + goal.ttft if goal else float("inf"),
            cost=need.prompt + need.output * need.choices if need else 1.0,
            sequences=need.choices if need else 1,
            moving=moving,
        )

    async def _watch(
        self,
        exchange: Exchange,
        pool: Pool,
        waiter: Waiter,
        future: asyncio.Future[None],
        wait: Wait,
        last: Answer | None,
    ) -> None:
        """Return when the waiter was woken; it keeps its place in the line while it looks around.

        Raises:
            Refusal: If it has waited too long, or had to make room.
            ClientLostError: If the client went away meanwhile.
        """
        while True:
            healthy = self._fleet.count_healthy(pool)
            left = wait.find_left(self._clock(), busy=healthy > 0)
            if left <= 0:
                if last is None:
                    last = self._answer_overdue(pool, wait, healthy)
                raise Refusal(last, "too_busy" if healthy else "no_worker")
            done, _ = await asyncio.wait({future}, timeout=min(left, _LOOK_SECONDS))
            wait.note(self._clock(), busy=healthy > 0)
            if done:
                future.result()
                return
            if exchange.hearten is not None and wait.must_hearten():
                await exchange.hearten()
            if pool.waiters.is_first(waiter):
                self._fleet.wake_waiters(pool)  # time alone can make a group due

    def _choose(self, exchange: Exchange, pool: Pool, *, moving: bool) -> Choice | None:
        """Choose among the workers that have not failed this request, else among all.

        A worker that failed it is usable again only when it has recovered, or its hold is over.

        Raises:
            Refusal: With a 429, if it would be served too late, and has not to move.
        """
        need, known = self.assess(exchange, pool)
        choose = partial(
            self._fleet.choose_worker, pool, tie=self._random(), need=need, known=known
        )
        choice = choose(
            excluded=exchange.excluded,
            counted=not exchange.attempts,
            portion=0.0 if moving else pool.takers.find_portion(exchange.key, self._clock()),
        )
        if choice is None and exchange.excluded:
            choice = choose(excluded=(), counted=False)
        if choice is None or need is None or choice.bid is None:
            return choice
        if choice.late:
            raise self._shed(need, pool, choice.bid.find_due(need), choice.late)
        pool.takers.note(exchange.key, need.prompt + need.output * need.choices, self._clock())
        if exchange.call is not None:
            remember(pool, choice.worker, exchange.call, exchange.asked.session, need)
        return choice

    def assess(
        self, exchange: Exchange, pool: Pool, given: Transcript | None = None
    ) -> tuple[Need | None, dict[str, float]]:
        """Return what a request needs now, and which workers may know its prompt.

        `given` is what its client has been given of a stream that goes on elsewhere.
        """
        call, goal = exchange.call, exchange.goal
        if call is None or goal is None:
            return None, {}
        waited = self._clock() - exchange.arrival
        if not goal.strict:
            waited -= exchange.excused
        need = assess(pool, call, goal, waited=waited)
        known = recall(pool, call, exchange.asked.session, need)
        return need if given is None else assess_rest(need, given), known

    def _pass_on(self, pool: Pool, waiter: Waiter) -> None:
        """Leave the line; give the place that this request was woken for to the next."""
        if waiter.woken:
            pool.drop_claim(waiter)
            self._fleet.wake_waiters(pool)
        elif not waiter.turned_away:
            pool.waiters.remove(waiter)

    def _shed(self, need: Need, pool: Pool, due: float, late: float) -> Refusal:
        """Return the refusal for a request that would be served too late."""
        what = "the whole answer" if need.finish else "the first token"
        message = (
            f"{what} for {pool.spec.model!r} would take about {due:.1f} s, which is too close to "
            f"or beyond its objective ({need.ttft:.1f} s of {need.goal.ttft:g} s are left); "
            "try again later"
        )
        after = find_retry_after(late, self._random())
        answer = answer_overloaded(message, code="would_be_late", retry_after=after)
        return Refusal(answer, "would_be_late")

    def _refuse_full(self, pool: Pool) -> Refusal:
        message = f"{pool.waiting} requests already wait for a worker of this model"
        after = self._find_return(pool)
        return Refusal(
            answer_overloaded(message, code="queue_full", retry_after=after), "queue_full"
        )

    def _find_return(self, pool: Pool) -> int:
        """Return the seconds after which those who wait now will be served, or 5 if none knows."""
        drained = pool.drain.expect(len(pool.waiters))
        return find_retry_after(drained, self._random()) if drained else _RETRY_AFTER_SECONDS

    def _answer_overdue(self, pool: Pool, wait: Wait, healthy: int) -> Answer:
        """Answer who has waited too long: 429 if there is too much to do, 503 if nobody does it."""
        model = repr(pool.spec.model)
        if healthy:
            message = (
                f"no worker for {model} within {wait.busy_most:.3g} s: "
                f"all {healthy} healthy workers are busy; try again later"
            )
            after = self._find_return(pool)
            return answer_overloaded(message, code="too_busy", retry_after=after)
        message = (
            f"no worker for {model} within {self._relaying.wait_for_worker:g} s: "
            f"none of its {len(pool.workers)} workers is ready and healthy"
        )
        return answer_unavailable(message, code="no_worker", retry_after=_RETRY_AFTER_SECONDS)
