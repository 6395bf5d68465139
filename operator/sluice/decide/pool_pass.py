"""One pool's part of a pass: demand → capacity → allocation → guards → shares → rolls → plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sluice.decide import limits, wording
from sluice.decide.allocation import Fill, Offer, allocate_workers
from sluice.decide.capacity import correct_capacity, describe_breach, reckon_capacity
from sluice.decide.demand import Demand, measure_attainment, observe_demand
from sluice.decide.fallback import cover_losses, describe_fallback, find_shortfall, tell_losses
from sluice.decide.guards import Wish, guard_count, remember_recommendation
from sluice.decide.inventory import Inventory
from sluice.decide.parity import plan_pairs, tell_pairs
from sluice.decide.ramp import Climb, climb_ramps
from sluice.decide.removal import choose_deletes
from sluice.decide.rollout import Roll, choose_rolls
from sluice.decide.shares import hold_shares, name_returning, share_traffic, split_returning
from sluice.decide.variant_plans import (
    freeze_variant,
    list_problems,
    plan_variant,
    tell_nodes,
)
from sluice.decide.variants import Fleet, VariantView, view_variant
from sluice.model.memory import Direction, PoolMemory, Step, VariantMemory
from sluice.model.plan import Decision, PoolPlan, Problem
from sluice.model.snapshot import Pool


@dataclass(frozen=True, slots=True)
class _Counts:
    """What allocation and guards made of the variants."""

    wanted: Mapping[str, int]
    variants: Mapping[str, VariantMemory]
    decisions: tuple[Decision, ...]
    problems: tuple[Problem, ...]


def plan_pool(
    fleet: Fleet, pool: Pool, memory: PoolMemory, inventory: Inventory
) -> tuple[PoolPlan, PoolMemory]:
    """Return a pool's plan and memory; takes its devices from the inventory."""
    at = fleet.snapshot.at
    views, missing = _view_variants(fleet, pool, memory)
    demand = observe_demand(pool.signals, memory)
    climb = climb_ramps(pool, views, memory, fleet.list_returning(), at)
    memory, learnt = _learn(fleet, pool, views, memory, demand)
    lost = _track_losses(views, memory, at)
    offers = _make_offers(pool, views, memory, demand, inventory, climb)
    required = _require(pool, offers, demand)
    offers = [replace(offer, ramp_limit=offer.ramp_share * required) for offer in offers]
    rolls, roll_problems = choose_rolls(fleet, pool, views)
    scene = _Scene(views, rolls, lost, climb, at)
    counts = _choose_counts(pool, memory, offers, required, demand, scene)
    for name, count in counts.wanted.items():
        inventory.take(pool, name, count)
    demanded = _add_headroom(pool, demand)
    shares = _choose_shares(memory, offers, required, demanded, rolls)
    deletes, breaker = choose_deletes(fleet, pool, views)
    pairs = plan_pairs(pool)
    turned, differing = tell_pairs(pool, pairs, memory.differing, at)
    decisions = (
        *tell_nodes(fleet, pool),
        *learnt,
        *tell_losses(views, memory, lost, required, at),
        *climb.decisions,
        *turned,
        *counts.decisions,
    )
    memory = replace(
        memory, shares=shares, shares_for=_describe_groups(offers), differing=differing
    )
    after = _remember(memory, scene, counts, decisions)
    capacities = {offer.accelerator_class: offer.capacity for offer in offers}
    known = (
        plan_variant(
            pool, v, counts.wanted[v.name], shares, capacities[v.name], rolls[v.name], climb
        )
        for v in views
    )
    frozen = (freeze_variant(fleet, pool, name) for name in missing)
    problems = (*list_problems(fleet, pool, views, missing), *counts.problems)
    planned = PoolPlan(
        key=pool.key,
        uid=pool.uid,
        generation=pool.generation,
        variants=(*known, *frozen),
        attainment=measure_attainment(pool.signals),
        fallback=describe_fallback(
            pool, views, {name: climb.share(name, pool.spec) for name in climb.ramps}
        ),
        progress=wording.describe_progress(views, counts.wanted, rolls),
        problems=(*problems, *roll_problems, *breaker),
        decisions=decisions,
        deletes=deletes,
        demand=demand.rate if demand.fresh else None,
        pairs=pairs if pool.spec.parity is not None else None,
    )
    return planned, after


