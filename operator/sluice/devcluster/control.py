"""HTTP on the control socket of a cluster: how commands reach the supervisor.

`GET /status`, `POST /nodes/NAME/ACTION`, `POST /components/NAME/ACTION`, `POST /shutdown`; JSON
both ways. `break` says in a body what to break. The socket lies in a directory that only the owner
can enter.
"""

import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from sluice.devcluster.errors import ClusterError, NodeError


class Controlled(Protocol):
    """What the socket gives access to."""

    def describe(self) -> dict[str, Any]:
        """Return the cluster's status."""

    async def act_on_node(
        self, node: str, action: str, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Do something to a node and return its entry of the status."""

    async def act_on_component(self, name: str, action: str) -> dict[str, Any]:
        """Do something to a part of the control plane and return its entry of the status."""

    def request_shutdown(self) -> None:
        """End the cluster soon."""


_TARGET: web.AppKey[Controlled] = web.AppKey("target")


async def serve_control(target: Controlled, socket_name: str) -> Callable[[], Awaitable[None]]:
    """Listen on a socket in the working directory; returns what closes it again.

    The name is relative because a full path may not exceed 107 bytes.
    """
    app = web.Application()
    app[_TARGET] = target
    app.add_routes(
        [
            web.get("/status", _get_status),
            web.post("/nodes/{node}/{action}", _post_action),
            web.post("/components/{name}/{action}", _post_component_action),
            web.post("/shutdown", _post_shutdown),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(socket_name)
    os.chmod(socket_name, 0o600)  # noqa: PTH101  # relative to the working directory, like bind
    await web.SockSite(runner, listener).start()
    return runner.cleanup


async def _get_status(request: web.Request) -> web.Response:
    return web.json_response(request.app[_TARGET].describe())


async def _post_action(request: web.Request) -> web.Response:
    node, action = request.match_info["node"], request.match_info["action"]
    try:
        options = _parse_options(await request.read())
        return web.json_response(await request.app[_TARGET].act_on_node(node, action, options))
    except ClusterError as error:
        return web.json_response({"error": str(error)}, status=409)


async def _post_component_action(request: web.Request) -> web.Response:
    name, action = request.match_info["name"], request.match_info["action"]
    try:
        return web.json_response(await request.app[_TARGET].act_on_component(name, action))
    except ClusterError as error:
        return web.json_response({"error": str(error)}, status=409)


def _parse_options(body: bytes) -> dict[str, Any]:
    try:
        options = json.loads(body or b"{}")
    except ValueError as error:
        raise NodeError(f"The body of the request is not JSON: {error}.") from error
    if not isinstance(options, dict):
        raise NodeError("The body of the request is JSON, but no object.")
    return options


async def _post_shutdown(request: web.Request) -> web.Response:
    request.app[_TARGET].request_shutdown()
    return web.json_response({"stopping": True}, status=202)
