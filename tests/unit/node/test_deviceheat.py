"""How warm devices get by what processes do with them, and what they do about it by themselves."""

from typing import Any

import pytest

from sluice_accel.faults import DeviceState, Fault, FaultKind
from sluice_accel.profiles import PROFILES
from sluice_accel.usage import DeviceUse
from sluice_node.deviceheat import DeviceHeat

H100 = PROFILES["h100"]
BUSY = DeviceUse(busy=0.9, memory=0.92)
NOW = 1000.0


def told(*kinds: FaultKind, **over: Any) -> DeviceState:
    faults = (Fault(kind, NOW, **over) for kind in kinds)
    return DeviceState("nvidia.com/gpu", 0, tuple(faults))


def run(heat: DeviceHeat, seconds: int, use: DeviceUse, state: DeviceState) -> list[set[str]]:
    """Let time pass in looks of a second; return what the device did by itself at each."""
    return [
        {str(fault.kind) for fault in heat.advance(1.0, NOW + second, use, state)}
        for second in range(seconds)
    ]


def test_a_device_warms_up_with_use_and_cools_without():
    heat = DeviceHeat(H100)
    idle = heat.read(DeviceUse(), told())
    assert (idle.watts, idle.joules) == (pytest.approx(105), 0)
    assert run(heat, 120, BUSY, told()) == [set()] * 120
    busy = heat.read(BUSY, told())
    assert idle.temperature + 20 < busy.temperature < 87
    assert 105 < busy.watts < 700
    assert busy.joules == pytest.approx(120 * busy.watts)
    run(heat, 120, DeviceUse(), told())
    assert heat.read(DeviceUse(), told()).temperature == pytest.approx(idle.temperature, abs=1)


def test_without_cooling_a_busy_device_throttles_by_itself_until_cooling_is_repaired():
    heat = DeviceHeat(H100)
    seen = run(heat, 120, BUSY, told(FaultKind.COOLING))
    assert seen[0] == set()
    assert {"throttle"} in seen
    assert {"off-bus"} not in seen
    [fault] = heat.advance(1.0, NOW, BUSY, told(FaultKind.COOLING))
    assert fault.slowdown == 2
    assert fault.since == NOW + seen.index({"throttle"})  # since it is so, not since we looked
    watts = heat.read(BUSY, told(FaultKind.COOLING)).watts
    assert run(heat, 120, BUSY, told())[-1] == set()
    assert watts < heat.read(BUSY, told()).watts


def test_without_cooling_half_a_load_throttles_for_as_long_as_it_lasts():
    """So that the health agent, which waits for lasting throttling, sees it."""
    heat, half = DeviceHeat(H100), DeviceUse(busy=0.5)
    seen = run(heat, 600, half, told(FaultKind.COOLING))
    first = seen.index({"throttle"})
    assert seen[first:] == [{"throttle"}] * (600 - first)
    assert run(heat, 120, DeviceUse(), told(FaultKind.COOLING))[-1] == set()


def test_an_agent_that_was_frozen_finds_the_device_throttled_and_not_gone():
    heat = DeviceHeat(H100)
    [fault] = heat.advance(300.0, NOW, BUSY, told(FaultKind.COOLING))
    assert fault.kind is FaultKind.THROTTLE


def test_an_idle_device_bears_the_loss_of_cooling():
    assert not any(run(DeviceHeat(H100), 600, DeviceUse(), told(FaultKind.COOLING)))


def test_memory_that_something_else_holds_is_used():
    heat = DeviceHeat(H100)
    assert heat.read(BUSY, told()).used == pytest.approx(0.92 * 80e9)
    full = heat.read(DeviceUse(), told(FaultKind.OUT_OF_MEMORY, held=0.5))
    assert (full.used, full.total) == (40e9, 80e9)
    assert heat.read(BUSY, told(FaultKind.OUT_OF_MEMORY, held=0.5)).used == 80e9


def test_one_that_is_throttled_draws_less():
    heat = DeviceHeat(H100)
    assert heat.read(BUSY, told(FaultKind.THROTTLE, slowdown=3)).watts == pytest.approx(
        105 + 595 * 0.9 / 3
    )
