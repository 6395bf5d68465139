"""The gateway's Prometheus metrics: `sluice_gateway_*`.

Labels come from fixed sets, or name pools and classes of the cluster; those of a pool that is gone
are removed. Gauges are read from the fleet when somebody scrapes, so they cannot go stale. What
single workers did is in `workermetrics`, the gaps between tokens in `gaps`.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sluice_gateway.attempts import Attempt, Exchange
from sluice_gateway.fleet import Fleet
from sluice_gateway.gaps import GapCollector, Gaps
from sluice_gateway.members import Pool, Worker
from sluice_gateway.overload import SHED
from sluice_gateway.parity import Agreement
from sluice_gateway.sources import Watch
from sluice_gateway.workermetrics import WORKER_LABELS, WorkerMetrics, list_labels

_TTFT_BUCKETS: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60)
_TPOT_BUCKETS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_QUEUE_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 5, 10, 30, 60)
"""Seconds. What was dispatched at once is in the first."""
_POOL_CLASS: Final = ("pool", "accelerator_class")
_PAIR: Final = (*_POOL_CLASS, "reference_class")


class Metrics:
    """Counters and histograms, fed by requests.

    Attributes:
        workers: Those of single workers.
        comparing: Those of what no user waits for.
    """

    def __init__(self, registry: CollectorRegistry, fleet: Fleet) -> None:
        self._fleet = fleet
        self.workers = WorkerMetrics(registry, fleet)
        self.comparing = ComparingMetrics(registry)
        self.requests = Counter(
            "sluice_gateway_requests",
            "Requests by the class that served them last, and the status sent.",
            (*_POOL_CLASS, "code"),
            registry=registry,
        )
        self.attempts = Counter(
            "sluice_gateway_attempts",
            "Attempts on workers by how they ended.",
            (*_POOL_CLASS, "outcome"),
            registry=registry,
        )
        self.continuations = Counter(
            "sluice_gateway_continuations",
            "Streams that went on from another worker, by why they left the one before, and whether"
            " they go on token by token as they would have.",
            ("pool", "from_class", "to_class", "cause", "result"),
            registry=registry,
        )
        self.timeouts = Counter(
            "sluice_gateway_worker_timeouts",
            "Attempts without a token in time, first or next, that speak against the worker.",
            (*_POOL_CLASS, "phase"),
            registry=registry,
        )
        self.denied = Counter(
            "sluice_gateway_retries_denied",
            "Retries that the budget did not allow.",
            ("pool",),
            registry=registry,
        )
        self.spills = Counter(
            "sluice_gateway_spills",
            "Dispatches to another group of workers, because the one that was due would be late.",
            ("pool", "due", "to"),
            registry=registry,
        )
        self.classes = Counter(
            "sluice_gateway_class_requests",
            "Requests by their class: met or missed (their own objectives), shed, or other.",
            ("pool", "request_class", "result"),
            registry=registry,
        )
        self.met = Counter(
            "sluice_gateway_requests_met",
            "Finished requests inside the pool's SLO.",
            _POOL_CLASS,
            registry=registry,
        )
        self.tokens = Counter(
            "sluice_gateway_tokens",
            "Tokens of finished requests.",
            (*_POOL_CLASS, "kind"),
            registry=registry,
        )
        self.ttft = Histogram(
            "sluice_gateway_ttft_seconds",
            "Time to first token of streams, from arrival at the gateway.",
            _POOL_CLASS,
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )
        self.tpot = Histogram(
            "sluice_gateway_tpot_seconds",
            "Time per output token after the first, of streams.",
            _POOL_CLASS,
            buckets=_TPOT_BUCKETS,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "sluice_gateway_queue_wait_seconds",
            "Time in the gateway's line until the first dispatch (0 if at once), or until the"
            " request left the line without one.",
            ("pool", "request_class"),
            buckets=_QUEUE_BUCKETS,
            registry=registry,
        )
        self.itl = GapCollector()
        registry.register(self.itl)

    def observe_queue_wait(self, pool: str, exchange: Exchange) -> None:
        """Note what a request has waited, now that it leaves the line for the first time."""
        if exchange.goal is not None and pool in self._fleet.pools:
            self.queue_wait.labels(pool, exchange.goal.kind).observe(exchange.waited)

    def observe_first_token(self, pool: str, worker: Worker, ttft: float) -> None:
        """Note the time to the first token of a stream, in seconds."""
        self.ttft.labels(pool, worker.variant).observe(ttft)
        self.workers.observe_first_token(worker, ttft)

    def observe_gaps(self, pool: str, variant: str, gaps: Gaps) -> None:
        """Take the gaps between tokens of an attempt that has ended."""
        if pool in self._fleet.pools:
            self.itl.merge(pool, variant, gaps)

    def observe_finish(
        self, pool: str, worker: Worker, *, met: bool, tpot: float | None, tokens: tuple[int, int]
    ) -> None:
        """Count a request that a worker answered in full; arguments as in `Signals`."""
        self.workers.observe_finish(worker, met=met, tpot=tpot, tokens=tokens)
        variant = worker.variant
        if met:
            self.met.labels(pool, variant).inc()
        if tpot is not None:
            self.tpot.labels(pool, variant).observe(tpot)
        for kind, count in zip(("prompt", "output"), tokens, strict=True):
            self.tokens.labels(pool, variant, kind).inc(count)

    def count_continuation(self, pool: str, attempt: Attempt) -> None:
        """Count an attempt if it went on with a stream that began elsewhere."""
        if attempt.cause and attempt.begun:
            result = "exact" if attempt.exact else "approximate"
            labels = (pool, attempt.source, attempt.worker.variant, attempt.cause, result)
            self.continuations.labels(*labels).inc()

    def count_class(self, pool: str, exchange: Exchange) -> None:
        """Count a request that has ended, by its class."""
        if exchange.goal is None:
            return
        if exchange.met is None:
            result = "shed" if exchange.outcome in SHED else "other"
        else:
            result = "met" if exchange.met else "missed"
        self.classes.labels(pool, exchange.goal.kind, result).inc()

    def note_end(self, pool: str) -> None:
        """A request has ended: of a pool that is gone nothing stays behind."""
        if pool not in self._fleet.pools:
            self.forget_pool(pool)

    def forget_pool(self, key: str) -> None:
        """Remove the label sets of a pool that is gone."""
        for metric in (
            self.requests,
            self.attempts,
            self.continuations,
            self.timeouts,
            self.denied,
            self.spills,
            self.classes,
            self.met,
            self.tokens,
            self.ttft,
            self.tpot,
            self.queue_wait,
        ):
            metric.remove_by_labels({"pool": key})
        self.itl.forget_pool(key)
        self.workers.forget_departed()
        self.comparing.forget_pool(key)


class ComparingMetrics:
    """Counters and histograms of parity audits and shadow requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.audits = Counter(
            "sluice_gateway_parity_audits",
            "Answers of a class that were to be compared with another's: scored, unscorable (a"
            " worker refused, or the models differ) or lost (no answer).",
            (*_PAIR, "result"),
            registry=registry,
        )
        self.audit_tokens = Counter(
            "sluice_gateway_parity_tokens",
            "Tokens of scored answers, by what was found: agreed (same likeliest token), differed,"
            " or unsure (neither class was sure of one, which judges neither).",
            (*_PAIR, "result"),
            registry=registry,
        )
        self.audit_divergence = Counter(
            "sluice_gateway_parity_kl_nats",
            "Sum of KL(class || reference) over the tokens that agreed or differed, in nat.",
            _PAIR,
            registry=registry,
        )
        self.audits_dropped = Counter(
            "sluice_gateway_parity_audits_dropped",
            "Answers drawn for the sample and left out: no_room in the queue, stale before both"
            " workers had room and budget, no_worker to compare with.",
            ("pool", "reason"),
            registry=registry,
        )
        self.shadows = Counter(
            "sluice_gateway_shadow_requests",
            "Requests mirrored to workers without traffic, by how they ended: ok, failed or"
            " cancelled.",
            (*_POOL_CLASS, "result"),
            registry=registry,
        )
        self.shadows_dropped = Counter(
            "sluice_gateway_shadow_requests_dropped",
            "Requests drawn to be mirrored and left out: no_room in the queue, or no_worker free.",
            ("pool", "reason"),
            registry=registry,
        )
        self.shadow_ttft = Histogram(
            "sluice_gateway_shadow_ttft_seconds",
            "Time to first token of mirrored requests, from when they were sent.",
            _POOL_CLASS,
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )
        self.shadow_tpot = Histogram(
            "sluice_gateway_shadow_tpot_seconds",
            "Time per output token after the first, of mirrored requests.",
            _POOL_CLASS,
            buckets=_TPOT_BUCKETS,
            registry=registry,
        )

    def observe_shadow(self, pool: str, variant: str, *, ttft: float, tpot: float | None) -> None:
        """Note how long a mirrored request took, in seconds."""
        self.shadow_ttft.labels(pool, variant).observe(ttft)
        if tpot is not None:
            self.shadow_tpot.labels(pool, variant).observe(tpot)

    def count_audit(self, labels: tuple[str, str, str], found: Agreement) -> None:
        """Count what came of an audit; `labels` are pool, class and reference class."""
        self.audits.labels(*labels, "scored").inc()
        for result, tokens in (
            ("agreed", found.agreed),
            ("differed", found.judged - found.agreed),
            ("unsure", found.positions - found.judged),
        ):
            self.audit_tokens.labels(*labels, result).inc(tokens)
        self.audit_divergence.labels(*labels).inc(found.divergence)

    def forget_pool(self, key: str) -> None:
        """Remove the label sets of a pool that is gone."""
        for metric in (
            self.audits,
            self.audit_tokens,
            self.audit_divergence,
            self.audits_dropped,
            self.shadows,
            self.shadows_dropped,
            self.shadow_ttft,
            self.shadow_tpot,
        ):
            metric.remove_by_labels({"pool": key})


