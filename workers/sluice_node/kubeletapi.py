"""The HTTPS endpoint the API server calls: container logs, and a health check.

Open only while the agent is not silent. Only the API server may call: whoever comes without a
certificate of the cluster's CA is refused in the handshake, any other component by its name.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from sluice_node.config import KubeletEndpoint
from sluice_node.container import Container
from sluice_node.logs import LogFile
from sluice_node.timestamps import format_micro_time, parse_time

_FOLLOW_SECONDS = 0.1
_CLOSE_SECONDS = 0.5
_CALLERS = {
    ("commonName", "kube-apiserver-kubelet-client"),
    ("organizationName", "system:masters"),
}

FindContainer = Callable[[str, str, str], Container | None]
"""Namespace, pod and container name → container."""


class LogQueryError(ValueError):
    """A parameter of a request for logs is wrong."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What `kubectl logs` asks for."""

    follow: bool
    previous: bool
    timestamps: bool
    tail: int | None
    since: float | None
    limit: int | None

    @classmethod
    def parse(cls, query: Any, now: float) -> "LogQuery":
        """Read the parameters of a request.

        Raises:
            LogQueryError: One is wrong.
        """

        def number(name: str) -> int | None:
            text = query.get(name)
            if text is None:
                return None
            if not text.isascii() or not text.isdigit():
                raise LogQueryError(f"{name} is '{text}'; it must be a whole number from 0 on")
            return int(text)

        seconds, moment = number("sinceSeconds"), query.get("sinceTime")
        since = None if seconds is None else now - seconds
        if moment is not None:
            try:
                since = parse_time(moment)
            except ValueError as error:
                raise LogQueryError(f"sinceTime is '{moment}'; it must be RFC 3339") from error
        return cls(
            follow=query.get("follow") == "true",
            previous=query.get("previous") == "true",
            timestamps=query.get("timestamps") == "true",
            tail=number("tailLines"),
            since=since,
            limit=number("limitBytes"),
        )


class KubeletServer:
    """Serves while started; may be started and stopped again and again."""

    def __init__(self, address: str, endpoint: KubeletEndpoint, find: FindContainer) -> None:
        self._address = address
        self._port = endpoint.port
        self._find = find
        self._tls = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(endpoint.client_ca_file)
        )
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._tls.load_cert_chain(str(endpoint.cert_file), str(endpoint.key_file))
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The port cannot be had.
        """
        application = web.Application(middlewares=[_admit_masters])
        application.router.add_get("/healthz", _answer_health)
        application.router.add_get(
            "/containerLogs/{namespace}/{pod}/{container}", self._answer_logs
        )
        runner = web.AppRunner(
            application,
            access_log=None,
            # Whoever leaves `kubectl logs -f` would else be followed until the container ends.
            handler_cancellation=True,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        try:
            await web.TCPSite(
                runner, self._address, self._port, ssl_context=self._tls, reuse_address=True
            ).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Close the port and all connections."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer_logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        where = f"{names['namespace']}/{names['pod']}"
        container = self._find(names["namespace"], names["pod"], names["container"])
        if container is None:
            return _refuse(
                HTTPStatus.NOT_FOUND,
                f"this node runs no container '{names['container']}' of pod {where}",
            )
        try:
            query = LogQuery.parse(request.query, time.time())
        except LogQueryError as error:
            return _refuse(HTTPStatus.BAD_REQUEST, str(error))
        log = container.previous_log if query.previous else container.log
        if log is None:
            which = "previous terminated" if query.previous else "started"
            return _refuse(
                HTTPStatus.BAD_REQUEST, f"{which} container '{container.name}' of {where} not found"
            )
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for data in read_log(container, log, query):
            await response.write(data)
        await response.write_eof()
        return response


async def read_log(container: Container, log: LogFile, query: LogQuery) -> AsyncIterator[bytes]:
    """Yield what was asked for; with `follow`, until the run that wrote it has ended."""
    offset = 0 if query.tail is None else log.find_tail(query.tail)
    if query.since is not None:
        offset = max(offset, log.find_since(query.since))
    left = query.limit
    fresh_line = True
    while left is None or left > 0:
        writing = container.running and container.log is log
        data = log.read(offset)
        if not data:
            if not query.follow or not writing:
                return
            await asyncio.sleep(_FOLLOW_SECONDS)
            if log.measure() < offset:
                offset = 0  # it had become too long and was emptied
            continue
        text = data if left is None else data[:left]
        left = None if left is None else left - len(text)
        yield _stamp_lines(text, log, offset, fresh_line=fresh_line) if query.timestamps else text
        fresh_line = text.endswith(b"\n")
        offset += len(data)


def _stamp_lines(data: bytes, log: LogFile, offset: int, *, fresh_line: bool) -> bytes:
    """Put the time in front of every line that begins here."""
    stamped = []
    for line in data.splitlines(keepends=True):
        if fresh_line:
            moment = log.find_time(offset)
            stamp = format_micro_time(time.time() if moment is None else moment)
            stamped.append(stamp.encode() + b" ")
        stamped.append(line)
        offset += len(line)
        fresh_line = line.endswith(b"\n")
    return b"".join(stamped)


@web.middleware
async def _admit_masters(request: web.Request, handler: Any) -> web.StreamResponse:
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    subject = (certificate or {}).get("subject", ())
    names = {pair for part in subject for pair in part}
    if not names & _CALLERS:
        return _refuse(HTTPStatus.FORBIDDEN, "only the API server may ask a node's agent")
    answer: web.StreamResponse = await handler(request)
    return answer


async def _answer_health(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _refuse(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=sentence + "\n")