def _remember(
    memory: PoolMemory, scene: "_Scene", counts: "_Counts", decisions: tuple[Decision, ...]
) -> PoolMemory:
    """Return the memory with what this pass decided."""
    return replace(
        memory,
        variants=counts.variants,
        lost=scene.lost,
        ramps=scene.climb.ramps,
        ramped=scene.climb.ramped,
        decisions=(*memory.decisions, *decisions)[-limits.DECISIONS_KEPT :],
        passed=scene.at,
    )


def _view_variants(
    fleet: Fleet, pool: Pool, memory: PoolMemory
) -> tuple[list[VariantView], list[str]]:
    """Return the variants whose class exists, and the names of the classes that do not."""
    views, missing = [], []
    for spec in pool.spec.variants:
        accelerator = fleet.snapshot.classes.get(spec.accelerator_class)
        if accelerator is None:
            missing.append(spec.accelerator_class)
        else:
            views.append(view_variant(fleet, pool, spec, accelerator, memory))
    return views, missing


def _learn(
    fleet: Fleet,
    pool: Pool,
    views: Sequence[VariantView],
    memory: PoolMemory,
    demand: Demand,
) -> tuple[PoolMemory, list[Decision]]:
    """Take in what was measured: demand, lengths, corrections, and how long it has gone on."""
    at = fleet.snapshot.at
    slo = (pool.spec.slo.ttft, pool.spec.slo.tpot)
    settled = not any(
        v.lost or v.starting or v.suspect or v.returning or v.name in memory.lost for v in views
    )
    elapsed = at - memory.passed if memory.passed is not None else 0.0
    variants = dict(memory.variants)
    told = []
    for view in views:
        measured = pool.signals.variants.get(view.name) if pool.signals else None
        variants[view.name], why = correct_capacity(
            view.memory,
            measured,
            carried=_measure_carried(pool, view, demand) if settled else 0.0,
            slo=slo,
            settled=settled,
            at=at,
            elapsed=elapsed,
        )
        if why:
            told.append(Decision(at, "SLOBroken", f"{view.name}: {why}", warning=True))
    fresh = demand.fresh
    after = replace(
        memory,
        since=(memory.since if memory.since is not None else at) if fresh else None,
        rate=demand.rate if fresh else memory.rate,
        prompt_tokens=demand.prompt_tokens if fresh else memory.prompt_tokens,
        output_tokens=demand.output_tokens if fresh else memory.output_tokens,
        variants=variants,
    )
    return after, told


def _measure_carried(pool: Pool, view: VariantView, demand: Demand) -> float:
    """Return what each serving worker finished, as a share of the reckoned capacity."""
    reckoned = reckon_capacity(pool.spec, view.spec, view.accelerator, view.devices, demand)
    if pool.signals is None or reckoned is None or not view.serving:
        return 0.0
    measured = pool.signals.variants.get(view.name)
    if measured is None or measured.finished < limits.MIN_SAMPLES or pool.signals.seconds <= 0:
        return 0.0
    return measured.finished / pool.signals.seconds / view.serving / reckoned


def _track_losses(views: Sequence[VariantView], memory: PoolMemory, at: float) -> dict[str, float]:
    """Return since when each variant's capacity has been lost; it is back when enough serve."""
    return {view.name: memory.lost.get(view.name, at) for view in views if view.lost}


def _make_offers(
    pool: Pool,
    views: Sequence[VariantView],
    memory: PoolMemory,
    demand: Demand,
    inventory: Inventory,
    climb: Climb,
) -> list[Offer]:
    offers = []
    for view in views:
        capacity = reckon_capacity(pool.spec, view.spec, view.accelerator, view.devices, demand)
        if capacity is not None:
            capacity *= memory.variants[view.name].correction
        devices = inventory.limit_workers(pool, view.name, view.accelerator, view.devices)
        kept = view.allocated if view.workers else 0
        measured = pool.signals.variants.get(view.name) if pool.signals else None
        breach = (
            describe_breach(measured, pool.spec.slo.ttft, pool.spec.slo.tpot) if measured else ""
        )
        offers.append(
            Offer(
                accelerator_class=view.name,
                minimum=view.spec.min,
                maximum=min(view.spec.max, devices if view.startable else kept),
                allocated=view.allocated,
                serving=view.serving,
                capacity=capacity,
                max_share=view.spec.max_share,
                impaired=view.lost if pool.spec.fallback.mode == "Automatic" else "",
                breached=bool(breach),
                returning=climb.count(view),
                ramp_share=climb.share(view.name, pool.spec),
            )
        )
    return offers


def _require(pool: Pool, offers: Sequence[Offer], demand: Demand) -> float:
    """Return the requests/s to carry: demand with headroom, at least what the minima carry."""
    floor = sum(offer.minimum * (offer.capacity or 0.0) for offer in offers)
    return max(_add_headroom(pool, demand), floor)


