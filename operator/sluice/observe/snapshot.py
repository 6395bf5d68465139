"""From the store's objects to the frozen snapshot that decisions read; pure."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec
from sluice.decide.matching import selects
from sluice.decide.recall import parse_time
from sluice.model.keys import PoolKey
from sluice.model.names import (
    ANNOTATION_FORCE_ROLL,
    ANNOTATION_HEALTH,
    ANNOTATION_QUARANTINE,
    ANNOTATION_RELEASE,
    ANNOTATION_TEMPLATE,
    LABEL_CLASS,
    LABEL_POOL,
    TAINT_QUARANTINE,
    proven_node,
)
from sluice.model.snapshot import (
    Deployment,
    KnownAnswers,
    Node,
    NodeCondition,
    NodeMark,
    NodeReady,
    Pool,
    ProbationPod,
    Probe,
    Snapshot,
    Worker,
)
from sluice.observe.leases import LeaseBook
from sluice.observe.signals import Signals
from sluice.observe.store import Kind, Object, Store
from sluice.observe.text import clean_text
from sluice.render.pool import digest_templates


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that was observed besides the store."""

    at: float
    probes: Mapping[str, Probe]
    signals: Signals
    leases: LeaseBook
    observer_ok: bool
    gateways: int
    endpoint: str
    worker_image: str
    answers: Mapping[str, KnownAnswers] = field(default_factory=dict)
    cool_down: float = 60.0
    namespace: str = ""


def slot_key(uid: str, slot: str) -> str:
    """Return the key of a probation pod's slot among the known answers."""
    return f"{uid}/{slot}"


class Unreadable(NamedTuple):
    """Why an object cannot be read; key and uid where it is a pool, which Events can be made on."""

    why: str
    key: PoolKey | None = None
    uid: str = ""


def build_snapshot(store: Store, sight: Sight) -> tuple[Snapshot, dict[str, Unreadable]]:
    """Return the snapshot, and what cannot be read, by kind and name."""
    unreadable: dict[str, Unreadable] = {}
    bad_classes: dict[str, str] = {}
    classes: dict[str, AcceleratorClassSpec] = {}
    for item in store.list(Kind.CLASSES):
        name = item["metadata"]["name"]
        try:
            classes[name] = AcceleratorClassSpec.model_validate(item.get("spec"))
        except ValidationError as error:
            bad_classes[name] = word_error(error)
            unreadable[f"AcceleratorClass {name}"] = Unreadable(bad_classes[name])
    pools = []
    for item in store.list(Kind.POOLS):
        try:
            pools.append(_read_pool(store, sight, item, classes))
        except ValidationError as error:
            meta = item["metadata"]
            key = PoolKey(meta["namespace"], meta["name"])
            unreadable[f"InferencePool {key}"] = Unreadable(word_error(error), key, meta["uid"])
    snapshot = Snapshot(
        at=sight.at,
        pools=tuple(pool for pool in pools if not pool.terminating),
        classes=classes,
        nodes=tuple(_list_nodes(store, sight, classes)),
        unreadable=bad_classes,
        observer_ok=sight.observer_ok,
        gateways=sight.gateways,
        endpoint=sight.endpoint,
        probations=tuple(_list_probations(store, sight)),
        cool_down=sight.cool_down,
    )
    return snapshot, unreadable


