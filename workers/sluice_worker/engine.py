"""The engine: continuous batching with chunked prefill, in a thread of its own.

`step` is the loop: schedule, run, sample, emit. Whatever the batch, a sequence gets the tokens it
would get alone (`decoder`), so scheduling is free to do what is fast.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import DeviceError, RequestError
from sluice_worker.knownanswers import POSITIONS
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import DeviceCall, Pacer
from sluice_worker.sampling import SamplingParams, choose_token
from sluice_worker.scheduler import Limits, Scheduler

__all__ = ["Emission", "Engine", "GenerationRequest", "Limits"]

log = structlog.get_logger()

IDLE_BEAT = 0.5
"""Seconds between heartbeats while there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Emission:
    """One output token of a sequence, or its end (`finish` is stop, length or error)."""

    sequence: "GenerationRequest"
    token: int | None
    finish: str | None


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """One request on its way through the engine.

    Attributes:
        done: prompt and output tokens whose keys and values are in the cache.
        arrived, first_at, last_at: monotonic times of arrival, first and latest token.
        cancelled: nobody wants it any more; it leaves at the next step.
        probe: it has the slot that is kept for known answers, and is no client's.
        priority: lower numbers are more important, as in vLLM.
        number: of its arrival.
        hashes: of its full blocks, see `blocks`.
        preemptions: times that it had to give its blocks back.
    """

    prompt: list[int]
    params: SamplingParams
    arrived: float
    output: list[int] = field(default_factory=list)
    done: int = 0
    cache: KeyValueCache | None = None
    first_at: float | None = None
    last_at: float | None = None
    cancelled: bool = False
    probe: bool = False
    priority: int = 0
    number: int = 0
    hashes: list[bytes] = field(default_factory=list)
    preemptions: int = 0

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> int:
        """Tokens of prompt and output that are still to be computed."""
        return self.length - self.done

    @property
    def decodes(self) -> bool:
        """Tell whether all that is to be computed is the latest output token."""
        return bool(self.output) and self.pending == 1

    def list_tokens(self, start: int, end: int) -> list[int]:
        """Return tokens of prompt and output from one position up to another."""
        split = len(self.prompt)
        if start >= split:
            return self.output[start - split : end - split]
        return [*self.prompt[start:end], *self.output[: max(0, end - split)]]


