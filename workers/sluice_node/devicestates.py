"""What is wrong with each device of the node, as `faults.json` in its state directory says.

Whoever emulates the hardware writes that file (in one step, the whole of it); the agent only reads
it, so what is broken stays broken when an agent is killed and another one started. `devicebank`
looks here a few times a second and tells others of changes.

A crash is no state but an event: it is shown for a second to the processes that have the device
open when it comes, and to no other. What was in the file when the agent started is over: the
processes that it could have hit ended with the agent before.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sluice_accel.faults import DeviceState, Fault, FaultError, FaultKind, decode_states
from sluice_node.devices import DeviceKey

_LOG = logging.getLogger(__name__)
CRASH_SECONDS = 1.0
"""How long a crash is shown; a worker that sees it ends at once (assumed)."""

_UNREAD = (-1, -1, -1)
_MISSING = (0, 0, 0)

_Faults = Mapping[DeviceKey, tuple[Fault, ...]]


class DeviceStates:
    """The states of the devices that a node has."""

    def __init__(self, devices: Iterable[DeviceKey], file: Path) -> None:
        """Start with devices that have no fault; `look` reads the file."""
        self._file = file
        self._signature = _UNREAD
        self._lasting = {device: DeviceState(*device) for device in devices}
        self._crashes: dict[DeviceKey, tuple[Fault, float]] = {}
        self._past_crashes: set[tuple[DeviceKey, Fault]] | None = None

    @property
    def devices(self) -> tuple[DeviceKey, ...]:
        """All devices, in order."""
        return tuple(self._lasting)

    def show(self, device: DeviceKey) -> DeviceState:
        """Return a device's state as a process sees it that opens the device now."""
        return self._lasting[device]

    def show_all(self) -> tuple[DeviceState, ...]:
        """Return `show` of every device."""
        return tuple(self._lasting.values())

    def look(self, clock: float) -> list[DeviceState]:
        """Read what changed; return the states to tell to those that have the devices open.

        Args:
            clock: Seconds of a clock that never goes back.
        """
        changed = self._end_crashes(clock)
        found = self._read()
        if found is not None:
            changed |= self._take_lasting(found)
            changed |= self._take_crashes(found, clock)
        return [self._show_open(device) for device in self._lasting if device in changed]

    def _show_open(self, device: DeviceKey) -> DeviceState:
        state = self._lasting[device]
        if device not in self._crashes:
            return state
        return replace(state, faults=(*state.faults, self._crashes[device][0]))

    def _end_crashes(self, clock: float) -> set[DeviceKey]:
        over = {device for device, (_, until) in self._crashes.items() if clock >= until}
        for device in over:
            del self._crashes[device]
        return over

    def _take_lasting(self, found: _Faults) -> set[DeviceKey]:
        changed = set()
        for device, before in self._lasting.items():
            faults = tuple(f for f in found.get(device, ()) if f.kind is not FaultKind.CRASH)
            if faults != before.faults:
                self._lasting[device] = replace(before, faults=faults)
                changed.add(device)
        return changed

    def _take_crashes(self, found: _Faults, clock: float) -> set[DeviceKey]:
        crashes = {
            (device, fault)
            for device, faults in found.items()
            for fault in faults
            if fault.kind is FaultKind.CRASH
        }
        new = set() if self._past_crashes is None else crashes - self._past_crashes
        for device, fault in new:
            self._crashes[device] = fault, clock + CRASH_SECONDS
        self._past_crashes = crashes
        return {device for device, _ in new}

    def _read(self) -> _Faults | None:
        """Return what the file says of our devices; None if it is as it was, or unusable."""
        try:
            found = self._file.stat()
            signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            signature = _MISSING
        if signature == self._signature:
            return None
        self._signature = signature
        if signature == _MISSING:
            return {}
        try:
            states = decode_states(self._file.read_text())
        except (OSError, UnicodeDecodeError, FaultError) as error:
            _LOG.warning("%s cannot be used, the devices stay as they are: %s", self._file, error)
            return None
        faults = {(state.resource, state.number): state.faults for state in states}
        for resource, number in faults.keys() - self._lasting.keys():
            message = "%s names %s %d, which this node does not have"
            _LOG.warning(message, self._file, resource, number)
        return {device: faults[device] for device in faults.keys() & self._lasting.keys()}
