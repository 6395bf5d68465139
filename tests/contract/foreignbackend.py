"""A server that is none of ours, in front of one that is: no fence, headers or continuations."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import aiohttp
from aiohttp import web

from ..unit.gateway.ports import hold_port

CONTINUE = "/internal/v1/continue"


class ForeignBackend:
    """Passes requests on to a worker process.

    Attributes:
        forgets: Fields of requests that it does not know.
        answers: What it says to `CONTINUE`: a status, or the text of a 200.
        asked: Paths of the requests that came.
    """

    def __init__(self, name, process, *, variant="maia", forgets=(), answers=404):
        self.name, self.variant, self.pool, self.uid = name, variant, "chat", f"uid-{name}"
        self.forgets, self.answers = forgets, answers
        self.asked = []
        self._url = process.url
        self._held = hold_port("127.0.0.1")
        self.host, self.port = self._held.getsockname()

    async def __aenter__(self):
        self._session = aiohttp.ClientSession()
        server = web.Server(self._answer, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, reuse_port=True).start()
        return self

    async def __aexit__(self, *exc):
        await self._runner.cleanup()
        await self._session.close()
        self._held.close()

    async def _answer(self, request):
        if request.method == "GET":
            async with self._session.get(self._url + request.path) as answer:
                return web.Response(status=answer.status)
        self.asked.append(request.path)
        if request.path == CONTINUE:
            if isinstance(self.answers, int):
                return web.Response(status=self.answers)
            return web.Response(text=self.answers, content_type="text/event-stream")
        document = await request.json()
        for field in self.forgets:
            document.pop(field, None)
        async with self._session.post(self._url + request.path, json=document) as answer:
            headers = {"Content-Type": answer.content_type}
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
        return response
