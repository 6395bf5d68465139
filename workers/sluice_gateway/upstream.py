"""Carries one attempt: sends the request to a worker, and brings back its answer or its stream.

Whatever goes wrong with the worker leaves here as a `Fault`; whatever goes wrong with the client
leaves as `ClientLostError`. Nothing is retried here.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import aiohttp

from sluice_gateway import names
from sluice_gateway.answers import JSON_TYPE, Answer, answer_bad_gateway
from sluice_gateway.attempts import Attempt
from sluice_gateway.calls import Call
from sluice_gateway.events import EventSplitter, StreamError, StreamProgress
from sluice_gateway.pace import Phase
from sluice_gateway.retries import Fault, FaultKind
from sluice_gateway.settings import Relaying

_EVENT_STREAM: Final = "text/event-stream"
_TAIL_SECONDS: Final = 0.5
_BUFFERED_SECONDS: Final = 0.005
"""Data that came sooner than this had been lying in a buffer, and says nothing of the worker now;
tokens come further apart."""
_ERROR_BYTES: Final = 64 << 10
_RETRY_AFTER_MOST: Final = 3600.0
_OURS: Final = frozenset({401, 403, 404, 405, 408})
"""Statuses that speak of how the gateway asked, or of the wrong server; never of the request."""


class ClientLostError(Exception):
    """The client went away, or takes nothing of what is written to it.

    Attributes:
        outcome: `cancelled` or `slow_reader`.
    """

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class ClientStream(Protocol):
    """The client's end of a stream."""

    async def send(self, data: bytes) -> None:
        """Write; the first call also begins the response. Waits while the client is slow."""

    async def end(self) -> None:
        """End the response properly."""


class Upstream:
    """Talks to workers.

    Args:
        session: For all requests to workers.
        slow_reader_seconds: How long a client may take nothing of what is written to it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        relaying: Relaying,
        slow_reader_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._relaying = relaying
        self._slow_reader_seconds = slow_reader_seconds
        self._clock = clock

    async def carry(
        self,
        attempt: Attempt,
        call: Call,
        request_id: str,
        client: ClientStream,
        on_progress: Callable[[bool], None],
    ) -> Answer | None:
        """Run an attempt to its end.

        Args:
            attempt: Names the worker; its `progress` is kept up to date.
            call: What to send.
            request_id: Goes to the worker, too.
            client: Gets the stream, if it is one.
            on_progress: Called when the worker gave a whole answer, and whenever tokens of it
                came; with whether it has sent them only now. What a slow client left lying in the
                buffers goes on coming for a while from a worker that is dead.

        Returns:
            The whole answer, still to be sent; or None if it was streamed to the client.

        Raises:
            Fault: If the worker failed. `attempt.begun` says whether the client knows.
            ClientLostError: If the client did.
        """
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(None) as scope:
                with attempt.guarded_by(scope):
                    response = await self._open(attempt, call, request_id)
                    if response.status != 200 or not call.streaming:  # noqa: PLR2004
                        answer = await self._fetch_whole(attempt, call, response)
                        if answer.status == 200:  # noqa: PLR2004
                            # To refuse a wrong request takes no engine: it may hang all the same.
                            on_progress(True)  # noqa: FBT003 - a callback's argument
                        return answer
                    await self._follow(attempt, call, response, client, on_progress)
            await _read_tail(response)
        except aiohttp.ClientConnectorError as error:
            raise _lost("connect", f"cannot connect: {error.os_error}") from error
        except aiohttp.ConnectionTimeoutError as error:
            seconds = self._relaying.connect_seconds
            raise _lost("connect", f"no connection within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise _lost("reset", f"the connection broke: {type(error).__name__}") from error
        except TimeoutError as error:
            raise self._explain_lateness(attempt) from error
        except OSError as error:
            raise _lost("reset", f"the connection broke: {error.strerror}") from error
        finally:
            if response is not None:
                response.release()  # closes the connection unless it was read to its end
        return None

    async def _open(self, attempt: Attempt, call: Call, request_id: str) -> aiohttp.ClientResponse:
        """Send the request; return the worker's response, known to come from the right pod."""
        pod = attempt.worker.pod
        relaying = self._relaying
        limit = relaying.first_token_seconds if call.streaming else relaying.whole_seconds
        attempt.deadline = attempt.dispatched + limit
        response = await self._session.post(
            f"{pod.url}{call.path}",
            data=call.body,
            headers={
                "Content-Type": JSON_TYPE,
                "Accept-Encoding": "identity",
                **pod.render_headers(),
                **(attempt.trace.render_headers() if attempt.trace else {}),
                names.HEADER_REQUEST_ID: request_id,
            },
            allow_redirects=False,
        )
        answering = response.headers.get(names.HEADER_WORKER_UID, "")
        if pod.is_other(answering) or response.status == 421:  # noqa: PLR2004
            response.close()
            raise _lost("fenced", f"pod {answering[:40]} answers at the address of {pod.uid}")
        return response

    async def _fetch_whole(
        self, attempt: Attempt, call: Call, response: aiohttp.ClientResponse
    ) -> Answer:
        """Read an answer that does not stream, and judge it."""
        status = response.status
        most = self._relaying.answer_bytes if status == 200 else _ERROR_BYTES  # noqa: PLR2004
        body = await _read_body(response, most)
        if status == 200:  # noqa: PLR2004
            attempt.progress = StreamProgress(wants_usage=call.wants_usage)
            attempt.progress.usage = _read_usage(body)
        elif status >= 500 or status < 400 or status in _OURS or status == 429:  # noqa: PLR2004
            raise self._explain_status(response, body)
        return Answer(status, body, response.content_type)

    async def _follow(
        self,
        attempt: Attempt,
        call: Call,
        response: aiohttp.ClientResponse,
        client: ClientStream,
        on_progress: Callable[[bool], None],
    ) -> None:
        """Relay a stream until the worker ends it."""
        if response.content_type != _EVENT_STREAM:
            raise _nonsense(f"content type {response.content_type} instead of a stream")
        progress = attempt.progress = StreamProgress(wants_usage=call.wants_usage)
        splitter = EventSplitter(most_bytes=self._relaying.event_bytes)
        try:
            while not progress.done:
                asked = self._clock()
                data = await response.content.readany()
                if not data:
                    raise _lost("truncated", "the stream ended without [DONE]")
                now = self._clock()
                out = progress.take(splitter.feed(data), now)
                if progress.begun:
                    # Before the first token nobody was slow to read: it came only now.
                    on_progress(not attempt.begun or now - asked >= _BUFFERED_SECONDS)
                    await self._send(attempt, client, out)
                    attempt.phase = Phase.NEXT
                    attempt.waiting_since = self._clock()
                    attempt.deadline = attempt.waiting_since + self._relaying.idle_stream_seconds
                if progress.failure is not None:
                    raise progress.failure
        except StreamError as error:
            raise _nonsense(str(error), body=error.body) from error
        self._await_client(attempt)
        await client.end()

    async def _send(self, attempt: Attempt, client: ClientStream, data: bytes) -> None:
        if not data:
            return
        attempt.begun = True
        self._await_client(attempt)
        await client.send(data)

    def _await_client(self, attempt: Attempt) -> None:
        """Note that from now on the client is waited for, not the worker."""
        attempt.phase = Phase.CLIENT
        attempt.deadline = self._clock() + self._slow_reader_seconds

    def _explain_lateness(self, attempt: Attempt) -> Fault | ClientLostError:
        """Say why an attempt was ended from outside."""
        if attempt.cut_why:
            return _lost("probes_failed", attempt.cut_why)
        if attempt.phase is Phase.CLIENT:
            return ClientLostError("slow_reader")
        if attempt.silent_why:
            answer = answer_bad_gateway(attempt.silent_why, code="worker_silent", status=504)
            return Fault(FaultKind.SILENT, "silent", attempt.silent_why, answer=answer)
        seconds = self._clock() - attempt.dispatched
        message = f"the worker gave nothing for too long, {seconds:.1f} s after the dispatch"
        code = "late" if attempt.phase is Phase.FIRST else "stream_idle"
        answer = answer_bad_gateway(message, code=code, status=504)
        return Fault(FaultKind.LATE, code, message, answer=answer)

    def _explain_status(self, response: aiohttp.ClientResponse, body: bytes) -> Fault:
        """Turn an error status of a worker into a fault."""
        status = response.status
        message = f"the worker answered {status}"
        if status in (429, 503):
            after = _read_retry_after(response)
            answer = Answer(status, _pick_error(body, message), retry_after=max(1, round(after)))
            hold = min(after, self._relaying.refusal_hold_most)
            return Fault(FaultKind.REFUSED, f"refused_{status}", message, answer=answer, hold=hold)
        own = status >= 500  # noqa: PLR2004
        answer = Answer(status if own else 502, _pick_error(body, message))
        return Fault(FaultKind.ERROR, "status", message, answer=answer)


