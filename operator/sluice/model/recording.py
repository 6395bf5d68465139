"""Records of passes: what each saw, remembered and planned, so that it can be gone over again.

Templates of pods stay out: decisions do not read them (only their digests, which stand in the
snapshot), and their env may hold secrets. No request ever reaches the operator, so no prompt can.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sluice.model.memory import Memory
from sluice.model.plan import Plan
from sluice.model.snapshot import Pool, Snapshot

VERSION = 1
_TIME = re.compile(
    rb'^\{"version":1,"instance":"[^"]*","number":[0-9]+,"snapshot":\{"at":([0-9.e+]+),'
)


class RecordingError(Exception):
    """A recording cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass: `plan(snapshot, memory)` gave `planned`.

    Attributes:
        version: of this form.
        instance: name of the operator pod that planned.
        number: of the pass in that process, from 1; the next one's memory is what this one left.
    """

    version: int
    instance: str
    number: int
    snapshot: Snapshot
    memory: Memory
    planned: Plan


_RECORD = TypeAdapter(PassRecord)


def make_record(
    instance: str, number: int, snapshot: Snapshot, memory: Memory, planned: Plan
) -> PassRecord:
    """Return the record of a pass, without what does not belong into one."""
    pools = tuple(_leave_out_templates(pool) for pool in snapshot.pools)
    return PassRecord(VERSION, instance, number, replace(snapshot, pools=pools), memory, planned)


def _leave_out_templates(pool: Pool) -> Pool:
    variants: list[Any] = [
        variant.model_copy(update={"template": None}) for variant in pool.spec.variants
    ]
    return replace(pool, spec=pool.spec.model_copy(update={"variants": variants}))


def write_record(record: PassRecord) -> bytes:
    """Return one line of JSON, without its end."""
    return _RECORD.dump_json(record, by_alias=True)


def find_time(line: bytes) -> float:
    """Return the time of a recorded pass, seconds, without reading all of it; -inf for no pass."""
    found = _TIME.match(line)
    try:
        return float(found[1] if found else json.loads(line)["snapshot"]["at"])
    except (ValueError, TypeError, KeyError):
        return float("-inf")


def read_record(line: bytes, where: str) -> PassRecord:
    """Read one line of a recording; `where` names it in errors.

    Raises:
        RecordingError: it is no record of this version.
    """
    try:
        record = _RECORD.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the line"
        raise RecordingError(
            f"{where} is no record of a pass: {place}: {first['msg']}. It must be a file that"
            " 'sluice recording' wrote."
        ) from error
    if record.version != VERSION:
        raise RecordingError(
            f"{where} is of version {record.version}, this is version {VERSION}: replay it with the"
            " Sluice that recorded it."
        )
    return record
