"""Which node belongs to which class, and which model to which pool: what several modules ask."""

from collections.abc import Iterable, Mapping, Sequence

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.model.keys import PoolKey
from sluice.model.snapshot import Node, Pool, Snapshot, Worker


def list_workers(snapshot: Snapshot) -> Iterable[Worker]:
    """Yield every worker of every pool."""
    for pool in snapshot.pools:
        yield from pool.workers


def find_class(
    node: Node, classes: Mapping[str, AcceleratorClassSpec]
) -> AcceleratorClassSpec | None:
    """Return the class whose selector the node matches (the first by name), or None."""
    return next((classes[name] for name in list_classes(node, classes)), None)


def list_classes(node: Node, classes: Mapping[str, AcceleratorClassSpec]) -> list[str]:
    """Return the names of the classes whose selector the node matches, in order."""
    return [name for name in sorted(classes) if selects(classes[name], node)]


def selects(accelerator: AcceleratorClassSpec, node: Node) -> bool:
    """Tell whether the class's node selector matches the node."""
    return accelerator.node_selector.items() <= node.labels.items()


def claim_models(pools: Sequence[Pool]) -> dict[str, PoolKey]:
    """Return which pool owns each model name: the oldest, then the first by key."""
    owners: dict[str, PoolKey] = {}
    for pool in sorted(pools, key=lambda p: (p.created, p.key)):
        owners.setdefault(pool.spec.model.name, pool.key)
    return owners
