"""Exports spans by OTLP over HTTP, as JSON, from a bounded queue: what does not fit is dropped.

Our own rather than OpenTelemetry's SDK: spans are made of finished requests, so all that is left is
one POST, for which the SDK would bring ten packages and a thread with an HTTP client of its own.
"""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import aiohttp
import structlog
from prometheus_client import CollectorRegistry, Counter

from sluice_gateway.otelsettings import Export
from sluice_gateway.spans import render_attributes

_QUEUE_MOST: Final = 2048
_BATCH_MOST: Final = 512
_PERIOD: Final = 5.0
_TRIES: Final = 4
_BACKOFF_FIRST: Final = 1.0
_BACKOFF_MOST: Final = 30.0
_LAST_SECONDS: Final = 2.0
_ANSWER_BYTES: Final = 64 << 10
_PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses after which OTLP has a client try again."""


class SpanExporter:
    """Sends spans in batches."""

    def __init__(
        self,
        export: Export,
        session: aiohttp.ClientSession,
        registry: CollectorRegistry,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._export = export
        self._session = session
        self._log = log.bind(url=export.url)
        self._queue: deque[dict[str, Any]] = deque()
        self._full = asyncio.Event()
        self._well = True
        self._spans = Counter(
            "sluice_gateway_spans",
            "Spans by what became of them: exported, failed, or dropped because too many waited.",
            ("outcome",),
            registry=registry,
        )

    def put(self, spans: Sequence[dict[str, Any]]) -> None:
        """Queue spans; those that do not fit are dropped, and counted."""
        room = max(0, _QUEUE_MOST - len(self._queue))
        self._queue.extend(spans[:room])
        self._count("dropped", len(spans) - min(room, len(spans)))
        if len(self._queue) >= _BATCH_MOST:
            self._full.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD):
                    await self._full.wait()
            self._full.clear()
            while self._queue:
                await self._send_batch(_TRIES)

    async def close(self) -> None:
        """Send what is left, if that goes fast."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                while self._queue:
                    await self._send_batch(1)

    async def _send_batch(self, tries: int) -> None:
        """Send one batch, again if it may pass the next time; then forget it."""
        batch = [self._queue.popleft() for _ in range(min(_BATCH_MOST, len(self._queue)))]
        body = self._render(batch)
        pause = _BACKOFF_FIRST
        for left in reversed(range(tries)):
            why, again = await self._post(body)
            if not why:
                self._count("exported", len(batch))
                self._note_state("")
                return
            self._note_state(why)
            if not again or not left:
                break
            await asyncio.sleep(pause)
            pause = min(_BACKOFF_MOST, 2 * pause)
        self._count("failed", len(batch))

    async def _post(self, body: bytes) -> tuple[str, bool]:
        """Return why it failed, empty if it did not, and whether to try again."""
        headers = {**self._export.headers, "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._export.seconds),
                self._session.post(
                    self._export.url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                await response.content.read(_ANSWER_BYTES)
                if response.status // 100 == 2:  # noqa: PLR2004
                    return "", False
                return f"answered {response.status}", response.status in _PASSING
        except TimeoutError:
            return f"no answer within {self._export.seconds:g} s", True
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return type(error).__name__, True

    def _render(self, batch: list[dict[str, Any]]) -> bytes:
        resource = {"attributes": render_attributes(dict(self._export.resource))}
        scope = {"scope": {"name": "sluice_gateway"}, "spans": batch}
        return json.dumps(
            {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
        ).encode()

    def _count(self, outcome: str, count: int) -> None:
        if count:
            self._spans.labels(outcome).inc(count)

    def _note_state(self, why: str) -> None:
        """Log when the collector goes away, and when it is back."""
        if why and self._well:
            self._log.warning("spans not exported", reason=why)
        elif not why and not self._well:
            self._log.info("spans exported again")
        self._well = not why
