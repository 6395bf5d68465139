"""Faults of emulated hardware: what `break` asks for, and the file by which a node's agent learns.

Owned by the supervisor, which stands for the hardware: devices break and are repaired whether or
not the node's agent runs, and what is broken stays broken when the agent is killed.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sluice.devcluster.directories import write_private
from sluice.devcluster.errors import NodeError
from sluice_accel.faults import (
    DEFAULT_HELD,
    DEFAULT_PERIOD,
    DEFAULT_RATE,
    DEFAULT_SLOWDOWN,
    SLOWING,
    DeviceState,
    Fault,
    FaultError,
    FaultKind,
    encode_states,
)
from sluice_accel.schedule import find_spell

FAULT_FILE: Final = "faults.json"
"""Name of the file in the node's state directory."""
ALL: Final = "all"
MOST_COMPRESSION: Final = 1000.0
"""As of an emulated start (`AcceleratorClass`)."""

_CRASH_SECONDS = 10.0
"""A crash is over at once; so long it stays written down, for an agent that looks late."""
_OWNERS: Final = {
    "rate": frozenset({FaultKind.CORRUPTION}),
    "slowdown": SLOWING,
    "held": frozenset({FaultKind.OUT_OF_MEMORY}),
}
"""Which faults have a number of their own."""
_FIELDS = (
    *("fault", "device", *_OWNERS, "seed"),
    *("after", "probability", "period", "repairAfter", "timeCompression"),
)
_MOST_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class FaultRequest:
    """What to do to which devices of a node.

    Attributes:
        device: its number on the node; None: all of them.
        seed: of the first device; each further one has the next.
        after: seconds until it comes.
        probability, period: that it is there in each period of so many seconds (`schedule`).
        repair_after: seconds from when it comes until it is repaired, as a real repair takes; None:
            until somebody heals the node.
        time_compression: divides `repair_after`, and nothing else.
    """

    kind: FaultKind
    device: int | None = 0
    rate: float = DEFAULT_RATE
    slowdown: float = DEFAULT_SLOWDOWN
    held: float = DEFAULT_HELD
    seed: int = 0
    after: float = 0.0
    probability: float = 1.0
    period: float = DEFAULT_PERIOD
    repair_after: float | None = None
    time_compression: float = 1.0

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "FaultRequest":
        """Read the body of a request: `fault`, and where wanted the other fields.

        Raises:
            NodeError: something in it is wrong.
        """
        unknown = ", ".join(f"'{key}'" for key in body if key not in _FIELDS)
        if unknown:
            raise NodeError(f"'break' knows no {unknown}; it takes {', '.join(_FIELDS)}.")
        kind = _parse_kind(body.get("fault"))
        for name, owners in _OWNERS.items():
            if name in body and kind not in owners:
                ones = " and ".join(f"'{owner}'" for owner in FaultKind if owner in owners)
                raise NodeError(f"A fault '{kind}' has no {name}; only {ones} {_has(owners)} one.")
        device = body.get("device", 0)
        request = cls(
            kind=kind,
            device=None if device == ALL else int(_parse_number("device", device, whole=True)),
            rate=_parse_number("rate", body.get("rate", DEFAULT_RATE)),
            slowdown=_parse_number("slowdown", body.get("slowdown", DEFAULT_SLOWDOWN)),
            held=_parse_number("held", body.get("held", DEFAULT_HELD)),
            seed=int(_parse_number("seed", body.get("seed", 0), whole=True)),
            after=_parse_range("after", body.get("after", 0.0), 0.0, _MOST_SECONDS),
            probability=_parse_number("probability", body.get("probability", 1.0)),
            period=_parse_number("period", body.get("period", DEFAULT_PERIOD)),
            repair_after=_parse_repair(body.get("repairAfter")),
            time_compression=_parse_range(
                "timeCompression", body.get("timeCompression", 1), 1, MOST_COMPRESSION
            ),
        )
        request.check_chance(body)
        return request

    def check_chance(self, body: Mapping[str, Any]) -> None:
        """Refuse what would do nothing.

        Raises:
            NodeError: a number is given that nothing depends on.
        """
        if "period" in body and self.probability == 1:
            raise NodeError("period says how long one draw holds: give a probability below 1, too.")
        if "timeCompression" in body and self.repair_after is None:
            raise NodeError("timeCompression shortens a repair: give repairAfter, too.")

    def make_fault(self, now: float, seed: int) -> Fault:
        """Return the fault of one device.

        Raises:
            NodeError: a number is out of its range.
        """
        since = now + self.after
        until = None
        if self.repair_after is not None:
            until = since + self.repair_after / self.time_compression
        try:
            return Fault(
                kind=self.kind,
                since=since,
                rate=self.rate,
                slowdown=self.slowdown,
                seed=seed,
                held=self.held,
                until=until,
                probability=self.probability,
                period=self.period,
            )
        except FaultError as error:
            raise NodeError(f"A device cannot be broken so: {error}.") from error


