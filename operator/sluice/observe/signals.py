"""Signals: what the gateways measured, read from their /signals and merged.

A signal is complete only if every Ready gateway answered; else it is missing, not low.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import aiohttp
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from sluice.model.clock import Clock
from sluice.model.keys import PoolKey
from sluice.model.snapshot import (
    Distribution,
    PairSignals,
    ParitySignals,
    PoolSignals,
    VariantSignals,
    WorkerSignals,
)

log = structlog.get_logger()

PATIENCE = 1.0
"""Seconds that a gateway has to answer; a fast tick must not wait longer."""

SHADOW_SECONDS = 300.0
"""For which gateways count mirrored requests, whatever window they are asked for."""


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, allow_inf_nan=False)


Number = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Bounds(_Wire):
    ttft: tuple[Seconds, ...] = Field(min_length=1)
    tpot: tuple[Seconds, ...] = Field(min_length=1)


class _Parity(_Wire):
    audits: Number = 0
    judged: Number = 0
    agreed: Number = 0
    divergence: Annotated[float, Field(ge=0)] = 0.0


class _Pair(_Parity):
    accelerator_class: str = Field(alias="class")
    reference: str


class _Variant(_Wire):
    sent: Number
    finished: Number
    met: Number
    inflight: Number
    oldest_pending_seconds: Seconds
    ttft: tuple[Number, ...]
    tpot: tuple[Number, ...]


class _Shadow(_Wire):
    finished: Number = 0
    failed: Number = 0
    ttft: tuple[Number, ...] = ()
    tpot: tuple[Number, ...] = ()


class _Worker(_Wire):
    consecutive_failures: Number
    missed_probes: Number = 0
    finished: Number = 0
    errors: Number = 0
    timeouts: Number = 0
    ttft: tuple[Number, ...] = ()
    tpot: tuple[Number, ...] = ()
    parity: _Parity = _Parity()
    shadow: _Shadow = _Shadow()


class _Pool(_Wire):
    arrived: Number
    finished: Number
    met: Number
    failed: Number
    rejected: Number
    waiting: Number
    prompt_tokens: Number
    output_tokens: Number
    variants: Mapping[str, _Variant]
    workers: Mapping[str, _Worker]
    parity: tuple[_Pair, ...] = ()


class GatewayReport(_Wire):
    """What one gateway answers (`/signals`, version 1)."""

    version: int
    observed_seconds: Seconds
    bounds: _Bounds
    pools: Mapping[str, _Pool]

    @model_validator(mode="after")
    def _check(self) -> "GatewayReport":
        ttft, tpot = len(self.bounds.ttft) + 1, len(self.bounds.tpot) + 1
        for pool in self.pools.values():
            for name, variant in pool.variants.items():
                if (len(variant.ttft), len(variant.tpot)) != (ttft, tpot):
                    raise ValueError(
                        f"variant {name} has {len(variant.ttft)} counts of TTFT and"
                        f" {len(variant.tpot)} of TPOT; their bounds need {ttft} and {tpot}"
                    )
            for uid, worker in pool.workers.items():
                for one in (worker, worker.shadow):
                    if len(one.ttft) in (0, ttft) and len(one.tpot) in (0, tpot):
                        continue
                    raise ValueError(
                        f"worker {uid} has {len(one.ttft)} counts of TTFT and"
                        f" {len(one.tpot)} of TPOT; their bounds need {ttft} and {tpot}"
                    )
        return self


@dataclass(frozen=True, slots=True)
class Signals:
    """The merged reports of all Ready gateways.

    Attributes:
        pools: by pool; empty while incomplete.
        failures: consecutive failures by worker uid, the largest that a gateway saw.
        misses: likewise, probes in a row that a gateway missed.
        workers: what was measured of each worker, by uid; of the gateways that answered.
        complete: every Ready gateway answered, and there is one.
    """

    pools: Mapping[PoolKey, PoolSignals]
    failures: Mapping[str, int]
    complete: bool
    workers: Mapping[str, WorkerSignals] = field(default_factory=dict)
    misses: Mapping[str, int] = field(default_factory=dict)


NOTHING = Signals({}, {}, complete=False)


async def read_signals(
    session: aiohttp.ClientSession, urls: Sequence[str], window: float, clock: Clock
) -> Signals:
    """Ask every gateway at once and merge what they say."""
    if not urls:
        return NOTHING
    at = clock()
    reports = await asyncio.gather(*(_read_one(session, url, window) for url in urls))
    answered = [report for report in reports if report is not None]
    return merge_reports(answered, at, complete=len(answered) == len(urls))


async def _read_one(
    session: aiohttp.ClientSession, url: str, window: float
) -> GatewayReport | None:
    try:
        async with session.get(
            f"{url}/signals",
            params={"window": f"{window:g}"},
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        ) as response:
            if response.status != 200:  # noqa: PLR2004
                return None
            report = GatewayReport.model_validate_json(await response.read())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        log.warning("a gateway's signals cannot be read", url=url, error=first["msg"])
        return None
    if report.version != 1:
        log.warning("a gateway speaks another version", url=url, version=report.version)
        return None
    return report


def merge_reports(reports: Iterable[GatewayReport], at: float, *, complete: bool) -> Signals:
    """Add up what the gateways saw; failures of workers count also while incomplete."""
    failures: dict[str, int] = {}
    misses: dict[str, int] = {}
    workers: dict[str, WorkerSignals] = {}
    pools: dict[PoolKey, PoolSignals] = {}
    for report in reports:
        for text, pool in report.pools.items():
            for uid, worker in pool.workers.items():
                failures[uid] = max(failures.get(uid, 0), worker.consecutive_failures)
                misses[uid] = max(misses.get(uid, 0), worker.missed_probes)
            try:
                key = PoolKey.parse(text)
            except ValueError:
                continue
            for uid, worker in pool.workers.items():
                seen = _convert_worker(report, worker)
                workers[uid] = workers[uid].plus(seen) if uid in workers else seen
            one = _convert(report, pool, at)
            pools[key] = _add(pools[key], one) if key in pools else one
    return Signals(pools if complete else {}, failures, complete, workers, misses)


def _convert_worker(report: GatewayReport, worker: _Worker) -> WorkerSignals:
    bounds = report.bounds
    nothing_ttft, nothing_tpot = (0,) * (len(bounds.ttft) + 1), (0,) * (len(bounds.tpot) + 1)
    mirrored = worker.shadow
    shadow = WorkerSignals(
        seconds=SHADOW_SECONDS,
        finished=mirrored.finished,
        errors=mirrored.failed,
        timeouts=0,
        ttft=Distribution(bounds.ttft, mirrored.ttft or nothing_ttft),
        tpot=Distribution(bounds.tpot, mirrored.tpot or nothing_tpot),
    )
    return WorkerSignals(
        seconds=report.observed_seconds,
        finished=worker.finished,
        errors=worker.errors,
        timeouts=worker.timeouts,
        ttft=Distribution(bounds.ttft, worker.ttft or nothing_ttft),
        tpot=Distribution(bounds.tpot, worker.tpot or nothing_tpot),
        parity=_convert_parity(worker.parity),
        shadow=shadow if mirrored.finished or mirrored.failed else None,
    )


def _convert_parity(found: _Parity) -> ParitySignals:
    return ParitySignals(found.audits, found.judged, found.agreed, found.divergence)


def _convert(report: GatewayReport, pool: _Pool, at: float) -> PoolSignals:
    bounds = report.bounds
    return PoolSignals(
        at=at,
        seconds=report.observed_seconds,
        arrived=pool.arrived,
        finished=pool.finished,
        met=pool.met,
        failed=pool.failed,
        rejected=pool.rejected,
        waiting=pool.waiting,
        prompt_tokens=pool.prompt_tokens,
        output_tokens=pool.output_tokens,
        variants={
            name: VariantSignals(
                sent=v.sent,
                finished=v.finished,
                met=v.met,
                inflight=v.inflight,
                oldest_pending=v.oldest_pending_seconds,
                ttft=Distribution(bounds.ttft, v.ttft),
                tpot=Distribution(bounds.tpot, v.tpot),
            )
            for name, v in pool.variants.items()
        },
        parity=tuple(
            PairSignals(pair.accelerator_class, pair.reference, _convert_parity(pair))
            for pair in pool.parity
        ),
    )


def _add(a: PoolSignals, b: PoolSignals) -> PoolSignals:
    variants = dict(a.variants)
    for name, more in b.variants.items():
        variants[name] = _add_variant(variants[name], more) if name in variants else more
    return PoolSignals(
        at=min(a.at, b.at),
        seconds=min(a.seconds, b.seconds),
        arrived=a.arrived + b.arrived,
        finished=a.finished + b.finished,
        met=a.met + b.met,
        failed=a.failed + b.failed,
        rejected=a.rejected + b.rejected,
        waiting=a.waiting + b.waiting,
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        variants=variants,
        parity=_add_pairs((*a.parity, *b.parity)),
    )


def _add_pairs(pairs: Iterable[PairSignals]) -> tuple[PairSignals, ...]:
    total: dict[tuple[str, str], ParitySignals] = {}
    for pair in pairs:
        name = pair.accelerator_class, pair.reference
        total[name] = total.get(name, ParitySignals()).plus(pair.found)
    return tuple(PairSignals(*name, found) for name, found in sorted(total.items()))


def _add_variant(a: VariantSignals, b: VariantSignals) -> VariantSignals:
    return VariantSignals(
        sent=a.sent + b.sent,
        finished=a.finished + b.finished,
        met=a.met + b.met,
        inflight=a.inflight + b.inflight,
        oldest_pending=max(a.oldest_pending, b.oldest_pending),
        ttft=a.ttft.plus(b.ttft),
        tpot=a.tpot.plus(b.tpot),
    )
