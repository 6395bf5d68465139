"""Power, energy and temperature of an emulated device.

A device's power is a line between idle and design power over the share of time its kernels run;
its temperature follows power with one time constant; it throttles above one temperature until it
is below another. Apart from power and the two limits, all of it is assumed.
"""

import math
from dataclasses import dataclass
from typing import Final

from sluice_accel.nominal import NominalModel
from sluice_accel.profiles import AcceleratorProfile
from sluice_accel.quantities import assumed, published
from sluice_accel.timing import StepWork, time_kernels, time_work

COOLANT: Final = assumed(30, "°C", "air or liquid that reaches a device")
HOT_COOLANT: Final = assumed(
    68, "°C", "the same when cooling has failed: too hot from two fifths of a load on"
)
FULL_RISE: Final = assumed(40, "K", "above the coolant at design power, in the end")
TIME_CONSTANT: Final = assumed(20, "s", "of device and cooler together")
THROTTLE_ABOVE: Final = published(87, "°C", "NVIDIA, k8s-test-infra, mock H100: slowdown")
THROTTLE_UNTIL: Final = assumed(
    77, "°C", "10 K below: under a load that is too hot at full clocks, clocks stay low"
)
SHUTDOWN_ABOVE: Final = published(92, "°C", "NVIDIA, k8s-test-infra, mock H100: shutdown")
THROTTLED_SLOWDOWN: Final = published(2, "", "NVIDIA, NVML: slowdown cuts clocks by 2 or more")


@dataclass(frozen=True, slots=True)
class ThermalState:
    """Of one device: °C, whether clocks are lowered, and whether it has shut itself down."""

    temperature: float = COOLANT.value
    throttled: bool = False
    shut_down: bool = False

    @property
    def slowdown(self) -> float:
        """How many times as long steps take."""
        return THROTTLED_SLOWDOWN.value if self.throttled else 1.0


def draw_power(profile: AcceleratorProfile, utilisation: float, slowdown: float = 1.0) -> float:
    """Return the watts of one device whose kernels run this share of the time, 0 to 1.

    Lowered clocks lower what is above idle power in proportion.
    """
    above = profile.power.value - profile.idle_power.value
    return profile.idle_power.value + above * utilisation / slowdown


def warm(
    profile: AcceleratorProfile,
    state: ThermalState,
    utilisation: float,
    seconds: float,
    coolant: float = COOLANT.value,
) -> ThermalState:
    """Return a device's state after so many seconds at a utilisation from 0 to 1.

    Exact for constant power, so steps may be of any length between two changes of the clocks.
    A device that shut itself down stays off, and cools.
    """
    watts = 0.0 if state.shut_down else draw_power(profile, utilisation, state.slowdown)
    end = coolant + FULL_RISE.value * watts / profile.power.value
    left = math.exp(-seconds / TIME_CONSTANT.value)
    temperature = end + (state.temperature - end) * left
    limit = THROTTLE_UNTIL if state.throttled else THROTTLE_ABOVE
    return ThermalState(
        temperature,
        throttled=temperature > limit.value,
        shut_down=state.shut_down or temperature > SHUTDOWN_ABOVE.value,
    )


def utilise(
    profile: AcceleratorProfile, model: NominalModel, devices: int, work: StepWork
) -> float:
    """Return the share of a step in which kernels read or multiply, 0 to 1."""
    seconds = time_work(profile, model, devices, work)
    return time_kernels(profile, model, devices, work) / seconds if seconds else 0.0


def step_energy(
    profile: AcceleratorProfile,
    model: NominalModel,
    devices: int,
    work: StepWork,
    slowdown: float = 1.0,
) -> float:
    """Return the joules that all devices together take for a step of `slowdown` times its length.

    Of several it does not matter which are throttled: the others wait for them, idle.
    """
    watts = draw_power(profile, utilise(profile, model, devices, work), slowdown)
    return devices * watts * time_work(profile, model, devices, work) * slowdown
