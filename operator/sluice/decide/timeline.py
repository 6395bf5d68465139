"""What happened, as a time line: from recorded passes, from Events, and from a pool's status.

A recorded pass holds the memory it began with, so that what a pass made of a worker or a node
stands in the next one; of the last pass the plan is made again. States and actions are told in
their own words, whatever states and actions there are.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sluice.decide.matching import list_workers, selects
from sluice.decide.planner import plan
from sluice.decide.recall import parse_time
from sluice.model.keys import PoolKey
from sluice.model.memory import Memory, NodeHealth, NodeState
from sluice.model.plan import NodeAction, QuarantineNode
from sluice.model.recording import PassRecord
from sluice.model.snapshot import Snapshot, Worker

_WORDS = {
    "Failed": "quarantined",
    "Latched": "latched",
    "Probation": "in probation",
    "Ramp": "returned",
    "Healthy": "healthy",
}
"""What is said of a node that enters a state; of others their name."""

_STATES = {state.value: state for state in NodeState}
_STATES |= {word: NodeState(name) for name, word in _WORDS.items()}
"""Which state is meant by what is said of a node."""

_AT_ONCE = 0.05
"""Seconds; what is closer together stands without a time between."""

_COMPARED = 900
"""Characters of a sentence that tell two apart: the API cuts the messages of Events."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        at: seconds since the epoch.
        subject: whom it happened to, as `pool default/chat`, `node maia-0`, `worker chat-maia-1`.
        what: in a word or two.
        detail: the sentence with the numbers, or "".
        warning: somebody should have looked.
        pools: those it is part of the story of.
        node: the node that it happened on, or "".
        exact: `at` is exact; else it was cut to whole seconds.
    """

    at: float
    subject: str
    what: str
    detail: str = ""
    warning: bool = False
    pools: frozenset[PoolKey] = frozenset()
    node: str = ""
    exact: bool = True


@dataclass(slots=True)
class _Seen:
    """What the passes of one process have shown so far."""

    memory: Memory
    workers: dict[str, Worker]
    number: int
    acted: dict[str, tuple[str, ...]]
    deleted: set[str]


def trace_passes(records: Iterable[PassRecord]) -> list[Entry]:
    """Return what recorded passes tell, oldest first; those of one process in their order."""
    entries: list[Entry] = []
    running: dict[str, tuple[_Seen, PassRecord]] = {}
    for record in records:
        known = running.get(record.instance)
        if known is not None and known[0].number < record.number:
            seen = known[0]
        else:
            if known is not None:
                entries += _end(*known)
            seen = _Seen(Memory(), {}, 0, {}, set())
        seen.workers.update({worker.uid: worker for worker in list_workers(record.snapshot)})
        entries += _trace_memory(seen, record.memory, record.snapshot)
        entries += _trace_plan(seen, record)
        seen.number = record.number
        running[record.instance] = seen, record
    for seen, record in running.values():
        entries += _end(seen, record)
    return sorted(entries, key=_order)


def _end(seen: _Seen, record: PassRecord) -> Iterator[Entry]:
    """Tell what the last pass of a process made of workers and nodes."""
    _, after = plan(record.snapshot, record.memory)
    yield from _trace_memory(seen, after, record.snapshot)


def _trace_memory(seen: _Seen, memory: Memory, snapshot: Snapshot) -> Iterator[Entry]:
    first, before = seen.number == 0, seen.memory
    seen.memory = memory
    for uid, health in memory.workers.items():
        old, worker = before.workers.get(uid), seen.workers.get(uid)
        if worker is None or (old is not None and old.state is health.state):
            continue
        if old is None and first and not health.reason:
            continue  # it was so before the recording began
        what = health.state.value if old is None else f"{old.state.value} → {health.state.value}"
        held = f"{old.state.value} for {describe_span(health.since - old.since)}" if old else ""
        where = f"on node {worker.node}" if worker.node else ""
        yield Entry(
            health.since,
            f"worker {worker.name}",
            what,
            ", ".join(part for part in (health.reason, where, held) if part),
            warning=health.state.value in ("Suspect", "Failed"),
            pools=frozenset([worker.pool]),
            node=worker.node or "",
        )
    yield from _trace_nodes(seen, before.nodes, memory, snapshot)


def _trace_nodes(
    seen: _Seen, before: Mapping[str, NodeHealth], memory: Memory, snapshot: Snapshot
) -> Iterator[Entry]:
    """Tell changes of state for which no action was planned: an action says more."""
    for name, health in memory.nodes.items():
        old, state = before.get(name), health.state.value
        if (old is not None and old.state is health.state) or state in seen.acted.get(name, ()):
            continue
        # One that is out as the recording begins is told as if its action were in it.
        outs = memory.outs.get(name, ())
        # One that proves itself is out since earlier.
        at = health.entered if health.state is NodeState.PROBATION else health.since
        yield Entry(
            at,
            f"node {name}",
            f"{old.state.value} → {state}" if old else _word_state(state),
            health.reason if old else health.reason + _count_outs(outs),
            warning=health.is_out and health.state is not NodeState.PROBATION,
            pools=_list_pools(snapshot, name),
            node=name,
        )


def _trace_plan(seen: _Seen, record: PassRecord) -> Iterator[Entry]:
    workers = seen.workers
    for key, planned in record.planned.pools.items():
        pools = frozenset([key])
        for made in planned.decisions:
            yield Entry(made.at, f"pool {key}", made.action, made.reason, made.warning, pools)
        for delete in planned.deletes:
            if delete.uid not in seen.deleted:
                seen.deleted.add(delete.uid)
                found = workers.get(delete.uid)
                node = (found.node if found else None) or ""
                at = record.planned.at
                subject = f"worker {delete.name}"
                yield Entry(at, subject, "delete", delete.reason, pools=pools, node=node)
    for action in record.planned.nodes:
        if _changes_nothing(action, record):
            continue
        # One that is not carried out yet is planned again in every pass.
        kind = _tell_apart(action)
        if seen.acted.get(action.node) != kind:
            seen.acted[action.node] = kind
            yield _tell_action(action, record)


def _changes_nothing(action: NodeAction, record: PassRecord) -> bool:
    """Tell whether an action only answers a hand that released a node in service."""
    if isinstance(action, QuarantineNode) or action.state != NodeState.HEALTHY:
        return False
    node = next((node for node in record.snapshot.nodes if node.name == action.node), None)
    bare = node is not None and not node.tainted and node.mark is None and not node.mark_error
    return bare and action.node not in record.memory.nodes


def _tell_apart(action: NodeAction) -> tuple[str, ...]:
    since = action.since if isinstance(action, QuarantineNode) else 0.0
    return (str(action.state), str(since))


def _tell_action(action: NodeAction, record: PassRecord) -> Entry:
    out = isinstance(action, QuarantineNode)
    return Entry(
        record.planned.at,
        f"node {action.node}",
        _word_state(action.state),
        action.reason + (_count_outs(action.outs) if out else ""),
        warning=out and action.state != NodeState.PROBATION,
        pools=_list_pools(record.snapshot, action.node),
        node=action.node,
    )


def _word_state(state: str) -> str:
    return _WORDS.get(state, state)


def _count_outs(outs: Sequence[float]) -> str:
    return f" ({len(outs)} times out within an hour)" if len(outs) > 1 else ""


def _list_pools(snapshot: Snapshot, name: str) -> frozenset[PoolKey]:
    """Return the pools that may have workers on a node: those with a variant of its class."""
    node = next((node for node in snapshot.nodes if node.name == name), None)
    if node is None:
        return frozenset()
    kinds = {kind for kind, accelerator in snapshot.classes.items() if selects(accelerator, node)}
    return frozenset(
        pool.key
        for pool in snapshot.pools
        if kinds & {variant.accelerator_class for variant in pool.spec.variants}
    )


def trace_status(key: PoolKey, status: Mapping[str, Any]) -> list[Entry]:
    """Return the decisions that stand in a pool's status; what a hand made of them is left out."""
    found = status.get("decisions")
    entries = []
    for made in found if isinstance(found, list) else ():
        at = parse_time(made.get("time")) if isinstance(made, Mapping) else None
        if at is not None:
            action, reason = str(made.get("action", "")), str(made.get("reason", ""))
            subject, pools = f"pool {key}", frozenset([key])
            entries.append(Entry(at, subject, action, reason, pools=pools, exact=False))
    return entries


