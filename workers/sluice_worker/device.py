"""The devices of a worker, as calls to them behave: well, slowly, wrongly, or not at all.

The node's agent tells each device's state over a Unix socket, as hardware would make it felt. It
shows in nothing but device calls: the engine finds a fault as it would find one of real hardware.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

import structlog

from sluice_accel.faults import DeviceState, Fault, FaultError, FaultKind, decode_state
from sluice_accel.profiles import MEMORY_SHARE
from sluice_accel.usage import DeviceUse, encode_use
from sluice_worker.checkpoint import Array
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Disturb
from sluice_worker.errors import DeviceError

log = structlog.get_logger()

SOCKETS = "SLUICE_DEVICE_SOCKETS"
"""Environment variable with the sockets' paths, comma separated, one a device."""
FIRST_STATE_SECONDS = 5.0
"""How long a start waits for the devices' states; after that they count as healthy till told."""
RETRY_SECONDS = 0.2
REPORT_SECONDS = 1.0
"""Between two reports of what we do with the devices; telemetry samples about as often."""
LONGEST_LINE = 1 << 16
ABORTED = 134
"""Exit code of a process that SIGABRT ended, as a container runtime gives it."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the faults of all devices together do to a call; the worst applies.

    Attributes:
        error: driver's words if a device takes no call any more, else "".
        hung: calls do not return.
        slowdown: of steps, at least 1: devices that work as one wait for the slowest.
        starting: slowdown of loading, at least 1.
        held: largest share of a device's memory that something else holds.
        holder: name of that device, "" if none.
        corruptions: (rate, seed) of each device that computes wrongly; it holds its share of the
            values, so its rate over all of them is as much smaller.
    """

    error: str = ""
    hung: bool = False
    slowdown: float = 1.0
    starting: float = 1.0
    held: float = 0.0
    holder: str = ""
    corruptions: tuple[tuple[float, int], ...] = ()


def combine_states(states: Sequence[DeviceState | None]) -> Effects:
    """Return what devices in these states do as one; None is one that nothing is known of."""
    known = [state for state in states if state is not None]
    errors = [error for state in known if (error := _describe_error(state))]
    throttled = [find_slowdown(state) for state in known]
    slow = [fault.slowdown for fault in _list_faults(known, FaultKind.SLOW_START)]
    wrong = _list_faults(known, FaultKind.CORRUPTION)
    full = [
        (fault.held, f"{state.resource} {state.number}")
        for state in known
        if (fault := state.find(FaultKind.OUT_OF_MEMORY)) is not None
    ]
    held, holder = max(full, default=(0.0, ""))
    return Effects(
        error=errors[0] if errors else "",
        hung=bool(_list_faults(known, FaultKind.HANG)),
        slowdown=max(throttled, default=1.0),
        starting=max(slow, default=1.0),
        held=held,
        holder=holder,
        corruptions=tuple((fault.rate / len(states), fault.seed) for fault in wrong),
    )


def find_slowdown(state: DeviceState | None) -> float:
    """Return how many times as long kernels take on one device."""
    throttle = state.find(FaultKind.THROTTLE) if state is not None else None
    return throttle.slowdown if throttle is not None else 1.0


def _list_faults(states: Sequence[DeviceState], kind: FaultKind) -> list[Fault]:
    return [fault for state in states if (fault := state.find(kind)) is not None]


def _describe_error(state: DeviceState) -> str:
    """Return what the driver would log, in NVIDIA's numbers, which other drivers' tools know too.

    Xid 79 is a device off the bus, 48 a double-bit ECC error, 94 its containment to one process.
    """
    name = f"{state.resource} {state.number}"
    if state.find(FaultKind.OFF_BUS):
        return f"Xid 79: {name} has fallen off the bus"
    if state.find(FaultKind.ECC):
        return f"Xid 48: {name} has a double bit ECC error; Xid 94: contained, its process must end"
    return ""


