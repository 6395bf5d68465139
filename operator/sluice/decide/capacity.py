"""Capacity of one worker: the requests/s it sustains within the SLO at given token lengths.

The planner reckons with its own copy of the accelerator's profile, whose constants carry seeded
errors of up to +-20 % (`sluice_accel.belief`), so that what it predicts never equals what
the emulated device does by construction. A learnt correction factor makes up for the difference.
"""

import math
from dataclasses import replace
from functools import lru_cache

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.numerics import choose_numerics, fits
from sluice.api.pool import InferencePoolSpec, VariantSpec
from sluice.decide import limits
from sluice.decide.demand import Demand, find_quantile
from sluice.model.memory import VariantMemory
from sluice.model.serving import MAX_BATCHED_TOKENS, MAX_NUM_SEQS
from sluice.model.snapshot import VariantSignals
from sluice_accel.belief import believe
from sluice_accel.memory import plan_memory
from sluice_accel.nominal import NOMINAL_MODELS, NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.timing import StepBatch, step_time


def reckon_capacity(
    pool: InferencePoolSpec,
    variant: VariantSpec,
    accelerator: AcceleratorClassSpec,
    devices: int,
    demand: Demand,
) -> float | None:
    """Return requests/s of one worker within the SLO, or None when nothing tells.

    Lengths are rounded to two significant digits, so that noise in them moves no plan. With
    numerics that the device has not, what runs is what ran before: its own count.
    """
    emulation, nominal = accelerator.emulation, pool.model.emulation
    if emulation is None or nominal is None:
        return None
    profile = str(emulation.profile)
    numerics = choose_numerics(variant, accelerator)
    return _sustained_rate(
        profile,
        numerics if fits(numerics, profile) else None,
        nominal.nominal,
        devices,
        nominal.token_scale,
        _round_two_digits(demand.prompt_tokens),
        _round_two_digits(demand.output_tokens),
        pool.slo.ttft,
        pool.slo.tpot,
    )


def _round_two_digits(value: float) -> float:
    if value <= 0:
        return 1.0
    digits = 1 - math.floor(math.log10(value))
    return max(1.0, round(value, digits))


@lru_cache(maxsize=4096)
def _sustained_rate(
    profile: str,
    numerics: str | None,
    nominal: str,
    devices: int,
    scale: int,
    prompt: float,
    output: float,
    ttft: float,
    tpot: float,
) -> float:
    """Return the best rate over the batch sizes whose TPOT holds.

    At saturation every request needs `chunks` steps of mixed prefill and decode, and further pure
    decode steps shared by the batch. The rate within the SLO is the saturated one times a
    utilisation that leaves room for the queue: with mean wait rho/(1-rho)*s/2 (M/D/1, Pollaczek
    and Khinchine) and its 95th percentile taken as twice that, rho = w/(s+w) with w = TTFT less
    prefill.
    """
    copy = believe(profile, numerics)
    model = NOMINAL_MODELS[nominal]
    chunk = min(prompt, MAX_BATCHED_TOKENS)
    chunks = math.ceil(prompt / MAX_BATCHED_TOKENS)
    context = int((prompt + output / 2) * scale)
    best = 0.0
    for batch in range(1, _count_at_once(copy, model, devices, scale * (prompt + output)) + 1):
        mixed = step_time(
            copy,
            model,
            devices,
            StepBatch(
                prefill=((int(chunk * scale), int(prompt / 2 * scale)),),
                decode=(context,) * (batch - 1),
            ),
        )
        decode = step_time(copy, model, devices, StepBatch(prefill=(), decode=(context,) * batch))
        left = max(0.0, output - chunks * (batch - 1)) / batch
        per_request = chunks * mixed + left * decode
        steps = chunks + left
        if batch > 1 and per_request / steps > tpot:
            break
        slack = max(0.0, ttft - chunks * mixed)
        utilisation = slack / (per_request + slack)
        utilisation = min(limits.UTILISATION_CEILING, max(limits.UTILISATION_FLOOR, utilisation))
        best = max(best, utilisation / per_request)
    return best


def _count_at_once(
    profile: AcceleratorProfile, model: NominalModel, devices: int, length: float
) -> int:
    """Return how many sequences of so many nominal tokens a worker runs at once, at least 1.

    A worker whose devices do not hold the weights never starts, and says why: there is no number
    for what it carries.
    """
    plan = plan_memory(profile, model, devices)
    if plan.cache <= 0:
        return MAX_NUM_SEQS
    return max(1, min(MAX_NUM_SEQS, plan.count_sequences(math.ceil(length))))


def correct_capacity(
    memory: VariantMemory,
    signals: VariantSignals | None,
    *,
    carried: float,
    slo: tuple[float, float],
    settled: bool,
    at: float,
    elapsed: float,
) -> tuple[VariantMemory, str]:
    """Learn from kept and broken SLOs how far the reckoned capacity is off.

    Args:
        memory: what is remembered of the variant.
        signals: its measured latencies; None leaves the correction as it is.
        carried: requests/s that each serving worker finished, as a share of the reckoned capacity.
        slo: TTFT and TPOT bounds, seconds.
        settled: nothing was lost or is starting, so that latency speaks of capacity.
        at: snapshot time, seconds.
        elapsed: seconds since the last pass.

    Returns:
        The new memory, and a sentence with the compared numbers when the correction was lowered.
    """
    if signals is None:
        return memory, ""
    broken = describe_breach(signals, *slo)
    if not broken:
        risen = memory.correction + 0.5 * elapsed / limits.CORRECTION_RECOVERY
        risen = max(memory.correction, min(1.0, risen))
        # What a worker was seen to carry inside the SLO, it can carry.
        seen = min(limits.CORRECTION_CEILING, carried)
        return replace(memory, correction=max(risen, seen)), ""
    recent = memory.corrected is not None and at - memory.corrected < limits.CORRECTION_EVERY
    if recent or not settled or memory.correction <= limits.CORRECTION_FLOOR:
        return memory, ""
    lowered = max(limits.CORRECTION_FLOOR, memory.correction * limits.CORRECTION_STEP)
    why = (
        f"{broken}: capacity of a worker corrected from {memory.correction:.0%} to {lowered:.0%}"
        " of the reckoned one"
    )
    return replace(memory, correction=lowered, corrected=at), why


def describe_breach(signals: VariantSignals, ttft: float, tpot: float) -> str:
    """Return which percentile is over its SLO, with the numbers, or ""."""
    found = []
    for name, distribution, bound in (
        ("TTFT", signals.ttft, ttft),
        ("TPOT", signals.tpot, tpot),
    ):
        measured = find_quantile(distribution, limits.QUANTILE)
        if measured is not None and measured > bound:
            found.append(f"p95 {name} {measured:.3g} s > SLO {bound:.3g} s")
    return " and ".join(found)
