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

from sluice_worker.checkpoint import Array
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import DeviceError, RequestError
from sluice_worker.knownanswers import POSITIONS
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import DeviceCall, Pacer
from sluice_worker.sampling import Drawn, Sampler, SamplingParams
from sluice_worker.scores import TokenScore, score_tokens

log = structlog.get_logger()

IDLE_BEAT = 0.5
"""Seconds between heartbeats while there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Emission:
    """One output token of a sequence, or its end (`finish` is stop, length or error).

    Attributes:
        score: of the token, if the request asks for it.
        ended_by: the stop token that ended it, if one did; the model's end token is none.
    """

    sequence: "GenerationRequest"
    token: int | None
    finish: str | None
    score: TokenScore | None = None
    ended_by: int | None = None


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """One request on its way through the engine.

    Attributes:
        prompt: what comes first; for an output that began elsewhere, that beginning, too.
        done: prompt and output tokens whose keys and values are in the cache.
        arrived, first_at, last_at: monotonic times of arrival, first and latest token.
        started_at: when the first step with it began.
        cancelled: nobody wants it any more; it leaves at the next step.
        probe: it has the slot that is kept for known answers, and is no client's.
        choice: which of several outputs of one prompt.
        priority: as in vLLM, lower comes first.
        continued: how many tokens at the end of `prompt` are output that exists already.
        sampler: draws its tokens; made when it is submitted.
        prompt_scores: of each token of the prompt, if asked for; the first has none.
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
    choice: int = 0
    priority: int = 0
    continued: int = 0
    started_at: float | None = None
    sampler: Sampler | None = None
    prompt_scores: list[TokenScore | None] = field(default_factory=list)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt alone."""
        return len(self.prompt) - self.continued

    @property
    def is_scored(self) -> bool:
        """Tell whether the next step needs the logits after every token of its chunk."""
        return self.params.prompt_logprobs is not None and self.is_prefill

    def score_prompt(self, logits: Array, start: int) -> None:
        """Note the scores of prompt tokens by the logits (tokens, vocabulary) from `start` on."""
        if not self.prompt_scores:
            self.prompt_scores = [None] * len(self.prompt)
        tokens = self.prompt[start + 1 : start + 1 + len(logits)]
        scores = score_tokens(logits[: len(tokens)], tokens, self.params.prompt_logprobs or 0)
        self.prompt_scores[start + 1 : start + 1 + len(tokens)] = scores

    def draw(self, logits: Array) -> Drawn | None:
        """Return the next token by the logits (vocabulary,), None if no output is wanted."""
        assert self.sampler is not None  # noqa: S101  # `submit` has made it
        return self.sampler.draw(logits) if self.params.max_tokens else None

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
        """Queue a request; raises what `submit_all` does."""
        sequence = GenerationRequest(prompt, params, time.monotonic())
        self.submit_all([sequence])
        return sequence

    def submit_all(self, sequences: Sequence[GenerationRequest]) -> None:
        """Queue the sequences of one request, all or none.

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
            self._waiting.extend(sequences)
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify()

    def refuse_more(self, sequences: int = 1) -> None:
        """Refuse so many sequences if they cannot wait.

        Raises:
            RequestError: now (429), or ever (400).
        """
        waiting, most = len(self._waiting), self._limits.waiting
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

        Raises:
            RequestError: it does not fit the slot, another one runs (429), or nobody would ever run
                it (503).
        """
        params = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=max_tokens)
        sequence = GenerationRequest(
            prompt, params, time.monotonic(), cache=self._probe_cache, probe=True
        )
        self._check(sequence, min(self.context, POSITIONS))
        self._prepare(sequence)
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

    def _check(self, sequence: GenerationRequest, context: int) -> None:
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
        if sequence.prompt_length + params.max_tokens > context:
            raise RequestError(
                f"{sequence.prompt_length} prompt tokens and max_tokens {params.max_tokens} are"
                f" more than the context of {context}: shorten the prompt or lower max_tokens",
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
            return False
        self._pacer.begin()
        self._note_start(chunks)
        self._decoder.disturb = self._pacer.devices.disturb
        logits = self._decoder.run([chunk for _, chunk in chunks])
        # All tokens are drawn before any is accepted: if one fails, no sequence has ended unseen.
        drawn = []
        row = 0
        for sequence, chunk in chunks:
            rows = logits[row : row + chunk.rows]
            row += chunk.rows
            if chunk.score:
                sequence.score_prompt(rows, chunk.start)
            sequence.done += len(chunk.tokens)
            if not sequence.is_prefill:
                drawn.append((sequence, sequence.draw(rows[-1])))
        self._pacer.finish([(len(c.tokens), c.start, c.start < len(s.prompt)) for s, c in chunks])
        emissions = [self._accept(*one) for one in drawn]
        now = time.monotonic()
        intervals = [_note_time(one.sequence, now) for one in emissions]
        self._emit(emissions)  # before what can wait until the tokens are on their way
        self._note(chunks, emissions, intervals)
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
                chunk = Chunk(tokens, sequence.done, sequence.cache, sequence.is_scored)
                chunks.append((sequence, chunk))
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
            self._leave(sequence)
        return Emission(sequence, token, reason, score, ended_by)

    def _leave(self, sequence: GenerationRequest) -> None:
        if sequence is self._probe:
            self._probe = None
            return
        self._running.remove(sequence)
        if sequence.cache is not None:
            self._free.append(sequence.cache)
            sequence.cache = None

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
