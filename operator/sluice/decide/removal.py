"""Which Failed workers are deleted: the one destructive decision, behind doubt, breaker, mark."""

from collections.abc import Sequence

from sluice.decide.breaker import open_breaker, suspect_observer
from sluice.decide.variants import Fleet, VariantView
from sluice.model.plan import DeleteWorker, Finding, Problem
from sluice.model.snapshot import Pool


def choose_deletes(
    fleet: Fleet, pool: Pool, views: Sequence[VariantView]
) -> tuple[tuple[DeleteWorker, ...], tuple[Problem, ...]]:
    """Choose the Failed workers to delete; breaker and doubt stop only this, never traffic."""
    deletes, problems = [], []
    doubt = suspect_observer(fleet.snapshot)
    for view in views:
        if not view.failed:
            continue
        if doubt:
            names = ", ".join(worker.name for worker in view.failed)
            text = f"{names}: bypassed but not deleted while {doubt}"
            problems.append(Problem(Finding.BREAKER_OPEN, text))
            continue
        allowed, held = open_breaker(
            fleet.snapshot, fleet.nodes, view.name, fleet.storms.get(view.name)
        )
        if held:
            problems.append(Problem(Finding.BREAKER_OPEN, held))
        # Its replacement must not land there, nor a restart forget why: the mark is seen first.
        deletes += [
            DeleteWorker(pool.key, w.name, w.uid, fleet.workers[w.uid].reason)
            for w in view.failed
            if w.node in allowed and w.node in fleet.marked
        ]
    return tuple(deletes), tuple(problems)
