"""Writes of the operator: how a request to the API server is named, and which ones are known.

A write's key says what a person would call it: verb and resource, and what tells writes of one
resource apart without depending on chance: the reason of an Event, the state that a node's mark is
given, the name of what has a name of its own. `KNOWN` lists every key that the scenario makes, so
that a new write without a kill test fails the suite.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
"""Verb of the API by HTTP method, as the audit log has it."""

PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<resource>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)
MARK: Final = "sluice.dev/health"
TAINT: Final = "sluice.dev/quarantine"
PROBE: Final = "sluice-probe"


class Phase(StrEnum):
    """The parts of the scenario."""

    MAKE = "make"
    FALL_BACK = "fall back"
    RETURN = "return"


class Moment(StrEnum):
    """When the operator is killed, seen from one of its writes."""

    BEFORE = "before it"
    COMMITTED = "after its commit"
    ANSWERED = "after its response"


KNOWN: Final[Mapping[Phase, Mapping[str, int]]] = {
    Phase.MAKE: {
        "patch inferencepools/status": 2,
        "patch deployments:chat-maia-200": 1,
        "patch deployments:chat-h100": 1,
        "patch services:chat-workers": 1,
        "patch poddisruptionbudgets:chat": 1,
    },
    Phase.FALL_BACK: {
        "patch inferencepools/status": 2,
        "patch nodes:failed": 1,
        "patch deployments:chat-h100": 1,
        "delete pods:worker": 1,
        "create events:NodeFailed": 1,
        "create events:CapacityLost": 1,
        "create events:FallBack": 1,
    },
    Phase.RETURN: {
        "patch nodes:probation": 1,
        "create pods:sluice-probe": 1,
        "create events:NodeProbation": 1,
        "patch nodes:ramp": 1,
        "delete pods:sluice-probe": 1,
        "create events:NodeReturned": 1,
        "create events:RampStart": 1,
        "create events:RampDone": 1,
        "patch nodes:healthy": 1,
        "create events:NodeHealthy": 1,
        "create events:CapacityBack": 1,
        "patch deployments:chat-h100": 1,
        "create events:ScaleDown": 1,
        "patch inferencepools/status": 4,
    },
}
"""Every write of the scenario by phase, and how many of its occurrences have a kill of their own.

A status is written more often than that, but how often depends on timing; the storms kill at those.
"""

CLIMBING: Final = frozenset(
    {
        "create events:RampStart",
        "create events:RampDone",
        "patch nodes:healthy",
        "create events:NodeHealthy",
        "create events:CapacityBack",
        "patch deployments:chat-h100",
        "create events:ScaleDown",
    }
)
"""Writes of the return once the node's workers have started: an operator that died at one of the
others, but for a status, is up again when these come, and can be killed once more."""


@dataclass(slots=True)
class Write:
    """One request of the operator that changes something.

    Attributes:
        verb: as the API has it: create, update, patch or delete.
        resource: plural, with the subresource if any: `inferencepools/status`.
        name: of the object; "" where the API server chooses it.
        detail: what tells it from others of the resource; may be "".
        phase: of the scenario.
        occurrence: 1 for the first of its key in the phase.
        at: monotonic time of its arrival, seconds.
        code: HTTP status of the API server's answer; None if it got none.
        answer: the object it answered with.
        killed: when the operator was killed at it, if it was.
    """

    verb: str
    resource: str
    name: str
    detail: str
    phase: Phase
    at: float
    occurrence: int = 0
    code: int | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    killed: Moment | None = None

    @property
    def key(self) -> str:
        """Return what it is called."""
        return f"{self.verb} {self.resource}" + (f":{self.detail}" if self.detail else "")

    @property
    def committed(self) -> bool:
        """Tell whether the API server took it."""
        return self.code is not None and self.code < 300

    def __str__(self) -> str:
        """Return a line for a person who looks for what went wrong."""
        status = self.answer.get("status")
        shown = status.get("placement") if isinstance(status, dict) else ""
        told = " ".join(filter(None, (self.name, shown or self.answer.get("message"))))
        told += f" KILLED {self.killed}" if self.killed else ""
        return f"{self.at:.2f} {self.phase}: {self.key} #{self.occurrence} -> {self.code} {told}"


def read_write(method: str, path: str, body: bytes, phase: Phase, at: float) -> Write | None:
    """Return the write that a request is; None for one that reads, and for the operator's Lease.

    The Lease is renewed every other second whatever happens; no decision hangs on it.
    """
    if method not in VERBS:
        return None
    found = PATH.fullmatch(path)
    parts = found.groupdict() if found else {"resource": path}
    if parts["resource"] == "leases":
        return None
    document = decode(body)
    name = parts.get("name") or _find_name(document)
    resource = "/".join(filter(None, (parts["resource"], parts.get("subresource"))))
    detail = _find_detail(resource, name, document)
    return Write(VERBS[method], resource, name, detail, phase, at)


def _find_detail(resource: str, name: str, document: Any) -> str:
    if resource == "events":
        return str(document.get("reason", "")) if isinstance(document, dict) else ""
    if resource == "nodes":
        return _find_state(document)
    if resource == "pods":
        return PROBE if name.startswith(PROBE) else "worker"
    return "" if resource.startswith("inferencepools") else name


def _find_name(document: Any) -> str:
    meta = document.get("metadata", {}) if isinstance(document, dict) else {}
    return str(meta.get("name", ""))


def _find_state(document: Any) -> str:
    """Return the state that a patch of a node gives its mark; `unmarked` where it takes it away."""
    value = None
    if isinstance(document, list):
        pointer = f"/metadata/annotations/{MARK.replace('/', '~1')}"
        for operation in document:
            if operation.get("path") == pointer:
                value = operation.get("value")
    elif isinstance(document, dict):
        value = (document.get("metadata", {}).get("annotations") or {}).get(MARK)
    state = decode((value or "null").encode())
    return str(state.get("state", "")).lower() if isinstance(state, dict) else "unmarked"


def decode(body: bytes) -> Any:
    """Return what JSON says; None where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def is_tainted(node: Mapping[str, Any]) -> bool:
    """Tell whether a node carries our taint."""
    taints = node.get("spec", {}).get("taints") or ()
    return any(taint.get("key") == TAINT for taint in taints)
