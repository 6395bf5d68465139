"""Faults of emulated hardware: what `break` asks for, and the file by which a node's agent learns.

Owned by the supervisor, which stands for the hardware: devices break and are repaired whether or
not the node's agent runs, and what is broken stays broken when the agent is killed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sluice.devcluster.directories import write_private
from sluice.devcluster.errors import NodeError
from sluice_accel.faults import (
    DEFAULT_RATE,
    DEFAULT_SLOWDOWN,
    DeviceState,
    Fault,
    FaultError,
    FaultKind,
    encode_states,
)

FAULT_FILE: Final = "faults.json"
"""Name of the file in the node's state directory."""
ALL: Final = "all"

_CRASH_SECONDS = 10.0
"""A crash is over at once; so long it stays written down, for an agent that looks late."""
_FIELDS = ("fault", "device", "rate", "slowdown", "seed")


@dataclass(frozen=True, slots=True)
class FaultRequest:
    """What to do to which devices of a node.

    Attributes:
        device: its number on the node; None: all of them.
        seed: of the first device; each further one has the next.
    """

    kind: FaultKind
    device: int | None = 0
    rate: float = DEFAULT_RATE
    slowdown: float = DEFAULT_SLOWDOWN
    seed: int = 0

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
        for name, owner in (("rate", FaultKind.CORRUPTION), ("slowdown", FaultKind.THROTTLE)):
            if name in body and kind is not owner:
                raise NodeError(f"A fault '{kind}' has no {name}; only '{owner}' has one.")
        device = body.get("device", 0)
        return cls(
            kind=kind,
            device=None if device == ALL else int(_parse_number("device", device, whole=True)),
            rate=_parse_number("rate", body.get("rate", DEFAULT_RATE)),
            slowdown=_parse_number("slowdown", body.get("slowdown", DEFAULT_SLOWDOWN)),
            seed=int(_parse_number("seed", body.get("seed", 0), whole=True)),
        )


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
        return [
            {
                "device": device,
                "resource": state.resource,
                "fault": str(fault.kind),
                "since": fault.since,
                **({"rate": fault.rate} if fault.kind is FaultKind.CORRUPTION else {}),
                **({"slowdown": fault.slowdown} if fault.kind is FaultKind.THROTTLE else {}),
            }
            for device, state in enumerate(self._states)
            for fault in _drop_past(state.faults, time.time())
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
                fault = _make_fault(request, now, request.seed + device)
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


def _make_fault(request: FaultRequest, now: float, seed: int) -> Fault:
    try:
        return Fault(request.kind, now, request.rate, request.slowdown, seed)
    except FaultError as error:
        raise NodeError(f"A device cannot be broken so: {error}.") from error


def _drop_past(faults: tuple[Fault, ...], now: float) -> tuple[Fault, ...]:
    return tuple(
        fault
        for fault in faults
        if fault.kind is not FaultKind.CRASH or now - fault.since < _CRASH_SECONDS
    )
