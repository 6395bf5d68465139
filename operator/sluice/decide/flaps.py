"""Flaps: a node that fails again and again waits longer, and in the end for a person.

Every failure of a node is remembered for an hour: each time it was taken out, went bad again after
it had looked good for a while, or did not prove itself. Each but the first is a flap; it doubles
the stable window, and at `latchAfterFlaps` the node is latched: only the annotation
`sluice.dev/release` lets it back, which also forgets what was counted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide import limits
from sluice.decide.evidence import Evidence, Source, has_wrong_answer, word_evidence
from sluice.model.memory import NodeHealth, NodeState
from sluice.model.snapshot import Node, Snapshot

UNTIL_RELEASED: Final = "; stays out until somebody runs: sluice node release"
"""How the reason of a latched node ends, before its name."""

Outs = tuple[float, ...]
"""When a node failed, seconds, oldest first."""


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
        if times and (name in nodes or is_counted(times, at))
    }


def is_counted(outs: Outs, at: float) -> bool:
    """Tell whether a node was last taken out within the window, so that its flaps still count."""
    return bool(outs) and at - outs[-1] < limits.FLAP_WINDOW


def take_out(
    node: Node,
    accelerator: AcceleratorClassSpec,
    outs: Outs,
    at: float,
    evidence: Sequence[Evidence],
) -> tuple[NodeHealth, Outs]:
    """Return the health of a node that is taken out now, and its failures with this one added.

    A hand that takes it out is no failure, and counts as no flap.
    """
    reason = word_evidence(evidence)
    if evidence[0].source is Source.HAND:
        return latch(None, node, reason, at), outs
    if has_wrong_answer(evidence):
        return latch(None, node, reason, at), add_failure(outs, at)
    return note_failure(None, node, accelerator, add_failure(outs, at), reason)


def note_failure(
    before: NodeHealth | None,
    node: Node,
    accelerator: AcceleratorClassSpec,
    outs: Outs,
    reason: str,
) -> tuple[NodeHealth, Outs]:
    """Return the health of a node that failed at the last of these times, and the times.

    One that was out already (`before`) is out since then: the breaker acts on the longest out.
    """
    at = outs[-1]
    most = accelerator.health.latch_after_flaps
    flaps = count_flaps(outs)
    if flaps >= most:
        text = f"{reason}; latched after {flaps} flaps within an hour (latchAfterFlaps {most})"
        return latch(before, node, text, at), outs
    if flaps:
        window = stable_window(accelerator, outs)
        reason = (
            f"{reason}; flap {flaps} within an hour: has to look good for {window:g} s, latched at"
            f" {most}"
        )
    since = before.since if before is not None else at
    return NodeHealth(NodeState.FAILED, since, reason, at), outs


def add_failure(outs: Outs, at: float) -> Outs:
    """Return the times of failures that count, with one more."""
    return (*(time for time in outs if at - time < limits.FLAP_WINDOW), at)


def latch(before: NodeHealth | None, node: Node, reason: str, at: float) -> NodeHealth:
    """Return a node that stays out until a person releases it."""
    text = f"{reason}{UNTIL_RELEASED} {node.name}"
    return NodeHealth(NodeState.LATCHED, before.since if before is not None else at, text, at)


def count_flaps(outs: Outs) -> int:
    """Return how often the node failed again."""
    return max(0, len(outs) - 1)


def stable_window(accelerator: AcceleratorClassSpec, outs: Outs) -> float:
    """Return the seconds for which a node must look good: `returnAfter`, doubled by each flap."""
    return accelerator.health.return_after * 2.0 ** count_flaps(outs)
