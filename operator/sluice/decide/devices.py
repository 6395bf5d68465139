"""Devices: how many a node has, how many a worker takes, which are held, and what they multiply."""

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.numerics import choose_numerics, fits
from sluice.api.pool import VariantSpec
from sluice.model.snapshot import Node, Pool, Snapshot


def find_variant(pool: Pool, class_name: str) -> VariantSpec | None:
    """Return the pool's variant on a class, or None when the spec has none (any more)."""
    for variant in pool.spec.variants:
        if variant.accelerator_class == class_name:
            return variant
    return None


def devices_per_worker(variant: VariantSpec | None, accelerator: AcceleratorClassSpec) -> int:
    """Return the devices one worker holds."""
    if variant is not None and variant.devices is not None:
        return variant.devices
    return accelerator.devices_per_worker


def suits_numerics(variant: VariantSpec, accelerator: AcceleratorClassSpec) -> bool:
    """Tell whether the class's device multiplies in what the variant's workers compute in.

    A paced worker that is told something else never starts. Real hardware is not known to us.
    """
    emulation = accelerator.emulation
    profile = None if emulation is None else str(emulation.profile)
    return fits(choose_numerics(variant, accelerator), profile)


def count_devices(accelerator: AcceleratorClassSpec, node: Node) -> int:
    """Return the node's devices of a class."""
    return node.allocatable.get(accelerator.resource_name, 0)


def count_held(snapshot: Snapshot, accelerator: AcceleratorClassSpec) -> dict[str, int]:
    """Return the devices of a class that our workers hold, by node; Terminating ones count."""
    held: dict[str, int] = {}
    for pool in snapshot.pools:
        for worker in pool.workers:
            theirs = snapshot.classes.get(worker.accelerator_class)
            if not worker.node or theirs is None:
                continue
            if theirs.resource_name == accelerator.resource_name:
                variant = find_variant(pool, worker.accelerator_class)
                count = devices_per_worker(variant, theirs)
                held[worker.node] = held.get(worker.node, 0) + count
    return held


def count_free(snapshot: Snapshot, accelerator: AcceleratorClassSpec, node: Node) -> int:
    """Return the devices of a node that no worker holds."""
    held = count_held(snapshot, accelerator).get(node.name, 0)
    return max(0, count_devices(accelerator, node) - held)