def _has(owners: Collection[FaultKind]) -> str:
    return "has" if len(owners) == 1 else "have"


def _parse_repair(value: Any) -> float | None:
    if value is None:
        return None
    return _parse_range("repairAfter", value, 0.001, _MOST_SECONDS)


def _parse_range(name: str, value: Any, least: float, most: float) -> float:
    number = _parse_number(name, value)
    if not least <= number <= most:
        raise NodeError(f"{name} is {number:g}; it must be from {least:g} to {most:g}.")
    return number


def _parse_kind(value: Any) -> FaultKind:
    try:
        return FaultKind(value)
    except ValueError:
        known = ", ".join(FaultKind)
        raise NodeError(f"'{value}' is no fault of a device; use {known}.") from None


def _parse_number(name: str, value: Any, *, whole: bool = False) -> float:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        what = "a whole number" if whole else "a number"
        also = f" or '{ALL}'" if name == "device" else ""
        raise NodeError(f"{name} is {value!r}; it must be {what}{also}.")
    return value


class NodeHardware:
    """The devices of one node and their faults."""

    def __init__(self, node: str, devices: Mapping[str, str], directory: Path) -> None:
        """Take the node's name, its devices by resource, and its state directory."""
        self._node = node
        self._file = directory / FAULT_FILE
        self._states = [
            DeviceState(resource, number)
            for resource, count in devices.items()
            for number in range(int(count))
        ]

    def describe(self) -> list[dict[str, Any]]:
        """Return the faults that there are now."""
        now = time.time()
        return [
            {
                "device": device,
                "resource": state.resource,
                "fault": str(fault.kind),
                "since": fault.since,
                **{name: getattr(fault, name) for name in _OWNERS if fault.kind in _OWNERS[name]},
                **_describe_schedule(fault, now),
            }
            for device, state in enumerate(self._states)
            for fault in _drop_past(state.faults, now)
        ]

    def break_devices(self, request: FaultRequest) -> None:
        """Give devices a fault, in place of one of the same kind.

        Raises:
            NodeError: there is no such device, or a number is out of its range.
        """
        self._require_devices("break")
        count = len(self._states)
        if request.device is not None and not 0 <= request.device < count:
            numbers = ", ".join(str(number) for number in range(count))
            raise NodeError(
                f"{self._node} has no device {request.device}. Its devices: {numbers} "
                f"({self._states[0].resource})."
            )
        chosen = range(count) if request.device is None else (request.device,)
        now = time.time()
        for device, state in enumerate(self._states):
            faults = _drop_past(state.faults, now)
            if device in chosen:
                fault = request.make_fault(now, request.seed + device)
                faults = (*(each for each in faults if each.kind is not fault.kind), fault)
            self._states[device] = DeviceState(state.resource, state.number, faults)
        self._write()

    def heal(self) -> None:
        """Take all faults away, as a repair does.

        Raises:
            NodeError: the node has no devices.
        """
        self._require_devices("heal")
        self._states = [DeviceState(state.resource, state.number) for state in self._states]
        self._write()

    def _require_devices(self, action: str) -> None:
        if not self._states:
            raise NodeError(f"{self._node} has no devices to {action}.")

    def _write(self) -> None:
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        broken = [state for state in self._states if state.faults]
        write_private(self._file, encode_states(broken))


def _describe_schedule(fault: Fault, now: float) -> dict[str, Any]:
    """Return what of a fault's time is not as usual; nothing if it is there until it is healed."""
    told: dict[str, Any] = {}
    if fault.until is not None:
        told["until"] = fault.until
    if fault.probability < 1:
        told |= {"probability": fault.probability, "period": fault.period, "seed": fault.seed}
    if told or now < fault.since:
        told["present"] = find_spell(fault, now) is not None
    return told


def _drop_past(faults: tuple[Fault, ...], now: float) -> tuple[Fault, ...]:
    """Leave out what was repaired, and the crash that came and went."""
    return tuple(
        fault
        for fault in faults
        if (fault.until is None or now < fault.until)
        and (
            fault.kind is not FaultKind.CRASH
            or fault.probability < 1
            or now - fault.since < _CRASH_SECONDS
        )
    )
