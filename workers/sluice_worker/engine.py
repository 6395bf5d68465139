"""The engine: continuous batching with chunked prefill, in a thread of its own.

`step` is the loop: schedule, run, sample, emit. Whatever the batch, a sequence gets the tokens it
would get alone (`decoder`), so scheduling is free to do what is fast.
"""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import DeviceError, RequestError
from sluice_worker.knownanswers import POSITIONS
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import DeviceCall, Pacer
from sluice_worker.sampling import Drawn, Sampler, SamplingParams
from sluice_worker.scheduler import Limits, Scheduler
from sluice_worker.scores import TokenScore
from sluice_worker.sequences import Emission, GenerationRequest

__all__ = ["Emission", "Engine", "GenerationRequest", "Limits"]

log = structlog.get_logger()

IDLE_BEAT = 0.25
"""Seconds between two heartbeats, and touches of the devices, while there is nothing to do."""


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

    @property
    def has_time(self) -> bool:
        """Whether the device is slower than we are: a short wait delays no step."""
        return self._pacer.has_time

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
        """Queue a request; raises what `submit_all` does."""
        sequence = GenerationRequest(prompt, params, time.monotonic(), priority=priority)
        self.submit_all([sequence])
        return sequence

    def submit_all(self, sequences: Sequence[GenerationRequest]) -> None:
        """Queue the sequences of one request, all or none; lower `priority` comes first.

        Raises:
            RequestError: one does not fit the context, too many wait (429), or nobody would ever
                run them (503).
        """
        for sequence in sequences:
            self._check(sequence, self.context)
            self._prepare(sequence)
        with self._changed:
            self._refuse_ended()
            self.refuse_more(len(sequences))
            for sequence in sequences:
                self._scheduler.add(sequence)
            self._changed.notify()

    def refuse_more(self, sequences: int = 1) -> None:
        """Refuse so many sequences if they cannot wait.

        Raises:
            RequestError: now (429), or ever (400).
        """
        waiting, most = self._scheduler.waiting, self._limits.waiting
        if sequences > most:
            raise RequestError(
                f"the request asks for {sequences} outputs; at most {most} may wait here: ask for"
                " fewer at once",
                param="n",
            )
        if waiting + sequences > most:
            raise RequestError(
                f"{waiting} requests wait already: try again later",
                status=429,
                code="rate_limit_exceeded",
                retry_after=1,
            )

    def _prepare(self, sequence: GenerationRequest) -> None:
        config, split = self._decoder.config, sequence.prompt_length
        sequence.sampler = Sampler(
            sequence.params,
            sequence.prompt[:split],
            sequence.prompt[split:],
            choice=sequence.choice,
            end=config.eos_token_id,
            vocabulary=config.vocab_size,
        )
        if sequence.sampler.ends.intersection(sequence.prompt[split:]):
            raise RequestError(
                "choices: an output has a token that ended it; there is nothing to go on with",
                param="choices",
            )

    def submit_probe(self, prompt: list[int], max_tokens: int) -> GenerationRequest:
        """Run a known prompt, greedily, in the slot that is kept for it, from the next step on.

        Its tokens are scored in the steps that compute them anyhow.

        Raises:
            RequestError: it does not fit the slot, another one runs (429), or nobody would ever run
                it (503).
        """
        params = SamplingParams(
            temperature=0, top_p=1, seed=0, max_tokens=max_tokens, prompt_logprobs=0
        )
        sequence = GenerationRequest(
            prompt, params, time.monotonic(), cache=self._probe_cache, probe=True
        )
        self._check(sequence, min(self.context, POSITIONS))
        self._prepare(sequence)
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

    def refuse_long(self, prompt: int, limit: int, context: int | None = None) -> None:
        """Refuse so many prompt and output tokens if they do not fit.

        Raises:
            RequestError: they do not.
        """
        context = context or self.context
        if prompt + limit > context:
            raise RequestError(
                f"{prompt} prompt tokens and max_tokens {limit} are more than the context of"
                f" {context}: shorten the prompt or lower max_tokens",
                code="context_length_exceeded",
                param="max_tokens",
            )

    def _check(self, sequence: GenerationRequest, context: int) -> None:
        self.refuse_long(sequence.prompt_length, sequence.params.max_tokens, context)
        last, params = self._decoder.config.vocab_size - 1, sequence.params
        named = {
            "prompt": sequence.prompt,
            "stop_token_ids": params.stop_token_ids,
            "logit_bias": params.logit_bias,
        }
        for name, tokens in named.items():
            odd = next((token for token in tokens if not 0 <= token <= last), None)
            if odd is not None:
                raise RequestError(
                    f"{name} has the token {str(odd)[:20]}; the vocabulary ends at {last}",
                    param=name,
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
            self._pacer.touch()
            return False
        self._pacer.begin()
        self._note_start(chunks)
        self._decoder.disturb = self._pacer.devices.disturb
        logits = self._decoder.run_asked([chunk for _, chunk in chunks])
        with self._changed:
            self._scheduler.note_computed(chunks)
        # All tokens are drawn before any is accepted: if one fails, no sequence has ended unseen.
        drawn = []
        for (sequence, chunk), rows in zip(chunks, logits, strict=True):
            if sequence.cancelled:
                continue
            if chunk.every:
                sequence.score_prompt(rows, chunk.start)
            if not sequence.pending:
                drawn.append((sequence, sequence.draw(rows[-1])))
        self._pacer.finish([describe_work(sequence, chunk) for sequence, chunk in chunks])
        emissions = [self._accept(*one) for one in drawn if not one[0].cancelled]
        now = time.monotonic()
        intervals = [_note_time(one.sequence, now) for one in emissions]
        self._emit(emissions)  # before what can wait until the tokens are on their way
        self._note(chunks, emissions, intervals)
        return True

    def _accept(self, sequence: GenerationRequest, drawn: Drawn | None) -> Emission:
        """Take a drawn token; the end token ends the output and is not part of it."""
        params = sequence.params
        assert sequence.sampler is not None  # noqa: S101  # `submit` has made it
        if drawn is None:
            return self._end(sequence, None, "length")
        token, score = drawn.token, drawn.score
        if token in sequence.sampler.ends:
            stop = token if token in params.stop_token_ids else None
            if stop is None or not params.include_stop:
                return self._end(sequence, None, "stop", ended_by=stop)
            sequence.output.append(token)
            return self._end(sequence, token, "stop", score, stop)
        sequence.output.append(token)
        if sequence.continued + len(sequence.output) >= params.max_tokens:
            return self._end(sequence, token, "length", score)
        return Emission(sequence, token, None, score)

    def _end(
        self,
        sequence: GenerationRequest,
        token: int | None,
        reason: str,
        score: TokenScore | None = None,
        ended_by: int | None = None,
    ) -> Emission:
        with self._changed:
            self._scheduler.leave(sequence)
        return Emission(sequence, token, reason, score, ended_by)

    @staticmethod
    def _note_start(chunks: Sequence[tuple[GenerationRequest, Chunk]]) -> None:
        now = time.monotonic()
        for sequence, _ in chunks:
            if sequence.started_at is None:
                sequence.started_at = now

    def _note(
        self,
        chunks: Sequence[tuple[GenerationRequest, Chunk]],
        emissions: Sequence[Emission],
        intervals: Sequence[tuple[float | None, float | None]],
    ) -> None:
        """Count what a step did; of each emission, the times to and between tokens that it ends."""
        metrics = self._metrics
        asked = [(s, c) for s, c in chunks if c.start < len(s.prompt) and not s.probe]
        told = [one for one in emissions if not one.sequence.probe]
        prompt_tokens = sum(len(c.tokens) for _, c in asked)
        output_tokens = sum(one.token is not None for one in told)
        metrics.prompt_tokens.inc(prompt_tokens)
        metrics.output_tokens.inc(output_tokens)
        metrics.step_tokens.observe(prompt_tokens + output_tokens)
        metrics.steps.inc()
        metrics.overrun.inc(self._pacer.overran)
        metrics.late.observe(self._pacer.late)
        metrics.energy.inc(self._pacer.energy)
        for emission, (first, between) in zip(emissions, intervals, strict=True):
            if emission.sequence.probe:
                continue
            if first is not None:
                metrics.ttft.observe(first)
            elif between is not None:
                metrics.tpot.observe(between)


def _note_time(sequence: GenerationRequest, now: float) -> tuple[float | None, float | None]:
    """Note that a token has come; return the time to the first, or since the one before."""
    last, sequence.last_at = sequence.last_at, now
    if sequence.first_at is None:
        sequence.first_at = now
        return now - sequence.arrived, None
    return None, None if last is None else now - last


def describe_work(sequence: GenerationRequest, chunk: Chunk) -> tuple[int, int, bool]:
    """Return (new tokens, start, is prompt) of a chunk; output that is computed anew is prompt."""
    size = len(chunk.tokens)
    return size, chunk.start, size > 1 or chunk.start < len(sequence.prompt)
