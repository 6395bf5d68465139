"""Prometheus metrics of single workers, as their clients saw them: `sluice_gateway_worker_*`.

There are as many series as the fleet's workers have, and no more: those of a worker that is gone
are removed, and what still ends on it counts for its pool and class only.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from sluice_gateway.fleet import Fleet
from sluice_gateway.members import Worker

WORKER_LABELS: Final = ("pool", "accelerator_class", "worker")
_TTFT_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_TPOT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2)


class WorkerMetrics:
    """Counters and histograms by worker, fed by requests."""

    def __init__(self, registry: CollectorRegistry, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: set[tuple[str, str, str]] = set()
        self._requests = Counter(
            "sluice_gateway_worker_requests",
            "Requests that a worker finished, met or missed by the pool's SLO, and attempts that"
            " speak against it: error (an error answer, nonsense, or a broken connection) or"
            " timeout (no token in time).",
            (*WORKER_LABELS, "result"),
            registry=registry,
        )
        self._ttft = Histogram(
            "sluice_gateway_worker_ttft_seconds",
            "Time to first token of streams, from arrival at the gateway.",
            WORKER_LABELS,
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )
        self._tpot = Histogram(
            "sluice_gateway_worker_tpot_seconds",
            "Time per output token after the first, of streams that the worker ended.",
            WORKER_LABELS,
            buckets=_TPOT_BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "sluice_gateway_worker_tokens",
            "Tokens of requests that the worker finished: prompt or output.",
            (*WORKER_LABELS, "kind"),
            registry=registry,
        )

    def count_fault(self, worker: Worker, result: str) -> None:
        """Count an attempt that speaks against its worker: `error` or `timeout`."""
        if self._note(worker):
            self._requests.labels(*list_labels(worker), result).inc()

    def observe_first_token(self, worker: Worker, ttft: float) -> None:
        """Note the time to the first token of a stream, in seconds."""
        if self._note(worker):
            self._ttft.labels(*list_labels(worker)).observe(ttft)

    def observe_finish(
        self, worker: Worker, *, met: bool, tpot: float | None, tokens: tuple[int, int]
    ) -> None:
        """Count a request that a worker answered in full; arguments as in `Signals`."""
        if not self._note(worker):
            return
        labels = list_labels(worker)
        self._requests.labels(*labels, "met" if met else "missed").inc()
        if tpot is not None:
            self._tpot.labels(*labels).observe(tpot)
        for kind, count in zip(("prompt", "output"), tokens, strict=True):
            self._tokens.labels(*labels, kind).inc(count)

    def forget_departed(self) -> None:
        """Remove the series of workers, and of pools, that are gone."""
        if not self._known:
            return
        living = {
            list_labels(worker)
            for pool in self._fleet.pools.values()
            for worker in pool.workers.values()
        }
        for labels in self._known - living:
            told = dict(zip(WORKER_LABELS, labels, strict=True))
            for metric in (self._requests, self._ttft, self._tpot, self._tokens):
                metric.remove_by_labels(told)
        self._known &= living

    def _note(self, worker: Worker) -> bool:
        """Return whether a worker has series: it is one of its pool's now."""
        pool = self._fleet.pools.get(worker.pod.pool)
        if pool is None or pool.workers.get(worker.uid) is not worker:
            return False
        self._known.add(list_labels(worker))
        return True


def list_labels(worker: Worker) -> tuple[str, str, str]:
    """Return pool, accelerator class and pod name of a worker."""
    return worker.pod.pool, worker.variant, worker.pod.name
