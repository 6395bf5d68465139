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
    """Return the class by which a node is judged, or None when no class selects it.

    Where several do, the first by name with the strictest rules of all: what one of them holds
    against a node must not depend on what the other is called. How a worker's pulse is taken, and
    how many nodes may be acted on, stays each class's own.
    """
    found = [classes[name] for name in list_classes(node, classes)]
    if len(found) <= 1:
        return found[0] if found else None
    rules = [accelerator.health for accelerator in found]
    kinds = dict.fromkeys(kind for one in rules for kind in one.node_conditions)
    strictest = {
        "node_conditions": list(kinds),
        "return_after": max(one.return_after for one in rules),
        "latch_after_flaps": min(one.latch_after_flaps for one in rules),
    }
    return found[0].model_copy(update={"health": rules[0].model_copy(update=strictest)})


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