class Devices:
    """The devices that a worker holds.

    Args:
        paths: of their sockets; none means that nothing is ever wrong.
        abort: ends the process at once, with a message; called from a background thread.

    Attributes:
        effects: what the devices do to calls now.
        disturb: what they do to values, None if nothing.
        claim: share of each device's memory that the worker takes, when it has loaded.
    """

    def __init__(
        self, paths: Sequence[str] = (), abort: Callable[[str], None] | None = None
    ) -> None:
        self._paths = tuple(paths)
        self._abort = abort or abort_process
        self._states: list[DeviceState | None] = [None] * len(self._paths)
        self._changed = threading.Condition()
        self._connections: dict[int, socket.socket] = {}
        self._busy = [0.0] * len(self._paths)
        self._calling = False
        self._allocated = 0.0
        self.effects = Effects()
        self.disturb: Disturb | None = None
        self.claim = MEMORY_SHARE.value

    def start(self) -> None:
        """Follow the sockets from now on; returns with all devices' states, if they can be had."""
        for number in range(len(self._paths)):
            name = f"device-{number}"
            threading.Thread(target=self._follow, args=(number,), name=name, daemon=True).start()
        if self._paths:
            threading.Thread(target=self._report, name="device-use", daemon=True).start()
        with self._changed:
            told = self._changed.wait_for(lambda: None not in self._states, FIRST_STATE_SECONDS)
        if not told:
            missing = [p for p, s in zip(self._paths, self._states, strict=True) if s is None]
            log.warning("no state of these devices; they count as healthy", sockets=missing)

    def check(self) -> None:
        """Refuse devices that take no calls.

        Raises:
            DeviceError: in the driver's words.
        """
        if self.effects.error:
            raise DeviceError(self.effects.error)

    def load(self) -> None:
        """Allocate memory for weights and cache.

        Raises:
            DeviceError: a device has too little left for them.
        """
        self.allocate()
        self._allocated = self.claim

    def allocate(self) -> None:
        """Allocate what a step with prompt tokens needs beside weights and cache.

        Without room for weights and cache there is none for it either: a serving engine fills the
        share of the memory that it was given, and what else it needs is reckoned into that.

        Raises:
            DeviceError: in a runtime's words.
        """
        effects = self.effects
        if effects.held + self.claim > 1:
            raise DeviceError(
                f"out of memory: {effects.holder}: something else holds {effects.held:.0%} of its"
                f" memory, and this worker needs {self.claim:.0%}"
            )

    def note_kernels(self, seconds: float) -> None:
        """Note that kernels ran for so long on a device that is not throttled."""
        for number, state in enumerate(self._states):
            self._busy[number] += seconds * find_slowdown(state)

    def take_busy(self) -> tuple[float, ...]:
        """Return for each device the seconds that kernels ran on it since the last call."""
        busy, self._busy = self._busy, [0.0] * len(self._paths)
        return tuple(busy)

    def finish_call(self) -> bool:
        """Wait while a device hangs; tell whether one did.

        Raises:
            DeviceError: the call failed.
        """
        hung = self.effects.hung
        if hung:
            self._calling = True
            with self._changed:
                self._changed.wait_for(lambda: self.effects.error or not self.effects.hung)
            self._calling = False
        self.check()
        return hung

    def _report(self) -> NoReturn:
        """Tell the agent what we do with each device, as a driver's counters would, for ever."""
        last = time.monotonic()
        while True:
            time.sleep(REPORT_SECONDS)
            now, seconds = time.monotonic(), self.take_busy()
            for number, connection in tuple(self._connections.items()):
                # A kernel that never ends runs all the time, and so do those that wait for it.
                busy = 1.0 if self._calling else min(1.0, seconds[number] / (now - last))
                with contextlib.suppress(OSError):  # lost: `_follow` sees it, too
                    connection.sendall(encode_use(DeviceUse(busy, self._allocated)))
            last = now

    def take_state(self, number: int, state: DeviceState) -> None:
        """Take the state of the device with this place among the sockets."""
        before = self._states[number]
        crash = state.find(FaultKind.CRASH)
        # One that stands in the first state ended a process before this one, or stands in no other.
        if crash is not None and before is not None and before.find(FaultKind.CRASH) != crash:
            self._abort(f"{state.resource} {state.number}: fatal error in the runtime, aborting")
        with self._changed:
            self._states[number] = state
            effects = combine_states(self._states)
            if effects.corruptions != self.effects.corruptions:
                self.disturb = make_disturb(effects.corruptions)
            self.effects = effects
            self._changed.notify_all()

    def _follow(self, number: int) -> NoReturn:
        """Read one device's states for ever; while its socket is lost, the last one stands."""
        path = self._paths[number]
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(path)
                    self._connections[number] = connection
                    self._read(number, connection)
            except OSError:
                pass  # the agent is starting again, as a node's agents do
            self._connections.pop(number, None)
            time.sleep(RETRY_SECONDS)

    def _read(self, number: int, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            while (line := lines.readline(LONGEST_LINE)).endswith(b"\n"):
                try:
                    self.take_state(number, decode_state(line))
                except FaultError as error:
                    log.warning("a device told no state", device=number, why=str(error))


def make_disturb(corruptions: Sequence[tuple[float, int]]) -> Disturb | None:
    """Return what devices that compute wrongly do to values, one after the other."""
    if not corruptions:
        return None
    each = [Corruption(rate, seed) for rate, seed in corruptions]

    def disturb(rows: Array) -> Array:
        return reduce(lambda given, one: one(given), each, rows)

    return disturb


def abort_process(message: str) -> None:
    """End the process as a runtime's abort does: no drain, no goodbye."""
    sys.stderr.write(f"sluice-worker: {message}\n")
    sys.stderr.flush()
    os._exit(ABORTED)
