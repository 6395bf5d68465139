"""Demand of a pool: what its users ask for, from the gateways' merged signals."""

from dataclasses import dataclass

from sluice.decide import limits
from sluice.model.memory import PoolMemory
from sluice.model.snapshot import Distribution, PoolSignals


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pool has to carry.

    Attributes:
        rate: requests/s that arrive, with the backlog spread over its drain time.
        prompt_tokens, output_tokens: mean lengths in real tokens.
        fresh: measured now; False when it is the last that was known, or nothing ever was.
    """

    rate: float
    prompt_tokens: float
    output_tokens: float
    fresh: bool


def observe_demand(signals: PoolSignals | None, memory: PoolMemory) -> Demand:
    """Return the demand; a missing signal repeats the last known, which never scales down."""
    prompt = memory.prompt_tokens or limits.DEFAULT_PROMPT_TOKENS
    output = memory.output_tokens or limits.DEFAULT_OUTPUT_TOKENS
    if signals is None or signals.seconds <= 0:
        return Demand(memory.rate or 0.0, prompt, output, fresh=False)
    if signals.finished >= limits.MIN_SAMPLES:
        prompt = signals.prompt_tokens / signals.finished
        output = signals.output_tokens / signals.finished
    rate = signals.arrived / signals.seconds + signals.waiting / limits.BACKLOG_DRAIN
    return Demand(rate, prompt, output, fresh=True)


def find_quantile(distribution: Distribution, quantile: float) -> float | None:
    """Return the upper bound (seconds) of the bucket that holds `quantile`.

    The overflow bucket answers twice the last bound: too slow to tell how slow. None means that
    there are fewer than `limits.MIN_SAMPLES` samples.
    """
    total = sum(distribution.counts)
    if total < limits.MIN_SAMPLES:
        return None
    rank, seen = quantile * total, 0
    for bound, count in zip(distribution.bounds, distribution.counts, strict=False):
        seen += count
        if seen >= rank:
            return bound
    return 2 * distribution.bounds[-1]


def measure_attainment(signals: PoolSignals | None) -> float | None:
    """Return the share of ended requests that met the SLO; lost and refused ones are misses."""
    if signals is None:
        return None
    ended = signals.finished + signals.failed + signals.rejected
    return signals.met / ended if ended else None
