"""What holds destruction back: doubt in our own sight, the breaker of a class, and its storms.

The breaker is for faults that many nodes share: an observer that errs, a rollout that is bad. A
node that was latched long ago, and on which nothing of ours is left, is a matter of its own, and a
person's; it must not keep the next failure from being acted on. So it is set aside: it counts
neither among the nodes that are out nor among those of the class. Lost capacity it stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide import limits
from sluice.decide.allocation import EPSILON
from sluice.decide.matching import list_workers, selects
from sluice.model.memory import NodeHealth, NodeState, Storm
from sluice.model.snapshot import Node, Snapshot


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


def open_breaker(
    snapshot: Snapshot,
    nodes: Mapping[str, NodeHealth],
    class_name: str,
    storm: Storm | None = None,
) -> tuple[frozenset[str], str]:
    """Choose the nodes of a class whose workers may be deleted.

    Args:
        snapshot: what was observed.
        nodes: health of the nodes.
        class_name: the class.
        storm: the last time that more were out than the breaker allows.

    Returns:
        The allowed nodes, at most max(1, floor(maxUnhealthy x nodes)), those longest out first; and
        a sentence when some node that is out is not among them, else "".
    """
    count = _count_out(snapshot, nodes, class_name)
    allowed, held = count.out[: count.limit], count.out[count.limit :]
    if held:
        aside = f" (besides {', '.join(count.aside)}, latched before)" if count.aside else ""
        return frozenset(allowed), (
            f"{len(count.out)} of {count.nodes} nodes of class {class_name}{aside} are out,"
            f" maxUnhealthy allows {count.limit}: workers on {', '.join(held)} are not deleted,"
            " only bypassed"
        )
    left = storm.at + snapshot.cool_down - snapshot.at if storm is not None else 0.0
    waiting = [name for name in allowed if storm is not None and name not in storm.allowed]
    if left <= 0 or not waiting:
        return frozenset(allowed), ""
    return frozenset(allowed) - set(waiting), (
        f"more nodes of class {class_name} were out lately than maxUnhealthy allows: workers on"
        f" {', '.join(waiting)} are not deleted until that was {snapshot.cool_down:g} s ago"
    )


def remember_storms(
    snapshot: Snapshot, nodes: Mapping[str, NodeHealth], before: Mapping[str, Storm]
) -> dict[str, Storm]:
    """Return the storms of all classes: going on now, or not yet cooled down."""
    storms = {
        name: storm
        for name, storm in before.items()
        if name in snapshot.classes and snapshot.at - storm.at < snapshot.cool_down
    }
    for name in snapshot.classes:
        count = _count_out(snapshot, nodes, name)
        if len(count.out) > count.limit:
            storms[name] = Storm(snapshot.at, tuple(count.out[: count.limit]))
    return storms


@dataclass(frozen=True, slots=True)
class _Count:
    """The nodes of a class as its breaker counts them.

    Attributes:
        nodes: how many there are, without those set aside.
        out: those that are out, longest first, without those set aside.
        limit: how many may be acted on.
        aside: those set aside.
    """

    nodes: int
    out: list[str]
    limit: int
    aside: list[str]


def _count_out(snapshot: Snapshot, nodes: Mapping[str, NodeHealth], class_name: str) -> _Count:
    accelerator = snapshot.classes[class_name]
    of_class = [node for node in snapshot.nodes if selects(accelerator, node)]
    out = sorted(
        (nodes[node.name].since, node.name)
        for node in of_class
        if node.name in nodes and nodes[node.name].is_out
    )
    # Never more of them than may be acted on: what is left of the class is for a person to empty.
    most = _find_limit(accelerator, len(of_class))
    aside = _list_aside(snapshot, nodes, of_class)[:most]
    left = len(of_class) - len(aside)
    limit = _find_limit(accelerator, left)
    return _Count(left, [name for _, name in out if name not in aside], limit, aside)


def _find_limit(accelerator: AcceleratorClassSpec, nodes: int) -> int:
    # 0.29 x 100 is a little less than 29.
    return max(1, int(accelerator.health.max_unhealthy * nodes + EPSILON))


def _list_aside(
    snapshot: Snapshot, nodes: Mapping[str, NodeHealth], of_class: list[Node]
) -> list[str]:
    """Return the latched nodes of a class that are matters of their own, longest out first.

    Nothing of ours is left on them, and a hand took them out, or it is an hour since they failed in
    which no other was latched that the breaker holds back still: then it may be one fault.
    """
    latched = [
        node
        for node in of_class
        if node.name in nodes and nodes[node.name].state is NodeState.LATCHED
    ]
    if not latched:
        return []
    occupied = {w.node for w in list_workers(snapshot) if not w.terminating}
    held = [nodes[node.name].failed for node in latched if node.name in occupied]
    found = []
    for node in latched:
        since = nodes[node.name].failed
        alone = not any(other < since + limits.LATCHED_ASIDE for other in held)
        known = bool(node.banned) or (snapshot.at - since >= limits.LATCHED_ASIDE and alone)
        if known and node.name not in occupied:
            found.append((since, node.name))
    return [name for _, name in sorted(found)]
