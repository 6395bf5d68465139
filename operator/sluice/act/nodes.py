"""Marks on nodes: our taint and our annotation, and nothing else of the node.

`spec.taints` is an atomic list, so server-side apply would wipe the taints of others. A JSON patch
with a test on resourceVersion changes ours and leaves theirs; when the node has changed meanwhile
the caller looks and tries again.
"""

import json
from collections.abc import Mapping
from typing import Any

from sluice.act.writer import Writer
from sluice.kube.client import Json
from sluice.kube.errors import ConflictError, NotFoundError, RejectedError
from sluice.kube.paths import NODES
from sluice.model.memory import NodeState
from sluice.model.names import ANNOTATION_HEALTH, ANNOTATION_RELEASE, TAINT_QUARANTINE
from sluice.model.plan import NodeAction, QuarantineNode, ReleaseNode

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
    wanted = {ANNOTATION_HEALTH: _render_mark(action, annotations.get(ANNOTATION_HEALTH))}
    wanted_taints = others
    if isinstance(action, QuarantineNode):
        taint = {"key": TAINT_QUARANTINE, "value": "failed", "effect": "NoSchedule"}
        wanted_taints = [*others, taint]
    if action.released:
        wanted[ANNOTATION_RELEASE] = None
    operations = _patch_annotations(annotations, wanted)
    if [_strip(taint) for taint in taints] != [_strip(taint) for taint in wanted_taints]:
        operations.append({"op": "add", "path": "/spec/taints", "value": wanted_taints})
    if not operations:
        return []
    version = meta["resourceVersion"]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *operations]


def _render_mark(action: NodeAction, live: str | None) -> str | None:
    """Return the annotation that an action asks for; one that says the same already stays."""
    if isinstance(action, QuarantineNode):
        mark = {"state": action.state, "since": action.since, "reason": action.reason}
    elif action.outs or action.state != NodeState.HEALTHY:
        mark = {"state": action.state, "since": action.at, "reason": action.reason}
    else:
        return None
    if action.outs:
        mark["outs"] = list(action.outs)
    if isinstance(action, ReleaseNode) and _is_same_return(live, mark):
        return live
    return json.dumps(mark)


def _is_same_return(live: str | None, mark: Json) -> bool:
    """Tell whether a mark says already that the node is back after these outs."""
    try:
        said = json.loads(live or "")
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and all(said.get(k) == mark.get(k) for k in ("state", "outs"))


def _patch_annotations(
    annotations: Mapping[str, str], wanted: Mapping[str, str | None]
) -> list[Json]:
    """Return the operations that give some annotations their values, None for absent."""
    path = "/metadata/annotations"
    operations: list[Json] = []
    for name, value in wanted.items():
        key = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if value == annotations.get(name):
            continue
        if value is None:
            operations.append({"op": "remove", "path": key})
            continue
        if not annotations:
            operations.append({"op": "add", "path": path, "value": {}})
        operations.append({"op": "add", "path": key, "value": value})
    return operations


def _strip(taint: Json) -> tuple[Any, Any]:
    """Return what identifies a taint: its value and time are no reason to write."""
    return taint.get("key"), taint.get("effect")
