"""What of the memory is durable: how it is written into a pool's status, and how it is read back.

Whatever a person may have edited there by hand is taken for what it is worth: a part that cannot be
read is forgotten, which only makes the planner wait for a full window.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sluice.decide.limits import DECISIONS_KEPT, HELD_AFTER
from sluice.decide.workers import list_quarantined
from sluice.model.memory import (
    Direction,
    NodeHealth,
    NodeState,
    PoolMemory,
    Ramp,
    Step,
    Storm,
    VariantMemory,
)
from sluice.model.plan import Decision
from sluice.model.snapshot import Pool, Snapshot


def recall_storms(snapshot: Snapshot, nodes: Mapping[str, NodeHealth]) -> dict[str, Storm]:
    """Return the storms that an operator which starts has to reckon with.

    Nothing durable tells of one that is over. But where a Failed worker is still there a while
    after its node was marked, something held it back: then its class has to cool down first.
    """
    storms = {}
    for pool in snapshot.pools:
        failed = list_quarantined(pool)
        for worker in pool.workers:
            home = nodes.get(worker.node or "")
            if home is None or worker.terminating or worker.name not in failed:
                continue
            waits = home.state in (NodeState.FAILED, NodeState.LATCHED)
            if waits and snapshot.at - home.failed > HELD_AFTER:
                storms[worker.accelerator_class] = Storm(snapshot.at, ())
    return storms


def format_time(at: float) -> str:
    """Return RFC 3339 with whole seconds, as Kubernetes writes times."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> float | None:
    """Read RFC 3339; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def record_memory(memory: PoolMemory) -> dict[str, Any]:
    """Return the document that stands in `status.memory`."""
    variants: dict[str, Any] = {}
    for name, variant in sorted(memory.variants.items()):
        entry: dict[str, Any] = {}
        if variant.wanted is not None:
            entry["wanted"] = variant.wanted
        if variant.step is not None:
            entry["lastStep"] = {
                "direction": variant.step.direction.value,
                "time": format_time(variant.step.at),
            }
        if name in memory.lost:
            entry["lostSince"] = format_time(memory.lost[name])
        if name in memory.ramps:
            ramp = memory.ramps[name]
            entry["ramp"] = {
                "step": ramp.step,
                "since": format_time(ramp.since),
                "nodes": list(ramp.nodes),
            }
        variants[name] = entry
    document: dict[str, Any] = {"variants": variants}
    if memory.ramped:
        document["ramped"] = list(memory.ramped)
    return document


def recall_pool(pool: Pool, at: float) -> PoolMemory:
    """Return the memory found in a pool's status at a time (seconds); empty where there is none."""
    document = _mapping(pool.status.get("memory"))
    recorded = _mapping(document.get("variants"))
    variants: dict[str, VariantMemory] = {}
    lost: dict[str, float] = {}
    ramps: dict[str, Ramp] = {}
    for name, raw in recorded.items():
        entry = _mapping(raw)
        wanted = entry.get("wanted")
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
            wanted = None
        variants[name] = VariantMemory(wanted=wanted, step=_recall_step(entry.get("lastStep"), at))
        since = _recall_time(entry.get("lostSince"), at)
        if since is not None:
            lost[name] = since
        ramp = _recall_ramp(entry.get("ramp"), at)
        if ramp is not None:
            ramps[name] = ramp
    decisions = _recall_decisions(pool.status, at)
    return PoolMemory(
        uid=pool.uid,
        variants=variants,
        lost=lost,
        ramps=ramps,
        ramped=_recall_names(document.get("ramped")),
        decisions=decisions,
    )


def _recall_time(text: object, now: float) -> float | None:
    """Read a time that has been: one to come, from another clock or a hand, counts as now.

    A hold-down that ends in ten years would be none that anybody wanted.
    """
    at = parse_time(text)
    return min(at, now) if at is not None and at >= 0 else None


def _recall_step(raw: object, now: float) -> Step | None:
    entry = _mapping(raw)
    at = _recall_time(entry.get("time"), now)
    if at is None or entry.get("direction") not in set(Direction):
        return None
    return Step(Direction(entry["direction"]), at)


def _recall_ramp(raw: object, now: float) -> Ramp | None:
    entry = _mapping(raw)
    step, since = entry.get("step"), _recall_time(entry.get("since"), now)
    nodes = _recall_names(entry.get("nodes"))
    if not isinstance(step, int) or isinstance(step, bool) or step < -1 or since is None:
        return None
    return Ramp(step, since, nodes) if nodes else None


def _recall_names(raw: object) -> tuple[str, ...]:
    return tuple(name for name in raw if isinstance(name, str)) if isinstance(raw, list) else ()


def _recall_decisions(status: Mapping[str, Any], now: float) -> tuple[Decision, ...]:
    found = []
    raw = status.get("decisions")
    for item in raw if isinstance(raw, list) else []:
        entry = _mapping(item)
        at = _recall_time(entry.get("time"), now)
        if at is not None:
            found.append(Decision(at, str(entry.get("action", "")), str(entry.get("reason", ""))))
    return tuple(found[-DECISIONS_KEPT:])


def _mapping(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, Mapping) else {}
