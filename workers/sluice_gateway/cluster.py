"""Takes raw objects from the watches, reads them, and puts them into the fleet.

An object that cannot be read is logged once per sentence and otherwise ignored: what was known of
it before stays, so that a newer version of the API never stops traffic.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog

from sluice_gateway.fleet import Fleet
from sluice_gateway.objects import (
    UNDECIDED,
    ObjectError,
    PoolDecision,
    parse_pool_decision,
    parse_pool_spec,
    parse_worker,
    read_key,
)

Raw = Mapping[str, Any]
_SENTENCE_MOST = 300


class Sink(Protocol):
    """Where a watch puts what it hears."""

    def put(self, raw: Raw) -> None:
        """An object was added or changed."""

    def remove(self, raw: Raw) -> None:
        """An object is gone."""

    def replace_all(self, raws: Sequence[Raw]) -> None:
        """These are all the objects there are; others are gone."""


class _Complaints:
    """Logs what is wrong with an object, once until it changes."""

    def __init__(self, log: structlog.stdlib.BoundLogger, kind: str) -> None:
        self._log = log
        self._kind = kind
        self._said: dict[tuple[str, str], str] = {}

    def say(self, name: str, part: str, error: ObjectError) -> None:
        sentence = str(error)[:_SENTENCE_MOST]
        if self._said.get((name, part)) != sentence:
            self._said[name, part] = sentence
            self._log.warning(
                "object ignored", kind=self._kind, object=name, part=part, reason=sentence
            )

    def settle(self, name: str, part: str) -> None:
        self._said.pop((name, part), None)


class PoolSink:
    """Puts InferencePools into the fleet."""

    def __init__(self, fleet: Fleet, log: structlog.stdlib.BoundLogger) -> None:
        self._fleet = fleet
        self._complaints = _Complaints(log, "InferencePool")

    def put(self, raw: Raw) -> None:
        """Read a pool; keep what was known of a part that cannot be read."""
        name = _name_of(raw)
        try:
            spec = parse_pool_spec(raw)
        except ObjectError as error:
            self._complaints.say(name, "spec", error)
            return
        self._complaints.settle(name, "spec")
        self._fleet.put_pool(spec, self._read_decision(spec.key, name, raw))

    def remove(self, raw: Raw) -> None:
        """Forget a pool."""
        name = _name_of(raw)
        self._complaints.settle(name, "spec")
        self._complaints.settle(name, "status")
        self._fleet.remove_pool(name)

    def replace_all(self, raws: Sequence[Raw]) -> None:
        """Take a complete list; pools that it lacks were deleted unseen."""
        listed = {_name_of(raw) for raw in raws}
        for key in [key for key in self._fleet.pools if key not in listed]:
            self._fleet.remove_pool(key)
        for raw in raws:
            self.put(raw)

    def _read_decision(self, key: str, name: str, raw: Raw) -> PoolDecision:
        try:
            decision = parse_pool_decision(raw)
        except ObjectError as error:
            self._complaints.say(name, "status", error)
            known = self._fleet.pools.get(key)
            return known.decision if known else UNDECIDED
        self._complaints.settle(name, "status")
        return decision


class WorkerSink:
    """Puts worker pods into the fleet."""

    def __init__(self, fleet: Fleet, log: structlog.stdlib.BoundLogger) -> None:
        self._fleet = fleet
        self._complaints = _Complaints(log, "Pod")

    def put(self, raw: Raw) -> None:
        """Read a worker pod."""
        name = _name_of(raw)
        try:
            pod = parse_worker(raw)
        except ObjectError as error:
            self._complaints.say(name, "pod", error)
            return
        self._complaints.settle(name, "pod")
        self._fleet.put_worker(pod)

    def remove(self, raw: Raw) -> None:
        """Forget a worker pod."""
        self._complaints.settle(_name_of(raw), "pod")
        self._fleet.remove_worker(_uid_of(raw))

    def replace_all(self, raws: Sequence[Raw]) -> None:
        """Take a complete list; pods that it lacks were deleted unseen."""
        listed = {_uid_of(raw) for raw in raws}
        for uid in [uid for uid in self._fleet.workers if uid not in listed]:
            self._fleet.remove_worker(uid)
        for raw in raws:
            self.put(raw)


def _name_of(raw: Raw) -> str:
    """Return `namespace/name`, or what there is of it."""
    metadata = raw.get("metadata")
    try:
        return read_key(metadata if isinstance(metadata, dict) else {})
    except ObjectError:
        return "?"


def _uid_of(raw: Raw) -> str:
    metadata = raw.get("metadata")
    return str(metadata.get("uid", "")) if isinstance(metadata, dict) else ""