class FleetCollector(Collector):
    """Gauges of the present state."""

    def __init__(self, fleet: Fleet, watches: Sequence[Watch], clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._watches = watches
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without asking for values."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the fleet."""
        workers = GaugeMetricFamily(
            "sluice_gateway_workers",
            "Workers by state: live, suspect, failed, quarantined or not-ready.",
            labels=(*_POOL_CLASS, "state"),
        )
        inflight = GaugeMetricFamily(
            "sluice_gateway_inflight_requests", "Requests on workers.", labels=_POOL_CLASS
        )
        worker_inflight = GaugeMetricFamily(
            "sluice_gateway_worker_inflight_requests",
            "Requests on a worker.",
            labels=WORKER_LABELS,
        )
        waiting = GaugeMetricFamily(
            "sluice_gateway_waiting_requests", "Requests waiting for a worker.", labels=("pool",)
        )
        for key, pool in self._fleet.pools.items():
            waiting.add_metric((key,), pool.waiting)
            states = Tally((w.variant, find_state(pool, w)) for w in pool.workers.values())
            for (variant, state), count in states.items():
                workers.add_metric((key, variant, state), count)
            for variant in {w.variant for w in pool.workers.values()}:
                running = sum(w.inflight for w in pool.workers.values() if w.variant == variant)
                inflight.add_metric((key, variant), running)
            by_worker: Tally[tuple[str, str, str]] = Tally()
            for worker in pool.workers.values():
                by_worker[list_labels(worker)] += worker.inflight
            for labels, running in by_worker.items():
                worker_inflight.add_metric(labels, running)
        connected = GaugeMetricFamily(
            "sluice_gateway_watch_connected",
            "1 while the API server, or the backend, answers.",
            labels=("kind",),
        )
        age = GaugeMetricFamily(
            "sluice_gateway_watch_age_seconds",
            "Seconds since the API server, or the backend, was last heard.",
            labels=("kind",),
        )
        for watch in self._watches:
            connected.add_metric((watch.kind,), watch.connected)
            if watch.synced:
                age.add_metric((watch.kind,), self._clock() - watch.heard_at)
        yield from (workers, inflight, worker_inflight, waiting, connected, age)


def find_state(pool: Pool, worker: Worker) -> str:
    """Return one word for what keeps a worker from serving, or `live`."""
    if not worker.ready:
        return "not-ready"
    if worker.pod.name in pool.decision.quarantined:
        return "quarantined"
    return str(worker.health.verdict)
