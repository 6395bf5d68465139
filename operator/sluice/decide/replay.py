"""Going over recorded passes: the same plans bit for bit, or what else would have been decided."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce

from pydantic import TypeAdapter

from sluice.decide.planner import plan
from sluice.model.memory import Memory
from sluice.model.plan import Plan
from sluice.model.recording import PassRecord
from sluice.model.snapshot import KnownAnswers, Pool, ProbationPod, Probe, Snapshot, Worker

_PLAN = TypeAdapter(Plan)
_MEMORY = TypeAdapter(Memory)
_SHOWN = 160


class Evidence(StrEnum):
    """What can be left out when passes are gone over again."""

    LIVENESS = "liveness"
    GATEWAY = "gateway"
    SIGNALS = "signals"
    KNOWN_ANSWERS = "known-answers"
    CONDITIONS = "conditions"


@dataclass(frozen=True, slots=True)
class Difference:
    """A pass that was planned otherwise when it was gone over again.

    Attributes:
        recorded, replayed: JSON of what differs, as far apart as the first difference needs.
    """

    at: float
    number: int
    what: str
    recorded: str
    replayed: str


def replay(records: Iterable[PassRecord]) -> Iterator[tuple[PassRecord, Difference | None]]:
    """Plan each recorded pass again, and compare plan and memory bit for bit.

    Yields:
        Each record with the difference found, or None.
    """
    left: tuple[str, int, bytes] | None = None
    for record in records:
        found = None
        if left is not None and left[:2] == (record.instance, record.number - 1):
            recorded = _MEMORY.dump_json(record.memory, by_alias=True)
            found = _compare(record, "memory", recorded, left[2])
        planned, memory = plan(record.snapshot, record.memory)
        again = _PLAN.dump_json(planned, by_alias=True)
        known = _PLAN.dump_json(record.planned, by_alias=True)
        left = record.instance, record.number, _MEMORY.dump_json(memory, by_alias=True)
        yield record, _compare(record, "plan", known, again) or found


def _compare(record: PassRecord, what: str, known: bytes, again: bytes) -> Difference | None:
    if known == again:
        return None
    same = next(
        (i for i, (a, b) in enumerate(zip(known, again, strict=False)) if a != b),
        min(len(known), len(again)),
    )
    start = max(0, same - _SHOWN // 2)
    cut = slice(start, start + _SHOWN)
    return Difference(
        record.snapshot.at,
        record.number,
        what,
        known[cut].decode(errors="replace"),
        again[cut].decode(errors="replace"),
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """What one pass would have decided, beside what it decided."""

    at: float
    decided: tuple[str, ...]
    instead: tuple[str, ...]


def replay_without(records: Iterable[PassRecord], *evidence: Evidence) -> Iterator[Turn]:
    """Plan again as if some evidence had not come; yields the passes that decide otherwise.

    What was observed afterwards stays as it was recorded, so that the answer holds up to the first
    few turns: the world would have gone on otherwise.
    """
    memory: Memory | None = None
    instance, number = "", 0
    for record in records:
        # A process that begins anew under the same name counts from 1 again.
        if memory is None or record.instance != instance or record.number <= number:
            memory = record.memory
        instance, number = record.instance, record.number
        seen = reduce(_leave_out, evidence, record.snapshot)
        planned, memory = plan(seen, memory)
        decided, instead = _list_decisions(record.planned), _list_decisions(planned)
        if [one.split(": ")[0] for one in decided] != [one.split(": ")[0] for one in instead]:
            yield Turn(record.snapshot.at, decided, instead)


def _list_decisions(planned: Plan) -> tuple[str, ...]:
    """Return what a plan newly decides, as `pool Action: reason`, and which nodes it takes out."""
    told = [
        f"{key} {decision.action}: {decision.reason}"
        for key, pool in sorted(planned.pools.items())
        for decision in pool.decisions
    ]
    told += [
        f"node {action.node} {type(action).__name__}: {action.reason}" for action in planned.nodes
    ]
    return tuple(told)


def _leave_out(snapshot: Snapshot, evidence: Evidence) -> Snapshot:
    if evidence is Evidence.CONDITIONS:
        return replace(snapshot, nodes=tuple(replace(n, conditions={}) for n in snapshot.nodes))
    pools = tuple(_blind_pool(pool, evidence) for pool in snapshot.pools)
    if evidence is not Evidence.KNOWN_ANSWERS:
        return replace(snapshot, pools=pools)
    return replace(
        snapshot, pools=pools, probations=tuple(_blind_probation(p) for p in snapshot.probations)
    )


def _blind_probation(pod: ProbationPod) -> ProbationPod:
    slots = {name: _forgive(known) for name, known in pod.slots.items()}
    return replace(pod, slots=slots)


def _forgive(known: KnownAnswers | None) -> KnownAnswers | None:
    """Return what was answered as if nothing had been wrong."""
    return known and replace(known, wrong=0, detail="", silent=0)


def _blind_pool(pool: Pool, evidence: Evidence) -> Pool:
    if evidence is Evidence.SIGNALS:
        return replace(pool, signals=None)
    return replace(pool, workers=tuple(_blind_worker(w, evidence) for w in pool.workers))


def _blind_worker(worker: Worker, evidence: Evidence) -> Worker:
    if evidence is Evidence.GATEWAY:
        return replace(worker, gateway_failures=0, gateway_misses=0, signals=None)
    if evidence is Evidence.KNOWN_ANSWERS:
        return replace(worker, answers=_forgive(worker.answers))
    if worker.probe is None or not worker.probe.misses or not worker.probe.answered:
        return worker
    return replace(worker, probe=Probe(0, worker.probe.answered, worker.created))
