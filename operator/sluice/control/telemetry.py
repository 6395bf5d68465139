"""Prometheus metrics of the operator, and its structured log."""

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sluice.model.plan import Plan, PoolPlan


def configure_logging() -> None:
    """Write JSON lines to standard error; kopf's own lines only from warnings up."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")


class Telemetry:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_variant = ("namespace", "pool", "accelerator_class")
        by_pool = ("namespace", "pool")
        made = self.registry
        self.passes = Histogram(
            "sluice_operator_pass_seconds",
            "Time of one planner pass.",
            registry=made,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
        )
        self.leading = Gauge("sluice_operator_leading", "1 while this replica acts.", registry=made)
        self.decisions = Counter(
            "sluice_operator_decisions", "Decisions.", ("action",), registry=made
        )
        self.writes = Gauge(
            "sluice_operator_writes", "Writes since start.", ("verb", "kind"), registry=made
        )
        self.misses = Gauge(
            "sluice_operator_probe_misses", "Liveness probes missed since start.", registry=made
        )
        self.unanswered = Gauge(
            "sluice_operator_known_answers_unanswered",
            "Rounds of known answers since start that gave no verdict: late, busy or broken.",
            registry=made,
        )
        self.quarantined = Gauge(
            "sluice_operator_quarantined_nodes", "Nodes taken out.", registry=made
        )
        self.wanted = Gauge("sluice_pool_workers_wanted", "Wanted.", by_variant, registry=made)
        self.ready = Gauge("sluice_pool_workers_ready", "Ready.", by_variant, registry=made)
        self.serving = Gauge("sluice_pool_workers_serving", "Serving.", by_variant, registry=made)
        self.share = Gauge("sluice_pool_share", "Share, 0 to 1.", by_variant, registry=made)
        self.capacity = Gauge(
            "sluice_pool_worker_capacity", "Requests/s of one worker.", by_variant, registry=made
        )
        self.cost = Gauge("sluice_pool_dollars_per_hour", "Cost.", by_variant, registry=made)
        self.demand = Gauge("sluice_pool_demand", "Requests/s.", by_pool, registry=made)
        self.attainment = Gauge(
            "sluice_pool_attainment", "Share of requests inside the SLO.", by_pool, registry=made
        )
        self.fallback = Gauge(
            "sluice_pool_fallback_active", "1 while capacity is lost.", by_pool, registry=made
        )
        self._variants: set[tuple[str, str, str]] = set()
        self._pools: set[tuple[str, str]] = set()

    def show_plan(self, plan: Plan) -> None:
        """Set the gauges to a plan; series of what is gone are removed."""
        variants, pools = set(), set()
        for planned in plan.pools.values():
            pools.add((planned.key.namespace, planned.key.name))
            variants |= self._show_pool(planned)
            for decision in planned.decisions:
                self.decisions.labels(decision.action).inc()
        for old in self._variants - variants:
            for gauge in (
                self.wanted,
                self.ready,
                self.serving,
                self.share,
                self.capacity,
                self.cost,
            ):
                self._drop(gauge, old)
        for gone in self._pools - pools:
            for gauge in (self.demand, self.attainment, self.fallback):
                self._drop(gauge, gone)
        self._variants, self._pools = variants, pools

    def _show_pool(self, planned: PoolPlan) -> set[tuple[str, str, str]]:
        pool = (planned.key.namespace, planned.key.name)
        self._set(self.demand, pool, planned.demand)
        self._set(self.attainment, pool, planned.attainment)
        self.fallback.labels(*pool).set(bool(planned.fallback))
        shown = set()
        for variant in planned.variants:
            labels = (*pool, variant.accelerator_class)
            shown.add(labels)
            self.wanted.labels(*labels).set(variant.wanted)
            self.ready.labels(*labels).set(variant.ready)
            self.serving.labels(*labels).set(variant.serving)
            self.share.labels(*labels).set(variant.share / 100)
            self.cost.labels(*labels).set(variant.cost_per_hour)
            self._set(self.capacity, labels, variant.capacity)
        return shown

    def _set(self, gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
        """Set a gauge; what is not known has no series, for the last value would pass for now's."""
        if value is None:
            self._drop(gauge, labels)
        else:
            gauge.labels(*labels).set(value)

    @staticmethod
    def _drop(gauge: Gauge, labels: tuple[str, ...]) -> None:
        try:
            gauge.remove(*labels)
        except KeyError:
            return  # never set: an unknown capacity has no series
