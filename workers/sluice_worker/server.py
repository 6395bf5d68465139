"""The HTTP server: OpenAI's API, health, metrics; the engine's thread is beside it."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sluice_worker.engine import Emission, Engine, GenerationRequest
from sluice_worker.errors import RequestError
from sluice_worker.knownanswers import KnownAnswers
from sluice_worker.metrics import Metrics
from sluice_worker.outputs import Output
from sluice_worker.protocol import (
    ChatRequest,
    CompletionRequest,
    Json,
    KnownPromptRequest,
    describe_error,
    describe_usage,
    parse_request,
)
from sluice_worker.shapes import ChatShape, CompletionShape, Shape
from sluice_worker.tokens import TextStream, Vocabulary
from sluice_worker.watchdog import LOOK_EVERY, Watchdog

log = structlog.get_logger()

UID_HEADER = "X-Sluice-Worker-Uid"
REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a request id may look like to be taken over; the same as at the gateway."""
DEFAULT_TOKENS = 16
"""Output tokens of a completion that asks for none, as in OpenAI's API."""
DEFAULT_CHAT_TOKENS = 64
MAX_BODY = 1 << 18
"""Bytes of a request; to read more would hold the probes up for longer than they wait."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers requests through one engine.

    Args:
        model: name that requests must give.
        uid: uid of the pod, "" outside of one; fences requests meant for another pod.
        vocabulary: tokenizer.
        metrics: what /metrics shows.
        known: the model's known answers.

    Attributes:
        not_ready: why nothing is served, "" while it is.
    """

    def __init__(
        self,
        model: str,
        uid: str,
        vocabulary: Vocabulary,
        metrics: Metrics,
        known: KnownAnswers,
    ) -> None:
        self._model = model
        self._uid = uid
        self._vocabulary = vocabulary
        self._metrics = metrics
        self.known = known
        self._engine: Engine | None = None
        self._watchdog: Watchdog | None = None
        self._watch: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outputs: dict[GenerationRequest, Output] = {}
        self._started = int(time.time())
        self.not_ready = "starting"

    def attach(self, engine: Engine) -> None:
        """Serve with this engine from now on; call within the event loop."""
        self._engine = engine
        self._watchdog = Watchdog(engine)
        self._loop = asyncio.get_running_loop()
        self._watch = self._loop.create_task(self._watch_device(self._watchdog))

    async def _watch_device(self, watchdog: Watchdog) -> None:
        told = ""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            watchdog.look()
            fault = watchdog.find_fault()
            if bool(fault) != bool(told):
                log.warning("fault found" if fault else "healthy again", fault=fault or told)
            told = fault

    async def _stop_watching(self, _: web.Application) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def emit(self, emissions: Sequence[Emission]) -> None:
        """Take what a step brought; called from the engine's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, emissions)

    def _dispatch(self, emissions: Sequence[Emission]) -> None:
        for emission in emissions:
            output = self._outputs.get(emission.sequence)
            if output is not None:
                output.put(emission)

    def end_requests(self) -> None:
        """End every request with an error; for when no engine will; call within the event loop."""
        for sequence, output in self._outputs.items():
            output.put(Emission(sequence, None, "error"))

    def make_app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.on_cleanup.append(self._stop_watching)
        app.add_routes(
            [
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._list_models),
                web.get("/v1/models/{model}", self._show_model),
                web.get("/internal/known-answers", self._list_known_answers),
                web.post("/internal/known-answers", self._answer_known),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show_metrics),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Fence by uid, and turn errors into OpenAI's bodies."""
        try:
            self._fence(request)
            response = await handler(request)
        except ConnectionResetError:
            raise  # the client has gone, which is no fault
        except Exception as error:  # noqa: BLE001  # everybody gets a body, nobody a traceback
            told = _explain(error, request)
            headers = {"Retry-After": str(told.retry_after)} if told.retry_after else {}
            response = web.json_response(describe_error(told), status=told.status, headers=headers)
        if not response.prepared:
            response.headers[UID_HEADER] = self._uid
        return response

    def _fence(self, request: web.Request) -> None:
        """Refuse what is meant for another pod: addresses are used again."""
        meant = request.headers.get(UID_HEADER, self._uid)
        if meant != self._uid:
            raise RequestError(
                f"this is worker {self._uid or 'without uid'}, not {meant[:64]}",
                status=421,
                code="misdirected",
            )

    def find_fault(self) -> str:
        """Return what is wrong with the engine, "" if nothing is."""
        return self._watchdog.find_fault() if self._watchdog is not None else ""

    async def _healthz(self, _: web.Request) -> web.Response:
        fault = self.find_fault()
        return web.Response(status=503 if fault else 200, text=fault or "ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self.not_ready or self.find_fault()
        return web.Response(status=503 if reason else 200, text=reason or "ok")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _list_models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._describe_model()]})

    async def _show_model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["model"])
        return web.json_response(self._describe_model())

    def _describe_model(self) -> Json:
        return {
            "id": self._model,
            "object": "model",
            "created": self._started,
            "owned_by": "sluice",
        }

    async def _list_known_answers(self, _: web.Request) -> web.Response:
        if self.known.unavailable:
            raise RequestError(self.known.unavailable, status=404, code="no_known_answers")
        answers = [asdict(one) for one in self.known.answers]
        return web.json_response({**self._describe_known(), "answers": answers})

    async def _answer_known(self, request: web.Request) -> web.Response:
        """Answer any short prompt greedily; whether rightly, whoever asks finds out."""
        asked = parse_request(KnownPromptRequest, await request.read())
        engine = self._require_engine()
        sequence = engine.submit_probe(list(asked.prompt), asked.max_tokens)
        output = Output(None)
        self._outputs[sequence] = output
        try:
            async for _ in output.follow():
                pass
        finally:
            del self._outputs[sequence]
            engine.cancel(sequence)
        self._metrics.known_answers.inc()
        return web.json_response({**self._describe_known(), "output": sequence.output})

    def _describe_known(self) -> Json:
        return {"modelDigest": self.known.digest, "numerics": self.known.numerics}

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = parse_request(CompletionRequest, await request.read())
        prompt = asked.prompt
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
            if len(prompt) != 1:
                raise RequestError("prompt: one text a request is supported", param="prompt")
            prompt = prompt[0]
        tokens = (
            self._vocabulary.encode_text(prompt)
            if isinstance(prompt, str)
            else [int(one) for one in prompt]
        )
        limit = asked.max_tokens or self._fit(DEFAULT_TOKENS, tokens)
        return await self._answer(request, asked, tokens, limit, CompletionShape(self._model))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = parse_request(ChatRequest, await request.read())
        messages = [{"role": one.role, "content": one.text()} for one in asked.messages]
        tokens = self._vocabulary.encode_chat(messages)
        limit = asked.max_completion_tokens or asked.max_tokens
        limit = limit or self._fit(DEFAULT_CHAT_TOKENS, tokens)
        return await self._answer(request, asked, tokens, limit, ChatShape(self._model))

    def _fit(self, limit: int, tokens: list[int]) -> int:
        """Return a default of output tokens, or what of it the context leaves."""
        return max(1, min(limit, self._require_engine().context - len(tokens)))

    async def _answer(
        self,
        request: web.Request,
        asked: CompletionRequest | ChatRequest,
        tokens: list[int],
        max_tokens: int,
        shape: Shape,
    ) -> web.StreamResponse:
        self._check_model(asked.model)
        engine = self._require_engine()
        if not tokens:
            raise RequestError("prompt is empty: give it a text", param="prompt")
        params = asked.sampling(max_tokens, uuid.uuid4().int & (2**63 - 1))
        sequence = engine.submit(tokens, params)
        output = Output(TextStream(self._vocabulary, params.stop))
        self._outputs[sequence] = output
        try:
            if asked.stream:
                return await self._stream(
                    request, output, shape, len(tokens) if asked.include_usage else None
                )
            text = "".join([piece async for piece in output.follow()])
            usage = describe_usage(len(tokens), output.tokens)
            return web.json_response(shape.whole(text, output.finish or "stop", usage))
        finally:
            del self._outputs[sequence]
            engine.cancel(sequence)
            self._note_end(_pick_request_id(request) or shape.id, sequence, output)

    def _note_end(self, request_id: str, sequence: GenerationRequest, output: Output) -> None:
        """Count a request and write its one line: sizes and times, never texts."""
        # What the client was told counts; a stop text may be found in the token at the limit.
        finish = output.finish or "abort"
        first, last = sequence.first_at, sequence.last_at or time.monotonic()
        seconds = last - sequence.arrived
        self._metrics.note_end(finish, len(sequence.prompt), output.tokens, seconds)
        log.info(
            "request",
            request_id=request_id,
            prompt_tokens=len(sequence.prompt),
            output_tokens=output.tokens,
            finish=finish,
            ttft_ms=None if first is None else round(1000 * (first - sequence.arrived)),
            total_ms=round(1000 * (time.monotonic() - sequence.arrived)),
        )

    def _check_model(self, model: str) -> None:
        if model != self._model:
            raise RequestError(
                f"the model {model[:64]!r} is not served here; {self._model!r} is",
                status=404,
                code="model_not_found",
                param="model",
            )

    def _require_engine(self) -> Engine:
        reason = self.not_ready or self.find_fault()
        if self._engine is None or reason:
            raise RequestError(
                f"this worker is not ready: {reason or 'starting'}",
                status=503,
                code="not_ready",
                retry_after=1,
            )
        return self._engine

    async def _stream(
        self, request: web.Request, output: Output, shape: Shape, prompt_tokens: int | None
    ) -> web.StreamResponse:
        """Send server-sent events; a chunk for every token, so that clients can time them.

        The answer begins with the first token, so that whatever fails before has a status.
        `prompt_tokens` is given if the stream shall end with token counts.
        """
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                UID_HEADER: self._uid,
            }
        )
        try:
            async for piece in output.follow():
                chunks = [shape.chunk(piece, output.finish)]
                if not response.prepared:
                    await response.prepare(request)
                    chunks = [*shape.begin(), *chunks]
                await response.write(b"".join(_write_event(chunk) for chunk in chunks))
        except ConnectionResetError:
            raise
        except Exception as error:
            if not response.prepared:
                raise
            await response.write(_write_event(describe_error(_explain(error, request))))
            return response
        end = b"data: [DONE]\n\n"
        if prompt_tokens is not None:
            end = _write_event(shape.usage(describe_usage(prompt_tokens, output.tokens))) + end
        await response.write(end)
        await response.write_eof()
        return response


def _pick_request_id(request: web.Request) -> str:
    """Return the id that the client gave its request, "" if none or none to put into a log."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else ""


def _explain(error: Exception, request: web.Request) -> RequestError:
    """Return what a client is told of an error; a mistake of ours goes to the log."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        told = f"the body is larger than {MAX_BODY} bytes: shorten the prompt"
        return RequestError(told, status=error.status)
    if isinstance(error, web.HTTPException):
        told = f"{request.method} {request.path[:64]}: {error.reason}"
        return RequestError(told, status=error.status)
    if isinstance(error, web.RequestPayloadError):
        return RequestError("the body is not in the encoding that its headers name")
    log.error("a request failed", path=request.path, error=type(error).__name__, exc_info=error)
    return RequestError("this server made a mistake", status=500, code="internal_error")


def _write_event(chunk: Json) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