class Engine:
    """Runs sequences; `submit` and `cancel` may be called from any thread.

    Args:
        decoder: the model.
        limits: bounds of batch and queue.
        pacer: the emulated device's clock.
        metrics: where to count.
        emit: called from the engine's thread with all that a step brought.

    Attributes:
        beat: monotonic time when the last step began.
        device_error: the driver's words if a device failed, else ""; no engine survives that.
    """

    def __init__(
        self,
        decoder: Decoder,
        limits: Limits,
        pacer: Pacer,
        metrics: Metrics,
        emit: Callable[[Sequence[Emission]], None],
    ) -> None:
        self._decoder = decoder
        self._limits = limits
        self._pacer = pacer
        self._metrics = metrics
        self._emit = emit
        self._changed = threading.Condition()
        self._stopping = False
        self.context = decoder.config.max_position_embeddings
        # Made now: for want of memory, a busy worker would otherwise fail what nobody asked for.
        self._probe_cache = KeyValueCache(decoder.config, min(self.context, POSITIONS))
        self._scheduler = Scheduler(decoder.config, limits, metrics)
        self.beat = time.monotonic()
        self.device_error = ""
        self._thread = threading.Thread(target=self._run_forever, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def call(self) -> DeviceCall | None:
        """The device call that the engine waits for, None while it computes or rests."""
        return self._pacer.call

    def stop(self, patience: float = 10.0) -> None:
        """End the thread after its step, if that ends within so many seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(patience)

    def is_alive(self) -> bool:
        """Tell whether the thread lives."""
        return self._thread.is_alive()

    def load(self) -> int:
        """Return how many sequences run or wait."""
        with self._changed:  # one that is just let in is in neither list
            return self._scheduler.load

    def submit(
        self, prompt: list[int], params: SamplingParams, priority: int = 0
    ) -> GenerationRequest:
        """Queue a request; those of lower `priority` come before it.

        Raises:
            RequestError: it does not fit the context, too many wait (429), or nobody would ever
                run it (503).
        """
        self._check(prompt, params, self.context)
        sequence = GenerationRequest(prompt, params, time.monotonic(), priority=priority)
        with self._changed:
            self._refuse_ended()
            if self._scheduler.waiting >= self._limits.waiting:
                raise RequestError(
                    f"{self._scheduler.waiting} requests wait already: try again later",
                    status=429,
                    code="rate_limit_exceeded",
                    retry_after=1,
                )
            self._scheduler.add(sequence)
            self._changed.notify()
        return sequence

    def submit_probe(self, prompt: list[int], max_tokens: int) -> GenerationRequest:
        """Run a known prompt, greedily, in the slot that is kept for it, from the next step on.

        Raises:
            RequestError: it does not fit the slot, another one runs (429), or nobody would ever run
                it (503).
        """
        params = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=max_tokens)
        self._check(prompt, params, min(self.context, POSITIONS))
        sequence = GenerationRequest(
            prompt, params, time.monotonic(), cache=self._probe_cache, probe=True
        )
        with self._changed:
            self._refuse_ended()
            if self._scheduler.probe is not None:
                raise RequestError(
                    "another known prompt is being answered: ask one at a time",
                    status=429,
                    code="rate_limit_exceeded",
                    retry_after=1,
                )
            self._scheduler.probe = sequence
            self._changed.notify()
        return sequence

    def _refuse_ended(self) -> None:
        if self._stopping:
            raise RequestError("the engine has ended", status=503, code="not_ready", retry_after=1)

    def _check(self, prompt: list[int], params: SamplingParams, context: int) -> None:
        vocabulary = self._decoder.config.vocab_size
        odd = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if odd is not None:
            raise RequestError(
                f"prompt has the token {odd}; the vocabulary ends at {vocabulary - 1}",
                param="prompt",
            )
        if len(prompt) + params.max_tokens > context:
            raise RequestError(
                f"{len(prompt)} prompt tokens and max_tokens {params.max_tokens} are more than the"
                f" context of {context}: shorten the prompt or lower max_tokens",
                code="context_length_exceeded",
                param="max_tokens",
            )

    def cancel(self, sequence: GenerationRequest) -> None:
        """Forget a sequence, if it has not ended.

        What it held is free at once, or as soon as a step that is just computing it has done so.
        """
        with self._changed:
            self._scheduler.cancel(sequence)
            self._changed.notify()

    def _run_forever(self) -> None:
        try:
            while not self._stopping:
                self.beat = time.monotonic()
                if not self.step():
                    with self._changed:
                        if not (self._scheduler.load or self._stopping):
                            self._changed.wait(IDLE_BEAT)
        except DeviceError as error:
            log.critical(str(error))
            self.device_error = str(error)
            self._fail_all()
        except Exception as error:  # whatever it was: clients get their end, the probe a new worker
            log.exception("the engine has failed", error=str(error))
            self._fail_all()

    def _fail_all(self) -> None:
        """End everything with an error; the thread ends after this."""
        with self._changed:
            self._stopping = True
            lost = self._scheduler.leave_all()
        self._emit([Emission(sequence, None, "error") for sequence in lost])

    def step(self) -> bool:
        """Run one step: schedule, run, sample, emit; False when there was nothing to do."""
        with self._changed:
            chunks = self._scheduler.schedule()
        if not chunks:
            self._pacer.rest()
            return False
        self._pacer.begin()
        self._decoder.disturb = self._pacer.devices.disturb
        logits = self._decoder.run([chunk for _, chunk in chunks])
        with self._changed:
            self._scheduler.note_computed(chunks)
        # All tokens are drawn before any is accepted: if one fails, no sequence has ended unseen.
        drawn = []
        for (sequence, _), row in zip(chunks, logits, strict=True):
            if not (sequence.pending or sequence.cancelled):
                position = len(sequence.prompt) + len(sequence.output)
                drawn.append((sequence, choose_token(row, sequence.params, position)))
        self._pacer.finish([describe_work(sequence, chunk) for sequence, chunk in chunks])
        emissions = [self._accept(s, token) for s, token in drawn if not s.cancelled]
        self._note(chunks, emissions)
        self._emit(emissions)
        return True

    def _accept(self, sequence: GenerationRequest, token: int) -> Emission:
        """Take a sampled token; the end token ends the output and is not part of it."""
        params = sequence.params
        if token == self._decoder.config.eos_token_id and not params.ignore_eos:
            return self._end(sequence, None, "stop")
        sequence.output.append(token)
        if len(sequence.output) >= params.max_tokens:
            return self._end(sequence, token, "length")
        return Emission(sequence, token, None)

    def _end(self, sequence: GenerationRequest, token: int | None, reason: str) -> Emission:
        with self._changed:
            self._scheduler.leave(sequence)
        return Emission(sequence, token, reason)

    def _note(
        self, chunks: Sequence[tuple[GenerationRequest, Chunk]], emissions: Sequence[Emission]
    ) -> None:
        now = time.monotonic()
        asked = [(s, c) for s, c in chunks if c.start < len(s.prompt) and not s.probe]
        told = [one for one in emissions if not one.sequence.probe]
        self._metrics.prompt_tokens.inc(sum(len(c.tokens) for _, c in asked))
        self._metrics.output_tokens.inc(sum(one.token is not None for one in told))
        self._metrics.steps.inc()
        self._metrics.overrun.inc(self._pacer.overran)
        self._metrics.late.observe(self._pacer.late)
        self._metrics.energy.inc(self._pacer.energy)
        for emission in told:
            self._note_emission(emission, now)

    def _note_emission(self, emission: Emission, now: float) -> None:
        sequence, metrics = emission.sequence, self._metrics
        if sequence.first_at is None:
            sequence.first_at = now
            metrics.ttft.observe(now - sequence.arrived)
        elif sequence.last_at is not None:
            metrics.tpot.observe(now - sequence.last_at)
        sequence.last_at = now


def describe_work(sequence: GenerationRequest, chunk: Chunk) -> tuple[int, int, bool]:
    """Return (new tokens, start, is prompt) of a chunk; output that is computed anew is prompt."""
    size = len(chunk.tokens)
    return size, chunk.start, size > 1 or chunk.start < len(sequence.prompt)
