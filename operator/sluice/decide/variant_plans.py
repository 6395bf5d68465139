"""From what was decided of a pool's variants to their plans and problems."""

from collections.abc import Mapping, Sequence

from sluice.api.numerics import choose_numerics
from sluice.decide.ramp import Climb
from sluice.decide.rollout import Roll
from sluice.decide.shares import name_returning
from sluice.decide.variants import Fleet, VariantView
from sluice.model.memory import NodeState, WorkerState
from sluice.model.plan import Decision, Finding, Problem, RampPlan, VariantPlan
from sluice.model.snapshot import Pool


def plan_variant(
    pool: Pool,
    view: VariantView,
    wanted: int,
    shares: Mapping[str, int],
    capacity: float | None,
    roll: Roll,
    climb: Climb,
) -> VariantPlan:
    """Return the plan of a variant whose class is known.

    Args:
        pool: as observed.
        view: the variant.
        wanted: workers to have.
        shares: whole percents by group (`shares.split_returning`).
        capacity: requests/s of one worker, or None.
        roll: how its Deployment may roll.
        climb: the pool's ramps.
    """
    kept_away = (*view.failed, *view.proving)
    returning = shares.get(name_returning(view.name), 0)
    return VariantPlan(
        accelerator_class=view.name,
        wanted=wanted,
        share=shares[view.name] + returning,
        serving=view.serving,
        ready=view.ready,
        capacity=capacity,
        quarantined=tuple(sorted(worker.name for worker in kept_away)),
        surge=roll.surge,
        paused=roll.paused,
        cost_per_hour=float(view.accelerator.price.on_demand) * view.devices * view.bound,
        ramp=_plan_ramp(pool, view, returning, climb),
        numerics=choose_numerics(view.spec, view.accelerator) or "",
    )


def _plan_ramp(pool: Pool, view: VariantView, share: int, climb: Climb) -> RampPlan | None:
    ramp = climb.ramps.get(view.name)
    if ramp is None:
        return None
    pods = tuple(sorted(w.name for w in view.returning if w.node in ramp.nodes))
    steps = len(pool.spec.shift.ramp.steps)
    return RampPlan(share, pods, ramp.step + 1, steps, ramp.since, ramp.hold)


_KEPT_AWAY = frozenset({WorkerState.FAILED, WorkerState.PROBATION})


def freeze_variant(fleet: Fleet, pool: Pool, name: str) -> VariantPlan:
    """Leave a variant whose class is gone as it was last rendered.

    Nothing probes its workers any more, so their kubelets' word counts, except of those that had
    failed. The gateway sends to them what no other variant can take; the planner moves the demand
    away, for without a class it knows neither what they carry nor what they cost.
    """
    workers = [w for w in pool.workers if w.accelerator_class == name and not w.terminating]
    kept_away = [w for w in workers if fleet.workers[w.uid].state in _KEPT_AWAY]
    ready = sum(w.ready for w in workers)
    live = pool.deployments.get(name)
    return VariantPlan(
        accelerator_class=name,
        wanted=live.replicas if live else 0,
        share=0,
        serving=ready - sum(w.ready for w in kept_away),
        ready=ready,
        capacity=None,
        quarantined=tuple(sorted(w.name for w in kept_away)),
        frozen=True,
    )


def list_problems(
    fleet: Fleet, pool: Pool, views: Sequence[VariantView], missing: Sequence[str]
) -> list[Problem]:
    """Return what keeps a pool from what it wants, as far as its variants and signals tell."""
    problems = [problem for view in views for problem in view.problems]
    problems += [
        Problem(Finding.CLASS_MISSING, _describe_missing(name, fleet.snapshot.unreadable))
        for name in missing
    ]
    if pool.signals is None and fleet.snapshot.gateways == 0:
        text = "no gateway is Ready: nothing is measured, so nothing scales down"
        problems.append(Problem(Finding.SIGNALS_MISSING, text))
    elif pool.signals is None:
        text = f"not all of {fleet.snapshot.gateways} Ready gateways answer: signals are missing"
        problems.append(Problem(Finding.SIGNALS_MISSING, text))
    return problems


def _describe_missing(name: str, unreadable: Mapping[str, str]) -> str:
    stays = "its workers stay as they are and do not scale"
    if name in unreadable:
        return f"AcceleratorClass {name} cannot be read ({unreadable[name]}): {stays}; correct it"
    return (
        f"AcceleratorClass {name} does not exist: {stays}; create the class, or remove the variant"
    )


_TURNS = {
    NodeState.FAILED: "NodeFailed",
    NodeState.LATCHED: "NodeLatched",
    NodeState.PROBATION: "NodeProbation",
    NodeState.RAMP: "NodeReturned",
    NodeState.HEALTHY: "NodeHealthy",
}


def tell_nodes(fleet: Fleet, pool: Pool) -> list[Decision]:
    """Return the turns that nodes of the pool's classes took in this pass, as decisions."""
    theirs = {
        node.name
        for variant in pool.spec.variants
        if (accelerator := fleet.snapshot.classes.get(variant.accelerator_class)) is not None
        for node in fleet.list_nodes(accelerator)
    }
    told = []
    for node, before, after, reason in fleet.turns:
        if node in theirs:
            warning = after in (NodeState.FAILED, NodeState.LATCHED)
            text = f"{node} {before} → {after}: {reason}"
            told.append(Decision(fleet.snapshot.at, _TURNS[NodeState(after)], text, warning))
    return told
