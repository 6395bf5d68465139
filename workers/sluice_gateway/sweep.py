"""Looks every quarter of a second for what has been waiting too long, and ends it.

What runs on workers that are about to go is asked to go elsewhere on the same round.

Two things may be late: a request, by the fixed limits of its own, whatever the others do; and a
worker, when nothing of all that runs on it gets on for longer than its pace allows. The second is
a silent worker, however well its health endpoint speaks: its requests end, are tried elsewhere if
nothing of them has reached the client, and it gets no new ones for a while.
"""

import asyncio
from collections.abc import Callable

import structlog

from sluice_gateway.fleet import Fleet
from sluice_gateway.members import Worker
from sluice_gateway.pace import Silence, find_silence
from sluice_gateway.settings import Patience

_PERIOD = 0.25


class Sweep:
    """Ends what is late.

    One sweep over all attempts is cheaper than a timer re-armed with every token.

    Args:
        probe_now: Asks the prober to look at a worker at once.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        patience: Patience,
        probe_now: Callable[[Worker], None],
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._fleet = fleet
        self._patience = patience
        self._probe_now = probe_now
        self._clock = clock
        self._log = log
        self._silent: set[Worker] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        before = self._clock()
        while True:
            await asyncio.sleep(_PERIOD)
            now = self._clock()
            self.sweep(now, slept=now - before - _PERIOD)
            before = now

    def sweep(self, now: float, *, slept: float) -> None:
        """Look once; `slept` is for how long this process should have looked and did not."""
        workers = [worker for worker in self._fleet.list_probed() if worker.running]
        if slept > self._patience.stall_seconds:
            # What came meanwhile is still to be read: nobody is judged by this look.
            for worker in workers:
                worker.pace.excused += slept
        else:
            self._end_silent(workers, now)
        for worker in workers:
            why = self._fleet.explain_leaving(worker)
            for running in list(worker.running):
                running.expire_after(now)
                if why:
                    running.ask_to_leave(why)
        self._tell_returned()

    def _tell_returned(self) -> None:
        """Log which of the silent workers serve again, and forget those that are gone."""
        for worker in [one for one in self._silent if not one.health.doubted]:
            self._log.info("worker serves again", pod=worker.pod.name, uid=worker.uid)
            self._silent.discard(worker)
        self._silent &= set(self._fleet.workers.values())

    def _end_silent(self, workers: list[Worker], now: float) -> None:
        """End what runs on silent workers.

        When no worker at all speaks, it may well be this machine that stands still: then they all
        get twice the time.
        """
        silences = [(worker, self._find_silence(worker, now)) for worker in workers]
        judged = [(worker, silence) for worker, silence in silences if silence is not None]
        everybody = len(judged) > 1 and all(s.seconds > s.patience for _, s in judged)
        for worker, silence in judged:
            if silence.seconds > silence.patience * (2 if everybody else 1):
                self._end(worker, silence, now)

    def _find_silence(self, worker: Worker, now: float) -> Silence | None:
        pool = self._fleet.pools.get(worker.pod.pool)
        if pool is None:
            return None
        outlook = pool.find_outlook(worker, self._patience.chunk_bytes)
        return find_silence(worker.pace, worker.running, outlook, self._patience, now)

    def _end(self, worker: Worker, silence: Silence, now: float) -> None:
        why = f"nothing came of the worker for {silence.seconds:.1f} s"
        running = list(worker.running)
        self._fleet.doubt_worker(worker)
        for attempt in running:
            attempt.give_up(why)
        self._probe_now(worker)
        self._silent.add(worker)
        self._log.warning(
            "worker silent",
            pod=worker.pod.name,
            uid=worker.uid,
            seconds=round(silence.seconds, 3),
            patience=round(silence.patience, 3),
            running=len(running),
            held_seconds=round(worker.health.held_until - now, 3),
        )
