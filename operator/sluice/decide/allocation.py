"""Allocation: how many workers of each variant carry a demand.

First form: the variants are filled in the order of the spec. A variant that lost capacity to health
counts with what serves now, one whose workers have just come back with what their ramp lets them
take, every other with what it is planned to have; the next variants take what is missing
(`fallback`).
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
        returning: how many of the serving workers still climb their ramp.
        ramp_share: largest part of the demand (0 to 1) that these may take.
        ramp_limit: the same in requests/s; infinite until the demand is known.
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
    returning: int = 0
    ramp_share: float = 1.0
    ramp_limit: float = math.inf

    @property
    def is_reduced(self) -> bool:
        """Tell whether it counts with less than it is planned to have."""
        return bool(self.impaired) or self.returning > 0

    def carry(self, workers: int) -> float:
        """Return the requests/s that so many of its workers carry, as far as they count now."""
        if self.impaired:
            workers = min(workers, self.serving)
        capacity = self.capacity or 0.0
        climbing = min(workers, self.returning)
        return (workers - climbing) * capacity + min(climbing * capacity, self.ramp_limit)


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


def allocate_workers(required: float, offers: Sequence[Offer]) -> tuple[dict[str, Fill], float]:
    """Return what each variant should have, by class name, and the requests/s left over.

    Args:
        required: requests/s to carry, headroom included.
        offers: the variants in the order of the spec.
    """
    fills: dict[str, Fill] = {}
    left = required
    for place, offer in enumerate(offers):
        # The minima of the variants to come run anyway: what they carry needs nobody else.
        rest = max(0.0, left - sum(map(_carry_minimum, offers[place + 1 :])))
        fill = fill_offer(offer, min(rest, offer.max_share * required))
        fills[offer.accelerator_class] = fill
        left -= fill.covered
    return fills, left


EPSILON = 1e-9
"""Requests/s below which a demand is none: sums of floats do not come out even."""


def _carry_minimum(offer: Offer) -> float:
    """Return the requests/s that the minimum of a variant carries, as far as it counts now."""
    return offer.carry(min(offer.minimum, offer.maximum))


def fill_offer(offer: Offer, need: float) -> Fill:
    """Return the workers of one variant that a need asks for, and what of it they carry."""
    if offer.capacity is None:
        return _fill_unknown(offer, need)
    workers = math.ceil(need / offer.capacity - EPSILON)
    workers = max(offer.minimum, min(offer.maximum, workers))
    return Fill(workers, need, min(need, offer.carry(min(workers, offer.maximum))))


def _fill_unknown(offer: Offer, need: float) -> Fill:
    """Without a capacity the order rules: one worker more while the SLO is broken.

    The variant counts as carrying its need until it is at its maximum and still over its SLO.
    """
    workers = offer.allocated
    if need > EPSILON:
        workers = max(1, workers)
    if offer.breached and offer.serving >= offer.allocated:
        workers += 1
    if need <= EPSILON:
        workers = 0
    workers = max(offer.minimum, min(offer.maximum, workers))
    full = offer.breached and workers >= offer.maximum
    if offer.is_reduced and offer.serving <= offer.returning:
        return Fill(workers, need, min(need, offer.ramp_limit) if offer.returning else 0.0)
    return Fill(workers, need, need / 2 if full else need)
