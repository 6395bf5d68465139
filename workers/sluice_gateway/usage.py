"""Who used how much: counts by key, model and class, as metrics and one log line a minute."""

import asyncio
from collections import Counter as Tally
from collections.abc import Collection
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

_PERIOD: Final = 60.0
_KEY_MODEL_CLASS: Final = ("key", "pool", "model", "accelerator_class")
_Row = tuple[str, str, str]


class UsageLog:
    """Counts what keys use. No text of any user in it, and no key but by its name."""

    def __init__(self, registry: CollectorRegistry, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._requests: Tally[_Row] = Tally()
        self._prompt: Tally[_Row] = Tally()
        self._output: Tally[_Row] = Tally()
        self._request_counter = Counter(
            "sluice_gateway_key_requests",
            "Requests of API keys that were within their limits.",
            _KEY_MODEL_CLASS,
            registry=registry,
        )
        self._token_counter = Counter(
            "sluice_gateway_key_tokens",
            "Tokens of API keys; those of a prompt are estimated if its answer broke off.",
            (*_KEY_MODEL_CLASS, "kind"),
            registry=registry,
        )
        self._refusal_counter = Counter(
            "sluice_gateway_key_refusals",
            "Requests refused by what limits a key: concurrency, requests, tokens or model.",
            ("key", "limit"),
            registry=registry,
        )

    def note(
        self, key: str, *, pool: str, model: str, variant: str, tokens: tuple[int, int]
    ) -> None:
        """Count one request; `tokens` are those of prompt and output."""
        row = (key, model, variant)
        self._requests[row] += 1
        self._prompt[row] += tokens[0]
        self._output[row] += tokens[1]
        labels = (key, pool, model, variant)
        self._request_counter.labels(*labels).inc()
        for kind, count in zip(("prompt", "output"), tokens, strict=True):
            self._token_counter.labels(*labels, kind).inc(count)

    def note_refusal(self, key: str, limit: str) -> None:
        """Count one request that a key's limits did not allow."""
        self._refusal_counter.labels(key, limit).inc()

    def forget_pool(self, pool: str) -> None:
        """Remove the label sets of a pool that is gone."""
        self._forget({"pool": pool}, self._request_counter, self._token_counter)

    def forget_keys(self, names: Collection[str]) -> None:
        """Remove the label sets of keys that are gone."""
        for name in names:
            self._forget(
                {"key": name}, self._request_counter, self._token_counter, self._refusal_counter
            )

    async def run(self) -> None:
        """Write a line every minute until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD)
            self.write()

    def write(self) -> None:
        """Write what was used since the last line; nothing if that is nothing."""
        if self._requests:
            self._log.info("usage", keys=[self._describe(row) for row in sorted(self._requests)])
        for tally in (self._requests, self._prompt, self._output):
            tally.clear()

    def _describe(self, row: _Row) -> dict[str, object]:
        key, model, variant = row
        return {
            "key": key,
            "model": model,
            "accelerator_class": variant,
            "requests": self._requests[row],
            "prompt_tokens": self._prompt[row],
            "output_tokens": self._output[row],
        }

    @staticmethod
    def _forget(labels: dict[str, str], *counters: Counter) -> None:
        for counter in counters:
            counter.remove_by_labels(labels)
