"""Health of workers: evidence in, states out.

    Starting → Healthy ⇄ Suspect → Failed → Probation → Ramp → Healthy

A worker is Failed by evidence, and its node is taken out with it; what is still bound there when
the node proves itself is in Probation with it, and climbs with it (Ramp). While our own sight is in
doubt nothing new fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.api.accelerator import AcceleratorClassSpec, Health
from sluice.decide.breaker import suspect_observer
from sluice.decide.evidence import (
    Evidence,
    find_usual_paces,
    gather_worker,
    is_enough,
    list_written,
    word_evidence,
)
from sluice.decide.matching import find_class, list_workers
from sluice.model.memory import NodeHealth, NodeState, WorkerHealth, WorkerState
from sluice.model.snapshot import Node, Pool, Snapshot, Worker

NOT_HEARD = "ready when first seen, and not heard yet"
"""Reason of workers that the operator found running; `_judge_unheard` decides on them."""
RECALLED = "failed before the operator started"
"""Reason of workers that the pool's status already kept from traffic."""


def judge_workers(
    snapshot: Snapshot,
    known: Mapping[str, WorkerHealth],
    nodes: Mapping[str, NodeHealth],
) -> tuple[dict[str, WorkerHealth], dict[str, tuple[Evidence, ...]]]:
    """Return the health of every worker in the snapshot, and what speaks against it, by pod uid.

    Args:
        snapshot: what was observed.
        known: health judged before; a worker that is not in it is seen for the first time.
        nodes: health of the nodes before this pass.
    """
    doubt = suspect_observer(snapshot)
    by_name = {node.name: node for node in snapshot.nodes}
    paces = find_usual_paces(list_workers(snapshot))
    judged: dict[str, WorkerHealth] = {}
    against: dict[str, tuple[Evidence, ...]] = {}
    for worker in list_workers(snapshot):
        accelerator = snapshot.classes.get(worker.accelerator_class)
        before = known.get(worker.uid) or _meet(worker, snapshot)
        if accelerator is None:
            judged[worker.uid] = before  # Nothing says any more how to judge it.
            continue
        bench = _Bench(accelerator, doubt, snapshot.at)
        place = by_name.get(worker.node or "")
        usual = paces.get(worker.uid)
        home = nodes.get(worker.node or "")
        proving = home is not None and home.state is NodeState.PROBATION
        forgiven = home.entered if home is not None and proving else None
        rules = _find_rules(accelerator, place, snapshot)
        evidence = gather_worker(worker, place, rules, usual, forgiven)
        against[worker.uid] = evidence
        state, reason = _judge(worker, before, home, evidence, bench)
        same = state is before.state
        judged[worker.uid] = before if same else WorkerHealth(state, snapshot.at, reason)
    return judged, against


def _find_rules(
    accelerator: AcceleratorClassSpec, place: Node | None, snapshot: Snapshot
) -> Health:
    """Return by what a worker is judged: its class, and for its node all classes of that."""
    rules = accelerator.health
    home = find_class(place, snapshot.classes) if place is not None else None
    if home is None or home.health.node_conditions == rules.node_conditions:
        return rules
    return rules.model_copy(update={"node_conditions": home.health.node_conditions})


@dataclass(frozen=True, slots=True)
class _Bench:
    """What a worker is judged by, besides the evidence."""

    accelerator: AcceleratorClassSpec
    doubt: str
    at: float


def _meet(worker: Worker, snapshot: Snapshot) -> WorkerHealth:
    """Return what is held of a worker seen for the first time; a restart forgets no failure."""
    pool = next(pool for pool in snapshot.pools if pool.key == worker.pool)
    if worker.name in list_quarantined(pool):
        return WorkerHealth(WorkerState.FAILED, snapshot.at, RECALLED)
    if worker.ready:
        return WorkerHealth(WorkerState.SUSPECT, snapshot.at, NOT_HEARD)
    return WorkerHealth(WorkerState.STARTING, snapshot.at)


def list_quarantined(pool: Pool) -> set[str]:
    """Return the pods that the pool's status keeps from traffic, as far as it can be read."""
    found: set[str] = set()
    variants = pool.status.get("variants")
    for variant in variants if isinstance(variants, list) else ():
        names = variant.get("quarantined") if isinstance(variant, Mapping) else None
        found.update(name for name in names or () if isinstance(name, str))
    return found


