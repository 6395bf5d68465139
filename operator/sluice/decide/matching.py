"""Which node belongs to which class, and all workers of all pools: what several modules ask."""

from collections.abc import Iterable, Mapping

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.model.snapshot import Node, Snapshot, Worker


def list_workers(snapshot: Snapshot) -> Iterable[Worker]:
    """Yield every worker of every pool."""
    for pool in snapshot.pools:
        yield from pool.workers


def find_class(
    node: Node, classes: Mapping[str, AcceleratorClassSpec]
) -> AcceleratorClassSpec | None:
    """Return the class whose selector the node matches (the first by name), or None."""
    name = find_class_name(node, classes)
    return classes[name] if name is not None else None


def find_class_name(node: Node, classes: Mapping[str, AcceleratorClassSpec]) -> str | None:
    """Return the name of the class whose selector the node matches (the first), or None."""
    for name in sorted(classes):
        if selects(classes[name], node):
            return name
    return None


def selects(accelerator: AcceleratorClassSpec, node: Node) -> bool:
    """Tell whether the class's node selector matches the node."""
    return all(node.labels.get(key) == value for key, value in accelerator.node_selector.items())
