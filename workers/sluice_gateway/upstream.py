"""Carries one attempt: sends the request to a worker, and brings back its answer or its stream.

A stream that began on another worker is carried on in legs: requests for what is still missing.

Whatever goes wrong with the worker leaves here as a `Fault`; whatever goes wrong with the client
leaves as `ClientLostError`. Nothing is retried here.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sluice_gateway import names
from sluice_gateway.answers import Answer, answer_bad_gateway
from sluice_gateway.attempts import Attempt
from sluice_gateway.calls import Call
from sluice_gateway.continuation import (
    CONTINUE_PATH,
    CannotGoOnError,
    begin_transcript,
    end_full_choices,
    plan_leg,
)
from sluice_gateway.events import EventSplitter, StreamProgress
from sluice_gateway.faults import explain_status, tell_left, tell_lost, tell_nonsense, tell_refused
from sluice_gateway.keptconnections import ConnectError, KeptConnections
from sluice_gateway.pace import Phase
from sluice_gateway.responses import (
    begin_progress,
    check_stream,
    note_maker,
    read_body,
    read_tail,
    read_whole_usage,
)
from sluice_gateway.retries import Fault, FaultKind
from sluice_gateway.settings import Relaying
from sluice_gateway.soundness import StreamError, shape_error
from sluice_gateway.transcript import Leg, Transcript
from sluice_gateway.workerconnection import BrokenConnectionError, WorkerResponse

_BUFFERED_SECONDS: Final = 0.005
"""Data that came sooner than this had been lying in a buffer, and says nothing of the worker now;
tokens come further apart."""
_ERROR_BYTES: Final = 64 << 10
_OURS: Final = frozenset({401, 403, 404, 405, 408})
"""Statuses that speak of how the gateway asked, or of the wrong server; never of the request."""

_NO_ENDPOINT: Final = frozenset({404, 405, 501})
"""How a server says that it knows nothing of an endpoint."""
_OTHER_MODEL: Final = b'"model_not_found"'
"""What an answer has that speaks of the model instead."""


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

    @property
    def can_write(self) -> bool:
        """Whether `write` may be called."""

    def write(self, data: bytes) -> bool:
        """Write at once; return whether the client keeps up."""

    async def end(self) -> None:
        """End the response properly."""


@dataclass(slots=True)
class _Flow:
    """A stream on its way from a worker's answer to a client."""

    attempt: Attempt
    progress: StreamProgress
    splitter: EventSplitter
    client: ClientStream
    on_progress: Callable[[bool], None]
    has_ended: Callable[[], bool]

    def take(self, data: bytes, now: float) -> tuple[bytes, bool]:
        """Return what a client gets of what came, and whether the stream got on."""
        before = self.progress.token_events
        out = self.progress.take(self.splitter.feed(data), now)
        return out, self.progress.done or self.progress.token_events > before

    def must_stop(self) -> bool:
        """Return whether it has ended, went wrong, or should go on elsewhere."""
        return self.has_ended() or self.progress.failure is not None or bool(self.attempt.leave_why)


