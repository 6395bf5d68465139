"""Asks every worker, every second, whether it is alive; what it learns goes to the fleet.

One task a worker. A probe that timed out while this process itself was stalled says nothing and is
repeated.
"""

import asyncio
from collections.abc import Callable

import aiohttp
import structlog

from sluice_gateway import names
from sluice_gateway.fleet import Fleet
from sluice_gateway.health import Verdict
from sluice_gateway.members import Worker
from sluice_gateway.settings import Probing


class Prober:
    """Probes the fleet's workers until closed.

    Args:
        session: For the probes alone, so that they never queue behind requests.
        clock: Monotonic seconds.
        random: Returns numbers in [0, 1), to spread the probes.
    """

    def __init__(
        self,
        fleet: Fleet,
        session: aiohttp.ClientSession,
        *,
        probing: Probing,
        clock: Callable[[], float],
        random: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._fleet = fleet
        self._session = session
        self._probing = probing
        self._clock = clock
        self._random = random
        self._log = log
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._nudges: dict[Worker, asyncio.Event] = {}

    def follow_fleet(self) -> None:
        """Start probing workers that need it; the others' tasks end by themselves."""
        for worker in self._fleet.list_probed():
            if worker not in self._tasks:
                self._nudges[worker] = asyncio.Event()
                task = asyncio.create_task(self._probe_worker(worker), name=f"probe {worker.uid}")
                self._tasks[worker] = task

    def probe_now(self, worker: Worker) -> None:
        """Do not wait for the next period: a request has just failed on this worker."""
        nudge = self._nudges.get(worker)
        if nudge is not None:
            nudge.set()

    async def close(self) -> None:
        """Stop all probes."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe_worker(self, worker: Worker) -> None:
        try:
            while self._fleet.needs_probes(worker):
                started = self._clock()
                before = worker.health.verdict
                asked = self._fleet.vouching.asks(worker)
                try:
                    why = await self._probe_once(worker, asked=asked)
                except Exception as error:  # noqa: BLE001 - our mistake, which says nothing of it
                    self._log.error("probe failed", pod=worker.pod.name, exc_info=error)
                else:
                    self._take_word(worker, why, asked=asked)
                    self._judge(worker, why, started=started, before=before)
                await self._rest(worker, started)
        finally:
            worker.vouched = False  # if it said so, nobody has asked it since
            del self._tasks[worker], self._nudges[worker]

    def _take_word(self, worker: Worker, why: str | None, *, asked: bool) -> None:
        """Take a worker by its word, where it was asked for that; a probe missed breaks none."""
        if not self._fleet.vouching.asks(worker):
            self._fleet.vouching.note_word(worker, ready=False)
        elif asked and why is None:  # what was asked before says nothing of it
            if not worker.vouched:
                self._log.info("worker taken by its own word", pod=worker.pod.name, uid=worker.uid)
            self._fleet.note_answer(worker)
            self._fleet.vouching.note_word(worker, ready=True)

    def _judge(self, worker: Worker, why: str | None, *, started: float, before: Verdict) -> None:
        """Put a probe's result into the fleet, and log a change of the verdict."""
        if why is None:
            self._fleet.note_answer(worker)
        elif not worker.ready and not worker.running:
            return  # it is starting, or has ended: nothing was expected of it
        else:
            worker.health.note_missed_probe(started=started)
            self._fleet.note_verdict(worker)
        after = worker.health.verdict
        doubted = worker.health.doubted
        if after is not before:
            say = self._log.info if after is Verdict.LIVE else self._log.warning
            say(
                "worker health",
                pod=worker.pod.name,
                uid=worker.uid,
                before=before,
                after=after,
                misses=worker.health.misses,
                reason=why or ("answered; but it serves nobody" if doubted else "answered"),
                running=worker.inflight,
            )

    async def _probe_once(self, worker: Worker, *, asked: bool) -> str | None:
        """Return why the worker missed a probe, or None if it is alive."""
        while True:
            started = self._clock()
            try:
                async with asyncio.timeout(self._probing.timeout):
                    return await self._ask(worker, asked=asked)
            except TimeoutError:
                late = self._clock() - started - self._probing.timeout
                if late < self._probing.stall_seconds:
                    return f"no answer within {self._probing.timeout:g} s"
                self._log.warning("probe repeated", pod=worker.pod.name, stalled_seconds=late)

    async def _ask(self, worker: Worker, *, asked: bool) -> str | None:
        pod = worker.pod
        doubted = self._fleet.vouching.doubts(worker)
        path = names.READY_PATH if asked or doubted else pod.health_path
        url = f"{pod.url}{path}"
        headers = pod.render_headers()
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                answering = response.headers.get(names.HEADER_WORKER_UID, "")
                if worker.is_other(answering) or (asked and not answering):
                    return f"pod {answering[:40] or 'without a uid'} answers at this address"
                if response.status != 200:  # noqa: PLR2004
                    return f"{path} answered {response.status}"
                worker.named = worker.named or bool(answering and pod.fencing_uid)
                return None
        except aiohttp.ClientResponseError:
            return f"{pod.health_path} answered what is no HTTP"  # the error would quote it
        except (aiohttp.ClientError, OSError) as error:
            return f"{type(error).__name__}: {error}"[:200]

    async def _rest(self, worker: Worker, started: float) -> None:
        """Wait for the next period, or for a nudge."""
        nudge = self._nudges[worker]
        period = self._probing.period * (0.95 + 0.05 * self._random())
        try:
            async with asyncio.timeout(max(0.0, started + period - self._clock())):
                await nudge.wait()
        except TimeoutError:
            return
        nudge.clear()
