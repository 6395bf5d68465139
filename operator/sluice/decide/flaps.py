"""Flaps: a node that fails again soon after it came back waits longer, and in the end for a person.

Every time a node is taken out is remembered for an hour. Each time but the first is a flap; it
doubles the stable window, and at `latchAfterFlaps` the node is latched: only the annotation
`sluice.dev/release` lets it back, which also forgets what was counted.
"""

from collections.abc import Mapping

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide import limits
from sluice.model.memory import NodeHealth, NodeState
from sluice.model.names import ANNOTATION_RELEASE
from sluice.model.snapshot import Node, Snapshot

Outs = tuple[float, ...]
"""When a node was taken out, seconds, oldest first."""


def recall_outs(snapshot: Snapshot) -> dict[str, Outs]:
    """Return what the marks say; times to come, from another clock or a hand, count as now."""
    return {
        node.name: tuple(sorted(min(at, snapshot.at) for at in node.mark.outs))
        for node in snapshot.nodes
        if node.mark is not None and node.mark.outs
    }


def forget_outs(
    outs: Mapping[str, Outs], nodes: Mapping[str, NodeHealth], at: float
) -> dict[str, Outs]:
    """Return what still counts: all of a node while it is out, or was within the window.

    Nodes that are gone from the cluster keep theirs, so that one that registers anew does not
    begin with nothing.
    """
    return {
        name: times
        for name, times in outs.items()
        if times and (name in nodes or at - times[-1] < limits.FLAP_WINDOW)
    }


def take_out(
    node: Node, accelerator: AcceleratorClassSpec, outs: Outs, at: float, reason: str
) -> tuple[NodeHealth, Outs]:
    """Return the health of a node that is taken out now, and its times with this one added."""
    outs = (*(time for time in outs if at - time < limits.FLAP_WINDOW), at)
    most = accelerator.health.latch_after_flaps
    flaps = count_flaps(outs)
    if flaps >= most:
        text = (
            f"{reason}; latched after {flaps} flaps within an hour (latchAfterFlaps {most}), until"
            f" somebody runs: kubectl annotate node {node.name} {ANNOTATION_RELEASE}=yes"
        )
        return NodeHealth(NodeState.LATCHED, at, text), outs
    if flaps:
        window = stable_window(accelerator, outs)
        reason = (
            f"{reason}; flap {flaps} within an hour: comes back after {window:g} s, latched at"
            f" {most}"
        )
    return NodeHealth(NodeState.FAILED, at, reason), outs


def count_flaps(outs: Outs) -> int:
    """Return how often the node failed again after it came back."""
    return max(0, len(outs) - 1)


def stable_window(accelerator: AcceleratorClassSpec, outs: Outs) -> float:
    """Return the seconds for which a node must look good: `returnAfter`, doubled by each flap."""
    return accelerator.health.return_after * 2.0 ** count_flaps(outs)