def word_error(error: ValidationError) -> str:
    """Return the first finding as a sentence that names the field and the value."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"spec.{where}: {first['msg']} (found {first.get('input')!r})"


def find_condition(item: Object, kind: str) -> str:
    """Return the status of a condition, or ""."""
    for condition in item.get("status", {}).get("conditions", ()):
        if condition.get("type") == kind:
            return str(condition.get("status", ""))
    return ""


def is_ready(pod: Object) -> bool:
    """Tell whether a pod is ready by the kubelet's own word and not on its way out.

    ContainersReady, since the node controller flips only Ready when an agent falls silent.
    """
    gone = pod["metadata"].get("deletionTimestamp") is not None
    return find_condition(pod, "ContainersReady") == "True" and not gone


def _read_pool(
    store: Store,
    sight: Sight,
    item: Object,
    classes: Mapping[str, AcceleratorClassSpec],
) -> Pool:
    meta = item["metadata"]
    key = PoolKey(meta["namespace"], meta["name"])
    spec = InferencePoolSpec.model_validate(item.get("spec"))
    signals = sight.signals
    return Pool(
        key=key,
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        created=parse_time(meta.get("creationTimestamp")) or 0.0,
        spec=spec,
        templates=digest_templates(key, spec, classes, sight.worker_image),
        deployments=_list_deployments(store, key, meta["uid"]),
        workers=tuple(_list_workers(store, sight, key)),
        signals=signals.pools.get(key) if signals.complete else None,
        status=item.get("status", {}),
        force_roll=meta.get("annotations", {}).get(ANNOTATION_FORCE_ROLL, ""),
        terminating=meta.get("deletionTimestamp") is not None,
    )


def is_owned(item: Object, uid: str) -> bool:
    """Tell whether the object's controller is the pool with this uid."""
    owners = item["metadata"].get("ownerReferences", ())
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def _list_deployments(store: Store, key: PoolKey, uid: str) -> dict[str, Deployment]:
    found = {}
    for item in store.list(Kind.DEPLOYMENTS):
        meta, spec, status = item["metadata"], item["spec"], item.get("status", {})
        name = meta.get("labels", {}).get(LABEL_CLASS)
        if meta.get("namespace") != key.namespace or name is None or not is_owned(item, uid):
            continue
        rolling = spec.get("strategy", {}).get("rollingUpdate", {})
        found[name] = Deployment(
            replicas=spec.get("replicas", 1),
            template_hash=meta.get("annotations", {}).get(ANNOTATION_TEMPLATE, ""),
            updated=status.get("updatedReplicas", 0),
            total=status.get("replicas", 0),
            observed=status.get("observedGeneration", 0) >= meta.get("generation", 0),
            paused=bool(spec.get("paused", False)),
            surge=rolling.get("maxSurge", 1) != 0,
            message=_find_refusal(status),
        )
    return found


