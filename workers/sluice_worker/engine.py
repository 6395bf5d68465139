"""The engine: continuous batching with chunked prefill, in a thread of its own.

`step` is the loop: schedule, run, sample, emit. Whatever the batch, a sequence gets the tokens it
would get alone (`decoder`), so scheduling is free to do what is fast.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import DeviceError, RequestError
from sluice_worker.knownanswers import POSITIONS
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import DeviceCall, Pacer
from sluice_worker.sampling import SamplingParams, choose_token

log = structlog.get_logger()

IDLE_BEAT = 0.25
"""Seconds between two heartbeats, and touches of the devices, while there is nothing to do."""


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

    @property
    def is_prefill(self) -> bool:
        """Tell whether prompt tokens are still to be computed."""
        return self.done < len(self.prompt)


@dataclass(frozen=True, slots=True)
class Limits:
    """Sequences at once, prompt tokens a step, and requests that may wait.

    One sequence more, of at most `knownanswers.POSITIONS` tokens, can always run: a known answer.
    """

    sequences: int
    batched_tokens: int
    waiting: int


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
        self._waiting: deque[GenerationRequest] = deque()
        self._running: list[GenerationRequest] = []
        self._free: list[KeyValueCache] = []
        self._probe: GenerationRequest | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self.context = decoder.config.max_position_embeddings
        # Made now: for want of memory, a busy worker would otherwise fail what nobody asked for.
        self._probe_cache = KeyValueCache(decoder.config, min(self.context, POSITIONS))
        self._positions = self.context * limits.sequences
        metrics.tell_cache_size(self.context, limits.sequences)
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
            return len(self._running) + len(self._waiting) + (self._probe is not None)

    def submit(self, prompt: list[int], params: SamplingParams) -> GenerationRequest:
        """Queue a request.

        Raises:
            RequestError: it does not fit the context, too many wait (429), or nobody would ever
                run it (503).
        """
        self._check(prompt, params, self.context)
        sequence = GenerationRequest(prompt, params, time.monotonic())
        with self._changed:
            self._refuse_ended()
            if len(self._waiting) >= self._limits.waiting:
                raise RequestError(
                    f"{len(self._waiting)} requests wait already: try again later",
                    status=429,
                    code="rate_limit_exceeded",
                    retry_after=1,
                )
            self._waiting.append(sequence)
            self._metrics.waiting.set(len(self._waiting))
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
            if self._probe is not None:
                raise RequestError(
                    "another known prompt is being answered: ask one at a time",
                    status=429,
                    code="rate_limit_exceeded",
                    retry_after=1,
                )
            self._probe = sequence
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
        """Forget a sequence, if it has not ended; its slot is free from the next step on."""
        with self._changed:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            sequence.cancelled = True
            self._changed.notify()

    def _run_forever(self) -> None:
        try:
            while not self._stopping:
                self.beat = time.monotonic()
                if not self.step():
                    with self._changed:
                        if not (self._waiting or self._probe or self._stopping):
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
            lost = [*self._running, *self._waiting]
            if self._probe is not None:
                lost.append(self._probe)
                self._probe = None
            self._running.clear()
            self._waiting.clear()
        self._emit([Emission(sequence, None, "error") for sequence in lost])

    def step(self) -> bool:
        """Run one step: schedule, run, sample, emit; False when there was nothing to do."""
        chunks = self._schedule()
        if not chunks:
            self._pacer.rest()
            self._pacer.touch()
            return False
        self._pacer.begin()
        self._decoder.disturb = self._pacer.devices.disturb
        logits = self._decoder.run([chunk for _, chunk in chunks])
        # All tokens are drawn before any is accepted: if one fails, no sequence has ended unseen.
        drawn = []
        for (sequence, chunk), row in zip(chunks, logits, strict=True):
            sequence.done += len(chunk.tokens)
            if not sequence.is_prefill:
                position = len(sequence.prompt) + len(sequence.output)
                drawn.append((sequence, choose_token(row, sequence.params, position)))
        self._pacer.finish([(len(c.tokens), c.start, c.start < len(s.prompt)) for s, c in chunks])
        emissions = [self._accept(sequence, token) for sequence, token in drawn]
        self._note(chunks, emissions)
        self._emit(emissions)
        return True

    def _schedule(self) -> list[tuple[GenerationRequest, Chunk]]:
        """Choose what the next step computes: a token for all that decode, then prompt chunks.

        A known prompt comes first: it is short, and whoever asks tells a slow answer from none.
        """
        self._admit()
        chunks = []
        budget = self._limits.batched_tokens
        probe = self._probe  # another thread may set it meanwhile
        for sequence in [*([probe] if probe else []), *self._running]:
            assert sequence.cache is not None  # noqa: S101  # _admit has given it one
            if sequence.is_prefill:
                tokens = sequence.prompt[sequence.done : sequence.done + budget]
                budget -= len(tokens)
            else:
                tokens = [sequence.output[-1]]
            if tokens:
                chunks.append((sequence, Chunk(tokens, sequence.done, sequence.cache)))
        return chunks

    def _admit(self) -> None:
        """Drop what was cancelled or has ended, and let waiting sequences in."""
        with self._changed:
            for sequence in [one for one in self._running if one.cancelled]:
                self._leave(sequence)
            if self._probe is not None and self._probe.cancelled:
                self._leave(self._probe)
            while self._waiting and len(self._running) < self._limits.sequences:
                # The cache first: without memory for it, the sequence is still among the waiting.
                cache = (
                    self._free.pop()
                    if self._free
                    else KeyValueCache(self._decoder.config, self.context)
                )
                sequence = self._waiting.popleft()
                sequence.cache = cache
                self._running.append(sequence)
            self._metrics.running.set(len(self._running))
            self._metrics.waiting.set(len(self._waiting))
            used = sum(sequence.done for sequence in self._running)
            self._metrics.cache.set(used / self._positions)

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
            self._leave(sequence)
        return Emission(sequence, token, reason)

    def _leave(self, sequence: GenerationRequest) -> None:
        if sequence is self._probe:
            self._probe = None
            return
        self._running.remove(sequence)
        if sequence.cache is not None:
            self._free.append(sequence.cache)
            sequence.cache = None

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
