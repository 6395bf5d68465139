"""Completions, chats, and streams that go on here after they broke off elsewhere."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog
from aiohttp import web

from sluice_worker.answers import Answer, StreamedAnswer, WholeAnswer
from sluice_worker.engine import Emission, Engine, GenerationRequest
from sluice_worker.errors import RequestError
from sluice_worker.incoming import REQUEST_ID_HEADER, explain, pick_request_id, read_body
from sluice_worker.metrics import Metrics, Times
from sluice_worker.outputs import Output
from sluice_worker.parsing import check_body, parse_request
from sluice_worker.protocol import (
    ChatOptions,
    ChatRequest,
    CompletionOptions,
    CompletionRequest,
    ContinuedChoice,
    ContinueRequest,
)
from sluice_worker.sampling import GREEDY_BELOW, SamplingParams
from sluice_worker.shapes import ChatShape, CompletionShape, Shape
from sluice_worker.tokens import StopRule, TextStream, Vocabulary

log = structlog.get_logger()

DEFAULT_TOKENS = 16
"""Output tokens of a completion that asks for none, as in OpenAI's API."""
DEFAULT_CHAT_TOKENS = 64

SCORES_MOST = 1 << 18
"""Log-probabilities of prompt tokens in one answer, which is held as a whole: 20 MB of JSON."""

Options = CompletionOptions | ChatOptions


