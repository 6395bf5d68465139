"""A worker on loopback that speaks OpenAI's API and fails in every way that workers do."""

import asyncio
import hashlib
import json

from aiohttp import web

from .ports import hold_port

HUGE = 12_000_000
UID_HEADER = "X-Sluice-Worker-Uid"


def make_words(document):
    """Return the words that every worker gives for a request: prompt and seed decide."""
    asked = document.get("prompt") or document.get("messages")
    words = []
    for place in range(document.get("max_tokens", 5)):
        text = json.dumps([asked, document["seed"], place])
        words.append(hashlib.sha256(text.encode()).hexdigest()[:6] + " ")
    return words


class FakeWorker:
    """One worker.

    Attributes:
        script: What the next requests get, one entry each; then they are answered properly.
            An int is a status; the words are methods `_do_<word>`; `word:3` sends 3 tokens first.
        healthy: What /healthz says: a status, or `hang`.
        warm: What /readyz says: a status.
        frozen: Nothing moves while set.
        mute: Only /healthz moves while set.
        prefill: Seconds for each character of a prompt.
        slots: Requests that are served at once; the others queue.
        got: Bodies of the requests that arrived.
        most: Requests that it had at a time, at most.
        ended: Requests whose handlers were cancelled: their client went away.
        flooded: Bytes of tokens that a `flood` has sent.
    """

    def __init__(self, name, *, variant="maia", pool="chat"):
        self.name = name
        self.variant = variant
        self.pool = pool
        self.uid = f"uid-{name}"
        self.script = []
        self.healthy = 200
        self.warm = 200
        self.frozen = False
        self.mute = False
        self.slots = asyncio.Semaphore(1000)
        self.step = 0.0
        self.prefill = 0.0
        self.got = []
        self.headers = []
        self.most = 0
        self.ended = 0
        self._running = 0
        self.flooded = 0
        self._held = hold_port("127.0.0.1")
        self.host, self.port = self._held.getsockname()
        self._runner = None
        self._server = None

    async def start(self):
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, reuse_port=True).start()

    async def kill(self):
        """Die as a process does: connections reset, then refused."""
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()

    async def close(self):
        await self.kill()
        self._held.close()

    async def _answer(self, request):
        is_request = request.method == "POST"
        self._running += is_request
        self.most = max(self.most, self._running)
        try:
            return await self._answer_or_fail(request)
        except asyncio.CancelledError:
            self.ended += is_request
            raise
        finally:
            self._running -= is_request

    async def _answer_or_fail(self, request):
        if request.path == "/healthz":
            await self._until_not("frozen")
            if self.healthy == "hang":
                await asyncio.sleep(3600)
            return web.Response(status=self.healthy, headers={UID_HEADER: self.uid})
        await self._until_not("frozen")
        if request.path == "/readyz":
            return web.Response(status=self.warm, headers={UID_HEADER: self.uid})
        if request.headers.get(UID_HEADER) != self.uid:
            return web.Response(status=421, headers={UID_HEADER: self.uid})
        document = json.loads(await request.read())
        self.got.append(document)
        self.headers.append(request.headers)
        act = str(self.script.pop(0)) if self.script else "serve"
        word, _, count = act.partition(":")
        if word.isdigit():
            headers = {UID_HEADER: self.uid, "Retry-After": count or "0"}
            body = {"error": {"message": f"fake {word}", "type": "t", "code": "c"}}
            return web.json_response(body, status=int(word), headers=headers)
        async with self.slots:
            await self._thaw()
            return await getattr(self, f"_do_{word}")(request, document, int(count or 0))

    async def _do_serve(self, request, document, _count):
        words = make_words(document)
        await asyncio.sleep(self.prefill * len(document.get("prompt", "")))
        if not document.get("stream"):
            await asyncio.sleep(self.step * len(words))
            usage = {"prompt_tokens": 3, "completion_tokens": len(words)}
            choice = {
                "index": 0,
                "finish_reason": "length",
                **self._part(request, words, "message"),
            }
            body = {"id": "x", "object": "o", "choices": [choice], "usage": usage}
            return web.json_response(body, headers={UID_HEADER: self.uid})
        response = await self._begin(request)
        await self._send_words(request, response, words)
        await self._send(response, {"choices": [self._end(request)], "usage": None})
        if document.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "completion_tokens": len(words)}
            await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _do_pair(self, request, document, _count):
        """Give two sequences a token each with every step."""
        response = await self._begin(request)
        words = make_words(document)
        for word in words:
            await asyncio.sleep(self.step)
            for index in (0, 1):
                choice = {"index": index, "text": word, "finish_reason": None}
                await self._send(response, {"choices": [choice], "usage": None})
        for index in (0, 1):
            await self._send(response, {"choices": [{**self._end(request), "index": index}]})
        usage = {"prompt_tokens": 3, "completion_tokens": 2 * len(words)}
        await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _do_known(self, request, document, count):
        """Send tokens with their ids, as our workers do, and hang."""
        response = await self._begin(request)
        for number, word in enumerate(make_words(document)[:count]):
            beside = {"token_ids": [number]} | ({} if number else {"prompt_token_ids": [7, 8]})
            choice = {"index": 0, "text": word, "logprobs": None, "finish_reason": None, **beside}
            await self._send(response, {"choices": [choice]})
        await asyncio.sleep(3600)
        return response

    async def _do_reset(self, request, document, count):
        response = await self._begin_after(request, document, count)
        request.transport.abort()
        return response

    async def _do_truncate(self, request, document, count):
        return await self._begin_after(request, document, count)

    async def _do_error(self, request, document, count):
        response = await self._begin_after(request, document, count)
        await asyncio.sleep(self.step)
        await self._send(response, {"error": {"message": "out of memory", "type": "t"}})
        return response

    async def _do_burst_error(self, request, document, count):
        """Send two tokens and an error in one piece."""
        response = await self._begin_after(request, document, count)
        await asyncio.sleep(self.step)
        events = [{"choices": [{"index": 0, "text": "x"}]}] * 2 + [
            {"error": {"message": "out of memory", "type": "t"}}
        ]
        await response.write(b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events))
        return response

    async def _do_hang(self, request, document, count):
        response = await self._begin_after(request, document, count)
        await asyncio.sleep(3600)
        return response

    async def _do_stall(self, request, document, count):
        """Say nothing, not even a status."""
        await asyncio.sleep(3600)

    async def _do_fail(self, request, document, _count):
        """Answer 500, but only after a step."""
        return await self._refuse_after_step(500)

    async def _do_refuse(self, request, document, _count):
        """Answer 503, but only after a step."""
        return await self._refuse_after_step(503)

    async def _refuse_after_step(self, status):
        await asyncio.sleep(self.step)
        headers = {UID_HEADER: self.uid}
        return web.json_response({"error": {"message": "fake"}}, status=status, headers=headers)

    async def _do_error200(self, request, document, _count):
        return web.json_response({"error": {"message": "bad"}}, headers={UID_HEADER: self.uid})

    async def _do_html(self, request, document, _count):
        return web.Response(text="<html>", content_type="text/html")

    async def _do_nested(self, request, document, count):
        """Answer with JSON that is nested deeper than anybody reads; with a status, or a stream."""
        deep = "[" * 20_000
        headers = {UID_HEADER: self.uid}
        if not document.get("stream"):
            return web.Response(
                status=count or 200, text=deep, content_type="application/json", headers=headers
            )
        response = await self._begin(request)
        await response.write(f"data: {deep}\n\n".encode())
        return response

    async def _do_late(self, request, document, _count):
        """Refuse, and name a time that is none."""
        headers = {UID_HEADER: self.uid, "Retry-After": "9" * 400}
        return web.json_response({}, status=503, headers=headers)

    async def _do_usage(self, request, document, _count):
        """Count more tokens than there are numbers."""
        usage = {"prompt_tokens": -5, "completion_tokens": 10**400}
        choice = {"index": 0, "finish_reason": "length", **self._part(request, ["x"], "message")}
        if not document.get("stream"):
            body = {"choices": [choice], "usage": usage}
            return web.json_response(body, headers={UID_HEADER: self.uid})
        response = await self._begin_after(request, document, 2)
        await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _do_impostor(self, request, document, _count):
        return web.json_response({"choices": []}, headers={UID_HEADER: "somebody-else"})

    async def _do_huge(self, request, document, _count):
        """Answer with more than sockets buffer."""
        choice = {"index": 0, "finish_reason": "length", "text": "x" * HUGE}
        return web.json_response({"choices": [choice]}, headers={UID_HEADER: self.uid})

    async def _do_flood(self, request, document, _count):
        """Send megabytes of tokens as fast as the reader takes them."""
        response = await self._begin(request)
        for _ in range(2000):
            await self._thaw()
            await self._send(response, {"choices": [{"index": 0, "text": "x" * 20_000}]})
            self.flooded += 20_000
        return response

    async def _begin_after(self, request, document, count):
        response = await self._begin(request)
        await self._send_words(request, response, make_words(document)[:count])
        return response

    async def _begin(self, request):
        headers = {"Content-Type": "text/event-stream", UID_HEADER: self.uid}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if "chat" in request.path:
            delta = {"role": "assistant", "content": ""}
            await self._send(response, {"choices": [{"index": 0, "delta": delta}], "usage": None})
        return response

    async def _send_words(self, request, response, words):
        for word in words:
            await asyncio.sleep(self.step)
            await self._thaw()
            choice = {"index": 0, "finish_reason": None, **self._part(request, [word], "delta")}
            await self._send(response, {"choices": [choice], "usage": None})

    async def _send(self, response, document):
        body = json.dumps({"id": "x", "object": "o", "created": 1, "model": "m", **document})
        await response.write(f"data: {body}\n\n".encode())

    async def _thaw(self):
        await self._until_not("frozen", "mute")

    async def _until_not(self, *states):
        while any(getattr(self, state) for state in states):  # noqa: ASYNC110 - nothing wakes it
            await asyncio.sleep(0.01)

    def _part(self, request, words, chat_key):
        text = "".join(words)
        return {chat_key: {"content": text}} if "chat" in request.path else {"text": text}

    def _end(self, request):
        return {"index": 0, "finish_reason": "length", **self._part(request, [], "delta")}
