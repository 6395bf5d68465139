"""The admin port: /healthz, /readyz, /metrics and /recording."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

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
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for line in recorder.lines():  # one at a time: the planner has its turn in between
            await response.write(line)
            await asyncio.sleep(0)
        await response.write_eof()
        return response

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
