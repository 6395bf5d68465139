"""Sentences for decisions and conditions, made of the numbers that were compared."""

import math
from collections.abc import Mapping, Sequence

from sluice.decide.allocation import EPSILON, Fill, Offer
from sluice.decide.demand import Demand
from sluice.decide.rollout import Roll
from sluice.decide.variants import VariantView
from sluice.model.plan import Decision
from sluice.model.snapshot import Pool


def explain_step(
    offer: Offer, fill: Fill, count: int, required: float, pool: Pool, demand: Demand
) -> str:
    """Say why a variant's count moves from what is allocated to `count`."""
    name, before = offer.accelerator_class, offer.allocated
    head = f"{name} {before} → {count}"
    if before > offer.maximum >= count:
        return f"{head}: at most {offer.maximum} (spec.max {_spec_max(pool, name)}, devices)"
    if count < before:
        window = pool.spec.autoscaling.stable_window
        return (
            f"{head}: at most {fill.workers} needed for {window:g} s; demand {demand.rate:.2f}/s,"
            f" {count} carry {_carry(offer, count)}"
        )
    if before < offer.minimum:
        return f"{head}: spec.min is {offer.minimum}"
    if offer.capacity is None:
        return f"{head}: over its SLO with {offer.serving} serving, capacity not known yet"
    exact = fill.need / offer.capacity
    return (
        f"{head}: {fill.need:.2f}/s of {required:.2f}/s required"
        f" ({_explain_required(required, pool, demand)}) / {offer.capacity:.2f}/s a worker ="
        f" {exact:.2f}, rounded up to {math.ceil(exact - 1e-9)}"
    )


def _explain_required(required: float, pool: Pool, demand: Demand) -> str:
    """Say what the requests/s to carry are made of: demand with headroom, or the minima."""
    headroom = pool.spec.autoscaling.headroom
    text = f"demand {demand.rate:.2f}/s + {headroom:.0%} headroom"
    if required > demand.rate * (1 + headroom) + EPSILON:
        return f"what spec.min of the variants carries; {text} is less"
    return text


def name_step(
    offer: Offer,
    count: int,
    why: str,
    offers: Sequence[Offer],
    wanted: Mapping[str, int],
    at: float,
) -> Decision:
    """Return the decision: FallBack, Spill, ScaleUp or ScaleDown.

    `wanted` holds the counts already chosen for the variants before this one.
    """
    if count < offer.allocated:
        return Decision(at, "ScaleDown", why)
    lost = [o.impaired for o in offers if o.impaired and o is not offer]
    if lost:
        return Decision(at, "FallBack", f"{why}; {'; '.join(lost)}", warning=True)
    before = offers[: offers.index(offer)]
    if before and all(wanted[o.accelerator_class] >= o.maximum for o in before):
        full = ", ".join(
            f"{o.accelerator_class} is full at {o.maximum} ({_carry(o, o.maximum)})" for o in before
        )
        return Decision(at, "Spill", f"{why}; {full}")
    return Decision(at, "ScaleUp", why)


def describe_progress(
    views: Sequence[VariantView], wanted: Mapping[str, int], rolls: Mapping[str, Roll]
) -> str:
    """Say what is on its way, or "" when the pool is what it is wanted to be."""
    parts = []
    for view in views:
        roll = rolls[view.name]
        if roll.active:
            parts.append(f"{view.name} rolls" + (" later" if roll.paused else ""))
        elif view.serving < wanted[view.name]:
            parts.append(
                f"{view.name}: {view.serving} of {wanted[view.name]} serve, {view.starting} start"
            )
        elif view.ready > wanted[view.name]:
            parts.append(f"{view.name}: {view.ready} going down to {wanted[view.name]}")
    return "; ".join(parts)


def _carry(offer: Offer, workers: int) -> str:
    if offer.capacity is None:
        return "an unknown rate"
    return f"{workers * offer.capacity:.2f}/s"


def _spec_max(pool: Pool, name: str) -> int:
    return next(v.max for v in pool.spec.variants if v.accelerator_class == name)
