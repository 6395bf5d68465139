"""URL paths of the kinds that Sluice reads and writes."""

from dataclasses import dataclass
from typing import Any, Final

from sluice.model.names import API_VERSION, CLASS_KIND, CLASS_PLURAL, POOL_KIND, POOL_PLURAL


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: its API version, kind and plural, and whether it lives in namespaces."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of a collection, an object or a subresource."""
        root = "/api" if self.api_version == "v1" else "/apis"
        parts = [root, self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


POOLS: Final = Resource(API_VERSION, POOL_KIND, POOL_PLURAL)
CLASSES: Final = Resource(API_VERSION, CLASS_KIND, CLASS_PLURAL, namespaced=False)
PODS: Final = Resource("v1", "Pod", "pods")
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
SERVICES: Final = Resource("v1", "Service", "services")
EVENTS: Final = Resource("v1", "Event", "events")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
BUDGETS: Final = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")

_BY_KIND: Final = {resource.kind: resource for resource in (SERVICES, DEPLOYMENTS, BUDGETS)}


def find_child_resource(manifest: dict[str, Any]) -> Resource:
    """Return the resource of a rendered child.

    Raises:
        KeyError: Sluice makes no children of that kind.
    """
    return _BY_KIND[manifest["kind"]]
