"""Allocation: how many workers of each variant carry a demand, and the fallback formula.

First form: the variants are filled in the order of the spec. A variant that lost capacity to health
counts with what serves now, every other with what it is planned to have, so that the next variants
take what is missing: gpu = max(allocated, ceil((required - serving Maia capacity) / capacity of one
GPU worker)), clipped to the maximum (DESIGN, "Deciding").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """What one variant can give.

    Attributes:
        minimum, maximum: bounds of the spec; the maximum is also bounded by the devices that exist.
        allocated: workers its Deployment asks for now.
        serving: workers that count now.
        capacity: requests/s of one worker, after correction; None while nothing tells.
        max_share: largest share of the demand (0 to 1) it may take.
        impaired: why it counts only with what serves, or "".
        breached: it is over its SLO (used only while its capacity is unknown).
    """

    accelerator_class: str
    minimum: int
    maximum: int
    allocated: int
    serving: int
    capacity: float | None
    max_share: float = 1.0
    impaired: str = ""
    breached: bool = False


@dataclass(frozen=True, slots=True)
class Fill:
    """Workers of one variant that the demand asks for.

    Attributes:
        workers: how many.
        need: requests/s that fell to the variant.
        covered: requests/s of it that count as carried.
    """

    workers: int
    need: float
    covered: float


def allocate_workers(required: float, offers: Sequence[Offer]) -> dict[str, Fill]:
    """Return what each variant should have, by class name.

    Args:
        required: requests/s to carry, headroom included.
        offers: the variants in the order of the spec.
    """
    fills: dict[str, Fill] = {}
    left = required
    for place, offer in enumerate(offers):
        # The minima of the variants to come run anyway: what they carry needs nobody else.
        rest = max(0.0, left - sum(map(_carry_minimum, offers[place + 1 :])))
        fill = _fill(offer, min(rest, offer.max_share * required))
        fills[offer.accelerator_class] = fill
        left -= fill.covered
    if left <= _EPSILON or not any(offer.impaired for offer in offers):
        return fills
    # What still misses after a loss goes to whoever can take it, past its usual share: nothing is
    # gated in an emergency.
    for offer in offers:
        if offer.impaired:
            continue
        before = fills[offer.accelerator_class]
        fill = _fill(offer, before.covered + left)
        fills[offer.accelerator_class] = fill
        left -= fill.covered - before.covered
    return fills


_EPSILON = 1e-9


def _carry_minimum(offer: Offer) -> float:
    """Return the requests/s that the minimum of a variant carries, as far as it counts now."""
    workers = min(offer.minimum, offer.maximum)
    if offer.impaired:
        workers = min(workers, offer.serving)
    return workers * (offer.capacity or 0.0)


def _fill(offer: Offer, need: float) -> Fill:
    if offer.capacity is None:
        return _fill_unknown(offer, need)
    workers = math.ceil(need / offer.capacity - _EPSILON)
    workers = max(offer.minimum, min(offer.maximum, workers))
    counted = min(workers, offer.maximum)
    if offer.impaired:
        counted = min(counted, offer.serving)
    return Fill(workers, need, min(need, counted * offer.capacity))


def _fill_unknown(offer: Offer, need: float) -> Fill:
    """Without a capacity the order rules: one worker more while the SLO is broken.

    The variant counts as carrying its need until it is at its maximum and still over its SLO.
    """
    workers = offer.allocated
    if need > _EPSILON:
        workers = max(1, workers)
    if offer.breached and offer.serving >= offer.allocated:
        workers += 1
    if need <= _EPSILON:
        workers = 0
    workers = max(offer.minimum, min(offer.maximum, workers))
    full = offer.breached and workers >= offer.maximum
    lost = offer.serving == 0 and bool(offer.impaired)
    if lost:
        return Fill(workers, need, 0.0)
    return Fill(workers, need, need / 2 if full else need)
