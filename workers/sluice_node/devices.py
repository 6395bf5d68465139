"""What of the node's capacity is taken: devices by number, cpu and memory by request. Pure.

The scheduler keeps the same books; these matter for pods that were bound past it, and to say which
devices a container has.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sluice_node.quantities import parse_quantity

DeviceKey = tuple[str, int]
"""One device of the node: its resource, and its number among those of the resource."""


class AdmissionError(Exception):
    """The node has no room for a pod; `reason` is the pod's status.reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_device(resource: str) -> bool:
    """Say whether a resource comes in numbered pieces, as from a device plugin."""
    return "/" in resource and not resource.startswith("kubernetes.io/")


def list_devices(capacity: Mapping[str, str]) -> tuple[DeviceKey, ...]:
    """Return all devices of a node, by resource and number."""
    return tuple(
        (resource, number)
        for resource, amount in sorted(capacity.items())
        if is_device(resource)
        for number in range(int(parse_quantity(amount)))
    )


class CapacityLedger:
    """Who holds what, by pod UID and container name."""

    def __init__(self, capacity: Mapping[str, str]) -> None:
        self._capacity = {name: parse_quantity(amount) for name, amount in capacity.items()}
        self._requests: dict[str, dict[str, Decimal]] = {}
        self._devices: dict[str, dict[str, dict[str, list[int]]]] = {}
        self._unhealthy: frozenset[DeviceKey] = frozenset()

    def note_unhealthy(self, devices: frozenset[DeviceKey]) -> None:
        """Give these devices to no further pod; who holds one keeps it."""
        self._unhealthy = devices

    def admit(self, uid: str, spec: Mapping[str, Any]) -> None:
        """Book what a pod asks for; a pod that is booked already stays so.

        Raises:
            AdmissionError: There is not enough left.
        """
        if uid in self._requests:
            return
        devices = self._choose_devices(spec)
        wanted = {resource: _sum_requests(spec, resource) for resource in ("cpu", "memory")}
        wanted["pods"] = Decimal(1)
        for resource, amount in wanted.items():
            used = sum((held[resource] for held in self._requests.values()), Decimal(0))
            total = self._capacity.get(resource, Decimal(0))
            if amount and used + amount > total:
                raise AdmissionError(
                    f"OutOf{resource}",
                    f"Node didn't have enough resource: {resource}, requested: {amount:f}, used: "
                    f"{used:f}, capacity: {total:f}",
                )
        self._requests[uid] = wanted
        self._devices[uid] = devices

    def release(self, uid: str) -> None:
        """Give back what a pod held."""
        self._requests.pop(uid, None)
        self._devices.pop(uid, None)

    def list_devices(self, uid: str, container: str) -> list[DeviceKey]:
        """Return a container's devices in the order of `describe_devices`."""
        held = self._devices.get(uid, {}).get(container, {})
        return [(resource, number) for resource in sorted(held) for number in held[resource]]

    def describe_devices(self, uid: str, container: str) -> str:
        """Return a container's devices as `sluice.dev/maia=0,1`, kinds divided by `;`."""
        held = self._devices.get(uid, {}).get(container, {})
        return ";".join(
            f"{resource}={','.join(str(number) for number in numbers)}"
            for resource, numbers in sorted(held.items())
        )

    def _choose_devices(self, spec: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
        chosen: dict[str, dict[str, list[int]]] = {}
        for container in spec["containers"]:
            limits = (container.get("resources") or {}).get("limits") or {}
            for resource, amount in limits.items():
                count = int(parse_quantity(amount))
                if not is_device(resource) or count == 0:
                    continue
                free = self._find_free(resource, chosen)
                if len(free) < count:
                    raise AdmissionError(
                        "UnexpectedAdmissionError",
                        f"Allocate failed due to OutOf{resource}: requested number of devices "
                        f"unavailable. Requested: {count}, Available: {len(free)}, which is "
                        "unexpected",
                    )
                chosen.setdefault(container["name"], {})[resource] = free[:count]
        return chosen

    def _find_free(self, resource: str, chosen: Mapping[str, Mapping[str, list[int]]]) -> list[int]:
        pods = [*self._devices.values(), chosen]
        taken = {n for pod in pods for held in pod.values() for n in held.get(resource, ())}
        return [
            number
            for number in range(int(self._capacity.get(resource, 0)))
            if number not in taken and (resource, number) not in self._unhealthy
        ]


def _sum_requests(spec: Mapping[str, Any], resource: str) -> Decimal:
    total = Decimal(0)
    for container in spec["containers"]:
        requests = (container.get("resources") or {}).get("requests") or {}
        total += parse_quantity(requests.get(resource, "0"))
    return total
