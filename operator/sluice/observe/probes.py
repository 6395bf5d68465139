"""Liveness probes of every worker, and of ourselves.

A miss counts only if we were awake to see it: when our own loop was late by more than the timeout,
the result is discarded. The control target is our own /healthz, asked the same way: while it fails,
no miss of a worker means anything.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

import aiohttp

from sluice.model.clock import Clock
from sluice.model.snapshot import Probe
from sluice.observe.text import clean_text

UID_HEADER = "X-Sluice-Worker-Uid"
LONGEST_WORDS = 120
"""Bytes that are read of what a worker says of itself; a healthy one says ok."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to probe: pod uid, URL, seconds between probes and until one counts as missed."""

    uid: str
    url: str
    period: float
    timeout: float


class _Miss(NamedTuple):
    """Why a probe was missed, and whether the worker itself says that it is stuck."""

    why: str
    stuck: bool = False


class Prober:
    """One task a target; results by pod uid.

    Args:
        session: HTTP client for all probes.
        clock: steady clock of the operator.
        changed: called when a target begins or ceases to miss, or misses again.
    """

    def __init__(
        self, session: aiohttp.ClientSession, clock: Clock, changed: Callable[[], None]
    ) -> None:
        self._session = session
        self._clock = clock
        self._changed = changed
        self._tasks: dict[str, tuple[Target, asyncio.Task[None]]] = {}
        self._results: dict[str, Probe] = {}
        self.missed = 0

    def results(self) -> dict[str, Probe]:
        """Return what is known, by pod uid."""
        return dict(self._results)

    def set_targets(self, targets: list[Target]) -> None:
        """Probe exactly these from now on."""
        wanted = {target.uid: target for target in targets}
        for uid in [uid for uid in self._tasks if uid not in wanted]:
            self._tasks.pop(uid)[1].cancel()
            self._results.pop(uid, None)
        for uid, target in wanted.items():
            running = self._tasks.get(uid)
            # A probe that ended by a mistake of ours must not leave its last word standing.
            if running is not None and running[0] == target and not running[1].done():
                continue
            if running is not None:
                running[1].cancel()
            self._tasks[uid] = (target, asyncio.create_task(self._follow(target)))

    def stop(self) -> None:
        """End all probing."""
        self.set_targets([])

    async def _follow(self, target: Target) -> None:
        due = time.monotonic()
        while True:
            asked = time.monotonic()
            miss = await self._ask(target)
            took = time.monotonic() - asked
            # A timeout that fired late means that we slept, not that the worker was silent.
            if miss is None or took < target.timeout * 2:
                self._note(target.uid, miss)
            due = max(due + target.period, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _ask(self, target: Target) -> _Miss | None:
        """Return why a probe was missed, None if it was answered."""
        try:
            async with self._session.get(
                target.url,
                headers={UID_HEADER: target.uid},
                timeout=aiohttp.ClientTimeout(total=target.timeout),
                allow_redirects=False,  # a worker sends us nowhere
            ) as response:
                named = response.headers.get(UID_HEADER)
                said = (await response.content.read(LONGEST_WORDS)).decode(errors="replace")
        except TimeoutError:
            return _Miss(f"no answer within {target.timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _Miss(type(error).__name__)
        if named is not None and named != target.uid:
            return _Miss(f"pod {clean_text(named, 40)} answers at its address")
        if response.status != HTTPStatus.OK:
            # Only the worker itself names its uid: whatever else answers 503 says less.
            stuck = named is not None and response.status == HTTPStatus.SERVICE_UNAVAILABLE
            return _Miss(f"{response.status}: {clean_text(said)}", stuck)
        return None

    def _note(self, uid: str, miss: _Miss | None) -> None:
        before = self._results.get(uid, Probe(0, 0, None))
        if miss is not None:
            self.missed += 1
            stuck = before.stuck + miss.stuck
            after = Probe(before.misses + 1, before.answered, None, miss.why, stuck)
        else:
            up_since = before.up_since if before.up_since is not None else self._clock()
            after = Probe(0, before.answered + 1, up_since)
        self._results[uid] = after
        if after.misses != before.misses or not before.answered:
            self._changed()
