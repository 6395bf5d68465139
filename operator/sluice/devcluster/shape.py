"""What nodes a cluster has: kinds, counts, and what each node says of itself.

The starter chooses a shape; the supervisor plans the nodes and writes an agent's configuration for
each.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sluice.devcluster.errors import InvalidClusterError

MAX_NODES = 200
"""Node i owns 127.X.i.0/24; what is above stays free."""


@dataclass(frozen=True, slots=True)
class NodeKind:
    """A kind of emulated node; its nodes are called `<name>-0`, `<name>-1` and so on."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    devices: Mapping[str, str]
    profile: str | None = None
    """Which accelerator its devices are, in the names of `sluice_accel.profiles`."""


_MAIA = NodeKind(
    name="maia",
    # Maia has no public labels or resource name: these are the project's own, marked as assumed
    # in the documentation.
    labels={"sluice.dev/accelerator": "maia-200"},
    taints=({"key": "sluice.dev/maia", "value": "present", "effect": "NoSchedule"},),
    devices={"sluice.dev/maia": "2"},
    profile="maia-200",
)
_GPU = NodeKind(
    name="gpu",
    # As NVIDIA's GPU feature discovery labels a node with H100 SXM5 80 GB.
    labels={
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.memory": "81559",
        "nvidia.com/gpu.family": "hopper",
    },
    taints=({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},),
    devices={"nvidia.com/gpu": "2"},
    profile="h100",
)
_SYSTEM = NodeKind(name="system", labels={"sluice.dev/node-pool": "system"}, taints=(), devices={})

_BASE_LABELS = {
    "sluice.dev/emulated": "true",
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": "amd64",
}
_BASE_CAPACITY = {"cpu": "8", "memory": "32Gi", "pods": "110"}


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node as it will register. `index` counts from 1 over all nodes and picks its /24.

    Attributes:
        devices: how many it has by resource; they are part of `capacity` too.
        profile: which accelerator they are; None without any.
    """

    name: str
    index: int
    kind: str
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    capacity: Mapping[str, str]
    devices: Mapping[str, str]
    profile: str | None


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """How many nodes of which kind."""

    maia: int = 2
    gpu: int = 2
    system: int = 1

    def __post_init__(self) -> None:
        counts = asdict(self)
        for kind, count in counts.items():
            if count < 0:
                raise InvalidClusterError(f"--{kind} {count}: a cluster cannot have fewer than 0.")
        if sum(counts.values()) > MAX_NODES:
            raise InvalidClusterError(
                f"{sum(counts.values())} nodes are more than one machine emulates: use at most "
                f"{MAX_NODES} in all."
            )

    def __str__(self) -> str:
        return f"{self.maia} Maia, {self.gpu} GPU and {self.system} system nodes"

    def to_dict(self) -> dict[str, int]:
        """Return the counts by kind."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ClusterShape":
        """Return the shape `to_dict` was called on."""
        return cls(**{kind: int(value[kind]) for kind in ("maia", "gpu", "system")})

    def plan_nodes(self) -> list[NodePlan]:
        """Return the nodes in the order of their addresses."""
        kinds = [
            *((_MAIA, number) for number in range(self.maia)),
            *((_GPU, number) for number in range(self.gpu)),
            *((_SYSTEM, number) for number in range(self.system)),
        ]
        return [
            _plan_node(kind, number, index) for index, (kind, number) in enumerate(kinds, start=1)
        ]


def _plan_node(kind: NodeKind, number: int, index: int) -> NodePlan:
    name = f"{kind.name}-{number}"
    return NodePlan(
        name=name,
        index=index,
        kind=kind.name,
        labels={**_BASE_LABELS, "kubernetes.io/hostname": name, **kind.labels},
        taints=kind.taints,
        capacity={**_BASE_CAPACITY, **kind.devices},
        devices=kind.devices,
        profile=kind.profile,
    )
