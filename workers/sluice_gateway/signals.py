"""What the gateway saw lately, as the operator reads it from `/signals`.

Requests report what happens to them; the document is put together when it is asked for, from the
windows here and from the fleet's present state.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, NamedTuple

from sluice_gateway.attempts import Exchange
from sluice_gateway.fleet import Fleet
from sluice_gateway.goals import RequestClass
from sluice_gateway.health import Verdict
from sluice_gateway.members import Pool, Worker
from sluice_gateway.overload import SHED
from sluice_gateway.parity import Agreement
from sluice_gateway.windows import (
    LONGEST_WINDOW,
    QUEUE_BOUNDS,
    TPOT_BOUNDS,
    TTFT_BOUNDS,
    Series,
    read_histogram,
)

_VERSION: Final = 1
_POOL_COUNTS: Final = (
    "arrived",
    "finished",
    "met",
    "failed",
    "rejected",
    "promptTokens",
    "outputTokens",
    "spilled",
    "shed",
)
_CLASS_COUNTS: Final = ("ended", "finished", "met", "shed")
_VARIANT_COUNTS: Final = ("sent", "finished", "met")
_WORKER_COUNTS: Final = ("finished", "errors", "timeouts")
_QUEUE: Final = "queue"
_AUDIT_COUNTS: Final = ("audits", "positions", "judged", "agreed")
_MICRO: Final = 1_000_000
"""Divergence is kept in whole micronats: windows add up whole numbers."""


class _ParityKey(NamedTuple):
    """Of a count of audits: the pair of classes, and what is counted."""

    pair: tuple[str, str]
    what: str


_ALL: Final = ("", "")
"""The pair under which a worker's audits are counted."""


