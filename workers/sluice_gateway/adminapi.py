"""The admin port: `/healthz`, `/readyz`, `/metrics`, `/signals` for the operator, and `/route`."""

import math
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sluice_gateway.decisions import DecisionLog
from sluice_gateway.signals import Signals
from sluice_gateway.windows import LONGEST_WINDOW

_DEFAULT_WINDOW = 30


class AdminApi:
    """Answers on the admin port.

    Args:
        why_unready: Returns a sentence while the gateway should get no requests, else nothing.
        why_unsynced: The same for not yet knowing pools and workers.
    """

    def __init__(
        self,
        signals: Signals,
        registry: CollectorRegistry,
        *,
        decisions: DecisionLog,
        why_unready: Callable[[], str],
        why_unsynced: Callable[[], str],
    ) -> None:
        self._signals = signals
        self._registry = registry
        self._decisions = decisions
        self._why_unready = why_unready
        self._why_unsynced = why_unsynced

    def build_app(self) -> web.Application:
        """Return the application with its routes."""
        app = web.Application()
        app.router.add_get("/healthz", self._answer_health)
        app.router.add_get("/readyz", self._answer_ready)
        app.router.add_get("/metrics", self._answer_metrics)
        app.router.add_get("/signals", self._answer_signals)
        app.router.add_get("/route/{request_id}", self._answer_route)
        return app

    async def _answer_health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # answering at all is the proof: there is one loop

    async def _answer_ready(self, _request: web.Request) -> web.Response:
        why = self._why_unready()
        return web.Response(status=503 if why else 200, text=f"{why or 'ready'}\n")

    async def _answer_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _answer_route(self, request: web.Request) -> web.Response:
        record = self._decisions.find(request.match_info["request_id"])
        if record is None:
            return web.Response(status=404, text="this gateway does not remember this request\n")
        return web.json_response(record)

    async def _answer_signals(self, request: web.Request) -> web.Response:
        why = self._why_unsynced()
        if why:
            # Before pools and workers are known, no answer is better than one of zeros.
            return web.Response(status=503, text=f"{why}\n")
        try:
            window = float(request.query.get("window", _DEFAULT_WINDOW))
        except ValueError:
            window = math.nan
        if not 1 <= window <= LONGEST_WINDOW:
            message = f"window should be 1 to {LONGEST_WINDOW} seconds\n"
            return web.Response(status=400, text=message)
        return web.json_response(self._signals.render(math.ceil(window)))
