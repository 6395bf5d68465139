"""What stands now of a pool or a node, in plain lines: the head of `sluice explain`."""

from collections.abc import Iterable, Mapping
from typing import Any

from sluice.decide.recall import parse_time
from sluice.decide.timeline import describe_span, format_moment
from sluice.model.names import (
    ANNOTATION_HEALTH,
    GROUP,
    LABEL_CLASS,
    LABEL_NAME,
    LABEL_POOL,
    TAINT_QUARANTINE,
)
from sluice.observe.snapshot import read_mark

_OURS = ("sluice-worker", "sluice-probe")


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
    node: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], now: float
) -> list[str]:
    """Return what stands now of a node: health, taint, conditions, workers.

    Args:
        node: the object.
        pods: those bound to it.
        now: seconds since the epoch, for ages.
    """
    meta, spec = node["metadata"], node.get("spec") or {}
    annotations = meta.get("annotations") or {}
    lines = [f"node {meta['name']}: {_describe_mark(annotations.get(ANNOTATION_HEALTH), now)}"]
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
    ours = [pod for pod in pods if _labels(pod).get(LABEL_NAME) in _OURS]
    lines += ["", "workers" if ours else "no workers on it"]
    lines += [_describe_pod(pod, now) for pod in ours]
    return lines


def _describe_mark(text: object, now: float) -> str:
    mark, error = read_mark(text)
    if error:
        return error
    if mark is None:
        return "in service, never taken out that is remembered"
    since = f"{format_moment(mark.since)} ({describe_span(max(0.0, now - mark.since))})"
    said = f"{mark.state} since {since}: {mark.reason}"
    if mark.state == "Healthy":
        said = f"in service again since {since}: {mark.reason}"
    if mark.outs:
        times = ", ".join(format_moment(at) for at in mark.outs)
        said += f"; failed {len(mark.outs)} times within the hour that counts: {times}"
    return said


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