def _find_refusal(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return str(condition.get("message", ""))
    return ""


def _list_workers(store: Store, sight: Sight, key: PoolKey) -> list[Worker]:
    return [
        _read_worker(item, key, sight)
        for item in store.list(Kind.WORKERS)
        if item["metadata"].get("namespace") == key.namespace
        and item["metadata"].get("labels", {}).get(LABEL_POOL) == key.name
        and item.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
    ]


def _read_worker(item: Object, key: PoolKey, sight: Sight) -> Worker:
    meta, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    containers = status.get("containerStatuses", ())
    node = spec.get("nodeName") or None
    return Worker(
        uid=meta["uid"],
        name=meta["name"],
        pool=key,
        accelerator_class=meta.get("labels", {}).get(LABEL_CLASS, ""),
        node=node,
        created=parse_time(meta.get("creationTimestamp")) or 0.0,
        ready=find_condition(item, "ContainersReady") == "True",
        terminating=meta.get("deletionTimestamp") is not None,
        restarts=sum(container.get("restartCount", 0) for container in containers),
        waiting=_find_waiting(containers),
        unschedulable="" if node else _find_unschedulable(status),
        probe=sight.probes.get(meta["uid"]),
        gateway_failures=sight.signals.failures.get(meta["uid"], 0),
        gateway_misses=sight.signals.misses.get(meta["uid"], 0),
        answers=sight.answers.get(meta["uid"]),
        signals=sight.signals.workers.get(meta["uid"]),
    )


def _find_unschedulable(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message", "no node fits"))
    return ""


def _list_probations(store: Store, sight: Sight) -> list[ProbationPod]:
    """Return the probation pods of our own namespace; a pod elsewhere proves nothing."""
    return [
        _read_probation(item, sight)
        for item in store.list(Kind.PROBATIONS)
        if item["metadata"].get("namespace") == sight.namespace
    ]


def _read_probation(item: Object, sight: Sight) -> ProbationPod:
    meta, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    ended = status.get("phase") in {"Succeeded", "Failed"}
    waiting = _find_waiting(status.get("containerStatuses", ()))
    if ended:
        waiting = f"{status['phase']}: {status.get('reason', '')} {status.get('message', '')}"
    slots = [container["name"] for container in spec.get("containers", ())]
    return ProbationPod(
        uid=meta["uid"],
        name=meta["name"],
        node=proven_node(meta["name"]),
        accelerator_class=meta.get("labels", {}).get(LABEL_CLASS, ""),
        created=parse_time(meta.get("creationTimestamp")) or 0.0,
        ready=find_condition(item, "ContainersReady") == "True",
        terminating=meta.get("deletionTimestamp") is not None,
        waiting=waiting.strip(),
        unschedulable="" if spec.get("nodeName") else _find_unschedulable(status),
        slots={slot: sight.answers.get(slot_key(meta["uid"], slot)) for slot in slots},
        started=any(map(_has_run, status.get("containerStatuses", ()))),
    )


def _has_run(container: Any) -> bool:
    states = {**container.get("lastState", {}), **container.get("state", {})}
    return bool(container.get("restartCount")) or bool({"running", "terminated"} & set(states))


_PLAIN_WAITS = frozenset({"ContainerCreating", "PodInitializing"})


def _find_waiting(containers: Any) -> str:
    """Return why a container cannot start: reason, and the message of its last end if any."""
    for container in containers:
        waiting = container.get("state", {}).get("waiting", {})
        if not waiting or waiting.get("reason") in _PLAIN_WAITS:
            continue
        last = container.get("lastState", {}).get("terminated", {})
        said = last.get("message") or waiting.get("message") or ""
        return f"{waiting.get('reason')}: {said}".strip().removesuffix(":")
    return ""


def _list_nodes(
    store: Store, sight: Sight, classes: Mapping[str, AcceleratorClassSpec]
) -> list[Node]:
    resources = {accelerator.resource_name for accelerator in classes.values()}
    kinds = {kind for one in classes.values() for kind in one.health.node_conditions}
    found = []
    for item in store.list(Kind.NODES):
        node = _read_node(item, sight, resources, kinds)
        marked = node.tainted or node.mark is not None or bool(node.mark_error) or node.released
        if marked or any(selects(accelerator, node) for accelerator in classes.values()):
            found.append(node)
    return found


def _read_node(item: Object, sight: Sight, resources: set[str], kinds: set[str]) -> Node:
    meta, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    name = meta["name"]
    annotations = meta.get("annotations", {})
    mark, mark_error = read_mark(annotations.get(ANNOTATION_HEALTH))
    ready = find_condition(item, "Ready")
    return Node(
        name=name,
        labels=meta.get("labels", {}),
        ready=NodeReady(ready) if ready in set(NodeReady) else NodeReady.UNKNOWN,
        cordoned=bool(spec.get("unschedulable", False)),
        lease_age=sight.leases.age(name),
        lease_renewed=sight.leases.renewed(name),
        lease_lag=sight.leases.lag(name),
        allocatable=_count_devices(status.get("allocatable", {}), resources),
        capacity=_count_devices(status.get("capacity", {}), resources),
        tainted=any(taint.get("key") == TAINT_QUARANTINE for taint in spec.get("taints", ())),
        mark=mark,
        mark_error=mark_error,
        released=ANNOTATION_RELEASE in annotations,
        banned=_read_ban(annotations.get(ANNOTATION_QUARANTINE)),
        conditions={
            str(c["type"]): NodeCondition(
                str(c.get("status", "Unknown")),
                clean_text(str(c.get("reason", ""))),
                clean_text(str(c.get("message", ""))),
            )
            for c in status.get("conditions", ())
            if c.get("type") in kinds
        },
        boot_id=str(status.get("nodeInfo", {}).get("bootID", "")),
    )


def _count_devices(amounts: Mapping[str, Any], resources: set[str]) -> dict[str, int]:
    return {
        resource: int(amount)
        for resource, amount in amounts.items()
        if resource in resources and str(amount).isdigit()
    }


def _read_ban(text: object) -> str:
    """Return the reason that a hand gave, on one line; "no reason given" for an empty one."""
    if not isinstance(text, str):
        return ""
    return clean_text(text) or "no reason given"


_LONGEST_REASON = 2000
"""Characters; what Sluice writes itself is shorter."""

_MOST_OUTS = 16
"""Times that a mark may name: more than any latchAfterFlaps lets Sluice write."""


def read_mark(text: object) -> tuple[NodeMark | None, str]:
    """Read the health annotation; a sentence when a hand has made nonsense of it."""
    if not isinstance(text, str):
        return None, ""
    try:
        raw = json.loads(text)
        outs = tuple(float(at) for at in raw.get("outs", ()))
        reason = clean_text(str(raw["reason"]), _LONGEST_REASON)
        mark = NodeMark(str(raw["state"]), float(raw["since"]), reason, outs)
        readable = len(outs) <= _MOST_OUTS and all(map(math.isfinite, (mark.since, *outs)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        readable = False
    if readable:
        return mark, ""
    return None, f"the annotation {ANNOTATION_HEALTH} cannot be read: {text[:80]!r}"
