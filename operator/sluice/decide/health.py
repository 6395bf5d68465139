"""Health of workers and nodes: evidence in, states and node actions out.

First form: liveness probes and the gateways' passive evidence. A worker is Failed after k misses in
a row; its node is quarantined with it and returns after a stable window. The observer is suspect
when its own control target fails, or when every class misses at once: then nothing new fails.
"""

from collections.abc import Collection, Iterable, Mapping

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide import limits
from sluice.decide.flaps import Outs, forget_outs, stable_window, take_out
from sluice.model.memory import NodeHealth, NodeState, WorkerHealth, WorkerState
from sluice.model.plan import NodeAction, QuarantineNode, ReleaseNode
from sluice.model.snapshot import Node, NodeReady, Snapshot, Worker

NOT_HEARD = "ready when first seen, and not heard yet"
"""Reason of workers that the operator found running; `_judge_unheard` decides on them."""


def list_workers(snapshot: Snapshot) -> Iterable[Worker]:
    """Yield every worker of every pool."""
    for pool in snapshot.pools:
        yield from pool.workers


def suspect_observer(snapshot: Snapshot) -> str:
    """Return why our own sight is in doubt, or ""."""
    if not snapshot.observer_ok:
        return "the operator's own control target does not answer"
    missing: dict[str, bool] = {}
    for worker in list_workers(snapshot):
        if worker.ready and not worker.terminating and worker.probe is not None:
            name = worker.accelerator_class
            missing[name] = missing.get(name, True) and worker.probe.misses > 0
    if len(missing) > 1 and all(missing.values()):
        return f"all workers of all classes ({', '.join(sorted(missing))}) miss probes at once"
    return ""


def judge_workers(
    snapshot: Snapshot, known: Mapping[str, WorkerHealth], out: Collection[str] = ()
) -> dict[str, WorkerHealth]:
    """Return the health of every worker in the snapshot, by pod uid.

    Args:
        snapshot: what was observed.
        known: health judged before; a worker that is not in it is seen for the first time.
        out: names of the nodes in quarantine before this pass.
    """
    doubt = suspect_observer(snapshot)
    judged: dict[str, WorkerHealth] = {}
    for worker in list_workers(snapshot):
        accelerator = snapshot.classes.get(worker.accelerator_class)
        if accelerator is None:
            continue
        before = known.get(worker.uid)
        if before is None:
            before = WorkerHealth(WorkerState.STARTING, snapshot.at)
            if worker.ready:
                before = WorkerHealth(WorkerState.SUSPECT, snapshot.at, NOT_HEARD)
        if worker.ready and before.reason == NOT_HEARD and not _has_answered(worker):
            held = worker.node in out
            state, reason = _judge_unheard(worker, accelerator, doubt, held=held)
        else:
            state, reason = _judge(worker, accelerator, before, doubt, snapshot.at)
        if state is before.state:
            judged[worker.uid] = before
        else:
            judged[worker.uid] = WorkerHealth(state, snapshot.at, reason)
    return judged


def _has_answered(worker: Worker) -> bool:
    return worker.probe is not None and worker.probe.answered > 0


def _judge_unheard(
    worker: Worker, accelerator: AcceleratorClassSpec, doubt: str, *, held: bool
) -> tuple[WorkerState, str]:
    """Judge a worker that was ready when we first saw it, and has not answered a probe since.

    An operator that starts finds such workers, and may neither take them for lost before they had
    time to answer, nor forget that their node was already taken out for what they did. Misses alone
    could be a network policy against us: they end in Starting, and so in fallback, not in deletion.
    """
    needed = accelerator.health.liveness.failures
    misses = worker.probe.misses if worker.probe is not None else 0
    if misses < needed:
        return WorkerState.SUSPECT, NOT_HEARD
    reason = f"{misses} liveness probes in a row missed, none answered since the operator started"
    if (held or worker.gateway_failures >= needed) and not doubt:
        return WorkerState.FAILED, reason
    return WorkerState.STARTING, NOT_HEARD


