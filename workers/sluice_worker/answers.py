"""Answers on their way: from what the engine emits to a stream of events, or to one whole body."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from sluice_worker.engine import Emission, GenerationRequest
from sluice_worker.errors import RequestError
from sluice_worker.outputs import Output, Piece
from sluice_worker.parsing import describe_error, describe_usage
from sluice_worker.shapes import END_EVENT, Gathered, Shape, render_event
from sluice_worker.streams import EventStream

Cancel = Callable[[GenerationRequest], None]
Explain = Callable[[Exception], RequestError]


class Answer(ABC):
    """The answer to one request, of one choice or several.

    Args:
        shape: how it looks.
        outputs: its choices.
        cancel: tells the engine that nobody wants a sequence any more.
        prompt_tokens: of all its prompts; one that several choices share counts once.
    """

    def __init__(
        self, shape: Shape, outputs: Sequence[Output], cancel: Cancel, prompt_tokens: int
    ) -> None:
        self.shape = shape
        self.outputs = outputs
        self._cancel = cancel
        self._prompt_tokens = prompt_tokens

    def take(self, output: Output, emission: Emission) -> None:
        """Take what the engine emitted for a choice; call within the event loop."""
        if output.finish is not None:
            return
        try:
            piece = output.take(emission)
            self.give(output, piece)
        except Exception as error:  # noqa: BLE001  # one answer's fault is no other's
            for each in self.outputs:
                each.finish = each.finish or "error"
            self._fail(error)
            return
        if output.finish is not None and emission.finish is None:
            self._cancel(output.sequence)  # at once: a stop text was found

    def give(self, output: Output, piece: Piece) -> None:
        """Give the client a piece, and after the last of all the end."""
        self._deliver(output, piece)
        output.begun = True
        if piece.finish is not None and all(each.finish for each in self.outputs):
            self._end()

    def _count(self) -> dict[str, int]:
        """Return the token counts."""
        return describe_usage(self._prompt_tokens, sum(one.tokens for one in self.outputs))

    @abstractmethod
    def _deliver(self, output: Output, piece: Piece) -> None:
        """Put a piece to what the client gets."""

    @abstractmethod
    def _end(self) -> None:
        """End the answer: every choice has come to its end."""

    @abstractmethod
    def _fail(self, error: Exception) -> None:
        """End the answer with an error."""

    @abstractmethod
    async def serve(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Send it.

        Raises:
            Exception: what went wrong before anything was sent.
        """


class StreamedAnswer(Answer):
    """Server-sent events; one for every token of each choice, so that clients can time them.

    The answer begins with the first token, so that whatever fails before has a status.

    Args:
        with_usage: the stream ends with token counts.
        explain: what a client is told of an error.
    """

    def __init__(
        self,
        shape: Shape,
        outputs: Sequence[Output],
        cancel: Cancel,
        prompt_tokens: int,
        *,
        with_usage: bool,
        explain: Explain,
    ) -> None:
        super().__init__(shape, outputs, cancel, prompt_tokens)
        self._with_usage = with_usage
        self._explain = explain
        self._events = EventStream()

    def _deliver(self, output: Output, piece: Piece) -> None:
        write = self.shape.write_piece if output.begun else self.shape.open_choice
        self._events.send(write(output, piece))

    def _end(self) -> None:
        usage = self.shape.write_usage(self._count()) if self._with_usage else b""
        self._events.send(usage + END_EVENT)
        self._events.end()

    def _fail(self, error: Exception) -> None:
        if not self._events.begun:
            self._events.fail(error)
            return
        self._events.send(render_event(describe_error(self._explain(error))))
        self._events.end()

    async def serve(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Send the events as they come."""
        told = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **headers}
        return await self._events.serve(request, told)


class WholeAnswer(Answer):
    """One JSON body, when everything is there."""

    def __init__(
        self, shape: Shape, outputs: Sequence[Output], cancel: Cancel, prompt_tokens: int
    ) -> None:
        super().__init__(shape, outputs, cancel, prompt_tokens)
        self._gathered = {output.index: Gathered(output) for output in outputs}
        self._done = asyncio.get_running_loop().create_future()

    def _deliver(self, output: Output, piece: Piece) -> None:
        self._gathered[output.index].add(piece)

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    async def serve(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Send the body."""
        del request
        await self._done
        # Elsewhere, as it may take seconds: no token of others and no probe may wait for it.
        gathered = list(self._gathered.values())
        body = await asyncio.to_thread(self.shape.gather, gathered, self._count())
        return web.Response(
            body=body, content_type="application/json", charset="utf-8", headers=headers
        )