def _add_headroom(pool: Pool, demand: Demand) -> float:
    """Return the requests/s that come, with the headroom that the pool wants."""
    return demand.rate * (1 + pool.spec.autoscaling.headroom)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the guards look at besides the numbers."""

    views: Sequence[VariantView]
    rolls: Mapping[str, Roll]
    lost: Mapping[str, float]
    climb: Climb
    at: float

    def is_settled(self, pool: Pool, memory: PoolMemory) -> bool:
        """Tell whether the pool may scale down at all."""
        window = pool.spec.autoscaling.stable_window
        return (
            memory.since is not None
            and self.at - memory.since >= window
            and not self.lost
            and not self.climb.ramps
            and not any(view.starting or view.suspect for view in self.views)
            and not any(roll.active for roll in self.rolls.values())
        )


def _choose_counts(
    pool: Pool,
    memory: PoolMemory,
    offers: Sequence[Offer],
    required: float,
    demand: Demand,
    scene: _Scene,
) -> _Counts:
    fills, _ = cover_losses(*allocate_workers(required, offers), offers=offers)
    lower, _ = cover_losses(
        *allocate_workers(max(required, demand.rate / limits.DOWN_UTILISATION), offers),
        offers=offers,
    )
    settled = scene.is_settled(pool, memory)
    wanted: dict[str, int] = {}
    variants: dict[str, VariantMemory] = {}
    decisions: list[Decision] = []
    for offer, view in zip(offers, scene.views, strict=True):
        before, fill = memory.variants[offer.accelerator_class], fills[offer.accelerator_class]
        if demand.fresh:
            window = remember_recommendation(
                before.recommendations,
                scene.at,
                lower[offer.accelerator_class].workers,
                pool.spec.autoscaling.stable_window,
            )
            before = replace(before, recommendations=window)
        count = _guard(pool, offer, fill, before, scene, settled=settled)
        if count != offer.allocated:
            why = wording.explain_step(offer, fill, count, required, pool, demand)
            decisions.append(wording.name_step(offer, count, why, offers, wanted, scene.at))
            direction = Direction.UP if count > offer.allocated else Direction.DOWN
            before = replace(before, step=Step(direction, scene.at))
        wanted[view.name] = count
        variants[view.name] = replace(before, wanted=count)
    short = find_shortfall(offers, fills, _add_headroom(pool, demand))
    return _Counts(wanted, variants, tuple(decisions), short)


def _guard(
    pool: Pool,
    offer: Offer,
    fill: Fill,
    memory: VariantMemory,
    scene: _Scene,
    *,
    settled: bool,
) -> int:
    """Return the count to ask for; a paused autoscaler only keeps the bounds."""
    ceiling = max(offer.minimum, offer.maximum)
    if pool.spec.autoscaling.mode == "Paused":
        return max(offer.minimum, min(offer.allocated, ceiling))
    reduced = {*scene.lost, *scene.climb.ramps}
    others_lost = any(name != offer.accelerator_class for name in reduced)
    wish = Wish(
        current=offer.allocated,
        workers=fill.workers,
        forced=others_lost or offer.breached,
        load=fill.need,
        capacity=offer.capacity,
        minimum=offer.minimum,
        maximum=ceiling,
        settled=settled,
    )
    count, _ = guard_count(wish, memory, at=scene.at, hold_down=pool.spec.shift.hold_down)
    return count


def _choose_shares(
    memory: PoolMemory,
    offers: Sequence[Offer],
    required: float,
    demanded: float,
    rolls: Mapping[str, Roll],
) -> Mapping[str, int]:
    """Return the shares; a variant that rolls without a surge counts with one worker less."""
    serving = []
    for offer in offers:
        roll = rolls[offer.accelerator_class]
        less = 1 if roll.active and not roll.paused and not roll.surge and offer.serving > 1 else 0
        serving.append(replace(offer, serving=offer.serving - less))
    wanted = share_traffic(required, split_returning(serving), demanded)
    return hold_shares(wanted, memory.shares, _describe_groups(offers), memory.shares_for)


def _describe_groups(offers: Sequence[Offer]) -> dict[str, int]:
    """Return what the shares are given for: serving workers, and how far returning ones may go."""
    found = {offer.accelerator_class: offer.serving for offer in offers}
    for offer in offers:
        if offer.returning:
            found[name_returning(offer.accelerator_class)] = offer.returning
            found[f"{offer.accelerator_class} (step)"] = round(1000 * offer.ramp_share)
    return found
