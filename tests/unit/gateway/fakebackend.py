"""An OpenAI-compatible server that is no worker of ours: vLLM's habits, or odder ones."""

import json

from aiohttp import web

from .ports import hold_port

UID_HEADER = "X-Sluice-Worker-Uid"


class FakeBackend:
    """One server.

    Attributes:
        models: What it lists; anything else than a list of names is sent as it is.
        health: The path where it tells its health; empty if it does not.
        healthy: The status there.
        prefix: Before every path.
        uid: What it calls itself; empty if it does not.
        key: What it asks for; empty if nothing.
        got: Paths and headers of the completions that arrived.
    """

    def __init__(self, name, *, models=("compact",), health="/health", prefix="", uid="", key=""):
        self.name = name
        self.models = models
        self.health = health
        self.healthy = 200
        self.prefix = prefix
        self.uid = uid
        self.key = key
        self.got = []
        self._held = hold_port("127.0.0.1")
        self.port = self._held.getsockname()[1]
        self._runner = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_exc):
        await self.stop()
        self._held.close()

    async def start(self, tls=None):
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_port=True, ssl_context=tls)
        await site.start()

    async def stop(self):
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request):
        headers = {UID_HEADER: self.uid} if self.uid else {}
        meant = request.headers.get(UID_HEADER)
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.Response(status=401, headers=headers)
        if self.uid and meant not in {None, self.uid}:
            return web.Response(status=421, headers=headers)
        path = request.path.removeprefix(self.prefix)
        if path == "/v1/completions" and request.method == "POST":
            return await self._complete(request, headers)
        if path == "/v1/models":
            known = self.models
            if isinstance(known, list | tuple):
                known = {"object": "list", "data": [{"id": name} for name in known]}
            return web.json_response(known, headers=headers)
        return web.Response(status=self.healthy if path == self.health else 404, headers=headers)

    async def _complete(self, request, headers):
        document = json.loads(await request.read())
        self.got.append((request.path, request.headers))
        if not document.get("stream"):
            choice = {"index": 0, "text": self.name, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1}
            return web.json_response({"choices": [choice], "usage": usage}, headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
        await response.prepare(request)
        for text in (self.name, "!"):
            event = {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response