def _judge(
    worker: Worker,
    accelerator: AcceleratorClassSpec,
    before: WorkerHealth,
    doubt: str,
    at: float,
) -> tuple[WorkerState, str]:
    if before.state is WorkerState.FAILED:
        return _judge_failed(worker, accelerator, before, at)
    if not worker.ready or worker.probe is None or not worker.probe.answered:
        return WorkerState.STARTING, ""
    misses, failures = worker.probe.misses, worker.gateway_failures
    needed = accelerator.health.liveness.failures
    evidence = []
    if misses:
        evidence.append(f"{misses} of {needed} liveness probes in a row missed")
    if failures:
        evidence.append(f"{failures} requests in a row failed at the gateway")
    reason = ", ".join(evidence)
    corroborated = misses > 0 and failures >= needed
    if misses >= needed or corroborated:
        if doubt:
            return WorkerState.SUSPECT, f"{reason}; not acted on: {doubt}"
        return WorkerState.FAILED, reason
    if misses or failures >= needed:
        return WorkerState.SUSPECT, reason
    return WorkerState.HEALTHY, ""


def _judge_failed(
    worker: Worker, accelerator: AcceleratorClassSpec, before: WorkerHealth, at: float
) -> tuple[WorkerState, str]:
    """A Failed worker that was not deleted (the breaker) is back after a stable window."""
    up_since = worker.probe.up_since if worker.probe is not None else None
    if up_since is None or at - up_since < accelerator.health.return_after:
        return WorkerState.FAILED, before.reason
    return WorkerState.HEALTHY, f"answered for {at - up_since:.0f} s"


def recall_nodes(snapshot: Snapshot) -> dict[str, NodeHealth]:
    """Return what the annotations say; a restart of the operator releases nothing."""
    recalled = {}
    for node in snapshot.nodes:
        if node.mark is not None and node.mark.state in (NodeState.FAILED, NodeState.LATCHED):
            # A time to come, from another clock or a hand, would keep the node out until then.
            since = min(node.mark.since, snapshot.at)
            state = NodeState(node.mark.state)
            recalled[node.name] = NodeHealth(state, since, node.mark.reason)
        elif node.tainted:
            why = node.mark_error or "our taint was found without its annotation"
            recalled[node.name] = NodeHealth(NodeState.FAILED, snapshot.at, why)
    return recalled


def judge_nodes(
    snapshot: Snapshot,
    known: Mapping[str, NodeHealth],
    workers: Mapping[str, WorkerHealth],
    known_outs: Mapping[str, Outs],
) -> tuple[dict[str, NodeHealth], dict[str, Outs], tuple[NodeAction, ...]]:
    """Return the nodes that are out, when nodes were taken out, and what to do about marks.

    Args:
        snapshot: what was observed.
        known: nodes that were out before this pass.
        workers: health of the workers, judged in this pass.
        known_outs: when nodes were taken out, before this pass.
    """
    judged: dict[str, NodeHealth] = {}
    actions: list[NodeAction] = []
    outs = dict(known_outs)
    failed = find_failed_workers(snapshot, workers)
    for node in snapshot.nodes:
        accelerator = find_class(node, snapshot.classes)
        before = known.get(node.name)
        if accelerator is None and snapshot.unreadable:
            # The class that we cannot read may be the one that the mark is for.
            if before is not None:
                judged[node.name] = before
            continue
        if accelerator is None:
            after, why = None, "no accelerator class selects it any more"
            outs[node.name] = ()
        else:
            against = [f"worker {w.name}: {why.reason}" for w, why in failed.get(node.name, ())]
            if before is None and against:
                after, outs[node.name] = take_out(
                    node, accelerator, outs.get(node.name, ()), snapshot.at, against[0]
                )
                why = ""
            else:
                window = stable_window(accelerator, outs.get(node.name, ()))
                after, why = _judge_node(node, window, before, snapshot, speaks_for=not against)
        if node.released and before is not None:
            after, outs[node.name], why = None, (), "released by hand"
        if after is not None:
            judged[node.name] = after
        outs = forget_outs(outs, judged, snapshot.at)
        actions += _mark(node, after, outs.get(node.name, ()), why, snapshot.at)
    return judged, outs, tuple(actions)