def bypass_latched(
    snapshot: Snapshot,
    judged: Mapping[str, WorkerHealth],
    nodes: Mapping[str, NodeHealth],
) -> dict[str, WorkerHealth]:
    """Return the health of the workers once their nodes are judged.

    What runs on a node that waits for a person gets no traffic, though nothing was heard against it
    itself: one wrong answer speaks against all that computes beside it, until the node has proven
    itself.

    Args:
        snapshot: what was observed.
        judged: health of the workers, judged in this pass.
        nodes: health of the nodes, judged in this pass.
    """
    after = dict(judged)
    for worker in list_workers(snapshot):
        home, health = nodes.get(worker.node or ""), judged[worker.uid]
        if home is None or home.state is not NodeState.LATCHED:
            continue
        if worker.accelerator_class not in snapshot.classes:
            continue  # Nothing says any more how to judge it.
        if health.state not in (WorkerState.FAILED, WorkerState.PROBATION):
            reason = f"its node {worker.node} is latched"
            after[worker.uid] = WorkerHealth(WorkerState.FAILED, snapshot.at, reason)
    return after


def _judge(
    worker: Worker,
    before: WorkerHealth,
    home: NodeHealth | None,
    evidence: tuple[Evidence, ...],
    bench: _Bench,
) -> tuple[WorkerState, str]:
    if before.state in (WorkerState.FAILED, WorkerState.PROBATION):
        return _judge_failed(worker, before, home, evidence, bench)
    heard = worker.probe is not None and worker.probe.answered > 0
    if worker.ready and is_enough(list_written(evidence)):
        return WorkerState.FAILED, word_evidence(evidence)
    if worker.ready and before.reason == NOT_HEARD and not heard:
        held = home is not None and home.is_out
        return _judge_unheard(worker, bench, held=held)
    if not worker.ready or not heard:
        return WorkerState.STARTING, ""
    if evidence:
        return _judge_by(evidence, bench.doubt)
    returning = home is not None and home.state is NodeState.RAMP
    return (WorkerState.RAMP if returning else WorkerState.HEALTHY), ""


def _judge_by(evidence: tuple[Evidence, ...], doubt: str) -> tuple[WorkerState, str]:
    text = word_evidence(evidence)
    if not is_enough(evidence):
        return WorkerState.SUSPECT, text
    if doubt:
        return WorkerState.SUSPECT, f"{text}; not acted on: {doubt}"
    return WorkerState.FAILED, text


def _judge_unheard(worker: Worker, bench: _Bench, *, held: bool) -> tuple[WorkerState, str]:
    """Judge a worker that was ready when we first saw it, and has not answered a probe since.

    An operator that starts finds such workers, and may neither take them for lost before they had
    time to answer, nor forget that their node was already taken out for what they did. Our misses
    alone could be a network policy against us: they end in Starting, and so in fallback, not in
    deletion. Where a gateway's requests fail as well, or its own probes as often, they do not.
    """
    needed = bench.accelerator.health.liveness.failures
    misses = worker.probe.misses if worker.probe is not None else 0
    if misses < needed:
        return WorkerState.SUSPECT, NOT_HEARD
    reason = f"{misses} liveness probes in a row missed, none answered since the operator started"
    missed_too = max(worker.gateway_failures, worker.gateway_misses) >= needed
    if (held or missed_too) and not bench.doubt:
        return WorkerState.FAILED, reason
    return WorkerState.STARTING, NOT_HEARD


def _judge_failed(
    worker: Worker,
    before: WorkerHealth,
    home: NodeHealth | None,
    evidence: tuple[Evidence, ...],
    bench: _Bench,
) -> tuple[WorkerState, str]:
    """A Failed worker that was not deleted (the breaker) comes back with its node, or not at all.

    Where no node of a class bears a mark for it (its class was just edited), a stable window does.
    """
    up_since = worker.probe.up_since if worker.probe is not None else None
    if evidence or not worker.ready or up_since is None:
        return WorkerState.FAILED, before.reason
    if home is not None and home.is_out:
        if home.state is NodeState.PROBATION:
            return WorkerState.PROBATION, before.reason
        return WorkerState.FAILED, before.reason
    if home is not None:
        return WorkerState.RAMP, f"its node is back: {home.reason}"
    up = bench.at - up_since
    if up >= bench.accelerator.health.return_after:
        return WorkerState.HEALTHY, f"answered for {up:.0f} s"
    return WorkerState.FAILED, before.reason
