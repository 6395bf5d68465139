"""What the node's health agent makes of the state of its devices. Pure.

It sees what driver and telemetry of a real device show: errors that are logged, and clocks. It does
not see a step that never ends, wrong values or a runtime that crashed: with those a device stays
healthy here, and others have to notice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice_accel.faults import DeviceState, FaultKind
from sluice_node.devices import DeviceKey

CONDITION: Final = "AcceleratorHealthy"
"""Type of the condition on nodes that have devices."""

THROTTLE_SECONDS: Final = 30.0
"""How long clocks must have been low before it counts as a fault: health agents sample (AKS's
GPUClockThrottling), and short throttling is everyday life. 30 to 60 s is assumed, not published."""

XIDS: Final = {FaultKind.OFF_BUS: 79, FaultKind.ECC: 48}
"""Numbers in NVIDIA's catalogue, for every kind of device (others publish none): 79 'GPU has fallen
off the bus', 48 'double bit ECC error'."""

_REASONS: Final = {
    # The gravest first: one condition has room for one reason.
    FaultKind.OFF_BUS: "AcceleratorMissing",
    FaultKind.ECC: "UncorrectableECCError",
    FaultKind.THROTTLE: "ClockThrottling",
}
_WORDS: Final = {
    FaultKind.OFF_BUS: "has fallen off the bus (XID 79; AKS: GPUMissing; NVML: GPU_IS_LOST)",
    FaultKind.ECC: "has an uncorrectable ECC error (XID 48; Neuron: HBM_UNCORRECTABLE_ERROR)",
    FaultKind.THROTTLE: (
        f"has had its clocks lowered by heat for more than {THROTTLE_SECONDS:g} s (HW thermal "
        "slowdown; AKS: GPUClockThrottling)"
    ),
}


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The health of a node's devices.

    Attributes:
        devices: How many there are.
        unhealthy: Those that no new process can use; a device plugin would list them so.
        reason: Of the condition.
        message: Of the condition; it does not change while the state does not.
    """

    devices: int
    healthy: bool
    reason: str
    message: str
    unhealthy: frozenset[DeviceKey]


def judge_devices(states: Sequence[DeviceState], now: float) -> DeviceReport:
    """Return the report on these devices; `now` is in seconds since 1970."""
    unhealthy = frozenset(
        (state.resource, state.number) for state in states if any(map(state.find, XIDS))
    )
    seen = [
        (kind, state)
        for kind in _REASONS
        for state in states
        if (fault := state.find(kind)) is not None
        if kind is not FaultKind.THROTTLE or now - fault.since >= THROTTLE_SECONDS
    ]
    if seen:
        reason = _REASONS[seen[0][0]]
        message = "; ".join(
            f"device {state.number} ({state.resource}) {_WORDS[kind]}" for kind, state in seen
        )
    else:
        reason = "AcceleratorIsHealthy"
        message = f"{len(states)} devices show no error and no lasting throttling"
    return DeviceReport(len(states), not seen, reason, message, unhealthy)
