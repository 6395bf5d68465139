"""Faults of an emulated device: their kinds, and a device's state as it travels to whoever uses it.

The node's agent owns the state, as firmware and driver own a real device's. A worker learns of it
only through device calls: it connects to the device's socket and reads one line of JSON for every
change, the present state first.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final


class FaultKind(StrEnum):
    """What can be wrong with a device."""

    OFF_BUS = "off-bus"
    """The device is gone from the bus; every call to it fails, until the node is repaired."""
    ECC = "ecc"
    """Uncorrectable memory error: the process that used it dies, and no other can start on it."""
    THROTTLE = "throttle"
    """Too hot: clocks are lowered, steps take `slowdown` times as long, answers stay right."""
    HANG = "hang"
    """A step never ends; nothing is logged."""
    CORRUPTION = "corruption"
    """A share `rate` of the values that the device computes is wrong, and looks plausible."""
    CRASH = "crash"
    """The runtime ends the process; the next one may start."""
    OUT_OF_MEMORY = "out-of-memory"
    """Something else holds a share `held` of the memory: what is allocated beside it fails."""
    SLOW_START = "slow-start"
    """Loading takes `slowdown` times as long; what runs already is as fast as ever."""
    COOLING = "cooling"
    """The coolant comes in hot: under load the device heats up, and lowers its clocks by itself."""


STICKY: Final = frozenset({FaultKind.OFF_BUS, FaultKind.ECC})
"""Stay once they came by chance, until the device is repaired, as in NVIDIA's mock devices."""
SLOWING: Final = frozenset({FaultKind.THROTTLE, FaultKind.SLOW_START})
"""Those that `slowdown` means something for."""

DEFAULT_RATE: Final = 1e-2
"""Share of wrong values; what parity gates must catch at least (assumed)."""
DEFAULT_SLOWDOWN: Final = 3.0
"""A hardware slowdown cuts clocks at least in half (published, NVML); 3 is assumed."""
MOST_SLOWDOWN: Final = 1e6
"""Far beyond what any device does; a step still ends in a time that a clock can tell."""
DEFAULT_HELD: Final = 0.5
"""Share of a device's memory; a serving engine claims 92 %, so that far less would do (assumed)."""
DEFAULT_PERIOD: Final = 10.0
"""Seconds for which one draw holds; health agents sample about as often (assumed)."""
LEAST_PERIOD: Final = 1.0
_LATEST: Final = 1e11
"""Seconds since 1970 that are still a date."""


class FaultError(ValueError):
    """A fault or a state that cannot be; the message says what is wrong with it."""


_UNREADABLE: Final = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What Python raises on JSON that is no state: an infinite number and deep nesting included."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        since: seconds since 1970, never negative; may be still to come.
        rate: of wrong values, above 0 and at most 1; means something for corruption only.
        slowdown: of steps or of loading, 1 to `MOST_SLOWDOWN`; for `SLOWING` kinds only.
        seed: of all chance in it, never negative.
        held: share of the device's memory, above 0 and at most 1; for out-of-memory only.
        until: seconds since 1970 when it is repaired, after `since`; None: when somebody does.
        probability: that it is there in a period, above 0 and at most 1 (`schedule`).
        period: seconds, at least `LEAST_PERIOD`.

    Raises:
        FaultError: a number is out of its range.
    """

    kind: FaultKind
    since: float
    rate: float = DEFAULT_RATE
    slowdown: float = DEFAULT_SLOWDOWN
    seed: int = 0
    held: float = DEFAULT_HELD
    until: float | None = None
    probability: float = 1.0
    period: float = DEFAULT_PERIOD

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("rate", "held", "probability"):
            if not 0 < getattr(self, name) <= 1:
                raise FaultError(f"{name} {getattr(self, name):g} must be above 0 and at most 1")
        if not 1 <= self.slowdown <= MOST_SLOWDOWN:
            raise FaultError(f"slowdown {self.slowdown:g} must be from 1 to {MOST_SLOWDOWN:g}")
        if not 0 <= self.since <= _LATEST:
            raise FaultError(f"since {self.since:g} must be in seconds since 1970")
        if self.until is not None and not self.since < self.until <= _LATEST:
            raise FaultError(f"until {self.until:g} must be after since, {self.since:g}")
        if not LEAST_PERIOD <= self.period <= _LATEST:
            raise FaultError(f"period {self.period:g} must be {LEAST_PERIOD:g} s at least")
        if self.seed < 0:
            raise FaultError(f"seed {self.seed} must not be negative")


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device: its number on its node, and what is wrong with it."""

    resource: str
    number: int
    faults: tuple[Fault, ...] = ()

    def find(self, kind: FaultKind) -> Fault | None:
        """Return the fault of a kind, or None."""
        return next((fault for fault in self.faults if fault.kind is kind), None)


def encode_state(state: DeviceState) -> bytes:
    """Return one line of JSON, with its end."""
    return json.dumps(asdict(state), separators=(",", ":")).encode() + b"\n"


def decode_state(line: bytes) -> DeviceState:
    """Read a line that `encode_state` wrote.

    Raises:
        FaultError: it is something else.
    """
    try:
        return _parse_state(json.loads(line))
    except _UNREADABLE as error:
        raise FaultError(f"no device state: {line[:80]!r} ({error})") from error


def encode_states(states: Iterable[DeviceState]) -> str:
    """Return the states of several devices as a JSON document."""
    return json.dumps([asdict(state) for state in states], indent=1) + "\n"


def decode_states(text: str) -> tuple[DeviceState, ...]:
    """Read a document that `encode_states` wrote.

    Raises:
        FaultError: it is something else.
    """
    try:
        return tuple(_parse_state(entry) for entry in json.loads(text))
    except _UNREADABLE as error:
        raise FaultError(f"no states of devices: {text[:80]!r} ({error})") from error


def _parse_state(raw: Any) -> DeviceState:
    faults = tuple(
        Fault(
            FaultKind(each["kind"]),
            float(each["since"]),
            float(each["rate"]),
            float(each["slowdown"]),
            int(each["seed"]),
            float(each["held"]),
            None if each["until"] is None else float(each["until"]),
            float(each["probability"]),
            float(each["period"]),
        )
        for each in raw["faults"]
    )
    number = int(raw["number"])
    if number < 0:
        raise FaultError(f"device {number} must not be negative")
    return DeviceState(str(raw["resource"]), number, faults)
