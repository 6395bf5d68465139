"""Fallback: what others must take when capacity is lost to health, and how it is told.

In capacity units (DESIGN, "Deciding"):

    gpu = max(allocated, ceil((required - serving Maia capacity) / capacity of one GPU worker))

clipped to the maximum. It holds while capacity is lost (partial, total or flapping: what does not
serve does not count), and while what came back still climbs its ramp. Nothing here is gated: not by
hold-downs, not by largest shares, not by the breaker, which stops deletions only.
"""

from collections.abc import Mapping, Sequence

from sluice.decide.allocation import EPSILON, Fill, Offer, fill_offer
from sluice.decide.variants import VariantView
from sluice.model.memory import PoolMemory
from sluice.model.plan import Decision, Finding, Problem
from sluice.model.snapshot import Pool


def cover_losses(
    fills: dict[str, Fill], left: float, *, offers: Sequence[Offer]
) -> tuple[dict[str, Fill], float]:
    """Give what still misses to whoever can take it, past its usual share.

    Args:
        fills: what each variant has so far.
        left: requests/s that nobody carries yet.
        offers: the variants in the order of the spec.

    Returns:
        The fills after that, and the requests/s that nobody can carry even so.
    """
    if left <= EPSILON or not any(offer.is_reduced for offer in offers):
        return fills, left
    covered = dict(fills)
    for offer in offers:
        if offer.is_reduced:
            continue
        before = covered[offer.accelerator_class]
        fill = fill_offer(offer, before.covered + left)
        covered[offer.accelerator_class] = fill
        left -= fill.covered - before.covered
    return covered, left


def tell_losses(
    views: Sequence[VariantView],
    memory: PoolMemory,
    lost: Mapping[str, float],
    required: float,
    at: float,
) -> list[Decision]:
    """Return the decisions that say which capacity was lost, or is back, in this pass."""
    told = []
    for view in views:
        if view.name in lost and view.name not in memory.lost:
            reason = f"{view.lost}; {required:.2f}/s are required"
            told.append(Decision(at, "CapacityLost", reason, warning=True))
        elif view.name in memory.lost and view.name not in lost:
            took = at - memory.lost[view.name]
            reason = (
                f"{view.name}: {view.serving} of {view.allocated} serve again after {took:.0f} s"
            )
            told.append(Decision(at, "CapacityBack", reason))
    return told


def describe_fallback(pool: Pool, views: Sequence[VariantView], shares: Mapping[str, float]) -> str:
    """Return why fallback is active, or "".

    Args:
        pool: as observed.
        views: its variants.
        shares: by class, the part of the traffic that a ramp still bounds its returning workers to.
    """
    if pool.spec.fallback.mode == "Paused":
        return ""
    parts = [view.lost for view in views if view.lost]
    parts += [
        f"{view.name}: {len(view.returning)} workers are back and may take"
        f" {shares[view.name]:.0%} of the traffic"
        for view in views
        if view.name in shares
    ]
    return "; ".join(parts)


def find_shortfall(
    offers: Sequence[Offer], fills: Mapping[str, Fill], demanded: float
) -> tuple[Problem, ...]:
    """Say what is missing when the others cannot take all that was lost.

    Args:
        offers: the variants in the order of the spec.
        fills: the workers that each is to have, losses covered.
        demanded: requests/s that really come, headroom included.
    """
    if not any(offer.is_reduced for offer in offers):
        return ()
    carried = sum(_carry_in_need(offer, fills[offer.accelerator_class]) for offer in offers)
    short = demanded - carried
    if short <= EPSILON:
        return ()
    full = ", ".join(
        f"{offer.accelerator_class} {'serves' if offer.is_reduced else 'has at most'}"
        f" {offer.serving if offer.is_reduced else offer.maximum}"
        for offer in offers
    )
    text = (
        f"{short:.2f}/s of {demanded:.2f}/s (headroom included) find no worker while capacity is"
        f" lost ({full}; devices, quota and spec.max bound it): pools are served by spec.priority,"
        " the rest is refused with 429"
    )
    return (Problem(Finding.CAPACITY_SHORT, text),)


def _carry_in_need(offer: Offer, fill: Fill) -> float:
    """Return what a variant carries; workers that came back take more than their step in need."""
    workers = min(fill.workers, offer.maximum)
    if offer.impaired:
        workers = min(workers, offer.serving)
    if offer.ramp_share > 0:
        return workers * (offer.capacity or 0.0)
    return offer.carry(workers)
