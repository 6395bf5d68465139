"""The HTTP server: routes, health, metrics; the engine's thread is beside it."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sluice_worker.completions import Completions
from sluice_worker.engine import Emission, Engine, GenerationRequest
from sluice_worker.errors import EngineFailedError, RequestError
from sluice_worker.incoming import (
    MAX_BODY,
    MODEL_HEADER,
    NUMERICS_HEADER,
    REQUEST_ID_HEADER,
    UID_HEADER,
    bound_patience,
    check_key,
    explain,
    fence,
    pick_request_id,
    read_body,
)
from sluice_worker.knownanswers import KnownAnswers
from sluice_worker.metrics import Metrics
from sluice_worker.parsing import Json, describe_error, parse_request
from sluice_worker.protocol import KnownPromptRequest
from sluice_worker.tokenizing import Tokenizing
from sluice_worker.tokens import Vocabulary
from sluice_worker.watchdog import LOOK_EVERY, Watchdog

log = structlog.get_logger()

WRITE_SECONDS = 0.002
"""How long a step may wait until its tokens were written, where the device leaves time for it."""
OPEN_PATHS = frozenset({"/health", "/healthz", "/readyz", "/metrics"})
"""What needs no API key."""
ELSEWHERE = {
    "/v1/responses": "use /v1/chat/completions",
    "/v1/embeddings": "this model only makes text",
    "/v1/audio/speech": "this model only makes text",
    "/v1/audio/transcriptions": "this model only reads text",
    "/v1/images/generations": "this model only makes text",
    "/v1/moderations": "this model only makes text",
    "/v1/rerank": "this model only makes text",
}
"""Endpoints of OpenAI and vLLM that are not here, and what to do."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who serves.

    Attributes:
        model: name that requests must give.
        uid: uid of the pod, "" outside of one; fences requests meant for another pod.
        key: that requests must bring, "" if none.
        seed: of the seeds of requests that bring none; None for ones that nobody can foresee.
        emulation: what it emulates, as it is told beside the model; None for nothing.
    """

    model: str
    uid: str = ""
    key: str = ""
    seed: int | None = None
    emulation: Json | None = None


class Server:
    """Answers requests through one engine.

    Args:
        identity: who serves.
        vocabulary: tokenizer.
        metrics: what /metrics shows.
        known: the model's known answers.

    Attributes:
        not_ready: why nothing is served, "" while it is.
    """

    def __init__(
        self, identity: Identity, vocabulary: Vocabulary, metrics: Metrics, known: KnownAnswers
    ) -> None:
        self._identity = identity
        self._vocabulary = vocabulary
        self._metrics = metrics
        self.known = known
        self._engine: Engine | None = None
        self._watchdog: Watchdog | None = None
        self._watch: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._completions = Completions(
            identity.model,
            vocabulary,
            metrics,
            self._require_engine,
            {
                UID_HEADER: identity.uid,
                NUMERICS_HEADER: known.numerics,
                MODEL_HEADER: known.digest,
            },
            identity.seed,
        )
        self._written = threading.Event()
        self._tokenizing = Tokenizing(
            vocabulary, self._completions.check_model, self._require_engine
        )
        self._probes: dict[GenerationRequest, asyncio.Future[str]] = {}
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
        """Take what a step brought; called from the engine's thread.

        Where the device leaves time, this waits until the tokens are on their way: the engine
        would hold the interpreter, and on a small machine the processor, just when the loop needs
        them.
        """
        if not emissions or self._loop is None or self._loop.is_closed():
            return
        self._written.clear()
        self._loop.call_soon_threadsafe(self._dispatch, emissions)
        if self._engine is not None and self._engine.has_time:
            self._written.wait(WRITE_SECONDS)

    def _dispatch(self, emissions: Sequence[Emission]) -> None:
        self._completions.take(emissions)
        self._written.set()
        for emission in emissions:
            if emission.finish is not None and emission.sequence.probe:
                self._end_probe(emission.sequence, emission.finish)

    def _end_probe(self, sequence: GenerationRequest, finish: str) -> None:
        ended = self._probes.get(sequence)
        if ended is not None and not ended.done():
            ended.set_result(finish)

    def end_requests(self) -> None:
        """End every request with an error; for when no engine will; call within the event loop."""
        self._completions.end_all()
        for sequence in self._probes:
            self._end_probe(sequence, "error")

    def make_app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.on_cleanup.extend([self._stop_watching, self._tokenizing.close])
        app.add_routes(
            [
                web.post("/v1/completions", self._completions.complete),
                web.post("/v1/chat/completions", self._completions.chat),
                web.post("/internal/v1/continue", self._completions.go_on),
                web.get("/v1/models", self._list_models),
                web.get("/v1/models/{model}", self._show_model),
                web.post("/tokenize", self._tokenizing.tokenize),
                web.post("/detokenize", self._tokenizing.detokenize),
                web.get("/internal/known-answers", self._list_known_answers),
                web.post("/internal/known-answers", self._answer_known),
                web.get("/health", self._healthz),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show_metrics),
                *(web.post(path, self._refuse_endpoint) for path in ELSEWHERE),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bound patience, fence by uid, ask for the key, and turn errors into OpenAI's bodies."""
        try:
            bound_patience(request)
            fence(request, self._identity.uid)
            if self._identity.key and request.path not in OPEN_PATHS:
                check_key(request, self._identity.key)
            response = await handler(request)
        except ConnectionResetError:
            raise  # the client has gone, which is no fault
        except Exception as error:  # noqa: BLE001  # everybody gets a body, nobody a traceback
            told = explain(error, request)
            headers = {"Retry-After": str(told.retry_after)} if told.retry_after else {}
            response = web.json_response(describe_error(told), status=told.status, headers=headers)
        if not response.prepared:
            response.headers[UID_HEADER] = self._identity.uid
            if given := pick_request_id(request):
                response.headers[REQUEST_ID_HEADER] = given
        return response

    def find_fault(self) -> str:
        """Return what is wrong with the engine, "" if nothing is."""
        return self._watchdog.find_fault() if self._watchdog is not None else ""

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
        self._completions.check_model(request.match_info["model"])
        return web.json_response(self._describe_model())

    def _describe_model(self) -> Json:
        emulation = self._identity.emulation
        return {
            "id": self._identity.model,
            "object": "model",
            "created": self._started,
            "owned_by": "sluice",
            "max_model_len": self._engine.context if self._engine is not None else None,
            **({"emulation": emulation} if emulation is not None else {}),
        }

    async def _refuse_endpoint(self, request: web.Request) -> web.Response:
        await read_body(request)
        raise RequestError(
            f"{request.path} is not served here: {ELSEWHERE[request.path]}",
            status=404,
            code="unsupported_endpoint",
        )

    async def _list_known_answers(self, _: web.Request) -> web.Response:
        if self.known.unavailable:
            raise RequestError(self.known.unavailable, status=404, code="no_known_answers")
        answers = [asdict(one) for one in self.known.answers]
        return web.json_response(
            {**self._describe_known(), "tolerance": self.known.tolerance, "answers": answers}
        )

    async def _answer_known(self, request: web.Request) -> web.Response:
        """Answer any short prompt greedily and score it; whoever asks finds out whether rightly."""
        asked = parse_request(KnownPromptRequest, await read_body(request))
        engine = self._require_engine()
        sequence = engine.submit_probe(list(asked.prompt), asked.max_tokens)
        ended = self._probes[sequence] = asyncio.get_running_loop().create_future()
        try:
            if await ended == "error":
                raise EngineFailedError
        finally:
            del self._probes[sequence]
            engine.cancel(sequence)
        self._metrics.known_answers.inc()
        scores = [one and one.logprob for one in sequence.prompt_scores[1:]]
        return web.json_response(
            {**self._describe_known(), "output": sequence.output, "logprobs": scores}
        )

    def _describe_known(self) -> Json:
        return {"modelDigest": self.known.digest, "numerics": self.known.numerics}
