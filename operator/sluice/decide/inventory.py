"""Devices between pools: who may take how many, by priority, before anything is asked for.

Pools share nodes and never preempt through Kubernetes (their PriorityClass says Never), so the
planner frees a device before it asks for it: a pool of lower priority yields what lies above its
minimum, one of the same priority keeps what it holds.
"""

from collections.abc import Iterable, Mapping

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide.devices import count_devices, count_held, devices_per_worker
from sluice.decide.variants import Fleet
from sluice.model.keys import PoolKey
from sluice.model.memory import PoolMemory, VariantMemory
from sluice.model.snapshot import Node, Pool


class Inventory:
    """Device counts of every class, and what the pools planned so far take of them."""

    def __init__(
        self, fleet: Fleet, pools: Iterable[Pool], memories: Mapping[PoolKey, PoolMemory]
    ) -> None:
        self._fleet = fleet
        self._memories = memories
        self.order = sorted(pools, key=lambda p: (-p.spec.priority, p.created, p.key))
        self._planned: dict[tuple[PoolKey, str], int] = {}

    def take(self, pool: Pool, class_name: str, workers: int) -> None:
        """Record how many workers a pool was planned to have."""
        self._planned[pool.key, class_name] = workers

    def limit_workers(
        self, pool: Pool, class_name: str, accelerator: AcceleratorClassSpec, devices: int
    ) -> int:
        """Return how many workers of `devices` devices each the pool may have on a class.

        Quarantined and unready nodes count: what was lost comes back, and a pod that waits for it
        takes its place at once (or makes an autoscaler add a node). On a node that is out broken
        devices count too: it does not come back without them. So do devices that a worker
        holds, whatever its node says: allocatable is 0 while a device plugin restarts, and labels
        go while their owner does, but what runs there runs on.
        """
        held_on = count_held(self._fleet.snapshot, accelerator)
        nodes = {node.name: node for node in self._fleet.list_nodes(accelerator)}
        per_node = [
            max(self._count(accelerator, node), held_on.get(name, 0))
            for name, node in nodes.items()
        ]
        per_node += self._fleet.count_stray(class_name, accelerator, nodes)
        slots = sum(count // devices for count in per_node)
        held = sum(
            self._hold(pool, other, class_name, accelerator)
            for other in self.order
            if other.key != pool.key
        )
        return max(0, min(slots, (sum(per_node) - held) // devices))

    def _count(self, accelerator: AcceleratorClassSpec, node: Node) -> int:
        able = count_devices(accelerator, node)
        if not self._fleet.is_out(node.name):
            return able
        return max(able, node.capacity.get(accelerator.resource_name, 0))

    def _hold(
        self, pool: Pool, other: Pool, class_name: str, accelerator: AcceleratorClassSpec
    ) -> int:
        """Return the devices of a class that `other` may keep against `pool`."""
        variant = next((v for v in other.spec.variants if v.accelerator_class == class_name), None)
        if variant is None:
            return 0
        planned = self._planned.get((other.key, class_name))
        if planned is None:
            planned = variant.min
            if other.spec.priority == pool.spec.priority:
                memory = self._memories.get(other.key, PoolMemory())
                wanted = memory.variants.get(class_name, VariantMemory()).wanted
                planned = max(planned, wanted or 0)
        return planned * devices_per_worker(variant, accelerator)
