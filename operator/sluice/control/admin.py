"""The admin port: /healthz, /readyz, /metrics and /recording."""

import asyncio
from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sluice.api.quantities import parse_duration
from sluice.control.passes import PlannerLoop
from sluice.control.recording import Recorder
from sluice.control.sensors import Sensors
from sluice.control.settings import Settings
from sluice.control.telemetry import Telemetry


def find_stuck(passed: float | None, started: float, settings: Settings, now: float) -> str:
    """Return why the process must be restarted, or "".

    An API server that is away is no reason: a restart would not bring it back.
    """
    limit = max(30.0, 10 * settings.fast_tick)
    last = passed if passed is not None else started
    if now - last > limit:
        return f"the planner loop has not come round for {now - last:.0f} s (limit {limit:.0f} s)"
    return ""


BATCH_BYTES = 1 << 20


def take_batch(lines: Iterator[bytes]) -> bytes:
    """Return about a megabyte of lines, b"" at their end.

    Raises:
        OSError: the disk cannot be read.
    """
    batch = bytearray()
    for line in lines:
        batch += line
        if len(batch) >= BATCH_BYTES:
            break
    return bytes(batch)


async def _send_lines(request: web.Request, lines: Iterator[bytes]) -> web.StreamResponse:
    """Send lines; a thread reads and unpacks them, so that the planner has its turn."""
    try:
        batch = await asyncio.to_thread(take_batch, lines)
    except OSError as error:
        return web.Response(status=503, text=f"the recording cannot be read: {error.strerror}")
    response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    while batch:
        await response.write(batch)
        batch = await asyncio.to_thread(take_batch, lines)
    await response.write_eof()
    return response


def make_app(
    loop: PlannerLoop,
    sensors: Sensors,
    telemetry: Telemetry,
    settings: Settings,
    clock: Callable[[], float],
    recorder: Recorder,
) -> web.Application:
    """Return the application of the admin port."""
    started = clock()

    async def healthz(_: web.Request) -> web.Response:
        stuck = find_stuck(loop.passed, started, settings, clock())
        return web.Response(status=503 if stuck else 200, text=stuck or "ok")

    async def readyz(_: web.Request) -> web.Response:
        if sensors.store.is_complete():
            return web.Response(text="ok")
        return web.Response(status=503, text="the first complete list is not there yet")

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(telemetry.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def recording(request: web.Request) -> web.StreamResponse:
        lines = recorder.lines()
        if "since" in request.query:
            try:
                lines = recorder.lines_since(clock() - parse_duration(request.query["since"]))
            except ValueError as error:
                return web.Response(status=400, text=f"since {error}")
        return await _send_lines(request, lines)

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/recording", recording),
        ]
    )
    return app
