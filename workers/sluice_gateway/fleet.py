"""The pools and workers as the gateway knows them now, and what a request may use of them.

The watches put objects in, the prober and the relay report health, requests take workers out.
Knowledge stays when the API server is away: nothing here expires.
"""

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

from sluice_gateway.choices import Asking, build_choice, count_places, rank_pool
from sluice_gateway.engines import find_steps
from sluice_gateway.forecast import Need
from sluice_gateway.foresight import Foresight
from sluice_gateway.health import Verdict, WorkerHealth
from sluice_gateway.members import Choice, Pool, Running, Worker
from sluice_gateway.objects import PoolDecision, PoolSpec, WorkerPod
from sluice_gateway.pace import Phase
from sluice_gateway.routing import Ranking
from sluice_gateway.settings import Patience
from sluice_gateway.vouching import Vouching

_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class Fleet:
    """All pools, by key and by model, and all workers, by uid.

    Args:
        clock: Monotonic seconds.
        inflight_most: Sequences of this gateway on a worker from which on it gets no more.
        failures_to_fail: Missed probes in a row that make a worker failed.
        patience: How long silent workers get no requests.

    Attributes:
        on_workers_changed: Called when a worker was added, changed or removed.
        on_pool_removed: Called with the key of a pool that was removed.
        foresight: Predicts requests on workers.
        vouching: Takes workers by their own word.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        inflight_most: int,
        failures_to_fail: int,
        patience: Patience,
    ) -> None:
        self._patience = patience
        self.foresight = Foresight(patience)
        self.vouching = Vouching(clock, self._tell_workers_changed, self._wake_pool_of)
        self._clock = clock
        self._inflight_most = inflight_most
        self._failures_to_fail = failures_to_fail
        self._departed: set[Worker] = set()
        self._models: dict[str, Pool] = {}
        self.pools: dict[str, Pool] = {}
        self.workers: dict[str, Worker] = {}
        self.on_workers_changed: list[Callable[[], None]] = []
        self.on_pool_removed: list[Callable[[str], None]] = []

    # What the watches tell.

    def put_pool(self, spec: PoolSpec, decision: PoolDecision) -> None:
        """Add or change a pool."""
        pool = self.pools.get(spec.key)
        if pool is None:
            pool = self.pools[spec.key] = Pool(spec)
            pool.workers = {
                uid: worker for uid, worker in self.workers.items() if worker.pod.pool == spec.key
            }
        pool.spec = spec
        pool.decision = decision
        for worker in pool.workers.values():
            worker.group = decision.find_group(worker.variant, worker.pod.name)
        self._index_models()
        self.wake_waiters(pool)

    def remove_pool(self, key: str) -> None:
        """Forget a pool; its waiting requests find out when they wake."""
        pool = self.pools.pop(key, None)
        if pool is None:
            return
        self._index_models()
        pool.wake(sys.maxsize, sys.maxsize)
        for tell in self.on_pool_removed:
            tell(key)

    def put_worker(self, pod: WorkerPod) -> None:
        """Add or change a worker."""
        worker = self.workers.get(pod.uid)
        if worker is None:
            health = WorkerHealth(self._clock(), failures_to_fail=self._failures_to_fail)
            worker = self.workers[pod.uid] = Worker(pod, health)
        elif worker.pod.pool != pod.pool:
            self._detach(worker)
        worker.take_pod(pod)
        worker.steps = find_steps(pod.engine) if pod.engine is not None else None
        pool = self.pools.get(pod.pool)
        if pool is not None:
            pool.workers[pod.uid] = worker
            worker.group = pool.decision.find_group(pod.variant, pod.name)
            self.wake_waiters(pool)
        self._tell_workers_changed()

    def remove_worker(self, uid: str) -> None:
        """Forget a worker whose pod is gone from the API.

        What runs on it runs on, and the prober watches it until that has ended: its process may
        outlive the object.
        """
        worker = self.workers.pop(uid, None)
        if worker is None:
            return
        self._detach(worker)
        if worker.running:
            self._departed.add(worker)
        self._tell_workers_changed()

    # What requests ask.

    def find_pool(self, model: str) -> Pool | None:
        """Return the pool that serves a model; of two with one name, the older."""
        return self._models.get(model)

    def list_models(self) -> list[Pool]:
        """Return the pools that serve a model, by model name."""
        return [self._models[name] for name in sorted(self._models)]

    def is_current(self, pool: Pool) -> bool:
        """Return whether the pool still exists and still serves its model."""
        return self._models.get(pool.spec.model) is pool

    def is_wanted(self, pool: Pool, worker: Worker) -> bool:
        """Return whether the cluster wants a worker to serve: ready, not leaving, not taken out."""
        return (
            worker.ready
            and worker.pod.name not in pool.decision.quarantined
            and worker.uid in self.workers
        )

    def is_healthy(self, pool: Pool, worker: Worker) -> bool:
        """Return whether a worker may serve at all: wanted, and not suspect."""
        return self.is_wanted(pool, worker) and worker.health.verdict is Verdict.LIVE

    def is_usable(self, pool: Pool, worker: Worker, now: float) -> bool:
        """Return whether a worker can take one more request now.

        One that is doubted can take one alone, when its hold is over: to find out.
        """
        if self.is_healthy(pool, worker):
            return worker.held_until <= now and worker.sequences < self._inflight_most
        return self._may_be_tried(pool, worker, now)

    def count_healthy(self, pool: Pool) -> int:
        """Return how many workers may serve, busy or not."""
        return sum(self.is_healthy(pool, worker) for worker in pool.workers.values())

    def _sort_workers(self, pool: Pool, now: float) -> tuple[list[Worker], set[str]]:
        """Return the workers that can take one more request now, and the groups of healthy ones.

        Where nobody is healthy, a doubted worker is better than none, and is tried early.
        """
        workers = pool.workers.values()
        healthy = {worker.group for worker in workers if self.is_healthy(pool, worker)}
        usable = [worker for worker in workers if self.is_usable(pool, worker, now)]
        if usable or healthy:
            return usable, healthy
        early = [one for one in workers if self._may_be_tried(pool, one, now, early=True)]
        return early, healthy

    def explain_leaving(self, worker: Worker) -> str:
        """Return why what runs on a worker should rather run elsewhere; nothing if it need not.

        One word, from a fixed set: `drain` for a worker that goes as it should, and works.
        """
        pool = self.pools.get(worker.pod.pool)
        if pool is None or self.is_wanted(pool, worker):
            return ""
        if worker.pod.name in pool.decision.quarantined:
            return "quarantine"
        return "drain" if worker.pod.leaving or worker.uid not in self.workers else "unready"

    def choose_worker(
        self,
        pool: Pool,
        *,
        excluded: Collection[str],
        counted: bool,
        tie: float,
        need: Need | None = None,
        known: Mapping[str, float] = _NOTHING,
        portion: float = 0.0,
    ) -> Choice | None:
        """Choose the worker for an attempt, or None if no worker is usable.

        Args:
            pool: Where to look.
            excluded: Uids that must not be chosen.
            counted: The attempt counts towards the shares; retries do not, except on workers that
                get their share and no more.
            tie: Number in [0, 1) that decides which workers are compared, and between equal ones.
            need: What the request asks for; without it, the load alone decides.
            known: Tokens of its prompt that workers may have computed already, by uid.
            portion: Of its objective, what it may fill up. If that would not do while nobody is
                idle, the choice says that it is late, and does not count. 0 is for whoever is to
                be served in any case.
        """
        yields = portion > 0 and need is not None and need.batch
        ranking = self._rank(
            pool, excluded=excluded, tie=tie, need=need, known=known, yields=yields
        )
        choice = build_choice(pool, ranking, need, portion)
        if choice is None or choice.late:
            return choice
        group = choice.worker.group
        if ranking.counts and (counted or group in ranking.bound):
            pool.window.add(group, self._clock())
        return choice

    def has_other(self, pool: Pool, excluded: Collection[str]) -> bool:
        """Return whether a worker outside `excluded` would be chosen now."""
        return bool(self._rank(pool, excluded=excluded).workers)

    # What happens to workers.

    def note_answer(self, worker: Worker) -> None:
        """A worker answered a probe: usable again, if only probes spoke against it."""
        missed = worker.health.misses
        worker.health.note_answer(self._clock())
        if missed:
            self._wake_pool_of(worker)

    def note_progress(self, worker: Worker) -> None:
        """A request on a worker got on: usable again, if it was not."""
        was_live = worker.health.verdict is Verdict.LIVE
        now = self._clock()
        worker.health.note_progress(now)
        worker.pace.note_progress(now)
        pool = self.pools.get(worker.pod.pool)
        if pool is not None:
            self.foresight.note_tokens(pool, worker, now)
        if not was_live:
            self._wake_pool_of(worker)

    def note_first_token(self, worker: Worker, running: Running) -> None:
        """A stream has its first token: predictions learn from it."""
        pool = self.pools.get(worker.pod.pool)
        if pool is not None:
            self.foresight.note_first(pool, worker, running, self._clock())

    def note_verdict(self, worker: Worker) -> None:
        """Act on a worker's health after evidence against it: cut what runs on a failed one.

        With one less that is healthy others may be tried who were not before.
        """
        if worker.health.verdict is not Verdict.LIVE:
            self._wake_pool_of(worker)
        if worker.health.verdict is Verdict.FAILED:
            for running in list(worker.running):
                running.cut(f"worker missed {worker.health.misses} probes")

    def hold_worker(self, worker: Worker, seconds: float) -> None:
        """Send a worker no new requests for a while."""
        worker.held_until = max(worker.held_until, self._clock() + seconds)
        self._wake_after(worker, seconds)

    def doubt_worker(self, worker: Worker) -> None:
        """A worker gives nothing to anybody: send it nothing for a while, then one at a time."""
        now = self._clock()
        told = self._patience
        worker.health.note_silence(now, first=told.hold_first, most=told.hold_most)
        self._wake_pool_of(worker)
        for moment in worker.health.find_trial_times():
            self._wake_after(worker, moment - now)

    def start_running(self, worker: Worker, running: Running) -> None:
        """Count a request on a worker; that it was sent may make another group due."""
        if not worker.running:
            worker.pace.note_busy(self._clock())
        worker.add_running(running)
        self._wake_pool_of(worker)

    def stop_running(self, worker: Worker, running: Running) -> None:
        """A request left a worker: its place is free."""
        worker.remove_running(running)
        if not worker.running:
            self._departed.discard(worker)
        pool = self.pools.get(worker.pod.pool)
        if pool is not None:
            self.foresight.note_end(pool, running)
            pool.drain.note_freed(self._clock(), waiting=bool(pool.waiters))
        self._wake_pool_of(worker)

    def wake_waiters(self, pool: Pool) -> None:
        """Wake as many waiting requests as there are free places, the longest waiting first.

        Streams that wait to go on come before all of them, and look for themselves.
        """
        for mover in pool.movers:
            if not mover.done():  # it stays in view until it has looked: nobody passes it
                mover.set_result(None)
        if pool.waiters:
            places, batch = self._count_places(pool)
            pool.wake(places - pool.claimed, batch - pool.claimed)

    def wake_urgent(self, pool: Pool) -> None:
        """Wake who is urgent for places that batch work was woken for, and may not have."""
        if pool.waiters.urgent_sequences:
            pool.wake(self._count_places(pool)[0] - pool.claimed, 0)

    def needs_probes(self, worker: Worker) -> bool:
        """Return whether a worker can have requests, or has some."""
        known = worker.uid in self.workers
        return bool(worker.running) or (known and (worker.ready or self.vouching.asks(worker)))

    def list_probed(self) -> list[Worker]:
        """Return the workers that need probes."""
        everybody = [*self.workers.values(), *self._departed]
        return [worker for worker in everybody if self.needs_probes(worker)]

    def _rank(
        self,
        pool: Pool,
        *,
        excluded: Collection[str] = (),
        tie: float = 0.0,
        need: Need | None = None,
        known: Mapping[str, float] = _NOTHING,
        yields: bool = False,
    ) -> Ranking[Worker]:
        """Rank the workers that can take one more request now, by the pool's shares.

        `yields` says that it is batch work, which leaves room for others.
        """
        now = self._clock()
        usable, healthy = self._sort_workers(pool, now)
        if yields:
            most = self._find_batch_most(pool)
            usable = [worker for worker in usable if worker.batch < most]
        asked = Asking(excluded, tie, need, known)
        return rank_pool(pool, usable, healthy, now, asked, self.foresight)

    def note_urgency(self, pool: Pool, coming: int) -> None:
        """Note how many sequences urgent requests want at a time; so many come with one just now.

        What no worker could hold at a time, and no pool, is no wish that room can be kept for.
        """
        most = self._inflight_most
        running = sum(worker.sequences - worker.batch for worker in pool.workers.values())
        wanted = running + pool.waiters.urgent_sequences + min(coming, most)
        pool.room.note(min(wanted, most * len(pool.workers)), self._clock())

    def _count_places(self, pool: Pool) -> tuple[int, int]:
        """Return how many sequences could be sent now, and how many of batch work."""
        return count_places(self._rank(pool), self._inflight_most, self._find_batch_most(pool))

    def _find_batch_most(self, pool: Pool) -> int:
        """Return how many sequences of batch work a worker may have."""
        healthy = self.count_healthy(pool)
        return pool.room.find_batch_most(self._inflight_most, healthy, self._clock())

    def _may_be_tried(self, pool: Pool, worker: Worker, now: float, *, early: bool = False) -> bool:
        """Return whether a doubted worker may have one request, to find out what it is good for.

        What only waits for its client finds out nothing: it does not count.
        """
        return (
            all(running.phase is Phase.CLIENT for running in worker.running)
            and worker.held_until <= now
            and worker.health.may_be_tried(now, early=early)
            and self.is_wanted(pool, worker)
        )

    def _wake_after(self, worker: Worker, seconds: float) -> None:
        # Timers are exact to a millisecond: wake the waiters when the hold is surely over.
        delay = max(0.0, seconds) + 0.005
        asyncio.get_running_loop().call_later(delay, self._wake_pool_of, worker)

    def _tell_workers_changed(self) -> None:
        for tell in self.on_workers_changed:
            tell()

    def _wake_pool_of(self, worker: Worker) -> None:
        pool = self.pools.get(worker.pod.pool)
        if pool is not None:
            self.wake_waiters(pool)

    def _detach(self, worker: Worker) -> None:
        pool = self.pools.get(worker.pod.pool)
        if pool is not None:
            pool.workers.pop(worker.uid, None)
            self.wake_waiters(pool)  # without it, others may be tried, or take more

    def _index_models(self) -> None:
        """Point each model name at the oldest pool that has it."""
        ranked = sorted(self.pools.values(), key=lambda pool: (pool.spec.created, pool.spec.key))
        self._models = {}
        for pool in ranked:
            self._models.setdefault(pool.spec.model, pool)
