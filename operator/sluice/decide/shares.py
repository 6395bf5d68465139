"""Shares: which part of the traffic each variant takes, following the capacity that serves now.

Traffic is never ahead of ready capacity: a variant without a serving worker has share 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sluice.decide import limits
from sluice.decide.allocation import EPSILON, Offer

_LEAST = 1e-3
"""Requests/s that an idle pool's shares are reckoned for: well above what counts as none."""


def name_returning(class_name: str) -> str:
    """Return the name of the group of a class's workers that have just come back."""
    return f"{class_name} (returning)"


def split_returning(offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers with workers that have just come back as groups of their own.

    Such a group comes before the others of its class: it shall have its step's share, however well
    the others would do without it.
    """
    groups = []
    for offer in offers:
        if offer.returning:
            groups.append(
                replace(
                    offer,
                    accelerator_class=name_returning(offer.accelerator_class),
                    serving=offer.returning,
                    max_share=min(offer.max_share, offer.ramp_share),
                )
            )
        settled = offer.serving - offer.returning
        groups.append(replace(offer, serving=settled, returning=0))
    return groups


def share_traffic(
    required: float, offers: Sequence[Offer], demanded: float = 0.0
) -> dict[str, int]:
    """Return whole percents by class name that add up to 100 (all 0 when nothing serves).

    The variants are filled in order up to what they carry and to their largest share; what nobody
    carries is spread by capacity. The keys are those of the offers: classes, or groups of them.

    Args:
        required: requests/s to spread, at least what the minima carry.
        offers: the variants in the order of the spec, or their groups.
        demanded: requests/s that really come, headroom included; more than the others carry of it
            goes to returning workers, past their step.
    """
    able = {
        offer.accelerator_class: offer.serving * (offer.capacity or 1.0)
        for offer in offers
        if offer.serving > 0
    }
    total = sum(able.values())
    if total <= 0:
        return {offer.accelerator_class: 0 for offer in offers}
    required = max(required, _LEAST)
    taken = dict.fromkeys(able, 0.0)
    left = required
    for offer in offers:
        name = offer.accelerator_class
        if name not in able:
            continue
        unknown = offer.capacity is None and not offer.breached
        room = required if unknown else able[name]
        taken[name] = min(left, room, offer.max_share * required)
        left -= taken[name]
    # A ramp holds traffic back only while others can carry it: in need, what has proven itself
    # takes what it can before the others take more than they can.
    need = demanded - sum(able[o.accelerator_class] for o in offers if _is_settled(o, able))
    for offer in offers:
        name = offer.accelerator_class
        if name in able and offer.returning and offer.ramp_share > 0:
            extra = max(0.0, min(left, able[name] - taken[name], need - taken[name]))
            taken[name] += extra
            left -= extra
            need -= taken[name]
    if left > EPSILON:
        _spread(left, taken, able, {o.accelerator_class: _ceiling(o, required) for o in offers})
    parts = {name: value / required for name, value in taken.items()}
    return {
        offer.accelerator_class: percent
        for offer, percent in zip(
            offers, _round([parts.get(o.accelerator_class, 0.0) for o in offers]), strict=True
        )
    }


def _is_settled(offer: Offer, able: Mapping[str, float]) -> bool:
    return offer.accelerator_class in able and not offer.returning


def _ceiling(offer: Offer, required: float) -> float:
    """Return the most a group takes when all are past what they carry: for returning ones, that."""
    return 0.0 if offer.returning else offer.max_share * required


def _spread(
    left: float,
    taken: dict[str, float],
    able: Mapping[str, float],
    ceilings: Mapping[str, float],
) -> None:
    """Add `left` to `taken` by capacity: below the largest shares first, then past them.

    Groups whose ceiling is nothing (returning workers) are last: only if there are no others.
    """
    open_ = {name: able[name] for name in able if taken[name] < ceilings[name] - EPSILON}
    while left > EPSILON and open_:
        whole, spare = sum(open_.values()), left
        for name, weight in list(open_.items()):
            part = min(spare * weight / whole, ceilings[name] - taken[name])
            taken[name] += part
            left -= part
            if taken[name] >= ceilings[name] - EPSILON:
                del open_[name]
    rest = {name: weight for name, weight in able.items() if ceilings[name] > 0} or able
    whole = sum(rest.values())
    for name, weight in rest.items():
        taken[name] += left * weight / whole


def _round(parts: Sequence[float]) -> list[int]:
    """Round parts to whole percents that add up to 100 (largest remainder)."""
    total = sum(parts)
    exact = [100 * part / total for part in parts]
    percents = [int(value + 1e-6) for value in exact]
    by_rest = sorted(range(len(parts)), key=lambda i: (percents[i] - exact[i], i))
    for i in by_rest[: 100 - sum(percents)]:
        percents[i] += 1
    return percents


def hold_shares(
    wanted: Mapping[str, int],
    before: Mapping[str, int],
    serving: Mapping[str, int],
    serving_before: Mapping[str, int],
) -> Mapping[str, int]:
    """Return the shares to give: the old ones while the change lies inside the dead band.

    A change in what serves is never held back.
    """
    if serving != serving_before or set(wanted) != set(before):
        return wanted
    moved = max((abs(wanted[name] - before[name]) for name in wanted), default=0)
    return before if moved <= 100 * limits.DEAD_BAND else wanted
