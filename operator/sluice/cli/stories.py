"""What stands now of a pool or a node, in plain lines: the head of `sluice explain`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sluice.decide.flaps import UNTIL_RELEASED
from sluice.decide.limits import FLAP_WINDOW
from sluice.decide.recall import parse_time
from sluice.decide.timeline import Entry, describe_span, find_entered, format_moment
from sluice.model.memory import NodeState
from sluice.model.names import (
    ANNOTATION_HEALTH,
    GROUP,
    LABEL_CLASS,
    LABEL_NAME,
    LABEL_POOL,
    TAINT_QUARANTINE,
)
from sluice.model.snapshot import NodeMark
from sluice.observe.snapshot import read_mark

_WORKER = "sluice-worker"
_OURS = (_WORKER, "sluice-probe")


def describe_pool(key: str, status: Mapping[str, Any]) -> list[str]:
    """Return what stands now of a pool: placement, conditions, variants."""
    if not status:
        return [f"{key}: the operator has not looked at it yet. Is it running?"]
    head = f"{key}: {status.get('placement', '')}, ${status.get('costPerHour', '?')}/h"
    if "attainment" in status:
        head += f", {status['attainment']} of requests inside the SLO"
    lines = [head, "", "conditions"]
    lines += [_describe_condition(each) for each in status.get("conditions", ())]
    lines += ["", "variants"]
    lines += [_describe_variant(each) for each in status.get("variants", ())]
    return lines


def _describe_variant(variant: Mapping[str, Any]) -> str:
    line = (
        f"  {variant.get('acceleratorClass', '?'):20} wanted {variant.get('wanted', '?')}, ready"
        f" {variant.get('ready', '?')}, serving {variant.get('serving', '?')}, share"
        f" {variant.get('share', '?')}, one worker carries {variant.get('capacity', '?')}/s"
    )
    if "numerics" in variant:
        line += f", computes in {variant['numerics']}"
    ramp = variant.get("ramp")
    if isinstance(ramp, Mapping):
        pods = ramp.get("pods") or ()
        step = f"step {ramp['step']}, " if "step" in ramp else ""
        line += f"; ramp: {step}{ramp.get('share', '?')} of the pool to {', '.join(pods)}"
    if variant.get("quarantined"):
        line += f"; no traffic to {', '.join(variant['quarantined'])}"
    return line


def _describe_condition(condition: Mapping[str, Any]) -> str:
    words = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    since = condition.get("lastTransitionTime", "")
    return f"  {condition.get('type', '?'):20} {condition.get('status', '?'):8} {since}  {words}"


def describe_node(
    node: Mapping[str, Any],
    pods: Iterable[Mapping[str, Any]],
    now: float,
    entries: Sequence[Entry] = (),
) -> list[str]:
    """Return what stands now of a node: health, taint, conditions, workers.

    Args:
        node: the object.
        pods: those bound to it.
        now: seconds since the epoch, for ages.
        entries: what happened to it, oldest first, as far as it is known.
    """
    meta, spec = node["metadata"], node.get("spec") or {}
    annotations = meta.get("annotations") or {}
    mark, error = read_mark(annotations.get(ANNOTATION_HEALTH))
    ours = [pod for pod in pods if _labels(pod).get(LABEL_NAME) in _OURS]
    entered = find_entered(entries, meta["name"], mark.state) if mark is not None else None
    lines = [f"node {meta['name']}: {error or _describe_mark(mark, entered, now)}"]
    if mark is not None and mark.state == NodeState.RAMP and not any(map(_may_climb, ours)):
        lines.append(_describe_wait(mark, meta["name"], entries))
    taints = [t for t in spec.get("taints") or () if t.get("key") == TAINT_QUARANTINE]
    lines.append(
        f"  tainted {TAINT_QUARANTINE}: no new workers"
        if taints
        else f"  not tainted with {TAINT_QUARANTINE}"
    )
    if spec.get("unschedulable"):
        lines.append("  cordoned: no new workers")
    lines += [
        f"  annotated {key}: {value}"
        for key, value in sorted(annotations.items())
        if key.startswith(f"{GROUP}/") and key != ANNOTATION_HEALTH
    ]
    status = node.get("status") or {}
    lines += ["", "conditions"]
    lines += [_describe_condition(each) for each in status.get("conditions") or ()]
    lines += ["", "workers" if ours else "no workers on it"]
    lines += [_describe_pod(pod, now) for pod in ours]
    return lines


def _describe_mark(mark: NodeMark | None, entered: float | None, now: float) -> str:
    if mark is None:
        return "in service, and no failure counts against it"
    since = _describe_since(mark.since, now)
    if mark.state == NodeState.HEALTHY:
        said = f"in service again since {since}"
    elif mark.state == NodeState.RAMP:
        said = f"{mark.state} since {since}"  # a node that is back is marked with that time
    elif entered is None or int(entered) < int(mark.since):  # or told of another time
        said = f"{mark.state}, out since {since}"
    elif format_moment(entered, exact=False) == format_moment(mark.since, exact=False):
        said = f"{mark.state} since {since}"
    else:
        said = f"{mark.state} since {_describe_since(entered, now)}, out since {since}"
    said += f": {mark.reason}"
    if mark.outs:
        times = ", ".join(format_moment(at) for at in mark.outs)
        said += f"; failed {len(mark.outs)} times within the hour that counts: {times}"
    return said


def _describe_since(at: float, now: float) -> str:
    return f"{format_moment(at)} ({describe_span(max(0.0, now - at))})"


def _may_climb(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is a worker whose share can climb: ready, and to stay."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    ready = bool(containers) and all(each.get("ready") for each in containers)
    staying = not pod["metadata"].get("deletionTimestamp")
    return _labels(pod).get(LABEL_NAME) == _WORKER and ready and staying


def _describe_wait(mark: NodeMark, name: str, entries: Iterable[Entry]) -> str:
    """Return what a node waits for that is back and has no worker to climb with."""
    known: Iterable[Any] = ()
    for entry in entries:
        if entry.subject == f"node {name}" and entry.pools:
            known = entry.pools
    pools = ", ".join(sorted(map(str, known)))
    end = format_moment(mark.since + FLAP_WINDOW, exact=False)
    return (
        "  waits for a worker: no ready one of any pool is on it, so no share climbs. Whenever a"
        f" pool wants one more it may come here{f' (from {pools})' if pools else ''}; without one"
        f" the node counts like any other from {end} on"
    )


def describe_release(name: str, text: object, now: float) -> str:
    """Return what a release by hand does to a node, by the mark (JSON) that it bears so far."""
    mark, error = read_mark(text)
    if error:
        return f"Its mark tells nothing: {error}."
    if mark is None:
        return "It bore no mark of Sluice: nothing will change."
    if mark.state == NodeState.HEALTHY:
        return "It is in service already; only the times that it failed are forgotten."
    if mark.state == NodeState.RAMP:
        return "It is back already, and climbs as before; the times that it failed are forgotten."
    if mark.state == NodeState.PROBATION:
        return "It proves itself already, and goes on; the times that it failed are forgotten."
    reason = mark.reason.partition(UNTIL_RELEASED)[0]
    return (
        f"So far it was {mark.state}, out since {_describe_since(mark.since, now)}: {reason}. Its"
        " devices are asked for known answers next; once they are right it is back, and its share"
        f" climbs: 'sluice explain {name}'."
    )


def _describe_pod(pod: Mapping[str, Any], now: float) -> str:
    meta, status, labels = pod["metadata"], pod.get("status") or {}, _labels(pod)
    containers = status.get("containerStatuses") or ()
    ready = sum(bool(each.get("ready")) for each in containers)
    restarts = sum(int(each.get("restartCount") or 0) for each in containers)
    created = parse_time(meta.get("creationTimestamp"))
    state = "Terminating" if meta.get("deletionTimestamp") else status.get("phase", "?")
    age = f", {describe_span(max(0.0, now - created))} old" if created is not None else ""
    of = f" of pool {labels[LABEL_POOL]}" if LABEL_POOL in labels else ""
    kind = f" on {labels[LABEL_CLASS]}" if LABEL_CLASS in labels else ""
    return (
        f"  {meta.get('namespace', '')}/{meta['name']}{of}{kind}: {state}, {ready} of"
        f" {len(containers)} containers ready, {restarts} restarts{age}"
    )


def _labels(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}