def trace_events(events: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Return what Events of pools and nodes tell; one that was counted up tells its last time."""
    entries = []
    for event in events:
        about = event.get("involvedObject") or {}
        name, kind = str(about.get("name", "")), about.get("kind")
        at = _find_event_time(event)
        if at is None or not name:
            continue
        count = event.get("count") or 1
        times = f" ({count} times)" if count > 1 else ""
        key = PoolKey(str(about.get("namespace", "")), name)
        entries.append(
            Entry(
                at,
                f"node {name}" if kind == "Node" else f"pool {key}",
                str(event.get("reason", "")),
                " ".join(str(event.get("message", "")).split()) + times,
                warning=event.get("type") == "Warning",
                pools=frozenset() if kind == "Node" else frozenset([key]),
                node=name if kind == "Node" else "",
                exact=False,
            )
        )
    return entries


def _find_event_time(event: Mapping[str, Any]) -> float | None:
    for field in ("lastTimestamp", "eventTime", "firstTimestamp"):
        at = parse_time(event.get(field))
        if at is not None:
            return at
    return None


def merge_entries(*sources: Iterable[Entry], since: float = 0.0) -> list[Entry]:
    """Return all entries from a time on (seconds), oldest first, each once.

    What two sources tell is taken from the one that is named first; of two that differ only in
    that the API cut time and sentence, so is it.
    """
    known: dict[tuple[str, str, str, int], Entry] = {}
    for source in sources:
        fresh: dict[tuple[str, str, str, int], Entry] = {}
        for entry in source:
            sentence = " ".join(entry.detail.split())[:_COMPARED]
            key = (entry.subject, entry.what, sentence, int(entry.at))
            if key not in known:
                fresh.setdefault(key, entry)
            elif entry.warning and not known[key].warning:
                known[key] = replace(known[key], warning=True)
        known |= fresh
    changes = {
        (e.subject, e.what.split(" → ")[-1], e.at) for e in known.values() if " → " in e.what
    }
    turns = {(e.node, int(e.at)) for e in known.values() if e.subject.startswith("node ")}
    kept = (
        entry
        for entry in known.values()
        # A state that one recording began with, and that another shows being entered.
        if entry.at >= since
        and (entry.subject, entry.what, entry.at) not in changes
        and not _is_told_by_node(entry, turns)
    )
    return sorted(kept, key=_order)


def _is_told_by_node(entry: Entry, turns: Container[tuple[str, int]]) -> bool:
    """Tell whether a pool's decision only repeats the turn of a node that has its own entry."""
    if not (entry.subject.startswith("pool ") and entry.what.startswith("Node")):
        return False
    return (entry.detail.split(" ", 1)[0], int(entry.at)) in turns


def _order(entry: Entry) -> tuple[float, int]:
    """Causes before what was decided because of them."""
    return entry.at, ("worker", "node", "pool").index(entry.subject.split(" ", 1)[0])


def choose_pool(entries: Iterable[Entry], key: PoolKey) -> list[Entry]:
    """Return what is part of the story of a pool."""
    return [entry for entry in entries if key in entry.pools]


def choose_node(entries: Iterable[Entry], name: str) -> list[Entry]:
    """Return what happened on a node, and what pools decided because of it."""
    named = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
    return [entry for entry in entries if entry.node == name or named.search(entry.detail)]


def find_entered(entries: Sequence[Entry], name: str, state: str) -> float | None:
    """Return when a node entered the state that it is in, seconds; None if no entry tells.

    Args:
        entries: oldest first.
        name: of the node.
        state: the one that it is in.
    """
    at = None
    for entry in reversed(entries):
        told = _STATES.get(entry.what.split(" → ")[-1])
        if entry.subject != f"node {name}" or told is None:
            continue
        if told != state:
            break
        at = entry.at  # told again by an operator that was started meanwhile
    return at


def describe_entries(entries: Iterable[Entry]) -> list[str]:
    """Return one line for each entry: time, since the one before, whom, what, why."""
    rows: list[tuple[str, str, Entry]] = []
    last: float | None = None
    for entry in entries:
        gap = 0.0 if last is None else entry.at - last
        passed = f"+{describe_span(gap)}" if gap >= _AT_ONCE else ""
        rows.append((format_moment(entry.at, exact=entry.exact), passed, entry))
        last = entry.at
    passed_width = max((len(passed) for _, passed, _ in rows), default=0)
    subject_width = max((len(entry.subject) for *_, entry in rows), default=0)
    return [
        f"{moment:24}  {passed:>{passed_width}}  {'!' if entry.warning else ' '}"
        f" {entry.subject:{subject_width}}  {entry.what}"
        + (f": {entry.detail}" if entry.detail else "")
        for moment, passed, entry in rows
    ]


def format_moment(at: float, *, exact: bool = True) -> str:
    """Return a time as RFC 3339 in UTC, with milliseconds if they are known."""
    form = "%Y-%m-%dT%H:%M:%S"
    try:
        moment = datetime.fromtimestamp(round(at, 3), UTC)
    except (OverflowError, ValueError, OSError):
        return f"{at:g} s"
    if not exact:
        return moment.strftime(form + "Z")
    return f"{moment.strftime(form)}.{moment.microsecond // 1000:03d}Z"


def describe_span(seconds: float) -> str:
    """Return a duration as a person says it: `2.1 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