class Upstream:
    """Talks to workers.

    Args:
        connections: For all requests to workers.
        slow_reader_seconds: How long a client may take nothing of what is written to it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        connections: KeptConnections,
        *,
        relaying: Relaying,
        slow_reader_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._connections = connections
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
        response: WorkerResponse | None = None
        try:
            async with asyncio.timeout(None) as scope:
                with attempt.guarded_by(scope):
                    if attempt.cause:
                        await self._go_on(attempt, call, request_id, client, on_progress)
                        return None
                    response = await self._open(
                        attempt, call.path, call.body, request_id, streaming=call.streaming
                    )
                    if response.status != 200 or not call.streaming:  # noqa: PLR2004
                        answer = await self._fetch_whole(attempt, call, response)
                        if answer.status == 200:  # noqa: PLR2004
                            # To refuse a wrong request takes no engine: it may hang all the same.
                            on_progress(True)  # noqa: FBT003 - a callback's argument
                        return answer
                    await self._follow(attempt, call, response, client, on_progress)
            await read_tail(response)
        except ConnectError as error:
            raise tell_lost("connect", str(error)) from error
        except BrokenConnectionError as error:
            raise tell_lost("reset", f"the connection broke: {error}") from error
        except TimeoutError as error:
            raise self._explain_lateness(attempt) from error
        finally:
            if response is not None:
                response.release()  # closes the connection unless it was read to its end
        return None

    async def _open(
        self, attempt: Attempt, path: str, body: bytes, request_id: str, *, streaming: bool
    ) -> WorkerResponse:
        """Send a request; return the worker's response, known to come from the right pod."""
        pod = attempt.worker.pod
        relaying = self._relaying
        limit = relaying.first_token_seconds if streaming else relaying.whole_seconds
        attempt.deadline = attempt.dispatched + limit
        headers = {
            **pod.render_headers(),
            **(attempt.trace.render_headers() if attempt.trace else {}),
            names.HEADER_REQUEST_ID: request_id,
        }
        response = await self._connections.post(pod.url, path, body, headers)
        answering = response.find_header(names.HEADER_WORKER_UID)
        if pod.is_other(answering) or response.status == 421:  # noqa: PLR2004
            response.release()
            raise tell_lost("fenced", f"pod {answering[:40]} answers at the address of {pod.uid}")
        echoed = response.find_header(names.HEADER_REQUEST_ID)
        if answering and echoed and echoed != request_id:
            response.release()
            raise tell_lost("misdirected", "what came was the answer to another request")
        return response

    async def _fetch_whole(self, attempt: Attempt, call: Call, response: WorkerResponse) -> Answer:
        """Read an answer that does not stream, and judge it."""
        status = response.status
        most = self._relaying.answer_bytes if status == 200 else _ERROR_BYTES  # noqa: PLR2004
        body = await read_body(response, most)
        if status == 200:  # noqa: PLR2004
            attempt.usage = read_whole_usage(call, body)
            return Answer(status, body)
        if status >= 500 or status < 400 or status in _OURS or status == 429:  # noqa: PLR2004
            raise explain_status(response, body, hold_most=self._relaying.refusal_hold_most)
        return Answer(status, shape_error(body, status))

    async def _follow(
        self,
        attempt: Attempt,
        call: Call,
        response: WorkerResponse,
        client: ClientStream,
        on_progress: Callable[[bool], None],
    ) -> None:
        """Relay a stream until the worker ends it."""
        check_stream(response)
        transcript = attempt.transcript = begin_transcript(call)
        transcript.maker = note_maker(attempt.worker, response)
        progress = attempt.progress = begin_progress(call, transcript)
        await self._relay_events(attempt, response, client, on_progress, lambda: progress.done)
        self._await_client(attempt)
        await client.end()

    async def _go_on(
        self,
        attempt: Attempt,
        call: Call,
        request_id: str,
        client: ClientStream,
        on_progress: Callable[[bool], None],
    ) -> None:
        """Carry a stream that began elsewhere to its end, in as many legs as it takes.

        The end of a leg is not the stream's: what ends that is written here.
        """
        transcript = attempt.transcript
        if transcript is None:
            raise ValueError("an attempt goes on with a stream of which there is no transcript")
        while not transcript.complete:
            if not attempt.worker.continues:
                await self._send(attempt, client, end_full_choices(call, transcript))
                if transcript.complete:
                    break
            try:
                leg = plan_leg(call, transcript, foreign=not attempt.worker.continues)
            except CannotGoOnError as error:
                raise tell_refused(str(error)) from error
            attempt.begin_leg(self._clock())
            response = await self._open(attempt, leg.path, leg.body, request_id, streaming=True)
            try:
                if not await self._begin_leg(attempt, transcript, leg, response):
                    continue
                attempt.progress = begin_progress(call, transcript)
                await self._relay_events(
                    attempt, response, client, on_progress, lambda: transcript.leg_complete
                )
            finally:
                response.release()
        self._await_client(attempt)
        await client.send(transcript.render_end())
        await client.end()

    async def _begin_leg(
        self, attempt: Attempt, transcript: Transcript, leg: Leg, response: WorkerResponse
    ) -> bool:
        """Judge how a worker answered the request of a leg.

        Returns:
            False if it has no such endpoint, and should be asked as any other server is.

        Raises:
            Fault: If it does not go on. To refuse this stream says nothing against it.
        """
        status = response.status
        if status != 200:  # noqa: PLR2004
            body = await read_body(response, _ERROR_BYTES)
            if status in _NO_ENDPOINT and leg.path == CONTINUE_PATH and _OTHER_MODEL not in body:
                attempt.worker.continues = False
                return False
            if 400 <= status < 500 and status != 429:  # noqa: PLR2004
                raise tell_refused(f"the worker answered {status}")
            raise explain_status(response, body, hold_most=self._relaying.refusal_hold_most)
        check_stream(response)
        exact = transcript.begin_leg(leg, note_maker(attempt.worker, response))
        attempt.exact = exact and attempt.exact is not False
        return True

    async def _relay_events(
        self,
        attempt: Attempt,
        response: WorkerResponse,
        client: ClientStream,
        on_progress: Callable[[bool], None],
        has_ended: Callable[[], bool],
    ) -> None:
        """Pass events on to the client until the last that is wanted has come."""
        progress = attempt.progress
        if progress is None:
            raise ValueError("a stream is relayed without a record of its progress")
        splitter = EventSplitter(most_bytes=self._relaying.event_bytes)
        flow = _Flow(attempt, progress, splitter, client, on_progress, has_ended)
        try:
            while not has_ended():
                await self._relay_some(flow, response)
                if attempt.begun and client.can_write and not flow.must_stop():
                    await self._pour(flow, response)
                if progress.failure is not None:
                    raise progress.failure
                if attempt.leave_why and not has_ended() and (why := attempt.find_way_out()):
                    raise tell_left(why)
        except StreamError as error:
            raise tell_nonsense(str(error), body=error.body) from error

    async def _relay_some(self, flow: "_Flow", response: WorkerResponse) -> None:
        """Wait for some of a stream, and for its client to take that."""
        attempt = flow.attempt
        asked = self._clock()
        data = await response.read()
        if not data:
            raise tell_lost("truncated", "the stream ended without [DONE]")
        now = self._clock()
        out, got_on = flow.take(data, now)
        if got_on:
            # Before the first token nobody was slow to read: it came only now.
            flow.on_progress(not attempt.begun or now - asked >= _BUFFERED_SECONDS)
        awaited = attempt.phase, attempt.waiting_since, attempt.deadline
        await self._send(attempt, flow.client, out)
        if got_on:
            self._await_next(attempt, self._clock())
        elif out:  # a comment: its worker is waited for as before
            attempt.await_again(*awaited, pause=self._clock() - now)

    async def _pour(self, flow: "_Flow", response: WorkerResponse) -> None:
        """Pass events on as they come, with no task between, while nobody has to be waited for."""
        attempt, at = flow.attempt, self._clock()

        def take(data: bytes) -> bool:
            nonlocal at
            before, at = at, self._clock()
            out, got_on = flow.take(data, at)
            if got_on:
                flow.on_progress(at - before >= _BUFFERED_SECONDS)
                self._await_next(attempt, at)
            keeps_up = not out or flow.client.write(out)
            return keeps_up and not flow.must_stop()

        await response.pour(take)
        awaited, began = (attempt.phase, attempt.waiting_since, attempt.deadline), self._clock()
        self._await_client(attempt)
        await flow.client.send(b"")  # waits only for a client that is behind
        attempt.await_again(*awaited, pause=self._clock() - began)

    def _await_next(self, attempt: Attempt, now: float) -> None:
        """Note that the worker's next token is waited for."""
        attempt.phase = Phase.NEXT
        attempt.waiting_since = now
        attempt.deadline = now + self._relaying.idle_stream_seconds

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
            return tell_lost("probes_failed", attempt.cut_why)
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
