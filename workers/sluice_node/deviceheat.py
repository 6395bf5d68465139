"""Power, heat and energy of the node's devices, from what processes do with them.

`sluice_accel.thermal` says how a device warms up; here each device has its state. A device that
gets too hot lowers its clocks, and one that gets far too hot is gone from the bus: both are shown
as the faults that they are to whoever uses the device. It goes on from cold when the agent starts
anew, since nobody wrote down how hot it was.
"""

import math
from dataclasses import dataclass
from typing import Final

from sluice_accel.faults import DeviceState, Fault, FaultKind
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.thermal import COOLANT, HOT_COOLANT, ThermalState, draw_power, warm
from sluice_accel.usage import DeviceUse

_PIECE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device's sensors and counters show.

    Attributes:
        temperature: °C.
        watts: that it draws now.
        joules: that it took since the agent started.
        busy: share of the time in which kernels ran, 0 to 1.
        used, total: bytes of its memory.
    """

    temperature: float
    watts: float
    joules: float
    busy: float
    used: float
    total: float


class DeviceHeat:
    """One device of a kind."""

    def __init__(self, profile: AcceleratorProfile) -> None:
        """Begin with a cold device."""
        self._profile = profile
        self._state = ThermalState(
            warm(profile, ThermalState(), 0.0, seconds=3600.0).temperature  # idle for long
        )
        self._since = 0.0
        self._joules = 0.0

    def advance(
        self, seconds: float, now: float, use: DeviceUse, told: DeviceState
    ) -> tuple[Fault, ...]:
        """Let time pass; return what the device does by itself for being too hot.

        Args:
            seconds: since the last time.
            now: seconds since 1970.
            use: what processes did with the device meanwhile.
            told: what else is wrong with it.
        """
        hot = told.find(FaultKind.COOLING) is not None
        before = self._state
        if before.shut_down and not hot:
            before = ThermalState(before.temperature)  # who repaired the cooling started it again
        busy = 0.0 if told.find(FaultKind.OFF_BUS) else use.busy / _find_slowdown(told)
        coolant = (HOT_COOLANT if hot else COOLANT).value
        self._state = before
        # In short pieces: clocks are lowered in time, also where nobody looked for long.
        pieces = max(1, math.ceil(seconds / _PIECE_SECONDS))
        for _ in range(pieces):
            self._state = warm(self._profile, self._state, busy, seconds / pieces, coolant)
            self._joules += seconds / pieces * self._draw(use, told)
        mark = (self._state.throttled, self._state.shut_down)
        if mark != (before.throttled, before.shut_down):
            self._since = now
        if self._state.shut_down:
            return (Fault(FaultKind.OFF_BUS, self._since),)
        if self._state.throttled:
            return (Fault(FaultKind.THROTTLE, self._since, slowdown=self._state.slowdown),)
        return ()

    def read(self, use: DeviceUse, told: DeviceState) -> Reading:
        """Return what sensors show while processes use the device so."""
        fault = told.find(FaultKind.OUT_OF_MEMORY)
        total = self._profile.memory.value
        share = min(1.0, use.memory + (fault.held if fault else 0.0))
        return Reading(
            self._state.temperature,
            self._draw(use, told),
            self._joules,
            use.busy,
            share * total,
            total,
        )

    def _draw(self, use: DeviceUse, told: DeviceState) -> float:
        if self._state.shut_down:
            return 0.0
        return draw_power(self._profile, use.busy, _find_slowdown(told) * self._state.slowdown)


def _find_slowdown(told: DeviceState) -> float:
    throttle = told.find(FaultKind.THROTTLE)
    return throttle.slowdown if throttle else 1.0
