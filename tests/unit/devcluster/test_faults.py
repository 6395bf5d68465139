"""Breaking and healing the hardware of an emulated node, whatever its agent does."""

import time
from pathlib import Path
from typing import Any

import pytest

from sluice.devcluster.errors import NodeError
from sluice.devcluster.faults import FaultRequest, NodeHardware
from sluice_accel.faults import DeviceState, FaultKind, decode_states

MAIA = "sluice.dev/maia"


@pytest.fixture
def hardware(tmp_path: Path) -> NodeHardware:
    return NodeHardware("maia-0", {MAIA: "2"}, tmp_path / "maia-0")


def do_break(hardware: NodeHardware, **body: Any) -> None:
    hardware.break_devices(FaultRequest.parse(body))


def read(tmp_path: Path) -> dict[int, DeviceState]:
    """Return what the agent would read, by device."""
    states = decode_states((tmp_path / "maia-0" / "faults.json").read_text())
    assert {state.resource for state in states} <= {MAIA}
    return {state.number: state for state in states}


def test_a_fault_is_written_where_the_agent_looks(hardware: NodeHardware, tmp_path: Path) -> None:
    do_break(hardware, fault="corruption", device=1, rate=0.25, seed=7)
    [(number, state)] = read(tmp_path).items()
    [fault] = state.faults
    assert (number, fault.kind, fault.rate) == (1, FaultKind.CORRUPTION, 0.25)
    [shown] = hardware.describe()
    assert shown == {
        "device": 1,
        "resource": MAIA,
        "fault": "corruption",
        "since": fault.since,
        "rate": 0.25,
    }


def test_the_first_device_breaks_where_none_is_named(
    hardware: NodeHardware, tmp_path: Path
) -> None:
    do_break(hardware, fault="ecc")
    assert list(read(tmp_path)) == [0]


def test_all_devices_break_each_with_a_chance_of_its_own(
    hardware: NodeHardware, tmp_path: Path
) -> None:
    do_break(hardware, fault="corruption", device="all", seed=4)
    assert [state.faults[0].seed for state in read(tmp_path).values()] == [4, 5]


def test_faults_add_up_and_one_of_a_kind_replaces_the_other(
    hardware: NodeHardware, tmp_path: Path
) -> None:
    do_break(hardware, fault="throttle", slowdown=2)
    do_break(hardware, fault="ecc")
    do_break(hardware, fault="throttle", slowdown=5.0)
    faults = read(tmp_path)[0].faults
    assert [(fault.kind, fault.slowdown) for fault in faults if fault.kind == "throttle"] == [
        (FaultKind.THROTTLE, 5.0)
    ]
    assert {shown["fault"] for shown in hardware.describe()} == {"ecc", "throttle"}


def test_healing_takes_everything_away(hardware: NodeHardware, tmp_path: Path) -> None:
    do_break(hardware, fault="off-bus", device="all")
    hardware.heal()
    assert read(tmp_path) == {}
    assert hardware.describe() == []
    hardware.heal()  # of what is whole


