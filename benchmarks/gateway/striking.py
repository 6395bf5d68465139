"""Strikes at workers while streams run: when, and at whom; a `World` says how."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import aiohttp
from killreport import ENOUGH_TOKENS, Strike
from killstreams import MODEL, Streams

LOOK_EVERY = 0.05


class World(Protocol):
    """Workers that can be struck."""

    async def is_whole(self) -> bool:
        """Return whether all workers serve, so that the next strike may come."""

    async def find_struck(self, worker: str) -> frozenset[str]:
        """Return the workers that a strike at one hits."""

    async def strike(self, worker: str) -> None:
        """Do the harm, and undo it; return then."""

    def list_workers(self) -> Mapping[str, str]:
        """Return the URLs of worker processes, by a name that no other process has."""


class Striker:
    """Runs streams to their ends, and strikes at the worker that has most of them meanwhile.

    Args:
        every: Seconds from when all is well to the next strike.

    Attributes:
        steps: Of each worker process, steps and how many took longer than the device would.
    """

    def __init__(
        self, world: World, streams: Streams, session: aiohttp.ClientSession, *, every: float
    ) -> None:
        self.strikes: list[Strike] = []
        self.steps: dict[str, tuple[float, float]] = {}
        self._world = world
        self._streams = streams
        self._session = session
        self._every = every

    async def run(self, model: str = MODEL) -> None:
        """Run the streams to their ends; the strike that is on then is finished."""
        counting = asyncio.create_task(self._count_on())
        striking = asyncio.create_task(self._strike_on())
        try:
            await self._streams.run(model)
        finally:
            counting.cancel()
            striking.cancel()
            await asyncio.gather(counting, striking, return_exceptions=True)

    async def _strike_on(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._every)
                worker = await self._find_victim()
                struck = await self._world.find_struck(worker)
                self.strikes.append(Strike(time.time(), struck))
                await self._world.strike(worker)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has to say it
            print(f"no more strikes: {error!r}", file=sys.stderr)

    async def _find_victim(self) -> str:
        """Wait until all workers serve; return the one that has most streams with tokens enough."""
        while True:
            struck = {name: strike.at for strike in self.strikes for name in strike.workers}
            counts = Counter(
                told.worker
                for told in self._streams.list_running().values()
                if len(told.tokens) >= ENOUGH_TOKENS and told.began > struck.get(told.worker, 0.0)
            )
            if counts and await self._world.is_whole():
                return counts.most_common(1)[0][0]
            await asyncio.sleep(LOOK_EVERY)

    async def _count_on(self) -> None:
        """Note the steps of all processes again and again: who is ended takes its counts along."""
        while True:
            for name, url in self._world.list_workers().items():
                steps = await count_steps(self._session, url)
                if steps[0]:
                    self.steps[name] = steps
            await asyncio.sleep(0.5)

    def find_overrun(self) -> float | None:
        """Return the share of steps that took longer than the device would, in percent."""
        steps, overrun = (sum(one) for one in zip((0.0, 0.0), *self.steps.values(), strict=True))
        return round(100 * overrun / steps, 2) if steps else None


async def count_steps(session: aiohttp.ClientSession, url: str) -> tuple[float, float]:
    """Return a worker's steps, and how many of them took longer than the device would."""
    names: Sequence[str] = ("sluice_worker_steps_total", "sluice_worker_steps_overrun_total")
    wanted = dict.fromkeys(names, 0.0)
    try:
        async with session.get(f"{url}/metrics") as response:
            for line in (await response.text()).splitlines():
                name = line.split("{")[0].split(" ")[0]
                if name in wanted:
                    wanted[name] += float(line.rsplit(" ", 1)[1])
    except (aiohttp.ClientError, TimeoutError):
        return 0.0, 0.0
    return wanted[names[0]], wanted[names[1]]
