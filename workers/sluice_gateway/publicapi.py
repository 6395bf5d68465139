"""The OpenAI API that clients see: completions, chat completions, models, health.

Every request comes in here and ends here: with an answer or a stream, one line in the log, and one
count in signals and metrics.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import uuid4

from aiohttp import HttpVersion10, HttpVersion11, web

from sluice_gateway import names
from sluice_gateway.access import Access
from sluice_gateway.answers import (
    Answer,
    Refusal,
    answer_unavailable,
    refuse_request,
    render_json,
)
from sluice_gateway.apikeys import ApiKey
from sluice_gateway.attempts import Exchange
from sluice_gateway.bodies import Bodies
from sluice_gateway.calls import ENDPOINTS, parse_call
from sluice_gateway.decisions import DecisionLog
from sluice_gateway.events import render_event
from sluice_gateway.goals import read_asked
from sluice_gateway.members import Pool
from sluice_gateway.metrics import Metrics
from sluice_gateway.relay import Relay
from sluice_gateway.requestlog import RequestLog
from sluice_gateway.signals import Signals
from sluice_gateway.tracer import Tracer
from sluice_gateway.upstream import ClientLostError

_HEALTH: Final = "/health"
"""Where load generators look whether a server is there before they begin, as vLLM has it."""
_MODELS: Final = "/v1/models"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLIENT_GONE: Final = 499
"""What logs and metrics say of a request whose client went away (nginx's number)."""
_CONCLUDE_SECONDS: Final = 1.0
_OVERLOAD: Final = frozenset({429, 503})

_Response = TypeVar("_Response", bound=web.StreamResponse)


class PublicApi:
    """Handles client requests.

    Args:
        is_synced: Whether pools and workers have been listed.
        is_draining: Whether the gateway is about to end: every answer then closes its connection,
            so that the client opens its next one to another gateway.
        names_workers: Whether headers of answers say whose they are.
        draw_seed: Returns a sampling seed for requests that have none.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
    """

    def __init__(
        self,
        relay: Relay,
        bodies: Bodies,
        *,
        access: Access,
        tracer: Tracer,
        signals: Signals,
        metrics: Metrics,
        request_log: RequestLog,
        decisions: DecisionLog,
        is_synced: Callable[[], bool],
        is_draining: Callable[[], bool],
        names_workers: bool,
        draw_seed: Callable[[], int],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._access = access
        self._tracer = tracer
        self._relay = relay
        self._bodies = bodies
        self._signals = signals
        self._metrics = metrics
        self._request_log = request_log
        self._decisions = decisions
        self._is_synced = is_synced
        self._is_draining = is_draining
        self._names_workers = names_workers
        self._draw_seed = draw_seed
        self._clock = clock
        self._wall = wall

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.path
        exchange = Exchange(
            request_id=pick_request_id(request),
            path=path if path in ENDPOINTS else "other",
            arrival=self._clock(),
            arrived_at=self._wall(),
            trace=self._tracer.begin(request.headers),
        )
        if request.version < HttpVersion10 or request.method == "CONNECT":
            return self._refuse_odd(exchange)
        if path in ENDPOINTS and request.method == "POST":
            return await self._complete(exchange, request)
        try:
            key = None if path == _HEALTH else self._access.identify(request.headers, exchange)
            answer = self._answer_plain(request.method, path, key)
        except Refusal as refusal:
            answer = refusal.answer
        self._metrics.requests.labels("", "", str(answer.status)).inc()
        return self._build_response(answer, exchange)

    def _refuse_odd(self, exchange: Exchange) -> web.StreamResponse:
        """Refuse what is no HTTP as we speak it, and read nothing of what comes after it."""
        message = "not a valid HTTP request: this is HTTP/1.1, and nothing is tunnelled"
        self._metrics.requests.labels("", "", "400").inc()
        response = self._build_response(refuse_request(message, code="bad_http"), exchange)
        response.force_close()
        return response

    async def _complete(self, exchange: Exchange, request: web.BaseRequest) -> web.StreamResponse:
        """Run a completion request, and account for it however it ends."""
        client = ResponseStream(request, lambda: self._begin_response(exchange))
        answer: Answer | None = None
        try:
            answer = await self._serve(exchange, request, client)
        except Refusal as refusal:
            answer = refusal.answer
            exchange.outcome = refusal.outcome
        except ClientLostError as lost:
            exchange.outcome = exchange.outcome or lost.outcome
            client.abort()
        except asyncio.CancelledError:
            exchange.outcome = exchange.outcome or "cancelled"
            raise
        finally:
            self._conclude(exchange, answer, client)
        if answer is None:
            return client.response or web.Response(status=500)
        if client.response is not None:  # it has been told to wait: the rest comes as an event
            await client.conclude(answer)
            return client.response
        return self._build_response(answer, exchange)

    def _begin_response(self, exchange: Exchange) -> web.StreamResponse:
        """Return an event stream's response, not yet begun."""
        headers = render_headers(exchange, names_worker=self._names_workers)
        headers["Content-Type"] = "text/event-stream; charset=utf-8"
        headers["Cache-Control"] = "no-cache"
        return self._keep_or_close(web.StreamResponse(headers=headers))

    def _build_response(self, answer: Answer, exchange: Exchange) -> web.Response:
        """Return aiohttp's form of a whole answer."""
        headers = render_headers(exchange, names_worker=self._names_workers)
        if answer.retry_after is not None:
            headers["Retry-After"] = str(answer.retry_after)
        response = web.Response(
            status=answer.status,
            body=answer.body,
            content_type=answer.content_type,
            headers=headers,
        )
        return self._keep_or_close(response)

    def _keep_or_close(self, response: _Response) -> _Response:
        if self._is_draining():
            response.force_close()
        return response

    async def _serve(
        self, exchange: Exchange, request: web.BaseRequest, client: "ResponseStream"
    ) -> Answer | None:
        with self._access.visit(request.headers, exchange) as visit:
            if not self._is_synced():
                raise _refuse_unready()
            exchange.asked = read_asked(request.headers)
            raw = await self._bodies.read(request)
            try:
                call = exchange.call = parse_call(request.path, raw, seed=self._draw_seed())
                visit.claim(call)
                return await self._relay.serve(exchange, call, client)
            finally:
                self._bodies.release(len(raw))

    def _conclude(
        self, exchange: Exchange, answer: Answer | None, client: "ResponseStream"
    ) -> None:
        """Count and log a request that has ended."""
        if not exchange.outcome:  # a bug of ours; the connection answers 500 and logs it
            exchange.outcome = "internal_error"
            exchange.status = 500
        elif answer is not None:
            exchange.status = answer.status
        else:
            exchange.status = client.response.status if client.response else _CLIENT_GONE
        pool, worker = exchange.pool, exchange.worker
        if pool is not None:
            self._signals.count_class(pool, exchange)
            self._metrics.count_class(pool.spec.key, exchange)
            if exchange.status in _OVERLOAD:
                self._signals.count_request(pool, "rejected")
            elif exchange.outcome == "broken" or exchange.status >= 500:  # noqa: PLR2004
                self._signals.count_request(pool, "failed")
        labels = (
            pool.spec.key if pool else "",
            worker.variant if worker else "",
            str(exchange.status),
        )
        self._metrics.requests.labels(*labels).inc()
        if pool is not None:
            self._metrics.note_end(pool.spec.key)
        self._decisions.add(exchange)
        self._request_log.write(exchange, duration=self._clock() - exchange.arrival)
        self._tracer.finish(exchange, self._wall())

    def _answer_plain(self, method: str, path: str, key: ApiKey | None) -> Answer:
        """Answer what is not a completion."""
        if path in ENDPOINTS:
            message = f"{path} takes POST, not {method[:20]}"
            return refuse_request(message, code="method_not_allowed", status=405)
        if path not in {_HEALTH, _MODELS} and not path.startswith(f"{_MODELS}/"):
            served = ", ".join([_HEALTH, _MODELS, *sorted(ENDPOINTS)])
            message = f"unknown path {path[:100]!r}; served: {served}"
            return refuse_request(message, code="unknown_url", status=404)
        if method != "GET":
            known = _HEALTH if path == _HEALTH else _MODELS
            message = f"{known} takes GET, not {method[:20]}"
            return refuse_request(message, code="method_not_allowed", status=405)
        if not self._is_synced():
            raise _refuse_unready()
        return render_json({"status": "ok"}) if path == _HEALTH else self._answer_models(path, key)

    def _answer_models(self, path: str, key: ApiKey | None) -> Answer:
        """Answer with the list of models that a key may use, or with one of them."""
        if path == _MODELS:
            data = [describe_model(pool) for pool in self._access.list_pools(key)]
            return render_json({"object": "list", "data": data})
        pool = self._access.find_pool(key, path.removeprefix(f"{_MODELS}/"))
        return render_json(describe_model(pool))


class ResponseStream:
    """A client's end of an event stream.

    Args:
        begin_response: Returns the response with its headers, when the first event is due.

    Attributes:
        response: Set when it has begun.
    """

    def __init__(
        self, request: web.BaseRequest, begin_response: Callable[[], web.StreamResponse]
    ) -> None:
        self._request = request
        self._begin_response = begin_response
        self.response: web.StreamResponse | None = None
        self._connection: web.RequestHandler | None = None

    async def send(self, data: bytes) -> None:
        """Write; the first call also begins the response. Waits while the client is slow.

        Raises:
            ClientLostError: If the client is gone.
        """
        try:
            if self.can_write:
                if not self.write(data):
                    await self._request.writer.drain()
                return
            if self.response is None:
                self.response = self._begin_response()
                if self._request.version < HttpVersion11:
                    self.response.force_close()  # nothing else tells where its body ends
                await self.response.prepare(self._request)
            await self.response.write(data)
            if self.response.headers.get("Transfer-Encoding") == "chunked":  # not in HTTP/1.0
                self._connection = self._request.protocol
        except ConnectionError as error:
            raise ClientLostError("cancelled") from error

    @property
    def can_write(self) -> bool:
        """Whether `write` may be called: the response has begun, and is made of chunks."""
        return self._connection is not None

    def write(self, data: bytes) -> bool:
        """Write one chunk, and return whether the client keeps up.

        As aiohttp's writer does, with a third of its work: every token comes by here.

        Raises:
            ClientLostError: If the client is gone.
        """
        connection = self._connection
        transport = connection.transport if connection is not None else None
        if connection is None or transport is None or transport.is_closing():
            raise ClientLostError("cancelled")
        if data:  # a chunk without any is the body's end
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return not connection.writing_paused

    async def end(self) -> None:
        """End the response properly.

        Raises:
            ClientLostError: If the client is gone.
        """
        if self.response is None:
            return
        try:
            await self.response.write_eof()
        except ConnectionError as error:
            raise ClientLostError("cancelled") from error

    async def conclude(self, answer: Answer) -> None:
        """End a response that has begun with what would have been the whole answer."""
        try:
            async with asyncio.timeout(_CONCLUDE_SECONDS):
                await self.send(render_event(answer.body))
                await self.end()
        except (ClientLostError, TimeoutError):
            self.abort()

    def abort(self) -> None:
        """Drop the connection without another word."""
        transport = self._request.transport
        if transport is not None:
            transport.abort()


def pick_request_id(request: web.BaseRequest) -> str:
    """Return the client's request id if it is a decent one, else a new one."""
    given = request.headers.get(names.HEADER_REQUEST_ID, "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid4().hex}"


def render_headers(exchange: Exchange, *, names_worker: bool) -> dict[str, str]:
    """Return the headers that every answer carries, and whose it is if that is to be told."""
    headers = {names.HEADER_REQUEST_ID: exchange.request_id, **exchange.headers}
    worker = exchange.worker
    if worker is not None and names_worker:
        headers[names.HEADER_WORKER] = worker.pod.name
        headers[names.HEADER_CLASS] = worker.variant
        headers[names.HEADER_ATTEMPTS] = str(len(exchange.attempts))
    return headers


def describe_model(pool: Pool) -> dict[str, object]:
    """Return OpenAI's model object for a pool."""
    spec = pool.spec
    return {
        "id": spec.model,
        "object": "model",
        "created": int(spec.created),
        "owned_by": "sluice",
    }


def _refuse_unready() -> Refusal:
    message = "the gateway does not know yet which models there are"
    return Refusal(answer_unavailable(message, code="not_ready", retry_after=2), "not_ready")
