"""Rolling a changed pod template out: one variant of a pool at a time, never below what serves.

A worker may be added first while a device is free for it, else one is taken away first. A lone
worker without a free device would interrupt service: it waits for the forcing annotation. What
could not start is not rolled to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.decide.variants import Fleet, VariantView
from sluice.model.names import ANNOTATION_FORCE_ROLL
from sluice.model.plan import Finding, Problem
from sluice.model.snapshot import Deployment, Pool


@dataclass(frozen=True, slots=True)
class Roll:
    """How a variant's Deployment may roll.

    Attributes:
        surge: add a pod first.
        paused: do not roll now.
        active: pods of two templates exist or are about to.
    """

    surge: bool
    paused: bool
    active: bool


def is_rolling(deployment: Deployment | None, template: str) -> bool:
    """Tell whether some pods are not of the wanted template yet."""
    if deployment is None:
        return False
    if deployment.template_hash != template or not deployment.observed:
        return deployment.total > 0
    return deployment.updated < deployment.total


def _has_begun(deployment: Deployment | None, template: str) -> bool:
    """Tell whether we have let the roll to this template go.

    Its status cannot tell: until the template is applied, all pods count as updated.
    """
    return deployment is not None and deployment.template_hash == template and not deployment.paused


def choose_rolls(
    fleet: Fleet, pool: Pool, views: Sequence[VariantView]
) -> tuple[dict[str, Roll], tuple[Problem, ...]]:
    """Return how each variant may roll, by class name, and what makes a roll wait."""
    rolls: dict[str, Roll] = {}
    problems: list[Problem] = []
    able = [v for v in views if v.startable]
    stale = [v for v in able if is_rolling(v.deployment, pool.templates.get(v.name, ""))]
    begun = [v for v in stale if _has_begun(v.deployment, pool.templates.get(v.name, ""))]
    turn = next(iter(begun or stale), None)
    serving = sum(v.serving for v in views)
    for view in views:
        live = view.deployment
        surge = live.surge if live is not None else True
        if not view.startable:
            rolls[view.name] = Roll(surge, paused=True, active=False)
            continue
        if view not in stale:
            rolls[view.name] = Roll(surge, paused=False, active=False)
            continue
        if view is not turn:
            rolls[view.name] = Roll(surge, paused=True, active=True)
            continue
        in_flight = view in begun
        if not in_flight:
            surge = fleet.find_free_slot(view.accelerator, view.devices)
        forced = pool.force_roll == str(pool.generation)
        # A variant that serves nothing has nothing to interrupt: rolling it can only mend it.
        waits = not in_flight and not surge and not forced and view.serving == serving == 1
        if waits:
            problems.append(
                Problem(
                    Finding.ROLL_WAITS,
                    f"rolling {view.name} would interrupt the pool: its only worker holds the only"
                    f" device; add a device, or annotate"
                    f" {ANNOTATION_FORCE_ROLL}={pool.generation}",
                )
            )
        rolls[view.name] = Roll(surge, paused=waits, active=True)
    return rolls, tuple(problems)
