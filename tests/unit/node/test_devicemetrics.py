"""The metrics of devices, in the names of the field."""

import socket
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice_accel.faults import DeviceState, Fault, FaultKind, encode_states
from sluice_node.devicebank import DeviceBank
from sluice_node.deviceheat import Reading
from sluice_node.devicemetrics import measure_device

from .nodeworld import make_config

MAIA = "sluice.dev/maia"
NOW = 1000.0


def measure(*faults: Fault) -> dict[str, float]:
    return measure_device(DeviceState(MAIA, 0, faults), NOW)


def test_a_device_off_the_bus_shows_its_last_error_and_no_reading():
    assert measure(Fault(FaultKind.OFF_BUS, NOW)) == {"XID_ERRORS": 79}


def test_a_memory_error_is_counted():
    shown = measure(Fault(FaultKind.ECC, NOW))
    assert (shown["XID_ERRORS"], shown["ECC_DBE_VOL_TOTAL"]) == (48, 1)
    assert shown["ROW_REMAP_FAILURE"] == 1


def test_a_hot_device_shows_heat_low_clocks_and_for_how_long():
    cool, hot = measure(), measure(Fault(FaultKind.THROTTLE, NOW - 5, slowdown=3.0))
    assert cool["GPU_TEMP"] < 87 < hot["GPU_TEMP"] < 92
    assert hot["SM_CLOCK"] == pytest.approx(cool["SM_CLOCK"] / 3)
    assert hot["THERMAL_VIOLATION"] == 5_000_000
    assert hot["XID_ERRORS"] == 0


def test_use_power_and_memory_are_shown_where_the_kind_of_device_is_known():
    reading = Reading(65.5, 612.25, 1234.5, busy=0.875, used=199e9, total=216e9)
    shown = measure_device(DeviceState(MAIA, 0), NOW, reading)
    assert (shown["GPU_TEMP"], shown["POWER_USAGE"], shown["GPU_UTIL"]) == (65.5, 612.25, 88)
    assert shown["TOTAL_ENERGY_CONSUMPTION"] == 1_234_500  # mJ
    assert (shown["FB_USED"], shown["FB_FREE"]) == (199e9 // 2**20, 17e9 // 2**20)  # MiB
    assert not {"POWER_USAGE", "GPU_UTIL", "FB_USED", "FB_FREE"} & set(measure())
    lost = DeviceState(MAIA, 0, (Fault(FaultKind.OFF_BUS, NOW),))
    assert measure_device(lost, NOW, reading) == {"XID_ERRORS": 79}


@pytest.mark.parametrize(
    "kind", [kind for kind in FaultKind if kind not in ("off-bus", "ecc", "throttle")]
)
def test_what_no_telemetry_sees_is_not_in_it(kind: FaultKind):
    assert measure(Fault(kind, NOW)) == measure()


async def test_the_node_serves_them_on_its_own_address(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    capacity = {"cpu": "4", "memory": "8Gi", "pods": "9", "nvidia.com/gpu": "1", MAIA: "1"}
    config = make_config(
        tmp_path,
        address=IPv4Address("127.0.0.1"),
        metrics_port=port,
        capacity=capacity,
        device_profile="h100",
    )
    broken = DeviceState(MAIA, 0, (Fault(FaultKind.ECC, NOW),))
    (tmp_path / "faults.json").write_text(encode_states([broken]))
    bank = DeviceBank(config, lambda _: None)
    # Only what is served matters here, not sockets in a directory that may have a long path.
    bank.look()
    await bank._metrics.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/metrics") as response,
        ):
            text = await response.text()
    finally:
        await bank._metrics.stop()
    [family] = [
        family
        for family in text_string_to_metric_families(text)
        if family.name == "DCGM_FI_DEV_XID_ERRORS"
    ]
    assert family.type == "gauge"
    assert {sample.labels["device"]: sample.value for sample in family.samples} == {
        "nvidia0": 0,
        "maia0": 48,
    }
    for sample in family.samples:
        assert sample.labels.items() >= {
            ("gpu", "0"),
            ("Hostname", "maia-0"),
            ("emulated", "true"),
        }
    shown = {family.name for family in text_string_to_metric_families(text)}
    fields = measure_device(DeviceState(MAIA, 0), NOW, Reading(0, 0, 0, 0, 0, 0))
    assert shown == {f"DCGM_FI_DEV_{field}" for field in fields}