def test_a_crash_is_forgotten_by_itself(
    hardware: NodeHardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_break(hardware, fault="crash")
    assert [shown["fault"] for shown in hardware.describe()] == ["crash"]
    do_break(hardware, fault="hang", device=1)
    assert read(tmp_path)[0].find(FaultKind.CRASH) is not None  # the agent may not have looked yet
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert [shown["fault"] for shown in hardware.describe()] == ["hang"]
    do_break(hardware, fault="ecc", device=1)
    assert list(read(tmp_path)) == [1]


def test_memory_and_loading_break_with_numbers_of_their_own(
    hardware: NodeHardware, tmp_path: Path
) -> None:
    do_break(hardware, fault="out-of-memory", held=0.25)
    do_break(hardware, fault="slow-start", slowdown=5, device=1)
    full, slow = (state.faults[0] for state in read(tmp_path).values())
    assert (full.kind, full.held) == (FaultKind.OUT_OF_MEMORY, 0.25)
    assert (slow.kind, slow.slowdown) == (FaultKind.SLOW_START, 5)
    shown = {entry["fault"]: entry for entry in hardware.describe()}
    assert shown["out-of-memory"]["held"] == 0.25
    assert shown["slow-start"]["slowdown"] == 5
    assert "slowdown" not in shown["out-of-memory"]


def test_a_fault_may_come_later_and_be_repaired_by_itself(
    hardware: NodeHardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    do_break(hardware, fault="hang", after=30, repairAfter=600, timeCompression=100)
    [fault] = read(tmp_path)[0].faults
    assert (fault.since - now, fault.until - now) == (30, 36)
    [shown] = hardware.describe()
    assert (shown["since"] - now, shown["until"] - now) == (30, 36)
    assert shown["present"] is False
    now += 33
    assert hardware.describe()[0]["present"] is True
    now += 3
    assert hardware.describe() == []
    do_break(hardware, fault="ecc", device=1)
    assert list(read(tmp_path)) == [1]


def test_a_fault_may_come_and_go_by_chance(hardware: NodeHardware, tmp_path: Path) -> None:
    do_break(hardware, fault="crash", probability=0.1, period=2, seed=5)
    [fault] = read(tmp_path)[0].faults
    assert (fault.probability, fault.period, fault.seed) == (0.1, 2, 5)
    [shown] = hardware.describe()
    assert (shown["probability"], shown["period"], shown["seed"]) == (0.1, 2, 5)


def test_a_crash_by_chance_is_not_forgotten(
    hardware: NodeHardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_break(hardware, fault="crash", probability=0.1)
    later = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: later)
    assert [shown["fault"] for shown in hardware.describe()] == ["crash"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {},
            "'None' is no fault of a device; use off-bus, ecc, throttle, hang, corruption, crash,",
        ),
        ({"fault": "hang", "slowdown": 2}, "only 'throttle' and 'slow-start' have one"),
        ({"fault": "hang", "held": 0.5}, "A fault 'hang' has no held; only 'out-of-memory' has"),
        ({"fault": "out-of-memory", "held": 2}, "held 2 must be above 0 and at most 1"),
        ({"fault": "hang", "after": -1}, "after is -1; it must be from 0 to 1e"),
        ({"fault": "hang", "after": float("nan")}, "after is nan; it must be from 0"),
        ({"fault": "hang", "after": "soon"}, "after is 'soon'; it must be a number"),
        ({"fault": "hang", "repairAfter": 0}, "repairAfter is 0; it must be from 0.001"),
        ({"fault": "hang", "probability": 0}, "probability 0 must be above 0"),
        ({"fault": "hang", "period": 5}, "give a probability below 1, too"),
        ({"fault": "hang", "probability": 0.5, "period": 0.1}, "period 0.1 must be 1 s at least"),
        ({"fault": "hang", "timeCompression": 9}, "shortens a repair: give repairAfter, too"),
        (
            {"fault": "hang", "repairAfter": 9, "timeCompression": 0.5},
            "timeCompression is 0.5; it must be from 1 to 1000",
        ),
        ({"fault": "rust"}, "'rust' is no fault of a device"),
        ({"fault": ["ecc"]}, r"'\['ecc'\]' is no fault of a device"),
        ({"fault": "ecc", "device": 2}, r"maia-0 has no device 2. Its devices: 0, 1 \(sluice.dev"),
        ({"fault": "ecc", "device": -1}, "maia-0 has no device -1"),
        ({"fault": "ecc", "device": "one"}, "device is 'one'; it must be a whole number or 'all'"),
        ({"fault": "ecc", "device": 0.5}, "device is 0.5; it must be a whole number"),
        ({"fault": "ecc", "device": True}, "device is True; it must be a whole number"),
        ({"fault": "ecc", "device": None}, "device is None; it must be a whole number"),
        ({"fault": "corruption", "rate": 0}, "cannot be broken so: rate 0 must be above 0"),
        ({"fault": "corruption", "rate": 2}, "rate 2 must be above 0 and at most 1"),
        ({"fault": "corruption", "rate": float("nan")}, "rate nan must be above 0"),
        ({"fault": "corruption", "rate": "high"}, "rate is 'high'; it must be a number"),
        ({"fault": "throttle", "slowdown": 0.5}, "slowdown 0.5 must be from 1 to"),
        ({"fault": "ecc", "rate": 0.5}, "A fault 'ecc' has no rate; only 'corruption' has one"),
        ({"fault": "corruption", "slowdown": 2}, "A fault 'corruption' has no slowdown"),
        ({"fault": "corruption", "seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"fault": "ecc", "colour": "red"}, "'break' knows no 'colour'; it takes fault, device"),
    ],
)
def test_what_cannot_break_is_a_sentence_and_breaks_nothing(
    hardware: NodeHardware, body: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(NodeError, match=sentence):
        do_break(hardware, **body)
    assert hardware.describe() == []


def test_a_node_without_devices_has_nothing_to_break(tmp_path: Path) -> None:
    hardware = NodeHardware("system-0", {}, tmp_path)
    with pytest.raises(NodeError, match="system-0 has no devices to break"):
        do_break(hardware, fault="ecc")
    with pytest.raises(NodeError, match="system-0 has no devices to heal"):
        hardware.heal()
