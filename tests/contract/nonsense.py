"""What workers may say that is no answer: each by a name, as plays of a `RawBackend`."""

import asyncio
import gzip
import json

from .rawbackend import chunk, render, token

POISON = "POISON"
"""What no client may be told."""
GOOD = token("good ", token_ids=[1], prompt_token_ids=[5, 6])
UNTOLD = token("good ")
END = token("", finish_reason="stop")
DONE = b"data: [DONE]\n\n"


def bad(**over):
    return token(POISON, token_ids=[2]) | over


def endless(head, piece):
    """Return a play that never ends by itself."""

    async def play(line, document):
        await line.write(head)
        while line.is_open:
            await line.write(piece)
            await asyncio.sleep(0)

    return play


def then_hang(data):
    async def play(line, document):
        await line.write(data)
        await asyncio.sleep(3600)

    return play


def then_end(data):
    async def play(line, document):
        await line.write(data)
        await line.finish()

    return play


def list_heads(backend):
    """What is wrong before any body, for requests of both kinds."""
    good = {"choices": [{"index": 0, "text": POISON, "finish_reason": "stop"}]}
    sse = {"Content_Type": "text/event-stream"}
    return {
        "nothing": then_end(b""),
        "garbage": then_end(b"\0\xff" * 50),
        "html": backend.whole(b"<html>POISON", kind="text/html"),
        "ssh banner": then_end(b"SSH-2.0-POISON\r\n"),
        "http/0.9": then_end(b"POISON"),
        "status word": then_end(b"HTTP/1.1 POISON OK\r\n\r\n"),
        "status 99": then_end(b"HTTP/1.1 99 POISON\r\n\r\n"),
        "status 999": then_end(backend.whole(good, status="999 POISON")),
        "long header": then_end(backend.head(X_Long="P" * 100_000)),
        "many headers": then_end(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n"),
        "endless headers": endless(b"HTTP/1.1 200 OK\r\n", b"A: POISON\r\n" * 50),
        "endless header": endless(b"HTTP/1.1 200 OK\r\nA: ", b"P" * 5000),
        "endless hints": endless(b"", b"HTTP/1.1 103 Hints\r\n\r\n" * 20),
        "half a head": then_hang(b"HTTP/1.1 200 OK\r\nContent-"),
        "204": backend.head("204 No Content"),
        "205": backend.head("205 Reset Content", Content_Length=0),
        "206": backend.whole(good, status="206 Partial Content"),
        "301": backend.whole(good, "301 Moved", Location="http://127.0.0.1:9/POISON"),
        "302 to itself": backend.head("302 Found", Location="/v1/completions", Content_Length=0),
        "304": backend.head("304 Not Modified"),
        "101": then_hang(backend.head("101 Switching", Upgrade="POISON", Connection="upgrade")),
        "401": backend.whole({"error": {"message": POISON}}, status="401 Unauthorized"),
        "two lengths": then_end(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 6\r\n\r\n{}"
        ),
        "bad length": then_end(backend.head(Content_Length="POISON") + b"{}"),
        "negative length": then_end(backend.head(Content_Length="-5") + b"{}"),
        "gzip that is none": backend.whole(b"POISON", Content_Encoding="gzip"),
        "gzip": backend.whole(gzip.compress(json.dumps(good).encode()), Content_Encoding="gzip"),
        "gzip stream": backend.whole(
            gzip.compress(render(good)), kind="text/event-stream", Content_Encoding="gzip"
        ),
        "chunk size": then_end(
            backend.head(Transfer_Encoding="chunked", **sse) + b"POISON\r\nx\r\n"
        ),
        "chunk size overflow": then_end(
            backend.head(Transfer_Encoding="chunked", **sse) + b"F" * 17 + b"\r\nPOISON\r\n"
        ),
        "half a chunk": then_end(backend.head(Transfer_Encoding="chunked", **sse) + b"ff\r\nPO"),
        "half a chunk, open": then_hang(
            backend.head(Transfer_Encoding="chunked", **sse) + b"ff\r\nPO"
        ),
        "unknown coding": then_end(backend.head(Transfer_Encoding="POISON", **sse) + b"x"),
        "error": backend.whole({"error": {"message": POISON, "type": "t"}}),
        "array": backend.whole([POISON]),
        "error in a stream": backend.stream({"error": {"message": POISON, "type": "t"}}),
        "error, bare": backend.stream({"error": POISON}),
        "error as event": backend.stream(b'event: error\ndata: {"message": "POISON"}\n\n'),
        "only the end": backend.stream(),
        "empty stream": backend.stream(done=False),
    }


def list_wholes(backend):
    """What is wrong with a whole answer."""

    def of(**over):
        choice = {"index": 0, "text": POISON, "finish_reason": "stop", **over}
        return backend.whole({"id": "x", "choices": [choice]})

    deep = b'{"choices":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    text = json.dumps({"choices": [{"index": 0, "text": POISON}]}).encode()
    long = backend.head(Content_Type="application/json", Content_Length=len(text) + 100) + text
    return {
        "not json": backend.whole(b"POISON"),
        "half json": backend.whole(text[:-3]),
        "two documents": backend.whole(text + text),
        "utf-16": backend.whole(text.decode().encode("utf-16")),
        "no utf-8": backend.whole(text.replace(b"POISON", b"POISON\xff\xfe")),
        "nan": backend.whole(text.replace(b"0", b"NaN")),
        "deep": backend.whole(deep),
        "too long": backend.whole(b'{"choices": [], "x": "' + b"P" * (300 << 10) + b'"}'),
        "endless": endless(backend.head(Transfer_Encoding="chunked"), chunk(b" " * 5000)),
        "longer than said": then_end(backend.whole(text)[:-5]),
        "longer than said, open": then_hang(long),
        "shorter than said": backend.head(Content_Length=len(text) - 5) + text,
        "choices a text": backend.whole({"choices": POISON}),
        "choices a map": backend.whole({"choices": {"0": POISON}}),
        "no choices": backend.whole({"choices": []}),
        "a choice a text": backend.whole({"choices": [POISON]}),
        "a text a number": of(text=5),
        "a text missing": backend.whole({"choices": [{"index": 0, POISON: 1}]}),
        "a chat": of(text=None, message={"content": POISON}),
        "a negative index": of(index=-1),
        "a huge index": of(index=10**30),
        "an index outside": of(index=1),
        "an index a text": of(index="0"),
        "too many choices": backend.whole({"choices": [{"index": 0, "text": POISON}] * 2}),
        "an error beside": backend.whole(
            {"error": {"message": "x"}, "choices": [{"index": 0, "text": POISON}]}
        ),
    }


def list_events(backend):
    """What is wrong with an event."""
    ours = token(POISON, token_ids=[2])
    line = json.dumps(ours, separators=(",", ":")).encode()
    return {
        "not json": b"data: POISON\n\n",
        "half json": b"data: " + line[:-2] + b"\n\n",
        "no utf-8": b"data: " + line.replace(b"POISON", b"POISON\xff") + b"\n\n",
        "control character": b"data: " + line.replace(b"POISON", b"POISON\x01") + b"\n\n",
        "nan": b"data: " + line.replace(b"null", b"NaN", 1) + b"\n\n",
        "bad escape": b"data: " + line.replace(b"POISON", rb"POISON\x") + b"\n\n",
        "bad scores": b"data: " + line.replace(b"null", b"{POISON}", 1) + b"\n\n",
        "scores a text": token(POISON, logprobs="x"),
        "deep": b"data: " + b"[" * 30_000 + b"\n\n",
        "array": b"data: [1]\n\n",
        "choices a text": bad(choices=POISON),
        "choices a map": bad(choices={"0": POISON}),
        "a choice a text": bad(choices=[POISON]),
        "a text a number": token(5, POISON=1),
        "a text a list": token([POISON]),
        "a delta a text": bad(choices=[{"index": 0, "delta": POISON}]),
        "a content a map": bad(choices=[{"index": 0, "delta": {"content": {"x": POISON}}}]),
        "a negative index": token(POISON, index=-1),
        "a huge index": token(POISON, index=10**30),
        "an index outside": token(POISON, index=1),
        "an index a text": token(POISON, index="0"),
        "an index true": token(POISON, index=True),
        "another id": bad(id="y"),
        "another model": bad(model="other"),
        "an error": {"error": {"message": "out of memory", "type": "t"}},
        "an error beside": bad(error={"message": "out of memory"}),
        "a long event": b"data: " + b"P" * (80 << 10),
    }


def list_endings(backend):
    """What is wrong with how a stream goes on after a proper beginning."""
    return {
        "a chunk size": then_end(b"POISON\r\nx\r\n"),
        "half a chunk": then_end(b"ff\r\ndata: PO"),
        "half a chunk, open": then_hang(b"ff\r\ndata: PO"),
        "an end": then_end(b"0\r\n\r\n"),
        "a line without end": endless(b"", chunk(b"P" * 5000)),
        "comments without end": endless(b"", chunk(b": hello\n\n")),
        "events of nothing": endless(b"", chunk(render({**GOOD, "choices": []}))),
        "an answer": then_end(backend.completion(POISON)),
    }
