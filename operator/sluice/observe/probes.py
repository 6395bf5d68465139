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
            why = await self._ask(target)
            took = time.monotonic() - asked
            # A timeout that fired late means that we slept, not that the worker was silent.
            if not why or took < target.timeout * 2:
                self._note(target.uid, why)
            due = max(due + target.period, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _ask(self, target: Target) -> str:
        """Return why a probe was missed, "" if it was answered."""
        try:
            async with self._session.get(
                target.url,
                headers={UID_HEADER: target.uid},
                timeout=aiohttp.ClientTimeout(total=target.timeout),
                allow_redirects=False,  # a worker sends us nowhere
            ) as response:
                answering = response.headers.get(UID_HEADER, target.uid)
                said = (await response.content.read(LONGEST_WORDS)).decode(errors="replace")
        except TimeoutError:
            return f"no answer within {target.timeout:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return type(error).__name__
        if answering != target.uid:
            return f"pod {clean_text(answering, 40)} answers at its address"
        if response.status != HTTPStatus.OK:
            return f"{response.status}: {clean_text(said)}"
        return ""

    def _note(self, uid: str, why: str) -> None:
        before = self._results.get(uid, Probe(0, 0, None))
        if why:
            self.missed += 1
            after = Probe(before.misses + 1, before.answered, None, why)
        else:
            up_since = before.up_since if before.up_since is not None else self._clock()
            after = Probe(0, before.answered + 1, up_since)
        self._results[uid] = after
        if after.misses != before.misses or not before.answered:
            self._changed()
