"""Marks: the durable part of a node's health, an annotation and our taint.

What they say when the operator starts is what it knows; what it holds is what they are to say.
"""

from typing import Final

from sluice.decide.flaps import Outs
from sluice.model.memory import NodeHealth, NodeState
from sluice.model.plan import NodeAction, QuarantineNode, ReleaseNode
from sluice.model.snapshot import Node, Snapshot

_MARKED: Final = frozenset(
    {NodeState.FAILED, NodeState.LATCHED, NodeState.PROBATION, NodeState.RAMP}
)


def recall_nodes(snapshot: Snapshot) -> dict[str, NodeHealth]:
    """Return what the annotations say; a restart of the operator releases nothing."""
    recalled = {}
    at = snapshot.at
    for node in snapshot.nodes:
        if node.mark is not None and node.mark.state in _MARKED:
            # A time to come, from another clock or a hand, would keep the node out until then.
            since = min(node.mark.since, at)
            state = NodeState(node.mark.state)
            if state is NodeState.RAMP and node.tainted:
                state = NodeState.FAILED  # one of the two was edited: out is the safe one
            failed = max((min(out, at) for out in node.mark.outs), default=since)
            recalled[node.name] = NodeHealth(
                state, since, node.mark.reason, at, failed=max(since, failed)
            )
        elif node.tainted:
            why = node.mark_error or "our taint was found without its annotation"
            recalled[node.name] = NodeHealth(NodeState.FAILED, at, why, at)
    return recalled


def plan_mark(
    node: Node, after: NodeHealth | None, outs: Outs, why: str, at: float
) -> tuple[NodeAction, ...]:
    """Return what makes a node carry the mark that it should: at most one action."""
    mark, by_hand = node.mark, node.released
    if after is not None:
        if is_marked(node, after, outs) and node.tainted == after.is_out and not by_hand:
            return ()
        if after.is_out:
            said = (after.since, after.reason, after.state, outs)
            return (QuarantineNode(node.name, *said, released=by_hand),)
        back = (after.reason, after.since, outs, after.state)
        return (ReleaseNode(node.name, *back, released=by_hand),)
    remembers = mark is not None and mark.state == NodeState.HEALTHY and bool(outs)
    if node.tainted or node.mark_error or by_hand or (mark is not None and not remembers):
        why = why or "nothing speaks against it"
        return (ReleaseNode(node.name, why, at, outs, released=by_hand),)
    return ()


def plan_gone_mark(
    node: Node, kept: NodeHealth | None, outs: Outs, why: str, at: float
) -> tuple[NodeAction, ...]:
    """Return what a node should carry that no class selects: no taint, and what is kept of it.

    So it has proven nothing if a class selects it again, also after a restart of the operator.
    """
    if kept is None:
        return plan_mark(node, None, (), why, at)
    if is_marked(node, kept, outs) and not node.tainted:
        return ()
    return (ReleaseNode(node.name, kept.reason, kept.since, outs, kept.state),)


def is_marked(node: Node, health: NodeHealth, outs: Outs) -> bool:
    """Tell whether a node's mark says all of its health that has to outlive us.

    A return is told by its flaps, as it is written (`act.nodes`): its time may be a hand's.
    """
    mark = node.mark
    if mark is None or mark.state != health.state:
        return False
    same_out = mark.since == health.since or not health.is_out
    return same_out and mark.outs == outs
