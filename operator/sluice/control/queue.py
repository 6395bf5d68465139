"""A keyed queue: one worker a key, the newest job wins, failures back off with jitter."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable

import structlog

from sluice.act.writer import NotLeaderError
from sluice.kube.errors import KubeError

log = structlog.get_logger()

FIRST_DELAY = 0.2
LONGEST_DELAY = 30.0

Job = Callable[[], Awaitable[None]]


class KeyedQueue:
    """Runs jobs by key, serially within a key and in parallel across keys."""

    def __init__(self) -> None:
        self._next: dict[Hashable, Job] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def submit(self, key: Hashable, job: Job) -> None:
        """Run a job for a key, instead of the one that still waits there if any."""
        self._next[key] = job
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._work(key))

    def clear(self) -> None:
        """Drop what waits, also for another try; what runs goes on."""
        self._next.clear()

    async def stop(self) -> None:
        """Drop what waits, cancel what runs, and wait for its end."""
        self._next.clear()
        for task in self._tasks.values():
            task.cancel()
        await self.drain()

    async def drain(self) -> None:
        """Wait until nothing runs or waits any more."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _work(self, key: Hashable) -> None:
        failures = 0
        try:
            while key in self._next:
                job = self._next.pop(key)
                try:
                    await job()
                    failures = 0
                except NotLeaderError as error:
                    log.info("dropped", key=str(key), why=str(error))
                except KubeError as error:
                    failures += 1
                    self._next.setdefault(key, job)
                    await self._back_off(key, failures, error.message)
                except Exception as error:
                    # A mistake of ours with one key: loud, and no reason to fail the others.
                    failures += 1
                    log.exception("a job failed", key=str(key))
                    await self._back_off(key, failures, repr(error))
        finally:
            del self._tasks[key]

    @staticmethod
    async def _back_off(key: Hashable, failures: int, why: str) -> None:
        """Wait before the next try, which then runs the newest job of the key."""
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
        delay = random.uniform(longest / 2, longest)
        log.warning("will try again", key=str(key), error=why, seconds=round(delay, 2))
        await asyncio.sleep(delay)
