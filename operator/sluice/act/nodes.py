"""Marks on nodes: our taint and our annotation, and nothing else of the node.

`spec.taints` is an atomic list, so server-side apply would wipe the taints of others. A JSON patch
with a test on resourceVersion changes ours and leaves theirs; when the node has changed meanwhile
the caller looks and tries again.
"""

import json
from typing import Any

from sluice.act.writer import Writer
from sluice.kube.client import Json
from sluice.kube.errors import ConflictError, NotFoundError, RejectedError
from sluice.kube.paths import NODES
from sluice.model.memory import NodeState
from sluice.model.names import ANNOTATION_HEALTH, TAINT_QUARANTINE
from sluice.model.plan import NodeAction, QuarantineNode

TRIES = 5


async def mark_node(writer: Writer, action: NodeAction) -> bool:
    """Carry out one node action; True when something was written.

    Annotation and taint change in one patch, so that no restart finds one without the other.

    Raises:
        KubeError: the API server refused for another reason than a concurrent change.
    """
    for _ in range(TRIES):
        try:
            live = await writer.read(NODES, "", action.node)
            operations = plan_patch(live, action)
            if not operations:
                return False
            await writer.patch(NODES, "", action.node, operations)
        except NotFoundError:
            return False
        except (ConflictError, RejectedError) as error:
            conflict = isinstance(error, ConflictError) or "test operation" in error.message
            if not conflict and "the server rejected our request" not in error.message:
                raise
        else:
            return True
    return False


def plan_patch(live: Json, action: NodeAction) -> list[Json]:
    """Return the JSON patch that a node needs for an action; empty when it needs none."""
    meta = live["metadata"]
    annotations: dict[str, str] = dict(meta.get("annotations") or {})
    taints: list[Any] = list(live.get("spec", {}).get("taints") or ())
    others = [taint for taint in taints if taint.get("key") != TAINT_QUARANTINE]
    if isinstance(action, QuarantineNode):
        mark = {"state": NodeState.FAILED, "since": action.since, "reason": action.reason}
        wanted_annotation = json.dumps(mark)
        wanted_taints = [
            *others,
            {"key": TAINT_QUARANTINE, "value": "failed", "effect": "NoSchedule"},
        ]
    else:
        wanted_annotation = None
        wanted_taints = others
    operations: list[Json] = []
    if annotations.get(ANNOTATION_HEALTH) != wanted_annotation:
        path = "/metadata/annotations"
        if not annotations:
            operations.append({"op": "add", "path": path, "value": {}})
        key = f"{path}/{ANNOTATION_HEALTH.replace('~', '~0').replace('/', '~1')}"
        if wanted_annotation is None:
            operations.append({"op": "remove", "path": key})
        else:
            operations.append({"op": "add", "path": key, "value": wanted_annotation})
    if [_strip(taint) for taint in taints] != [_strip(taint) for taint in wanted_taints]:
        operations.append({"op": "add", "path": "/spec/taints", "value": wanted_taints})
    if not operations:
        return []
    version = meta["resourceVersion"]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *operations]


def _strip(taint: Json) -> tuple[Any, Any]:
    """Return what identifies a taint: its value and time are no reason to write."""
    return taint.get("key"), taint.get("effect")
