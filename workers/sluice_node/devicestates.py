"""What is wrong with each device of the node, as `faults.json` in its state directory says.

Whoever emulates the hardware writes that file (in one step, the whole of it); the agent only reads
it, so what is broken stays broken when an agent is killed and another one started. `devicebank`
looks here a few times a second and tells others of changes.

A fault with a schedule (`sluice_accel.schedule`) is in the file all the time, and shown while it is
there. So is what a device does by itself (`deviceheat`), which is in no file.

A crash is no state but an event: it is shown for a second to the processes that have the device
open when it comes, and to no other. What was in the file when the agent started is over: the
processes that it could have hit ended with the agent before.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sluice_accel.faults import DeviceState, Fault, FaultError, FaultKind, decode_states
from sluice_accel.schedule import show_state
from sluice_node.devices import DeviceKey

_LOG = logging.getLogger(__name__)
CRASH_SECONDS = 1.0
"""How long a crash is shown; a worker that sees it ends at once (assumed)."""

_UNREAD = (-1, -1, -1)
_MISSING = (0, 0, 0)

FaultsByDevice = Mapping[DeviceKey, tuple[Fault, ...]]


class DeviceStates:
    """The states of the devices that a node has."""

    def __init__(
        self, devices: Iterable[DeviceKey], file: Path, now: Callable[[], float] = time.time
    ) -> None:
        """Start with devices that have no fault; `look` reads the file.

        Args:
            devices: all of the node.
            file: what is wrong with them.
            now: seconds since 1970, in which faults have their times.
        """
        self._file = file
        self._now = now
        self._written: FaultsByDevice | None = None
        self._present: FaultsByDevice = {}
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

    def show_written(self, device: DeviceKey) -> DeviceState:
        """Return what the file says is there now, without what the device does by itself."""
        return DeviceState(*device, self._present.get(device, ()))

    def show_all(self) -> tuple[DeviceState, ...]:
        """Return `show` of every device."""
        return tuple(self._lasting.values())

    def look(self, clock: float, by_itself: FaultsByDevice | None = None) -> list[DeviceState]:
        """Read what changed; return the states to tell to those that have the devices open.

        Args:
            clock: Seconds of a clock that never goes back.
            by_itself: What devices do by themselves; what is in the file goes before it.
        """
        changed = self._end_crashes(clock)
        found = self._read()
        if found is not None:
            self._written = found
        if self._written is not None:
            self._present = self._find_present(self._written)
            changed |= self._take_crashes(self._present, clock)
        changed |= self._take_lasting(_add(self._present, by_itself or {}))
        return [self._show_open(device) for device in self._lasting if device in changed]

    def _find_present(self, written: FaultsByDevice) -> FaultsByDevice:
        now = self._now()
        return {
            device: show_state(DeviceState(*device, faults), now).faults
            for device, faults in written.items()
        }

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

    def _take_lasting(self, found: FaultsByDevice) -> set[DeviceKey]:
        changed = set()
        for device, before in self._lasting.items():
            faults = tuple(f for f in found.get(device, ()) if f.kind is not FaultKind.CRASH)
            if faults != before.faults:
                self._lasting[device] = replace(before, faults=faults)
                changed.add(device)
        return changed

    def _take_crashes(self, found: FaultsByDevice, clock: float) -> set[DeviceKey]:
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

    def _read(self) -> FaultsByDevice | None:
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


def _add(present: FaultsByDevice, more: FaultsByDevice) -> FaultsByDevice:
    """Return both; of one kind, the first."""
    added = dict(present)
    for device, faults in more.items():
        kinds = {fault.kind for fault in added.get(device, ())}
        new = tuple(fault for fault in faults if fault.kind not in kinds)
        added[device] = (*added.get(device, ()), *new)
    return added
