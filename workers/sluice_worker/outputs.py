"""What comes out of one sequence: emissions in, text out, one reader."""

import asyncio
from collections.abc import AsyncIterator

from sluice_worker.engine import Emission
from sluice_worker.errors import RequestError
from sluice_worker.tokens import TextStream


class Output:
    """The output of one request, between the engine and the handler that answers.

    The queue holds at most the request's `max_tokens` emissions, whose sum the context bounds: a
    client that reads slowly costs some kilobytes, and never a step of the engine.

    Args:
        text: turns tokens into text; None for an answer that stays tokens.

    Attributes:
        tokens: output tokens that the text is made of.
        finish: why it ended (stop, length or error), None while it goes on.
    """

    def __init__(self, text: TextStream | None) -> None:
        self._text = text
        self._queue: asyncio.Queue[Emission] = asyncio.Queue()
        self.tokens = 0
        self.finish: str | None = None

    def put(self, emission: Emission) -> None:
        """Take an emission; call within the event loop."""
        self._queue.put_nowait(emission)

    async def follow(self) -> AsyncIterator[str]:
        """Yield a text for every token, "" while it is not final; after the last, `finish` is set.

        Raises:
            RequestError: the engine failed under this request.
        """
        while self.finish is None:
            emission = await self._queue.get()
            try:
                piece = self._take(emission)
            except Exception:
                self.finish = "error"
                raise
            yield piece

    def _take(self, emission: Emission) -> str:
        """Return the text that an emission makes final."""
        if emission.finish == "error":
            raise RequestError(
                "the engine failed while it worked on this request",
                status=500,
                code="engine_failed",
            )
        piece = ""
        if emission.token is not None:
            self.tokens += 1
            piece = self._text.push(emission.token) if self._text is not None else ""
        if self._text is not None and self._text.stopped:
            self.finish = "stop"
        elif emission.finish is not None:
            piece += self._text.finish() if self._text is not None else ""
            self.finish = emission.finish
        return piece
