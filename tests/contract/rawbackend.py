"""A worker that writes what it is told to, byte by byte: HTTP or not, asked or not."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import asyncio
import json
from contextlib import suppress

from ..unit.gateway.fakeworker import UID_HEADER
from ..unit.gateway.ports import hold_port

_UID = b"@UID@"
"""Stands in heads for the uid of the backend that writes it: a play may be anybody's."""


class Line:
    """One connection that the gateway opened.

    Attributes:
        got: Bodies of the requests that came on it, parsed.
    """

    def __init__(self, backend, reader, writer):
        self.backend, self.reader, self.writer = backend, reader, writer
        self.got = []

    async def write(self, data):
        self.writer.write(data.replace(_UID, self.backend.uid.encode()))
        await self.writer.drain()

    async def finish(self):
        """End what it says, and go on to listen."""
        self.writer.write_eof()

    @property
    def is_open(self):
        """Whether the gateway has not closed it."""
        return not self.reader.at_eof() and not self.writer.is_closing()


class RawBackend:
    """One worker for `GatewayWorld.publish`.

    Attributes:
        plays: What the next requests get, one entry each: bytes, or a coroutine function of a
            `Line` and the request's document. Then it is `play` for all.
        busy: How many are being played.
        health: What probes get, if not a 200: as in `plays`.
        lines: The connections on which requests came.
        got: Bodies of all requests.
    """

    def __init__(self, name, *, variant="maia", pool="chat"):
        self.name, self.variant, self.pool, self.uid = name, variant, pool, f"uid-{name}"
        self.plays, self.play, self.health = [], serve, None
        self.busy = 0
        self.lines, self.got = [], []
        self._tasks = set()

    async def __aenter__(self):
        self._held = hold_port("127.0.0.1")
        self.host, self.port = self._held.getsockname()
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, reuse_port=True, limit=8 << 20
        )
        return self

    async def __aexit__(self, *exc):
        await self.kill()
        self._held.close()

    async def kill(self):
        """Die as a process does: connections reset, then refused."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def head(self, status="200 OK", **headers):
        """Return an answer's head; underscores in names stand for dashes."""
        told = {
            UID_HEADER: _UID.decode(),
            **{key.replace("_", "-"): headers[key] for key in headers},
        }
        lines = [f"HTTP/1.1 {status}", *(f"{key}: {value}" for key, value in told.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def whole(self, body, status="200 OK", kind="application/json", **headers):
        """Return a whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.head(status, Content_Type=kind, Content_Length=len(data), **headers) + data

    def completion(self, text):
        """Return an answer in one piece that is as it should be."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return self.whole({"id": "x", "object": "o", "choices": [choice], "usage": usage})

    def stream(self, *events, done=True):
        """Return a stream, in one piece, of documents or raw bytes."""
        ending = [b"data: [DONE]\n\n"] if done else []
        parts = [event if isinstance(event, bytes) else render(event) for event in events] + ending
        head = self.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        return head + b"".join(chunk(part) for part in parts) + b"0\r\n\r\n"

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._follow(Line(self, reader, writer))
        except asyncio.CancelledError:
            writer.transport.abort()  # asyncio would log the cancellation of its own task
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _follow(self, line):
        while True:
            head = (await line.reader.readuntil(b"\r\n\r\n")).decode()
            first, *rest = head.split("\r\n")
            if first.startswith("GET"):
                health = self.health or self.whole(b"")
                await (line.write(health) if isinstance(health, bytes) else health(line, None))
                continue
            if line not in self.lines:
                self.lines.append(line)
            sizes = [one for one in rest if one.lower().startswith("content-length:")]
            body = await line.reader.readexactly(int(sizes[0].partition(":")[2]))
            document = json.loads(body)
            line.got.append(document)
            self.got.append(document)
            play = self.plays.pop(0) if self.plays else self.play
            self.busy += 1
            try:
                await (line.write(play) if isinstance(play, bytes) else play(line, document))
            finally:
                self.busy -= 1


async def serve(line, document):
    """Answer with what was asked, so that each answer shows whose it is."""
    text = answer_to(document["prompt"])
    if not document.get("stream"):
        await line.write(line.backend.completion(text))
        return
    await line.write(line.backend.stream(token(text), token("", finish_reason="stop")))


def answer_to(prompt):
    return f"<{prompt}>"


def token(text, **over):
    """Return the document of an event with a piece of text."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None, **over}
    return {"id": "x", "object": "o", "created": 1, "model": "m", "choices": [choice]}


def render(document):
    return b"data: %s\n\n" % json.dumps(document).encode()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)
