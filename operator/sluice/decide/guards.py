"""Guards on voluntary scaling: stable window, hold-down, one step at a time, dead band.

They bind voluntary actions only. Fallback and scale-up for the SLO are never held back, and missing
signals never scale down.
"""

from dataclasses import dataclass

from sluice.decide import limits
from sluice.model.memory import Direction, VariantMemory


@dataclass(frozen=True, slots=True)
class Wish:
    """What a variant's worker count should become, before the guards.

    Attributes:
        current: workers asked for now.
        workers: workers that the demand needs.
        forced: a lost capacity or a broken SLO asks for it; no guard on the way up.
        load: requests/s that fell to the variant.
        capacity: requests/s of one worker; None while unknown.
        minimum, maximum: bounds; outside them the count moves at once.
        settled: signals are complete for a whole stable window, nothing is starting, lost or
            rolling: the condition for going down.
    """

    current: int
    workers: int
    forced: bool
    load: float
    capacity: float | None
    minimum: int
    maximum: int
    settled: bool


def remember_recommendation(
    window: tuple[tuple[float, int], ...], at: float, workers: int, length: float
) -> tuple[tuple[float, int], ...]:
    """Return the window with `workers` added: what is too old goes, and what it outdoes."""
    kept = [(time, count) for time, count in window if time > at - length and count > workers]
    return (*kept, (at, workers))


def guard_count(
    wish: Wish, memory: VariantMemory, *, at: float, hold_down: float
) -> tuple[int, str]:
    """Return the worker count to ask for, and why it is held back ("" when it is not)."""
    if wish.current > wish.maximum:
        return wish.maximum, ""
    if wish.workers > wish.current:
        return _guard_up(wish, memory, at, hold_down)
    if wish.current < wish.minimum:
        return wish.minimum, ""
    if wish.workers < wish.current:
        return _guard_down(wish, memory, at, hold_down)
    return wish.current, ""


def _guard_up(wish: Wish, memory: VariantMemory, at: float, hold_down: float) -> tuple[int, str]:
    step = memory.step
    reversal = step is not None and step.direction is Direction.DOWN and at - step.at < hold_down
    if not reversal or wish.forced or wish.capacity is None:
        return wish.workers, ""
    carried = wish.current * wish.capacity
    if wish.load > carried * (1 + limits.DEAD_BAND):
        return wish.workers, ""
    return wish.current, (
        f"{wish.load:.2f}/s is within {limits.DEAD_BAND:.0%} of the {carried:.2f}/s that"
        f" {wish.current} carry, and the last step was down"
    )


def _guard_down(wish: Wish, memory: VariantMemory, at: float, hold_down: float) -> tuple[int, str]:
    if not wish.settled:
        return wish.current, "not a whole stable window of undisturbed signals yet"
    highest = max((count for _, count in memory.recommendations), default=wish.current)
    if highest >= wish.current:
        return wish.current, f"the stable window still asked for {highest}"
    if memory.step is not None and at - memory.step.at < hold_down:
        return wish.current, f"last step {at - memory.step.at:.0f} s ago, hold-down {hold_down:g} s"
    return wish.current - 1, ""