class Completions:
    """Answers what asks the model for tokens.

    Args:
        model: name that requests must give.
        require_engine: returns the engine, or raises a `RequestError` while nothing is served.
        headers: of every answer.
        seed: of the seeds of requests that bring none; None for ones that nobody can foresee.
    """

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        metrics: Metrics,
        require_engine: Callable[[], Engine],
        headers: Mapping[str, str],
        seed: int | None = None,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._require_engine = require_engine
        self._headers = headers
        self._random = random.SystemRandom() if seed is None else random.Random(seed)
        self._open: dict[GenerationRequest, tuple[Answer, Output]] = {}

    def take(self, emissions: Sequence[Emission]) -> None:
        """Take what a step brought; call within the event loop."""
        for emission in emissions:
            found = self._open.get(emission.sequence)
            if found is not None:
                answer, output = found
                answer.take(output, emission)

    def end_all(self) -> None:
        """End every request with an error; for when no engine will."""
        self.take([Emission(sequence, None, "error") for sequence in self._open])

    def check_model(self, model: str) -> None:
        """Refuse another model's name.

        Raises:
            RequestError: it is not served here (404).
        """
        if model != self._model:
            raise RequestError(
                f"the model {model[:64]!r} is not served here; {self._model!r} is",
                status=404,
                code="model_not_found",
                param="model",
            )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        asked = parse_request(CompletionRequest, await self._read(request))
        return await self._begin(request, asked, asked.list_prompts(), CompletionShape)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        asked = parse_request(ChatRequest, await self._read(request))
        messages = asked.list_messages()
        self._refuse_text(sum(len(one["content"]) for one in messages), "messages")
        prompt = self._vocabulary.encode_chat(messages)
        return await self._begin(request, asked, [prompt], ChatShape)

    async def go_on(self, request: web.Request) -> web.StreamResponse:
        """POST /internal/v1/continue."""
        body = parse_request(ContinueRequest, await self._read(request))
        is_chat = body.path == "/v1/chat/completions"
        asked: Options
        if is_chat:
            asked = check_body(ChatOptions, body.request)
        else:
            asked = check_body(CompletionOptions, body.request)
        self.check_model(asked.model)
        params = asked.sampling(self._find_limit(asked, body.prompt_token_ids), 0)
        if not asked.stream:
            raise RequestError(
                "request.stream is not true: only streams can go on", param="request"
            )
        if asked.seed is None and params.temperature >= GREEDY_BELOW:
            raise RequestError(
                "request.seed is missing: only with its seed can a stream go on as it would have",
                param="request",
            )
        shape = (ChatShape if is_chat else CompletionShape)(
            self._model, self._vocabulary, asked.details, (body.id, body.created)
        )
        outputs = [self._resume(asked, params, body, one) for one in body.choices]
        return await self._serve(request, asked, outputs, shape, len(body.prompt_token_ids))

    async def _read(self, request: web.Request) -> bytes:
        body = await read_body(request)
        self._require_engine().refuse_more()  # before work for it that would be in vain
        return body

    def _encode(self, prompt: str | list[int]) -> list[int]:
        if not prompt:
            raise RequestError("prompt is empty: give it a text or tokens", param="prompt")
        if not isinstance(prompt, str):
            return prompt
        self._refuse_text(len(prompt), "prompt")
        return self._vocabulary.encode_text(prompt)

    def _refuse_text(self, length: int, param: str) -> None:
        """Refuse a text that cannot fit the context before it takes the time to be tokens."""
        context = self._require_engine().context
        most = context * self._vocabulary.longest
        if length > most:
            raise RequestError(
                f"{param} has {length} characters; the context of {context} tokens has room for"
                f" {most} at the very most: shorten the prompt",
                code="context_length_exceeded",
                param=param,
            )

    async def _begin(
        self,
        request: web.Request,
        asked: Options,
        prompts: Sequence[str | list[int]],
        kind: type[Shape],
    ) -> web.StreamResponse:
        """Answer a request for each of its prompts."""
        self.check_model(asked.model)
        # Before work for each of what may be millions.
        self._require_engine().refuse_more(len(prompts) * asked.count)
        now, sampling = time.monotonic(), asked.sampling(0, self._random.getrandbits(63))
        outputs: list[Output] = []
        encoded = [self._encode(one) for one in prompts]
        _refuse_scores(asked, sum(map(len, encoded)))
        for prompt in encoded:
            params = replace(sampling, max_tokens=self._find_limit(asked, prompt))
            for choice in range(asked.count):
                sequence = GenerationRequest(
                    prompt, params, now, choice=choice, priority=asked.priority
                )
                outputs.append(self._open_output(len(outputs), asked, sequence))
        self._metrics.choices.observe(asked.count)
        shape = kind(self._model, self._vocabulary, asked.details)
        return await self._serve(request, asked, outputs, shape, sum(map(len, encoded)))

    def _find_limit(self, asked: Options, prompt: Sequence[int]) -> int:
        """Return how many output tokens a request may have; a default only fills the context.

        Raises:
            RequestError: more than fit, or fewer than other fields ask for.
        """
        engine, limit = self._require_engine(), asked.limit
        if limit is None:
            default = DEFAULT_CHAT_TOKENS if isinstance(asked, ChatOptions) else DEFAULT_TOKENS
            limit = max(1, min(default, engine.context - len(prompt)))
        elif not limit and not asked.echoes and asked.prompt_logprobs is None:
            raise RequestError(
                "max_tokens is 0: it should be at least 1, except in a request for echo or"
                " prompt_logprobs",
                param="max_tokens",
            )
        engine.refuse_long(len(prompt), limit)
        if asked.min_tokens > limit:
            raise RequestError(
                f"min_tokens is {asked.min_tokens}: it should be at most max_tokens, {limit}",
                param="min_tokens",
            )
        return limit

    def _open_output(self, index: int, asked: Options, sequence: GenerationRequest) -> Output:
        params = sequence.params
        rule = StopRule(params.stop, params.include_stop, params.min_tokens)
        prompt = sequence.prompt[: sequence.prompt_length]
        echo = self._vocabulary.decode(prompt) if asked.echoes else None
        return Output(index, sequence, TextStream(self._vocabulary, rule), echo)

    def _resume(
        self, asked: Options, params: SamplingParams, body: ContinueRequest, one: ContinuedChoice
    ) -> Output:
        """Return the output of a choice that broke off."""
        if len(one.token_ids) > params.max_tokens:
            raise RequestError(
                f"choices: index {one.index} has {len(one.token_ids)} tokens; max_tokens is"
                f" {params.max_tokens}",
                param="choices",
            )
        if one.token_ids:  # the prompt and its scores have been sent
            params = replace(params, prompt_logprobs=None)
        sequence = GenerationRequest(
            [*body.prompt_token_ids, *one.token_ids],
            params,
            time.monotonic(),
            choice=one.index % asked.count,
            priority=asked.priority,
            continued=len(one.token_ids),
        )
        output = self._open_output(one.index, asked, sequence)
        output.resume(one.token_ids, one.characters)
        return output

    async def _serve(
        self,
        request: web.Request,
        asked: Options,
        outputs: Sequence[Output],
        shape: Shape,
        prompt_tokens: int,
    ) -> web.StreamResponse:
        """Have the engine make the outputs, and send them."""
        engine, given = self._require_engine(), pick_request_id(request)
        answer: Answer
        if asked.stream:
            answer = StreamedAnswer(
                shape,
                outputs,
                engine.cancel,
                prompt_tokens,
                with_usage=asked.include_usage,
                explain=explain,
            )
        else:
            answer = WholeAnswer(shape, outputs, engine.cancel, prompt_tokens)
        for output in outputs:
            if last := output.end_resumed():
                answer.give(output, last)
        left = [one for one in outputs if one.finish is None]
        engine.submit_all([one.sequence for one in left])
        self._open |= {one.sequence: (answer, one) for one in left}
        try:
            named = {REQUEST_ID_HEADER: given} if given else {}
            return await answer.serve(request, {**self._headers, **named})
        finally:
            for one in left:
                del self._open[one.sequence]
                engine.cancel(one.sequence)
            self._note_end(given or shape.id, outputs)

    def _note_end(self, request_id: str, outputs: Sequence[Output]) -> None:
        """Count a request's sequences and write its one line: sizes and times, never texts."""
        now = time.monotonic()
        for output in outputs:
            # What the client was told counts; a stop text may be found in the token at the limit.
            sequence = output.sequence
            self._metrics.note_end(
                output.finish or "abort",
                prompt=sequence.prompt_length,
                output=output.tokens,
                limit=sequence.params.max_tokens,
                times=Times(
                    sequence.arrived,
                    sequence.started_at,
                    sequence.first_at,
                    sequence.last_at,
                ),
            )
        first = outputs[0].sequence
        began = min((o.sequence.first_at for o in outputs if o.sequence.first_at), default=None)
        log.info(
            "request",
            request_id=request_id,
            choices=len(outputs),
            prompt_tokens=first.prompt_length,
            output_tokens=sum(output.tokens for output in outputs),
            continued=sum(output.sequence.continued for output in outputs),
            finish="+".join(sorted({output.finish or "abort" for output in outputs})),
            ttft_ms=None if began is None else round(1000 * (began - first.arrived)),
            total_ms=round(1000 * (now - first.arrived)),
        )


def _refuse_scores(asked: Options, tokens: int) -> None:
    """Refuse a request whose prompts' log-probabilities would fill the memory.

    Args:
        asked: What it asks for.
        tokens: Of all its prompts.

    Raises:
        RequestError: There are too many.
    """
    if asked.prompt_logprobs is None:
        return
    scores = tokens * asked.count * (1 + asked.prompt_logprobs)
    if scores > SCORES_MOST:
        raise RequestError(
            f"prompt_logprobs: {scores} log-probabilities of prompt tokens, at most {SCORES_MOST}"
            " in one answer: ask for fewer prompts, choices or likeliest tokens",
            param="prompt_logprobs",
        )
