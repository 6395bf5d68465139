"""A loopback proxy in front of the API server that can kill its client at any write.

TLS on both sides, the bearer token passed through, watches streamed. Every write is named, counted
and kept (`writes.py`); before it is forwarded, after the API server committed it, and after its
response was passed on, `strike` is asked whether the client dies now.
"""

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from sluice.devcluster.certificates import Subject, create_authority

from .writes import Moment, Phase, Write, decode, read_write

HOST = "127.0.0.1"
HOP_BY_HOP = {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
PATIENCE = 30.0
DIGEST = 0.05
"""Seconds for which a client may take a response in before it is killed for having got it."""

Strike = Callable[[Write, Moment], bool]
"""Kills the client if it is to die at this moment of this write; tells whether it did."""


class FaultProxy:
    """The proxy, on a thread of its own between `start` and `stop`.

    Args:
        server: URL of the API server.
        authority: file with the certificate that the API server's is signed with.
        directory: where the proxy's own keys are put.
    """

    def __init__(self, server: str, authority: Path, directory: Path) -> None:
        self._server = server
        self._upstream = ssl.create_default_context(cafile=str(authority))
        own = create_authority(directory, "proxy-ca", "sluice-fault-proxy")
        pair = own.issue_server("proxy", Subject("proxy"), addresses=(HOST,))
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(pair.certificate, pair.key)
        self.authority = own.files.certificate
        self.port = 0
        self.phase = Phase.MAKE
        self.writes: list[Write] = []
        self._strike: Strike = lambda *_: False
        self._life = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listen on a free port of the loopback address."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(PATIENCE)

    def stop(self) -> None:
        """Close everything."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def begin(self, strike: Strike) -> None:
        """Forget what was written, and ask `strike` from now on."""
        self.phase, self.writes, self._strike = Phase.MAKE, [], strike

    async def _open(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._upstream)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A watch ends with its client; writes are shielded from that, as an API server's are.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.1)  # TLS connections close a moment later

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        life = self._life
        body = await request.read()
        write = read_write(request.method, request.path, body, self.phase, time.monotonic())
        if write is None:
            return await self._stream(request, body)
        same = [one for one in self.writes if (one.phase, one.key) == (write.phase, write.key)]
        write.occurrence = len(same) + 1
        self.writes.append(write)
        return await asyncio.shield(
            asyncio.ensure_future(self._forward_write(request, body, write, life))
        )

    async def _stream(self, request: web.Request, body: bytes) -> web.StreamResponse:
        async with self._send(request, body) as answer:
            response = _begin(answer)
            with contextlib.suppress(ConnectionError):  # its client has been killed
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            return response

    async def _forward_write(
        self, request: web.Request, body: bytes, write: Write, life: int
    ) -> web.StreamResponse:
        if self._kill(write, Moment.BEFORE, life):
            return _drop(request)
        async with self._send(request, body) as answer:
            data = await answer.read()
            write.code = answer.status
            write.answer = decode(data) or {}
            if self._kill(write, Moment.COMMITTED, life):
                return _drop(request)
            response = _begin(answer)
            with contextlib.suppress(ConnectionError):  # killed at another of its writes
                await response.prepare(request)
                await response.write(data)
                await response.write_eof()
        await asyncio.sleep(DIGEST)
        self._kill(write, Moment.ANSWERED, life)
        return response

    def _kill(self, write: Write, moment: Moment, life: int) -> bool:
        """Ask whether the client dies here; one that is dead already left nothing to ask for."""
        if life != self._life or not self._strike(write, moment):
            return False
        self._life += 1
        return True

    def _send(self, request: web.Request, body: bytes) -> "aiohttp.client._RequestContextManager":
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        return self._session.request(
            request.method, f"{self._server}{request.raw_path}", headers=headers, data=body or None
        )


def _begin(answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Return a response with the status and the headers of the API server's answer."""
    skipped = HOP_BY_HOP | {"content-length"}
    headers = {k: v for k, v in answer.headers.items() if k.lower() not in skipped}
    return web.StreamResponse(status=answer.status, headers=headers)


def _drop(request: web.Request) -> web.Response:
    """Close a connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
