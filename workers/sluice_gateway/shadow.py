"""Shadow traffic: mirrors a fraction of requests to workers that get no share of the traffic yet.

A request is sent again when its user has the answer, with the same seed, behind everything that
clients wait for. What comes is thrown away: it is timed, and compared with another class by a
parity audit. So an accelerator shows how it does with what users ask before the first meets it.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from sluice_gateway import names
from sluice_gateway.answers import Answer, Refusal
from sluice_gateway.attempts import Attempt, Exchange, find_tpot
from sluice_gateway.audit import Auditor
from sluice_gateway.calls import Call, parse_call
from sluice_gateway.continuation import begin_transcript
from sluice_gateway.events import EventSplitter, StreamProgress
from sluice_gateway.fleet import Fleet
from sluice_gateway.keptconnections import KeptConnections
from sluice_gateway.members import Pool, Worker
from sluice_gateway.metrics import ComparingMetrics
from sluice_gateway.parity import LAST, find_unserved
from sluice_gateway.responses import check_stream, note_maker, read_tail
from sluice_gateway.retries import Fault
from sluice_gateway.settings import Shadowing
from sluice_gateway.signals import Signals
from sluice_gateway.soundness import StreamError
from sluice_gateway.workerconnection import WorkerConnectionError


class ShadowError(Exception):
    """A worker did not answer as it should; the message is a word without any text of users."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A request that waits to be sent again."""

    pool: Pool
    at: float
    call: Call = field(repr=False)


class Shadow:
    """Mirrors requests.

    Args:
        connections: For requests to workers.
        auditor: Compares the answers.
        clock: Monotonic seconds.
        random: Returns numbers in [0, 1), to draw the sample.
    """

    def __init__(
        self,
        fleet: Fleet,
        connections: KeptConnections,
        auditor: Auditor,
        *,
        shadowing: Shadowing,
        signals: Signals,
        metrics: ComparingMetrics,
        clock: Callable[[], float],
        random: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._fleet = fleet
        self._connections = connections
        self._auditor = auditor
        self._shadowing = shadowing
        self._signals = signals
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self._log = log
        self._waiting: deque[Mirrored] = deque()
        self._running: dict[asyncio.Task[None], Worker] = {}
        self._news = asyncio.Event()

    def offer(
        self, _exchange: Exchange, pool: Pool, _attempt: Attempt, call: Call, _answer: Answer | None
    ) -> None:
        """Take a request that was answered, if it is drawn and somebody could answer it again."""
        parity = pool.spec.parity
        if parity is None or not parity.shadow or self._random() >= parity.shadow:
            return
        small = len(call.body) <= self._shadowing.body_bytes and call.prompts == 1
        if not small or not self._list_workers(pool):
            return
        if len(self._waiting) >= self._shadowing.queue_most:
            self._metrics.shadows_dropped.labels(pool.spec.key, "no_room").inc()
            return
        self._waiting.append(Mirrored(pool, self._clock(), call))
        self._news.set()

    async def run(self) -> None:
        """Send what waits, for ever."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    self._send_next(self._waiting.popleft())
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _list_workers(self, pool: Pool) -> list[Worker]:
        """Return the workers that get no traffic and could answer, the idlest first."""
        unserved = find_unserved(pool.decision)
        busy = list(self._running.values())
        found = [
            worker
            for worker in pool.workers.values()
            if worker.group in unserved and self._fleet.is_healthy(pool, worker)
        ]
        return sorted(found, key=busy.count)

    def _send_next(self, mirrored: Mirrored) -> None:
        pool = mirrored.pool
        most = self._shadowing.at_once
        busy = list(self._running.values())
        # A worker that has users after all (others failed) is theirs alone.
        free = [
            one for one in self._list_workers(pool) if not one.running and busy.count(one) < most
        ]
        if not free or self._fleet.pools.get(pool.spec.key) is not pool:
            self._metrics.shadows_dropped.labels(pool.spec.key, "no_worker").inc()
            return
        task = asyncio.create_task(self._mirror(pool, free[0], mirrored.call), name="shadow")
        self._running[task] = free[0]
        task.add_done_callback(self._running.pop)

    async def _mirror(self, pool: Pool, worker: Worker, call: Call) -> None:
        """Have a worker answer a request for nobody, and note how it did."""
        result = "failed"
        try:
            asked = render_mirrored(call, ours=worker.steps is not None)
            async with asyncio.timeout(self._shadowing.request_seconds):
                await self._follow(pool, worker, asked)
            result = "ok"
        except (ShadowError, Fault, Refusal, StreamError) as error:
            reason = error.code if isinstance(error, Fault) else type(error).__name__
            self._log.warning("shadow request failed", pod=worker.pod.name, reason=reason)
        except (TimeoutError, WorkerConnectionError) as error:
            reason = type(error).__name__
            self._log.warning("shadow request failed", pod=worker.pod.name, reason=reason)
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        finally:
            self._metrics.shadows.labels(pool.spec.key, worker.variant, result).inc()
            if result == "failed":
                self._signals.count_shadow(worker, "failed")

    async def _follow(self, pool: Pool, worker: Worker, asked: Call) -> None:
        """Read a worker's stream to its end; time it, and offer it to be compared."""
        pod, began = worker.pod, self._clock()
        headers = {**pod.render_headers(), names.HEADER_REQUEST_ID: "shadow"}
        response = await self._connections.post(pod.url, asked.path, asked.body, headers)
        try:
            if pod.is_other(response.find_header(names.HEADER_WORKER_UID)):
                raise ShadowError
            if response.status != 200:  # noqa: PLR2004
                raise ShadowError
            check_stream(response)
            note_maker(worker, response)
            transcript = begin_transcript(asked)
            progress = StreamProgress(transcript, wants_usage=False)
            splitter = EventSplitter(most_bytes=self._shadowing.event_bytes)
            while not progress.done:
                data = await response.read()
                if not data:
                    raise ShadowError
                progress.take(splitter.feed(data), self._clock())
                if progress.failure is not None:
                    raise progress.failure
            await read_tail(response)
        finally:
            response.release()
        if progress.first_at is not None:
            tokens = progress.count_tokens()[1]
            ttft = progress.first_at - began
            tpot = find_tpot(progress.first_at, progress.last_at, tokens)
            self._signals.observe_shadow(worker, ttft=ttft, tpot=tpot)
            self._metrics.observe_shadow(pool.spec.key, worker.variant, ttft=ttft, tpot=tpot)
        self._auditor.take_stream(pool, worker, transcript)


def render_mirrored(call: Call, *, ours: bool) -> Call:
    """Return a request as it is mirrored: one choice, streamed, at the end of a worker's line.

    Args:
        call: As it went to the worker that answered it; its seed stays.
        ours: The worker is ours: others may refuse a priority.
    """
    document: dict[str, Any] = json.loads(call.body)
    document |= {"stream": True, "n": 1}
    for field_name in ("best_of", "logprobs", "top_logprobs", "prompt_logprobs", "echo"):
        document.pop(field_name, None)
    document.pop("priority", None)
    if ours:
        document["priority"] = LAST
    return parse_call(call.path, json.dumps(document).encode(), seed=int(document["seed"]))
