"""Parity audits: has finished answers scored by their maker and by a worker of another accelerator.

Users never wait for it: an answer is offered when it has been sent, kept (as tokens, or as the text
of an answer that did not stream) in a short queue, and compared when both workers have room. Both
score the same tokens, behind everything that clients wait for, and inside a budget of their time.
What was found goes into signals and metrics, as numbers; no text is logged.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from sluice_gateway import names
from sluice_gateway.answers import Answer
from sluice_gateway.attempts import Attempt, Exchange
from sluice_gateway.calls import Call
from sluice_gateway.fleet import Fleet
from sluice_gateway.keptconnections import KeptConnections
from sluice_gateway.members import Pool, Worker
from sluice_gateway.metrics import ComparingMetrics
from sluice_gateway.parity import (
    Agreement,
    Budget,
    Position,
    ScoreError,
    compare,
    find_unproven,
    read_scores,
    read_texts,
    read_tokens,
    render_scoring,
)
from sluice_gateway.responses import note_maker, read_body
from sluice_gateway.retries import Fault
from sluice_gateway.settings import Auditing
from sluice_gateway.signals import Signals
from sluice_gateway.transcript import Transcript
from sluice_gateway.workerconnection import WorkerConnectionError

_COMPLETIONS = "/v1/completions"
_TOKENIZE = "/tokenize"


@dataclass(frozen=True, slots=True)
class Specimen:
    """A finished answer that waits to be compared.

    Attributes:
        worker: Who made it.
        at: When it was finished, monotonic seconds.
        prompt, output: Its tokens; empty if it did not stream.
        call, answer: Then what was asked, and what was answered.
    """

    worker: Worker
    at: float
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    call: Call | None = field(default=None, repr=False)
    answer: bytes = field(default=b"", repr=False)


class Auditor:
    """Compares finished answers between accelerators.

    Args:
        connections: For requests to workers.
        clock: Monotonic seconds.
        random: Returns numbers in [0, 1), to draw the sample.
    """

    def __init__(
        self,
        fleet: Fleet,
        connections: KeptConnections,
        *,
        auditing: Auditing,
        signals: Signals,
        metrics: ComparingMetrics,
        clock: Callable[[], float],
        random: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._fleet = fleet
        self._connections = connections
        self._auditing = auditing
        self._signals = signals
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self._log = log
        self._waiting: dict[str, deque[Specimen]] = {}
        self._budgets: dict[str, Budget] = {}
        self._audited: dict[tuple[str, str, str], float] = {}

    def offer(
        self, exchange: Exchange, pool: Pool, attempt: Attempt, call: Call, answer: Answer | None
    ) -> None:
        """Take a finished answer, if it is drawn and there is room for it.

        While a group of the pool has its traffic still to earn, all are taken: the budget is what
        bounds them, not the sample.
        """
        parity, worker = pool.spec.parity, attempt.worker
        if parity is None or exchange.transcript is not None:  # no one worker made it
            return
        eager = self._has_unproven(pool)
        if not eager and self._random() >= parity.sample:
            return
        specimen = self._prepare(attempt, call, answer)
        if specimen is None or not self._list_references(pool, worker):
            return
        queue = self._waiting.setdefault(pool.spec.key, deque())
        if len(queue) < self._auditing.queue_most:
            queue.append(specimen)
        elif not eager:
            self._drop(pool, "no_room")

    def take_stream(self, pool: Pool, worker: Worker, transcript: Transcript) -> None:
        """Take an answer that a worker without traffic made for nobody, if there is room for it."""
        specimen = self._keep_stream(worker, transcript)
        queue = self._waiting.setdefault(pool.spec.key, deque())
        if specimen is not None and len(queue) < self._auditing.queue_most:
            queue.append(specimen)

    async def run(self) -> None:
        """Compare what waits, one answer at a time, for ever."""
        while True:
            await asyncio.sleep(self._auditing.period)
            self._forget_departed()
            for key in list(self._waiting):
                pool = self._fleet.pools.get(key)
                if pool is None:
                    continue
                try:
                    await self._audit_next(pool)
                except Exception as error:  # noqa: BLE001 - our mistake; serving is not its matter
                    # Without what the error says: it may have seen text of users.
                    self._log.error("audit failed", pool=key, error=type(error).__name__)

    def _prepare(self, attempt: Attempt, call: Call, answer: Answer | None) -> Specimen | None:
        """Return what is kept of an answer; None if it is none that can be scored."""
        worker, now = attempt.worker, self._clock()
        if answer is not None:
            if len(answer.body) + len(call.body) > self._auditing.text_bytes or call.prompts > 1:
                return None
            return Specimen(worker, now, call=call, answer=answer.body)
        return None if attempt.transcript is None else self._keep_stream(worker, attempt.transcript)

    def _keep_stream(self, worker: Worker, transcript: Transcript) -> Specimen | None:
        if not transcript.trackable or 0 not in transcript.prompts:
            return None
        prompt, output = transcript.prompts[0], transcript.choices[0].tokens
        if not prompt or not output or len(prompt) + len(output) > self._auditing.tokens_most:
            return None
        return Specimen(worker, self._clock(), prompt=prompt, output=output)

    def _has_unproven(self, pool: Pool) -> bool:
        unproven = find_unproven(pool.decision)
        return bool(unproven) and any(
            worker.group in unproven and self._fleet.is_healthy(pool, worker)
            for worker in pool.workers.values()
        )

    def _list_references(self, pool: Pool, maker: Worker) -> list[Worker]:
        """Return the workers that can say whether a maker's answer is right, the best first.

        They are of other classes, and one of the two has its place in the traffic already. Those
        that have not come first, then those of the class that was compared the longest ago.
        """
        unproven = find_unproven(pool.decision)
        proven = maker.group not in unproven
        found = [
            worker
            for worker in pool.workers.values()
            if worker.variant != maker.variant
            and (proven or worker.group not in unproven)
            and self._fleet.is_healthy(pool, worker)
        ]

        def rank(worker: Worker) -> tuple[bool, float]:
            last = self._audited.get((pool.spec.key, maker.variant, worker.variant), 0.0)
            return worker.group not in unproven, last

        return sorted(found, key=rank)

    async def _audit_next(self, pool: Pool) -> None:
        """Compare the pool's oldest answer, if now is the time for one."""
        queue, now = self._waiting[pool.spec.key], self._clock()
        while queue and now - queue[0].at > self._auditing.stale_seconds:
            queue.popleft()
            self._drop(pool, "stale")
        if not queue or pool.spec.parity is None:
            queue.clear()
            return
        maker = queue[0].worker
        references = self._list_references(pool, maker)
        if not references or not self._fleet.is_healthy(pool, maker):
            queue.popleft()
            self._drop(pool, "no_worker")
            return
        for reference in references:
            if self._may_audit(pool, maker, reference, now):
                await self._audit(pool, queue.popleft(), reference)
                return

    def _may_audit(self, pool: Pool, maker: Worker, reference: Worker, now: float) -> bool:
        """Return whether both have room, and time left in their budgets.

        A pair that was not compared for long does without the room: its turn at the end of the
        workers' lines would never come on a busy pool, and what waits for the result with it.
        """
        both = (maker, reference)
        if not all(self._find_budget(pool, worker, now).is_open(now) for worker in both):
            return False
        last = self._audited.get((pool.spec.key, maker.variant, reference.variant))
        if last is None or now - last >= self._auditing.floor_seconds:
            return True
        most = self._auditing.busy_most
        return not pool.waiting and all(worker.inflight <= most for worker in both)

    def _find_budget(self, pool: Pool, worker: Worker, now: float) -> Budget:
        fraction = pool.spec.parity.budget if pool.spec.parity is not None else 0.0
        budget = self._budgets.setdefault(worker.uid, Budget(fraction, now))
        budget.fraction = fraction
        return budget

    async def _audit(self, pool: Pool, specimen: Specimen, reference: Worker) -> None:
        """Have one answer scored by its maker and by the reference, and note what came of it."""
        maker = specimen.worker
        self._audited[pool.spec.key, maker.variant, reference.variant] = self._clock()
        labels = (pool.spec.key, maker.variant, reference.variant)
        try:
            async with asyncio.timeout(self._auditing.request_seconds):
                found = await self._compare(pool, specimen, reference)
        except ScoreError as error:
            self._fail(labels, "unscorable", str(error))
        except Fault as fault:
            self._fail(labels, "unscorable", fault.code)
        except (TimeoutError, WorkerConnectionError) as error:
            self._fail(labels, "lost", type(error).__name__)
        else:
            self._metrics.count_audit(labels, found)
            self._signals.count_audit(pool, maker, reference, found)

    async def _compare(self, pool: Pool, specimen: Specimen, reference: Worker) -> Agreement:
        tokens, first = await self._find_tokens(pool, specimen, reference)
        own, model = await self._score(pool, specimen.worker, tokens, first)
        other, other_model = await self._score(pool, reference, tokens, first)
        if model != other_model:
            raise ScoreError("the two have different models")
        return compare(own, other)

    def _fail(self, labels: tuple[str, str, str], result: str, reason: str) -> None:
        self._metrics.audits.labels(*labels, result).inc()
        pool, made, scored = labels
        self._log.warning(
            "audit without a result",
            pool=pool,
            accelerator_class=made,
            reference_class=scored,
            reason=reason,
        )

    async def _find_tokens(
        self, pool: Pool, specimen: Specimen, reference: Worker
    ) -> tuple[list[int], int]:
        """Return an answer's tokens after its prompt's, and how many those are."""
        prompt, output = list(specimen.prompt), list(specimen.output)
        if specimen.call is not None:
            texts = read_texts(specimen.call, specimen.answer)
            if texts is None:
                raise ScoreError("an answer without a text")
            asked, text = texts
            prompt = await self._tokenize(pool, reference, asked)
            more = {"prompt": text, "add_special_tokens": False}
            output = await self._tokenize(pool, reference, more)
        if not prompt or not output or len(prompt) + len(output) > self._auditing.tokens_most:
            raise ScoreError("an answer without tokens, or with too many")
        return prompt + output, len(prompt)

    async def _tokenize(self, pool: Pool, worker: Worker, asked: dict[str, object]) -> list[int]:
        body = json.dumps({"model": pool.spec.model, **asked}).encode()
        found, _ = await self._post(worker, _TOKENIZE, body)
        return read_tokens(found)

    async def _score(
        self, pool: Pool, worker: Worker, tokens: Sequence[int], first: int
    ) -> tuple[list[Position], str]:
        """Return what a worker expects in the places from `first` on, and its model's digest.

        It pays for it from its budget.
        """
        now = self._clock()
        steps = self._fleet.foresight.find_steps(pool, worker)
        chunks = -(-len(tokens) // max(1, round(steps.chunk)))
        cost = chunks * steps.find_time(1, len(tokens) / 2, mixed=True)
        self._find_budget(pool, worker, now).spend(cost, now)
        ours = worker.steps is not None or (worker.maker is not None and any(worker.maker))
        body = render_scoring(pool.spec.model, tokens, self._auditing.top, ours=ours)
        answer, model = await self._post(worker, _COMPLETIONS, body)
        return read_scores(answer, first), model

    async def _post(self, worker: Worker, path: str, body: bytes) -> tuple[bytes, str]:
        """Return a worker's answer, and the digest of its model if it says that.

        Raises:
            ScoreError: It refuses, or is another.
        """
        pod = worker.pod
        headers = {**pod.render_headers(), names.HEADER_REQUEST_ID: "parity-audit"}
        response = await self._connections.post(pod.url, path, body, headers)
        try:
            if pod.is_other(response.find_header(names.HEADER_WORKER_UID)):
                raise ScoreError("another pod answers at its address")
            if response.status != 200:  # noqa: PLR2004
                raise ScoreError(f"{path} answered {response.status}")
            if path == _COMPLETIONS:
                note_maker(worker, response)
            model = response.find_header(names.HEADER_MODEL_DIGEST)
            return await read_body(response, self._auditing.answer_bytes), model
        finally:
            response.release()

    def _drop(self, pool: Pool, reason: str) -> None:
        self._metrics.audits_dropped.labels(pool.spec.key, reason).inc()

    def _forget_departed(self) -> None:
        for gone in self._waiting.keys() - self._fleet.pools.keys():
            del self._waiting[gone]
        for gone in self._budgets.keys() - self._fleet.workers.keys():
            del self._budgets[gone]
        for pair in [pair for pair in self._audited if pair[0] not in self._fleet.pools]:
            del self._audited[pair]