def _mark(
    node: Node, after: NodeHealth | None, outs: Outs, why: str, at: float
) -> tuple[NodeAction, ...]:
    """Return what makes a node carry the mark that it should: at most one action."""
    mark = node.mark
    if after is not None:
        if node.tainted and mark is not None and mark.since == after.since:
            return ()
        return (QuarantineNode(node.name, after.since, after.reason, after.state, outs),)
    remembers = mark is not None and mark.state == NodeState.HEALTHY and bool(outs)
    if node.tainted or node.mark_error or node.released or (mark is not None and not remembers):
        return (ReleaseNode(node.name, why or "nothing speaks against it", at, outs),)
    return ()


def find_class(
    node: Node, classes: Mapping[str, AcceleratorClassSpec]
) -> AcceleratorClassSpec | None:
    """Return the class whose selector the node matches (the first by name), or None."""
    for name in sorted(classes):
        if selects(classes[name], node):
            return classes[name]
    return None


def selects(accelerator: AcceleratorClassSpec, node: Node) -> bool:
    """Tell whether the class's node selector matches the node."""
    return all(node.labels.get(key) == value for key, value in accelerator.node_selector.items())


def find_failed_workers(
    snapshot: Snapshot, workers: Mapping[str, WorkerHealth]
) -> dict[str, list[tuple[Worker, WorkerHealth]]]:
    """Return the Failed workers still bound to each node, Terminating ones included."""
    failed: dict[str, list[tuple[Worker, WorkerHealth]]] = {}
    for worker in list_workers(snapshot):
        health = workers.get(worker.uid)
        if worker.node and health is not None and health.state is WorkerState.FAILED:
            failed.setdefault(worker.node, []).append((worker, health))
    return failed


def _judge_node(
    node: Node,
    window: float,
    before: NodeHealth | None,
    snapshot: Snapshot,
    *,
    speaks_for: bool,
) -> tuple[NodeHealth | None, str]:
    """Judge a node that is not taken out in this pass: None once it has been good for long."""
    if before is None or before.state is NodeState.LATCHED:
        return before, ""
    alive = (
        speaks_for
        and node.ready is NodeReady.TRUE
        and node.lease_age is not None
        and node.lease_age <= limits.LEASE_STALE
        and node.lease_renewed is not None
        and node.lease_renewed > before.since
    )
    if not alive:
        return NodeHealth(before.state, before.since, before.reason), ""
    since = before.alive_since if before.alive_since is not None else snapshot.at
    if snapshot.at - since >= window:
        return None, (
            f"ready, its Lease renewed and no failed worker on it for {snapshot.at - since:.0f} s"
            f" (needed: {window:g} s)"
        )
    return NodeHealth(before.state, before.since, before.reason, since), ""


def open_breaker(
    snapshot: Snapshot, nodes: Mapping[str, NodeHealth], class_name: str
) -> tuple[frozenset[str], str]:
    """Choose the nodes of a class whose workers may be deleted.

    Returns:
        The allowed nodes, at most max(1, floor(maxUnhealthy x nodes)), those longest out first; and
        a sentence when some quarantined node is not among them, else "".
    """
    accelerator = snapshot.classes[class_name]
    of_class = [node.name for node in snapshot.nodes if selects(accelerator, node)]
    limit = max(1, int(accelerator.health.max_unhealthy * len(of_class)))
    out = sorted((nodes[name].since, name) for name in of_class if name in nodes)
    allowed = frozenset(name for _, name in out[:limit])
    held = [name for _, name in out[limit:]]
    if not held:
        return allowed, ""
    return allowed, (
        f"{len(out)} of {len(of_class)} nodes of class {class_name} are out, maxUnhealthy allows"
        f" {limit}: workers on {', '.join(held)} are not deleted, only bypassed"
    )
