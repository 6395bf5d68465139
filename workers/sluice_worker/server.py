"""The HTTP server: OpenAI's API, health, metrics; the engine's thread is beside it."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sluice_worker.engine import Emission, Engine, GenerationRequest
from sluice_worker.errors import RequestError
from sluice_worker.metrics import Metrics
from sluice_worker.protocol import (
    ChatRequest,
    CompletionRequest,
    Json,
    describe_error,
    describe_usage,
    parse_request,
)
from sluice_worker.sampling import SamplingParams
from sluice_worker.shapes import ChatShape, CompletionShape, Shape
from sluice_worker.tokens import TextStream, Vocabulary

log = structlog.get_logger()

UID_HEADER = "X-Sluice-Worker-Uid"
DEFAULT_CHAT_TOKENS = 64
STUCK_AFTER = 10.0
"""Seconds without a step, while there is work, after which the engine counts as stuck."""
MAX_BODY = 1 << 20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers requests through one engine.

    Args:
        model: name that requests must give.
        uid: uid of the pod, "" outside of one; fences requests meant for another pod.
        vocabulary: tokenizer.
        metrics: what /metrics shows.
    """

    def __init__(self, model: str, uid: str, vocabulary: Vocabulary, metrics: Metrics) -> None:
        self._model = model
        self._uid = uid
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outputs: dict[GenerationRequest, asyncio.Queue[Emission]] = {}
        self._started = int(time.time())
        self.not_ready = "starting"

    def attach(self, engine: Engine) -> None:
        """Serve with this engine from now on; call within the event loop."""
        self._engine = engine
        self._loop = asyncio.get_running_loop()

    def emit(self, emissions: Sequence[Emission]) -> None:
        """Take what a step brought; called from the engine's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, emissions)

    def _dispatch(self, emissions: Sequence[Emission]) -> None:
        for emission in emissions:
            queue = self._outputs.get(emission.sequence)
            if queue is not None:
                queue.put_nowait(emission)

    def make_app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._list_models),
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
        except RequestError as error:
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
            response = web.json_response(
                describe_error(error), status=error.status, headers=headers
            )
        except web.HTTPException as error:
            wrapped = RequestError(error.reason, status=error.status, code="invalid_request")
            response = web.json_response(describe_error(wrapped), status=error.status)
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

    async def _healthz(self, _: web.Request) -> web.Response:
        engine = self._engine
        if engine is None:
            return web.Response(text="loading")
        if not engine.is_alive():
            return web.Response(status=503, text="the engine's thread has ended")
        silent = time.monotonic() - engine.beat
        if silent > STUCK_AFTER:
            return web.Response(status=503, text=f"no step for {silent:.0f} s")
        return web.Response(text="ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.not_ready else 200, text=self.not_ready or "ok")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _list_models(self, _: web.Request) -> web.Response:
        entry = {
            "id": self._model,
            "object": "model",
            "created": self._started,
            "owned_by": "sluice",
        }
        return web.json_response({"object": "list", "data": [entry]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = parse_request(CompletionRequest, await request.read())
        prompt = asked.prompt
        if isinstance(prompt, list) and all(isinstance(one, str) for one in prompt):
            if len(prompt) != 1:
                raise RequestError("prompt: one text a request is supported", param="prompt")
            prompt = str(prompt[0])
        tokens = self._vocabulary.encode_text(prompt) if isinstance(prompt, str) else prompt
        params = asked.sampling(asked.max_tokens or 16, uuid.uuid4().int & (2**63 - 1))
        shape = CompletionShape(self._model)
        return await self._answer(request, asked, [int(one) for one in tokens], params, shape)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = parse_request(ChatRequest, await request.read())
        messages = [{"role": one.role, "content": one.text()} for one in asked.messages]
        tokens = self._vocabulary.encode_chat(messages)
        limit = asked.max_completion_tokens or asked.max_tokens or DEFAULT_CHAT_TOKENS
        params = asked.sampling(limit, uuid.uuid4().int & (2**63 - 1))
        return await self._answer(request, asked, tokens, params, ChatShape(self._model))

    async def _answer(
        self,
        request: web.Request,
        asked: CompletionRequest | ChatRequest,
        tokens: list[int],
        params: SamplingParams,
        shape: Shape,
    ) -> web.StreamResponse:
        engine = self._check(asked.model, tokens)
        sequence = engine.submit(tokens, params)
        queue: asyncio.Queue[Emission] = asyncio.Queue()
        self._outputs[sequence] = queue
        pieces = self._follow(queue, TextStream(self._vocabulary, params.stop))
        try:
            if asked.stream:
                return await self._stream(request, pieces, shape, sequence, asked.include_usage)
            text, reason = "", "length"
            async for piece, finish in pieces:
                text += piece
                reason = finish or reason
            usage = describe_usage(len(tokens), len(sequence.output))
            return web.json_response(shape.whole(text, reason, usage))
        finally:
            del self._outputs[sequence]
            engine.cancel(sequence)

    def _check(self, model: str, tokens: list[int]) -> Engine:
        if model != self._model:
            raise RequestError(
                f"the model {model[:64]!r} is not served here; {self._model!r} is",
                status=404,
                code="model_not_found",
                param="model",
            )
        if self._engine is None or self.not_ready:
            raise RequestError(
                f"this worker is {self.not_ready or 'starting'}",
                status=503,
                code="not_ready",
                retry_after=1,
            )
        if not tokens:
            raise RequestError("prompt: it is empty", param="prompt")
        return self._engine

    @staticmethod
    async def _follow(
        queue: asyncio.Queue[Emission], text: TextStream
    ) -> AsyncIterator[tuple[str, str | None]]:
        """Yield (text, None) as it comes, and last (text, why it ended)."""
        while True:
            emission = await queue.get()
            piece = text.push(emission.token) if emission.token is not None else ""
            if text.stopped:
                yield piece, "stop"
                return
            if emission.finish is not None:
                yield piece + text.finish(), emission.finish
                return
            yield piece, None

    async def _stream(
        self,
        request: web.Request,
        pieces: AsyncIterator[tuple[str, str | None]],
        shape: Shape,
        sequence: GenerationRequest,
        include_usage: bool,  # noqa: FBT001
    ) -> web.StreamResponse:
        """Send server-sent events; a chunk for every token, so that clients can time them."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                UID_HEADER: self._uid,
            }
        )
        began = False
        async for piece, finish in pieces:
            if not began:
                await response.prepare(request)
                began = True
                for chunk in shape.begin():
                    await response.write(_event(chunk))
            await response.write(_event(shape.chunk(piece, finish)))
        if include_usage:
            usage = describe_usage(len(sequence.prompt), len(sequence.output))
            await response.write(_event(shape.usage(usage)))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _event(chunk: Json) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
