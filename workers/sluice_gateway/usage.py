"""Who used how much: counts by key, model and class, as metrics and one log line a minute."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

_PERIOD: Final = 60.0
_KEY_MODEL_CLASS: Final = ("key", "pool", "model", "accelerator_class")
_Row = tuple[str, str, str, str]


@dataclass(slots=True)
class _Used:
    """What one key used of one model and class since the last line, and its metrics.

    These are looked up once: that takes longer than to count.
    """

    request_counter: Counter
    prompt_counter: Counter
    output_counter: Counter
    requests: int = 0
    prompt: int = 0
    output: int = 0

    def add(self, prompt: int, output: int) -> None:
        self.requests += 1
        self.prompt += prompt
        self.output += output
        self.request_counter.inc()
        self.prompt_counter.inc(prompt)
        self.output_counter.inc(output)


class UsageLog:
    """Counts what keys use. No text of any user in it, and no key but by its name."""

    def __init__(self, registry: CollectorRegistry, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._used: dict[_Row, _Used] = {}
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
        row = (key, pool, model, variant)
        used = self._used.get(row)
        if used is None:
            used = self._used[row] = _Used(
                self._request_counter.labels(*row),
                self._token_counter.labels(*row, "prompt"),
                self._token_counter.labels(*row, "output"),
            )
        used.add(*tokens)

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
        if self._used:
            rows = [_describe(row, used) for row, used in sorted(self._used.items(), key=_row_of)]
            self._log.info("usage", keys=rows)
        self._used.clear()

    def _forget(self, labels: dict[str, str], *counters: Counter) -> None:
        self.write()  # what is counted is written before its metrics are looked up afresh
        for counter in counters:
            counter.remove_by_labels(labels)


def _row_of(item: tuple[_Row, _Used]) -> _Row:
    return item[0]


def _describe(row: _Row, used: _Used) -> dict[str, object]:
    key, _, model, variant = row
    return {
        "key": key,
        "model": model,
        "accelerator_class": variant,
        "requests": used.requests,
        "prompt_tokens": used.prompt,
        "output_tokens": used.output,
    }
