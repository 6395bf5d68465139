"""The few Kubernetes names the gateway reads; the operator's own table is the authority.

The gateway is a program of its own and imports nothing of the operator, so the names stand here
again, and a contract test compares both tables.
"""

from typing import Final

GROUP: Final = "sluice.dev"
VERSION: Final = "v1alpha1"
POOL_PLURAL: Final = "inferencepools"

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_CLASS: Final = f"{GROUP}/accelerator-class"
WORKER: Final = "sluice-worker"

WORKER_PORT: Final = 8000
"""Port of a worker whose pod spec names no port `http`."""
PORT_NAME: Final = "http"
READY_PATH: Final = "/readyz"
"""What the kubelet asks our workers for, and the gateway where the kubelet is not heard."""

HEADER_WORKER_UID: Final = "X-Sluice-Worker-Uid"
"""The fence: asks for, and names, the pod that answers (addresses are reused)."""
HEADER_NUMERICS: Final = "X-Sluice-Numerics"
HEADER_MODEL_DIGEST: Final = "X-Sluice-Model-Digest"
HEADER_REQUEST_ID: Final = "x-request-id"
HEADER_WORKER: Final = "x-sluice-worker"
HEADER_CLASS: Final = "x-sluice-class"
HEADER_REQUEST_CLASS: Final = "X-Sluice-Class"
"""In a request its class; in an answer (`HEADER_CLASS`) the same header names the accelerator's."""
HEADER_DEADLINE: Final = "X-Sluice-Deadline"
HEADER_SESSION: Final = "X-Sluice-Session"
ANNOTATION_REQUEST_CLASS: Final = f"{GROUP}/request-class"
"""On a pool: the class of its requests that say nothing of it."""
HEADER_ATTEMPTS: Final = "x-sluice-attempts"
