"""Every name that Sluice puts on Kubernetes objects, in one place.

The gateway is a separate program with its own copy of the few it reads; a contract test compares.
"""

from typing import Final

GROUP: Final = "sluice.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
POOL_KIND: Final = "InferencePool"
POOL_PLURAL: Final = "inferencepools"
CLASS_KIND: Final = "AcceleratorClass"
CLASS_PLURAL: Final = "acceleratorclasses"

FIELD_MANAGER: Final = "sluice"
"""Field manager of every server-side apply, and the reporting controller of every Event."""

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_CLASS: Final = f"{GROUP}/accelerator-class"
MANAGED_BY: Final = "sluice"
WORKER: Final = "sluice-worker"
GATEWAY: Final = "sluice-gateway"
OPERATOR: Final = "sluice-operator"
PROBATION: Final = "sluice-probe"
"""Name label of the pods that prove quarantined nodes, and the prefix of their names."""

TAINT_QUARANTINE: Final = f"{GROUP}/quarantine"
"""Taint key (effect NoSchedule) on a node that Sluice has taken out."""
ANNOTATION_HEALTH: Final = f"{GROUP}/health"
"""Node annotation with the durable part of a node's health, as JSON."""
ANNOTATION_RELEASE: Final = f"{GROUP}/release"
"""Node annotation by hand, any value: end the quarantine and forget the flaps. Used up by that."""
ANNOTATION_QUARANTINE: Final = f"{GROUP}/quarantine"
"""Node annotation by hand, its value the reason: take the node out until it is released."""
ANNOTATION_TEMPLATE: Final = f"{GROUP}/template-hash"
"""Deployment annotation: digest of the pod template that Sluice rendered."""
ANNOTATION_FORCE_ROLL: Final = f"{GROUP}/force-roll"
"""Pool annotation: the generation whose roll may interrupt service."""
ANNOTATION_REQUEST_CLASS: Final = f"{GROUP}/request-class"
"""Pool annotation by hand: the class of requests that do not say theirs; read by the gateway."""

WORKER_CONTAINER: Final = "worker"
WORKER_PORT: Final = 8000
PRIORITY_CLASS: Final = "sluice-workers"


def deployment_name(pool: str, accelerator_class: str) -> str:
    """Return the name of the Deployment that runs a variant's workers."""
    return f"{pool}-{accelerator_class}"


def service_name(pool: str) -> str:
    """Return the name of a pool's headless Service."""
    return f"{pool}-workers"


def probation_name(node: str) -> str:
    """Return the name of the pod that proves a node."""
    return f"{PROBATION}-{node}"


def proven_node(pod: str) -> str:
    """Return the node that a probation pod of this name proves."""
    return pod.removeprefix(f"{PROBATION}-")


def slot_name(number: int) -> str:
    """Return the name of a probation pod's container: one worker's worth of devices."""
    return f"slot-{number}"


def pdb_name(pool: str) -> str:
    """Return the name of a pool's PodDisruptionBudget."""
    return pool
