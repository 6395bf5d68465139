"""A synthetic backend that costs little: precomputed bytes, on an absolute schedule.

    python benchmarks/gateway/paced.py [--tokens 64] [--rate 30]

Speaks as much of HTTP and of the OpenAI API as relays need: `/v1/models`, health endpoints, whole
answers at once, and streams of a fixed number of chunks. Answers are those of a worker of ours:
with token ids where the request asks for them, so that a gateway has all its work to do. Tokens are
counted by the command line and not by `max_tokens`, which one peer rewrites; each chunk has another
text, for one peer gives up a stream whose chunks repeat. Prints its port; ends with standard input.
"""

import argparse
import asyncio
import json
import sys
from typing import cast

import uvloop

UID = "worker-1"
MODEL = "bench"
_CREATED = 1_760_000_000
_HEAD = f"HTTP/1.1 200 OK\r\nX-Sluice-Worker-Uid: {UID}\r\nContent-Type: "
_STREAM_HEAD = (_HEAD + "text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
_END = b"0\r\n\r\n"


def encode_whole(document: object) -> bytes:
    """Return a whole answer with its head."""
    body = json.dumps(document, separators=(",", ":")).encode()
    return f"{_HEAD}application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def encode_event(data: str) -> bytes:
    """Return a server-sent event as one chunk of a body."""
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def describe_usage(tokens: int) -> dict[str, int]:
    """Return what an answer counts."""
    return {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}


def make_answer(tokens: int) -> bytes:
    """Return a whole chat answer."""
    message = {"role": "assistant", "content": " ".join(f"word{n}" for n in range(tokens))}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": _CREATED, "model": MODEL}
    return encode_whole({**head, "choices": [choice], "usage": describe_usage(tokens)})


def make_stream(tokens: int, *, ids: bool) -> list[bytes]:
    """Return the chunks of a chat stream, its role and its end beside first and last token."""
    head = {"id": "chatcmpl-1", "created": _CREATED, "model": MODEL}
    head["object"] = "chat.completion.chunk"
    chunks = []
    for number in range(tokens):
        delta = {"content": f"word{number} "} | ({"role": "assistant"} if number == 0 else {})
        reason = "stop" if number == tokens - 1 else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        choice |= {"token_ids": [number]} if ids else {}
        chunk = {**head, "choices": [choice]}
        chunk |= {"prompt_token_ids": [1, 2, 3]} if ids and number == 0 else {}
        chunks.append(encode_event(json.dumps(chunk, separators=(",", ":"))))
    usage = {**head, "choices": [], "usage": describe_usage(tokens)}
    chunks[-1] += encode_event(json.dumps(usage)) + encode_event("[DONE]") + _END
    return chunks


class Answers:
    """What every connection sends, made once."""

    def __init__(self, tokens: int, rate: float) -> None:
        self.interval = 1.0 / rate
        self.whole = make_answer(tokens)
        self.stream = {ids: make_stream(tokens, ids=ids) for ids in (False, True)}
        models = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        self.models = encode_whole(models)
        self.info = encode_whole({"model_path": MODEL, "is_generation": True})
        self.well = encode_whole({})


class Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is asyncio's
        """End its stream."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lower = head.lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
            if b"transfer-encoding: chunked" in lower:
                end = rest.find(_END)
                if end < 0:
                    return
                length = end + len(_END)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head, rest[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        answers = self._answers
        if head.startswith(b"POST"):
            compact = body.replace(b" ", b"")
            if b'"stream":true' in compact:
                self._transport.write(_STREAM_HEAD)
                chunks = answers.stream[b'"return_token_ids":true' in compact]
                self._send(chunks, 0, self._loop.time())
            else:
                self._transport.write(answers.whole)
        elif b"models" in head.partition(b"\r\n")[0]:
            self._transport.write(answers.models)
        else:
            info = b"info" in head.partition(b"\r\n")[0]
            self._transport.write(answers.info if info else answers.well)

    def _send(self, chunks: list[bytes], number: int, due: float) -> None:
        self._transport.write(chunks[number])
        if number + 1 < len(chunks):
            due += self._answers.interval
            self._timer = self._loop.call_at(due, self._send, chunks, number + 1, due)


async def serve(tokens: int, rate: float) -> None:
    """Serve until standard input ends."""
    answers = Answers(tokens, rate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(answers), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rate", type=float, default=30.0)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.tokens, arguments.rate))


if __name__ == "__main__":
    main()
