"""An API server for the operator's process: lists, watches, Leases; and troubles, on demand."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from enum import StrEnum

from aiohttp import web

from sluice.kube.paths import (
    BUDGETS,
    CLASSES,
    DEPLOYMENTS,
    LEASES,
    NODES,
    PODS,
    POOLS,
    SERVICES,
    Resource,
)

RESOURCES = (POOLS, CLASSES, PODS, NODES, SERVICES, DEPLOYMENTS, BUDGETS)
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
"""kopf waits until it has found them, and lists none."""


class Trouble(StrEnum):
    """How the API server fails."""

    ERROR_EVENT = "error-event"
    GONE_EVENT = "gone-event"
    GONE_STATUS = "gone-status"
    GARBAGE = "garbage"
    RESET = "reset"
    UNAUTHORIZED = "unauthorized"
    BUSY = "busy"
    BROKEN = "broken"
    NO_LIST = "no-list"


IN_WATCHES = {Trouble.ERROR_EVENT, Trouble.GONE_EVENT, Trouble.GONE_STATUS, Trouble.GARBAGE}
STATUSES = {Trouble.UNAUTHORIZED: 401, Trouble.BUSY: 429, Trouble.BROKEN: 500}


def say(status, reason):
    """Return an error as an API server says it."""
    body = {"kind": "Status", "code": status, "reason": reason, "message": reason}
    return web.json_response(body, status=status)


class TroubledApi:
    """One API server on loopback.

    Attributes:
        trouble: how it fails now; None if it does not.
        troubled: how often it has failed, by trouble.
        watching: open watches, by path.
        written: method and path of what was written, Leases apart.
    """

    def __init__(self):
        self.trouble = None
        self.troubled = Counter()
        self.watching = Counter()
        self.written = []
        self._lease = None
        self._version = 100
        self._queues = {}
        self._changed = asyncio.Event()

    async def start(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def close(self):
        await self._runner.cleanup()

    def begin_trouble(self, trouble):
        """Fail from now on; open watches end with it, too."""
        self.trouble = trouble
        self._changed.set()
        self._changed = asyncio.Event()

    async def tell(self, resource, item):
        """Send an event to whoever watches a kind. No list has the object."""
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        for queue in self._queues.get(resource.path(), ()):
            queue.put_nowait({"type": "ADDED", "object": item})

    async def _answer(self, request):
        if self.trouble is not None and self.trouble not in IN_WATCHES:
            return await self._fail(request)
        if LEASES.plural in request.path:
            return await self._keep_lease(request)
        if request.method != "GET":
            self.written.append((request.method, request.path))
            return web.json_response({**await read_json(request), "status": {}})
        if "watch" in request.query:
            return await self._watch(request)
        return self._tell(request.path)

    def _tell(self, path):
        """Answer what is neither a watch nor a write."""
        found = describe(path)
        if found is not None:
            return web.json_response(found)
        if path not in {resource.path() for resource in RESOURCES}:
            return say(404, "NotFound")
        return web.json_response(
            {"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": []}
        )

    async def _fail(self, request):
        trouble = self.trouble
        self.troubled[trouble] += 1
        if trouble is Trouble.RESET:
            request.transport.abort()
            return web.Response()
        if trouble is Trouble.NO_LIST:
            return web.json_response({"kind": "Surprise"})
        return say(STATUSES[trouble], trouble)

    async def _keep_lease(self, request):
        if request.method == "GET":
            if request.path == LEASES.path("kube-node-lease"):
                return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
            return say(404, "NotFound") if self._lease is None else web.json_response(self._lease)
        self._version += 1
        self._lease = await request.json()
        self._lease["metadata"]["resourceVersion"] = str(self._version)
        return web.json_response(self._lease)

    async def _watch(self, request):
        if self.trouble is Trouble.GONE_STATUS:
            self.troubled[self.trouble] += 1
            return say(410, "Expired")
        response = web.StreamResponse()
        await response.prepare(request)
        queue = asyncio.Queue()
        self._queues.setdefault(request.path, []).append(queue)
        self.watching[request.path] += 1
        try:
            while self.trouble is None:
                changed = asyncio.create_task(self._changed.wait())
                event = asyncio.create_task(queue.get())
                try:
                    await asyncio.wait({changed, event}, return_when=asyncio.FIRST_COMPLETED)
                    if event.done():
                        await response.write(json.dumps(event.result()).encode() + b"\n")
                finally:
                    changed.cancel()
                    event.cancel()
            await self._break(request, response)
        finally:
            self._queues[request.path].remove(queue)
            self.watching[request.path] -= 1
        return response

    async def _break(self, request, response):
        """End a watch as the trouble has it."""
        self.troubled[self.trouble] += 1
        code = 410 if self.trouble is Trouble.GONE_EVENT else 500
        status = {"kind": "Status", "code": code, "message": "etcdserver: leader changed"}
        with suppress(OSError):
            if self.trouble in (Trouble.ERROR_EVENT, Trouble.GONE_EVENT):
                event = {"type": "ERROR", "object": status}
                await response.write(json.dumps(event).encode() + b"\n")
            elif self.trouble is Trouble.GARBAGE:
                await response.write(b"<html>Bad Gateway</html>\n")
            elif self.trouble is Trouble.RESET:
                request.transport.abort()


async def read_json(request):
    """Return the body of a request; server-side applies are JSON here, whatever they call it."""
    return json.loads(await request.read() or b"{}")


def describe(path):
    """Return what an API server says of its groups and kinds at a path; None at another."""
    versions = {resource.api_version for resource in RESOURCES}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [
            {
                "name": version.partition("/")[0],
                "versions": [{"groupVersion": version, "version": version.partition("/")[2]}],
                "preferredVersion": {
                    "groupVersion": version,
                    "version": version.partition("/")[2],
                },
            }
            for version in sorted(versions - {"v1"})
        ]
        return {"kind": "APIGroupList", "groups": groups}
    for version in versions:
        if path == ("/api/" if version == "v1" else "/apis/") + version:
            kinds = [
                {
                    "name": resource.plural,
                    "singularName": resource.kind.lower(),
                    "kind": resource.kind,
                    "namespaced": resource.namespaced,
                    "verbs": ["get", "list", "watch", "create", "patch", "delete"],
                }
                for resource in (*RESOURCES, NAMESPACES)
                if resource.api_version == version
            ]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": kinds}
    return None
