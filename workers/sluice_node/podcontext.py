"""What the containers of one pod share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_node.environment import PodFacts
from sluice_node.nodecontext import NodeContext
from sluice_node.volumes import PodVolumes


@dataclass(frozen=True, slots=True)
class PodContext:
    """One pod on this node, with its address and its directories.

    `object` is the pod as it was when it came to the node; of its spec nothing changes later that
    an emulated node heeds.
    """

    object: Mapping[str, Any]
    node: NodeContext
    facts: PodFacts
    volumes: PodVolumes
    directory: Path

    @property
    def uid(self) -> str:
        """Identity of the pod."""
        return str(self.object["metadata"]["uid"])

    def describe(self) -> str:
        """Return name and namespace as the kubelet's messages do."""
        metadata = self.object["metadata"]
        return f"{metadata['name']}_{metadata['namespace']}({self.uid})"

    @property
    def grace_seconds(self) -> float:
        """How long its containers may take to end when nothing else is said."""
        return float(self.object["spec"].get("terminationGracePeriodSeconds", 30))