def _lost(code: str, message: str) -> Fault:
    answer = answer_bad_gateway(f"the worker was lost: {message}", code="worker_lost")
    return Fault(FaultKind.LOST, code, message, answer=answer)


def _nonsense(message: str, *, body: bytes = b"") -> Fault:
    answer = answer_bad_gateway(f"the worker's answer is no use: {message}", code="worker_error")
    if body:
        answer = Answer(answer.status, body)
    return Fault(FaultKind.ERROR, "nonsense", message, answer=answer)


def _read_retry_after(response: aiohttp.ClientResponse) -> float:
    """Return the worker's Retry-After in seconds; 1 if it gave none that can be read.

    Never more than an hour: no number is too large for a header.
    """
    text = response.headers.get("Retry-After", "")
    return min(float(text), _RETRY_AFTER_MOST) if text.isascii() and text.isdigit() else 1.0


def _pick_error(body: bytes, message: str) -> bytes:
    """Return a worker's OpenAI error body, or one of our own if it sent none."""
    with suppress(ValueError, AttributeError, RecursionError):
        if json.loads(body).get("error"):
            return body
    return answer_bad_gateway(message, code="worker_error").body


def _read_usage(body: bytes) -> dict[str, object]:
    """Return the usage of a whole answer.

    Raises:
        Fault: If the body is not an answer at all, a 200 with an error inside included.
    """
    try:
        document = json.loads(body)
        choices = document["choices"]
        usage = document.get("usage")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _nonsense("a 200 without choices") from error
    if document.get("error") or not isinstance(choices, list):
        raise _nonsense("an error in a 200")
    return usage if isinstance(usage, dict) else {}


async def _read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > most:
            raise _nonsense(f"more than {most} bytes")
    return b"".join(parts)


async def _read_tail(response: aiohttp.ClientResponse) -> None:
    """Read to the end of a finished stream, so that its connection can be used again."""
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_TAIL_SECONDS):
            while await response.content.readany():
                pass
