"""An API server on loopback that lists and watches two kinds, and fails on demand."""

import asyncio
import json

from aiohttp import web

from .ports import hold_port

POOLS = "/apis/sluice.dev/v1alpha1/inferencepools"
PODS = "/api/v1/pods"


class FakeKube:
    """Holds objects by path and key, with a history that watches replay.

    Attributes:
        fail_status: Answer everything with this status.
        silent: Watches stay open and say nothing, not even their end.
        token: Bearer token to insist on.
        asked: Path and query of every request.
    """

    def __init__(self):
        self.objects = {POOLS: {}, PODS: {}}
        self.history = []
        self.version = 100
        self.oldest = 0
        self.fail_status = 0
        self.silent = False
        self.token = ""
        self.asked = []
        self.changed = asyncio.Condition()
        self.breaks = 0
        self._runner = None
        self._held = hold_port("127.0.0.1")

    @property
    def url(self):
        return f"http://127.0.0.1:{self._held.getsockname()[1]}"

    async def start(self):
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        host, port = self._held.getsockname()
        await web.TCPSite(self._runner, host, port, reuse_port=True).start()

    async def stop(self):
        await self._runner.cleanup()

    async def close(self):
        await self.stop()
        self._held.close()

    async def put(self, path, raw):
        known = self.objects[path]
        name = self._key(raw)
        await self._note(path, "MODIFIED" if name in known else "ADDED", raw)
        known[name] = raw

    async def delete(self, path, raw):
        del self.objects[path][self._key(raw)]
        await self._note(path, "DELETED", raw)

    def forget_history(self):
        """Make every version before now too old to watch from, and end the watches."""
        self.version += 10
        self.oldest = self.version
        self.breaks += 1

    async def _note(self, path, kind, raw):
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, path, kind, json.loads(json.dumps(raw))))
        async with self.changed:
            self.changed.notify_all()

    def _key(self, raw):
        return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"

    async def _answer(self, request):
        self.asked.append((request.path, dict(request.query)))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        if self.fail_status:
            return web.json_response({"message": "no"}, status=self.fail_status)
        if "watch" in request.query:
            return await self._watch(request)
        return self._list(request)

    def _list(self, request):
        names = sorted(self.objects[request.path])
        start = int(request.query.get("continue", "0"))
        end = start + int(request.query["limit"])
        metadata = {"resourceVersion": str(self.version)}
        if end < len(names):
            metadata["continue"] = str(end)
        items = [self.objects[request.path][name] for name in names[start:end]]
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _watch(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query["resourceVersion"])
        if seen < self.oldest:
            status = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await self._say(response, "ERROR", status)
            return response
        breaks = self.breaks
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.query["timeoutSeconds"])
        while self.silent or (loop.time() < end and self.breaks == breaks):
            for version, path, kind, raw in list(self.history):
                if version > seen and path == request.path and not self.silent:
                    await self._say(response, kind, raw)
                    seen = version
            try:
                async with asyncio.timeout(0.02), self.changed:
                    await self.changed.wait()
            except TimeoutError:
                continue
        bookmark = {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}
        if self.breaks == breaks:
            await self._say(response, "BOOKMARK", bookmark)
        return response

    async def _say(self, response, kind, raw):
        await response.write(json.dumps({"type": kind, "object": raw}).encode() + b"\n")
