"""What holds destruction back: doubt in our own sight, the breaker of a class, and its storms."""

from collections.abc import Mapping

from sluice.decide.matching import list_workers, selects
from sluice.model.memory import NodeHealth, Storm
from sluice.model.snapshot import Snapshot


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
    of_class, out, limit = _count_out(snapshot, nodes, class_name)
    allowed, held = out[:limit], out[limit:]
    if held:
        return frozenset(allowed), (
            f"{len(out)} of {of_class} nodes of class {class_name} are out, maxUnhealthy allows"
            f" {limit}: workers on {', '.join(held)} are not deleted, only bypassed"
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
        _, out, limit = _count_out(snapshot, nodes, name)
        if len(out) > limit:
            storms[name] = Storm(snapshot.at, tuple(out[:limit]))
    return storms


def _count_out(
    snapshot: Snapshot, nodes: Mapping[str, NodeHealth], class_name: str
) -> tuple[int, list[str], int]:
    """Return how many nodes a class has, those that are out (longest first), and the limit."""
    accelerator = snapshot.classes[class_name]
    of_class = [node.name for node in snapshot.nodes if selects(accelerator, node)]
    limit = max(1, int(accelerator.health.max_unhealthy * len(of_class)))
    out = sorted(
        (nodes[name].since, name) for name in of_class if name in nodes and nodes[name].is_out
    )
    return len(of_class), [name for _, name in out], limit