class Signals:
    """Sliding windows over pools, variants and workers.

    What the numbers mean:

    - `arrived` counts requests for a pool; `finished` those answered in full by a worker; `met`
      the finished ones inside the SLO; `failed` those that ended by an error of ours, broken
      streams included; `rejected` those answered 429 or 503. Requests that were wrong in
      themselves, or that their client gave up, count as arrived only.
    - `shed` counts those of them that could not have been served in time, and `spilled` dispatches
      to another class of accelerator than was due, because that one would have been late.
    - `classes` counts requests that ended, by class, and whether they were inside their own
      objectives. Those that may take longer than the pool's objective (batch, or a later deadline)
      are `met` by their own, and left out of the histograms of TTFT: no capacity is wanted so that
      they wait less.
    - `queueWait` of a class is a histogram like `ttft`: the seconds that its requests waited in the
      gateway's line for their first worker, 0 if they were sent at once, or until they left the
      line without one. Those that were refused without waiting are not in it, nor is what a
      request waits later, when it has to move.
    - TTFT counts from arrival at the gateway, waiting included, and is known of streams only;
      TPOT is (last token - first token) / (tokens - 1). A request that does not stream meets the
      SLO if it took no longer than a stream inside the SLO may: TTFT + (tokens - 1) x TPOT.
    - `oldestPendingSeconds` is the age of the oldest stream without a first token.
    - `ttft` and `tpot` are histograms: counts by the document's `bounds` (upper ends, in seconds),
      and one more for what lies above.
    - Of a worker, `errors` counts attempts that ended in an error answer, nonsense or a broken
      connection; `timeouts` those without a token in time, first or next. Neither counts what says
      nothing against it: refusals (429, 503), requests that queued while others got on, and those
      cut because its probes failed.
    - `consecutiveFailures` counts requests in a row that a worker broke or gave no token in time.
      Only a request that gets on ends the row, or two minutes without a failure; an answered probe
      does not. `missedProbes` counts our probes missed in a row.
    - `parity` has what came of answers that workers of two classes scored, always of the last 300
      seconds: by the class that made them and the one they were compared with, and of each worker
      in either part. `judged` counts the tokens where one of the two was sure, `agreed` those of
      them where both have the same likeliest one, `divergence` is the sum of their KL in nat.
    - `shadow` has requests that a worker without traffic answered for nobody, likewise of the last
      300 seconds: TTFT counts from when they were sent to it.
    - `lastSuccessAgeSeconds` is the time since a probe was answered or a request got on, or since
      the worker is known. `suspect` says that it gets no new requests.

    Args:
        uid: Identity of this process.
        clock: Monotonic seconds.
        started_at: Wall time of the start, seconds since the epoch.
    """

    def __init__(
        self, fleet: Fleet, *, uid: str, clock: Callable[[], float], started_at: float
    ) -> None:
        self._fleet = fleet
        self._uid = uid
        self._clock = clock
        self._started_at = started_at
        self._started = clock()
        self._seq = 0
        self._pools: defaultdict[str, Series] = defaultdict(Series)
        self._variants: defaultdict[tuple[str, str], Series] = defaultdict(Series)
        self._workers: defaultdict[str, Series] = defaultdict(Series)

    def count_request(self, pool: Pool, what: str) -> None:
        """Count a request of a pool as `arrived`, `failed` or `rejected`."""
        self._pools[pool.spec.key].add(what, self._clock())

    def count_dispatch(self, pool: Pool, worker: Worker) -> None:
        """Count one attempt on a worker."""
        self._variants[pool.spec.key, worker.variant].add("sent", self._clock())

    def count_worker(self, worker: Worker, what: str) -> None:
        """Count `errors` or `timeouts` of a worker."""
        self._workers[worker.uid].add(what, self._clock())

    def count_class(self, pool: Pool, exchange: Exchange) -> None:
        """Count a request that has ended, by its class."""
        if exchange.goal is None:
            return
        now = self._clock()
        series = self._pools[pool.spec.key]
        shed = exchange.outcome in SHED
        if shed:
            series.add("shed", now)
        for what, happened in (
            ("ended", True),
            ("finished", exchange.met is not None),
            ("met", exchange.met),
            ("shed", shed),
        ):
            if happened:
                series.add((exchange.goal.kind, what), now)

    def count_audit(self, pool: Pool, maker: Worker, reference: Worker, found: Agreement) -> None:
        """Count an answer that its maker and a worker of another class have scored."""
        now = self._clock()
        counts = (1, found.positions, found.judged, found.agreed)
        for series, pair in (
            (self._pools[pool.spec.key], (maker.variant, reference.variant)),
            (self._workers[maker.uid], _ALL),
            (self._workers[reference.uid], _ALL),
        ):
            for what, count in zip(_AUDIT_COUNTS, counts, strict=True):
                series.add(_ParityKey(pair, what), now, count)
            micro = round(found.divergence * _MICRO)
            series.add(_ParityKey(pair, "divergence"), now, micro)

    def count_shadow(self, worker: Worker, what: str) -> None:
        """Count a mirrored request as `finished` or `failed`."""
        self._workers[worker.uid].add(("shadow", what), self._clock())

    def observe_shadow(self, worker: Worker, *, ttft: float, tpot: float | None) -> None:
        """Note how long a mirrored request took, in seconds."""
        now = self._clock()
        self.count_shadow(worker, "finished")
        series = self._workers[worker.uid]
        series.observe("shadow ttft", TTFT_BOUNDS, ttft, now)
        if tpot is not None:
            series.observe("shadow tpot", TPOT_BOUNDS, tpot, now)

    def observe_queue_wait(self, pool: Pool, exchange: Exchange) -> None:
        """Note what a request has waited, now that it leaves the line for the first time."""
        if exchange.goal is not None:
            name = f"{_QUEUE} {exchange.goal.kind}"
            series = self._pools[pool.spec.key]
            series.observe(name, QUEUE_BOUNDS, exchange.waited, self._clock())

    def observe_first_token(self, pool: Pool, worker: Worker, ttft: float) -> None:
        """Note the time to the first token of a stream, in seconds."""
        now = self._clock()
        self._variants[pool.spec.key, worker.variant].observe("ttft", TTFT_BOUNDS, ttft, now)
        self._workers[worker.uid].observe("ttft", TTFT_BOUNDS, ttft, now)

    def observe_finish(
        self,
        pool: Pool,
        worker: Worker,
        *,
        met: bool,
        tpot: float | None,
        tokens: tuple[int, int],
    ) -> None:
        """Note a request that a worker answered in full.

        `met` says whether it was inside the SLO; `tpot` is in seconds per output token after the
        first, where known; `tokens` counts prompt and output.
        """
        now = self._clock()
        for series in (
            self._pools[pool.spec.key],
            self._variants[pool.spec.key, worker.variant],
            self._workers[worker.uid],
        ):
            series.add("finished", now)
            if met:
                series.add("met", now)
        self._pools[pool.spec.key].add("promptTokens", now, tokens[0])
        self._pools[pool.spec.key].add("outputTokens", now, tokens[1])
        if tpot is not None:
            variant = self._variants[pool.spec.key, worker.variant]
            for series in (variant, self._workers[worker.uid]):
                series.observe("tpot", TPOT_BOUNDS, tpot, now)

    def render(self, window: int) -> dict[str, Any]:
        """Return the document for the last `window` seconds (1 to 300)."""
        window = max(1, min(LONGEST_WINDOW, window))
        now = self._clock()
        self._seq += 1
        self.forget_departed()
        return {
            "version": _VERSION,
            "gateway": {"uid": self._uid, "startedAt": self._started_at},
            "seq": self._seq,
            "windowSeconds": float(window),
            "observedSeconds": round(min(float(window), now - self._started), 3),
            "bounds": {"ttft": TTFT_BOUNDS, "tpot": TPOT_BOUNDS, "queueWait": QUEUE_BOUNDS},
            "pools": {
                key: self._render_pool(pool, window, now) for key, pool in self._fleet.pools.items()
            },
        }

    def _render_pool(self, pool: Pool, window: int, now: float) -> dict[str, Any]:
        key = pool.spec.key
        total = self._pools[key].sum_window(window, now)
        names = {worker.variant for worker in pool.workers.values()} | set(pool.spec.variants)
        return {
            **_pick(total, _POOL_COUNTS),
            "waiting": pool.waiting,
            "classes": {kind: _pick_class(total, kind) for kind in RequestClass},
            "parity": self._render_pairs(key, now),
            "variants": {
                name: self._render_variant(pool, name, window, now) for name in sorted(names)
            },
            "workers": {
                uid: self._render_worker(worker, window, now)
                for uid, worker in pool.workers.items()
            },
        }

    def _render_pairs(self, key: str, now: float) -> list[dict[str, Any]]:
        """Return what was compared in a pool, by pairs of classes."""
        total = self._pools[key].sum_window(LONGEST_WINDOW, now)
        pairs = {found.pair for found in total if isinstance(found, _ParityKey)}
        return [
            {"class": pair[0], "reference": pair[1], **_pick_parity(total, pair)}
            for pair in sorted(pairs)
        ]

    def _render_variant(self, pool: Pool, name: str, window: int, now: float) -> dict[str, Any]:
        total = self._variants[pool.spec.key, name].sum_window(window, now)
        running = [
            running
            for worker in pool.workers.values()
            if worker.variant == name
            for running in worker.running
        ]
        since = [run.pending_since for run in running if run.pending_since is not None]
        return {
            **_pick(total, _VARIANT_COUNTS),
            "inflight": len(running),
            "oldestPendingSeconds": round(now - min(since), 3) if since else 0.0,
            "ttft": read_histogram(total, "ttft", TTFT_BOUNDS),
            "tpot": read_histogram(total, "tpot", TPOT_BOUNDS),
        }

    def _render_worker(self, worker: Worker, window: int, now: float) -> dict[str, Any]:
        total = self._workers[worker.uid].sum_window(window, now)
        audited = self._workers[worker.uid].sum_window(LONGEST_WINDOW, now)
        health = worker.health
        return {
            "pod": worker.pod.name,
            "variant": worker.variant,
            "inflight": worker.inflight,
            **_pick(total, _WORKER_COUNTS),
            "consecutiveFailures": health.count_failures(now),
            "missedProbes": health.misses,
            "lastSuccessAgeSeconds": round(now - health.last_success, 3),
            "suspect": health.verdict is not Verdict.LIVE,
            "parity": _pick_parity(audited, _ALL),
            "shadow": {
                "finished": audited["shadow", "finished"],
                "failed": audited["shadow", "failed"],
                "ttft": read_histogram(audited, "shadow ttft", TTFT_BOUNDS),
                "tpot": read_histogram(audited, "shadow tpot", TPOT_BOUNDS),
            },
            "ttft": read_histogram(total, "ttft", TTFT_BOUNDS),
            "tpot": read_histogram(total, "tpot", TPOT_BOUNDS),
        }

    def forget_departed(self) -> None:
        """Drop the windows of pools and workers that are gone."""
        _keep(self._pools, self._fleet.pools.keys())
        _keep(self._workers, self._fleet.workers.keys())
        gone = [key for key in self._variants if key[0] not in self._fleet.pools]
        for key in gone:
            del self._variants[key]


def _pick(total: dict[Hashable, int], keys: Iterable[str]) -> dict[str, int]:
    return {key: total.get(key, 0) for key in keys}


def _pick_class(total: Counter[Hashable], kind: RequestClass) -> dict[str, int | list[int]]:
    """Return what became of a class's requests, and what they waited."""
    counts = {what: total[kind, what] for what in _CLASS_COUNTS}
    return {**counts, "queueWait": read_histogram(total, f"{_QUEUE} {kind}", QUEUE_BOUNDS)}


def _pick_parity(total: dict[Hashable, int], pair: tuple[str, str]) -> dict[str, int | float]:
    """Return the sums of audits, of a pair of classes or of a worker."""
    counts = {what: total.get(_ParityKey(pair, what), 0) for what in _AUDIT_COUNTS}
    divergence = total.get(_ParityKey(pair, "divergence"), 0) / _MICRO
    return {**counts, "divergence": divergence}


def _keep(windows: defaultdict[str, Series], known: Iterable[str]) -> None:
    for key in set(windows) - set(known):
        del windows[key]
