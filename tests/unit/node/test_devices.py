"""What is wrong with devices: as the file says it, as processes and the control plane learn it."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice_accel.faults import (
    DeviceState,
    Fault,
    FaultKind,
    decode_state,
    encode_states,
)
from sluice_accel.usage import DeviceUse, encode_use
from sluice_node import devicebank, devicestates
from sluice_node.devicebank import DeviceBank
from sluice_node.devicehealth import THROTTLE_SECONDS, judge_devices
from sluice_node.devices import AdmissionError, CapacityLedger, list_devices
from sluice_node.devicestates import CRASH_SECONDS, DeviceStates

from .nodeworld import make_config

MAIA = "sluice.dev/maia"
DEVICES = ((MAIA, 0), (MAIA, 1))
NOW = 1000.0


def break_device(file: Path, *faults: Fault, number: int = 0) -> None:
    """Write the file as whoever emulates the hardware does: in one step, the whole of it."""
    pending = file.with_suffix(".new")
    pending.write_text(encode_states([DeviceState(MAIA, number, faults)]))
    pending.replace(file)


def fault(kind: FaultKind, since: float = NOW, **more: Any) -> Fault:
    return Fault(kind, since, **more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "faults.json"


def kinds_of(states: list[DeviceState]) -> list[tuple[int, list[str]]]:
    return [(state.number, [str(fault.kind) for fault in state.faults]) for state in states]


def test_a_change_of_the_file_is_told_once(file: Path):
    states = DeviceStates(DEVICES, file)
    assert states.look(0) == []
    break_device(file, fault(FaultKind.THROTTLE, slowdown=2.0), number=1)
    [told] = states.look(1)
    assert told == DeviceState(MAIA, 1, (Fault(FaultKind.THROTTLE, NOW, slowdown=2.0),))
    assert states.look(2) == []
    assert states.show((MAIA, 1)) == told
    file.unlink()
    assert kinds_of(states.look(3)) == [(1, [])]


def test_what_was_broken_is_broken_for_the_next_agent_too(file: Path):
    break_device(file, fault(FaultKind.OFF_BUS))
    states = DeviceStates(DEVICES, file)
    states.look(0)
    assert kinds_of(list(states.show_all())) == [(0, ["off-bus"]), (1, [])]


def test_a_crash_passes_and_leaves_other_faults(file: Path):
    states = DeviceStates(DEVICES, file)
    states.look(0)
    break_device(file, fault(FaultKind.HANG), fault(FaultKind.CRASH))
    assert kinds_of(states.look(10)) == [(0, ["hang", "crash"])]
    # The next process may start: it opens the device and sees no crash.
    assert states.show((MAIA, 0)).find(FaultKind.CRASH) is None
    assert states.look(10 + CRASH_SECONDS / 2) == []
    assert kinds_of(states.look(10 + CRASH_SECONDS)) == [(0, ["hang"])]
    assert states.look(20) == []


def test_each_crash_comes_once(file: Path):
    break_device(file, fault(FaultKind.CRASH))
    states = DeviceStates(DEVICES, file)
    assert states.look(0) == []  # of before the agent started
    break_device(file, fault(FaultKind.CRASH), fault(FaultKind.HANG))
    assert kinds_of(states.look(1)) == [(0, ["hang"])]
    break_device(file, fault(FaultKind.CRASH, NOW + 1), fault(FaultKind.HANG))
    assert kinds_of(states.look(2)) == [(0, ["hang", "crash"])]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", '[{"resource": "x"}]', "\0", "[" * 5000),
        '[{"resource": "sluice.dev/maia", "number": 1e999, "faults": []}]',
    ],
)
def test_a_file_that_is_none_changes_nothing_and_is_said_once(
    file: Path, text: str, caplog: pytest.LogCaptureFixture
):
    states = DeviceStates(DEVICES, file)
    break_device(file, fault(FaultKind.ECC))
    states.look(0)
    file.write_text(text)
    assert states.look(1) == []
    assert states.look(2) == []
    assert states.show((MAIA, 0)).find(FaultKind.ECC) is not None
    assert caplog.text.count("cannot be used, the devices stay as they are") == 1


def test_a_device_that_is_not_there_is_named(file: Path, caplog: pytest.LogCaptureFixture):
    states = DeviceStates(DEVICES, file)
    break_device(file, fault(FaultKind.ECC), number=7)
    assert states.look(0) == []
    assert "names sluice.dev/maia 7, which this node does not have" in caplog.text


def test_a_fault_with_a_schedule_is_shown_while_it_is_there(file: Path):
    now = NOW
    states = DeviceStates(DEVICES, file, lambda: now)
    break_device(file, fault(FaultKind.HANG, NOW + 10, until=NOW + 20))
    assert states.look(0) == []
    now = NOW + 10
    assert kinds_of(states.look(1)) == [(0, ["hang"])]
    assert states.look(2) == []
    now = NOW + 20
    assert kinds_of(states.look(3)) == [(0, [])]


def test_a_crash_that_is_due_later_comes_then_also_to_a_later_agent(file: Path):
    break_device(file, fault(FaultKind.CRASH, NOW + 10))
    now = NOW
    states = DeviceStates(DEVICES, file, lambda: now)
    assert states.look(0) == []
    now = NOW + 10
    assert kinds_of(states.look(1)) == [(0, ["crash"])]
    assert states.look(1.5) == []
    late = DeviceStates(DEVICES, file, lambda: now)
    assert late.look(0) == []


def test_what_a_device_does_by_itself_adds_to_what_is_in_the_file(file: Path):
    states = DeviceStates(DEVICES, file)
    break_device(file, fault(FaultKind.COOLING))
    hot = fault(FaultKind.THROTTLE, slowdown=2.0)
    assert kinds_of(states.look(0, {(MAIA, 0): (hot,)})) == [(0, ["cooling", "throttle"])]
    assert states.look(1, {(MAIA, 0): (hot,)}) == []
    break_device(file, fault(FaultKind.THROTTLE, slowdown=8.0))
    [told] = states.look(2, {(MAIA, 0): (hot,)})
    assert [each.slowdown for each in told.faults] == [8.0]
    assert states.show_written((MAIA, 0)) == told
    file.unlink()
    assert kinds_of(states.look(3)) == [(0, [])]


def judge(*faults: Fault, now: float = NOW) -> Any:
    return judge_devices([DeviceState(MAIA, 0), DeviceState(MAIA, 1, faults)], now)


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        (FaultKind.OFF_BUS, "AcceleratorMissing", "device 1 (sluice.dev/maia) has fallen off"),
        (FaultKind.ECC, "UncorrectableECCError", "uncorrectable ECC error (XID 48"),
    ],
)
def test_what_the_driver_logs_makes_a_device_unhealthy(kind: FaultKind, reason: str, words: str):
    report = judge(fault(kind))
    assert (report.healthy, report.reason) == (False, reason)
    assert words in report.message
    assert report.unhealthy == {(MAIA, 1)}


@pytest.mark.parametrize(
    "kind", [kind for kind in FaultKind if kind not in ("off-bus", "ecc", "throttle")]
)
def test_the_node_does_not_see_what_nobody_logs(kind: FaultKind):
    report = judge(fault(kind))
    assert (report.healthy, report.reason) == (True, "AcceleratorIsHealthy")
    assert report.unhealthy == frozenset()


def test_throttling_is_a_fault_only_when_it_lasts():
    hot = fault(FaultKind.THROTTLE)
    assert judge(hot, now=NOW + THROTTLE_SECONDS - 0.1).healthy
    report = judge(hot, now=NOW + THROTTLE_SECONDS)
    assert (report.healthy, report.reason) == (False, "ClockThrottling")
    assert report.unhealthy == frozenset()
    assert judge(hot, now=NOW + 9 * THROTTLE_SECONDS) == report  # or it would be sent every beat


def test_the_gravest_fault_gives_the_reason_and_all_are_named():
    states = [
        DeviceState(MAIA, 0, (fault(FaultKind.ECC),)),
        DeviceState(MAIA, 1, (fault(FaultKind.OFF_BUS),)),
    ]
    report = judge_devices(states, NOW)
    assert report.reason == "AcceleratorMissing"
    assert "device 1 (sluice.dev/maia) has fallen off the bus" in report.message
    assert "device 0 (sluice.dev/maia) has an uncorrectable ECC error" in report.message


def test_an_unhealthy_device_is_given_to_nobody_and_taken_from_nobody():
    ledger = CapacityLedger({"cpu": "4", "memory": "8Gi", "pods": "9", MAIA: "2"})
    spec = {"containers": [{"name": "c", "resources": {"limits": {MAIA: "1"}}}]}
    ledger.admit("holder", spec)
    ledger.note_unhealthy(frozenset({(MAIA, 0)}))
    assert ledger.list_devices("holder", "c") == [(MAIA, 0)]
    ledger.release("holder")
    ledger.admit("next", spec)
    assert ledger.list_devices("next", "c") == [(MAIA, 1)]
    with pytest.raises(AdmissionError, match="Requested: 1, Available: 0"):
        ledger.admit("one-more", spec)
    ledger.note_unhealthy(frozenset())
    ledger.admit("one-more", spec)


def test_devices_are_what_comes_in_numbered_pieces():
    capacity = {"cpu": "4", "pods": "9", "nvidia.com/gpu": "1", MAIA: "2"}
    assert list_devices(capacity) == (("nvidia.com/gpu", 0), *DEVICES)


@pytest.fixture
def device_dir() -> Iterator[Path]:
    """Return a directory whose path is short, wherever the temporary files of tests lie."""
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
async def bank(
    tmp_path: Path, device_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DeviceBank]:
    monkeypatch.setattr(devicebank, "_LOOK_SECONDS", 0.01)
    bank = DeviceBank(make_config(tmp_path, device_dir=device_dir), lambda _: None)
    await bank.start()
    running = asyncio.create_task(bank.run())
    yield bank
    running.cancel()
    await bank.stop()
    await asyncio.gather(running, return_exceptions=True)


async def read_kinds(reader: asyncio.StreamReader) -> list[str]:
    async with asyncio.timeout(10):
        return [str(fault.kind) for fault in decode_state(await reader.readline()).faults]


async def test_every_process_is_told_the_present_state_and_each_change(
    bank: DeviceBank, file: Path
):
    path = bank.find_socket((MAIA, 1))
    first, writer = await asyncio.open_unix_connection(path)
    assert await read_kinds(first) == []
    break_device(file, fault(FaultKind.CORRUPTION), number=1)
    assert await read_kinds(first) == ["corruption"]
    second, other = await asyncio.open_unix_connection(path)
    assert await read_kinds(second) == ["corruption"]
    writer.close()  # a process that ends concerns nobody else
    break_device(file, number=1)
    assert await read_kinds(second) == []
    other.close()


async def test_a_crash_reaches_who_uses_the_device_and_not_who_comes_after(
    bank: DeviceBank, file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(devicestates, "CRASH_SECONDS", 0.05)
    path = bank.find_socket((MAIA, 0))
    before, writer = await asyncio.open_unix_connection(path)
    assert await read_kinds(before) == []
    break_device(file, fault(FaultKind.CRASH))
    assert await read_kinds(before) == ["crash"]
    after, other = await asyncio.open_unix_connection(path)
    assert await read_kinds(after) == []
    assert await read_kinds(before) == []
    writer.close()
    other.close()


async def test_a_process_that_reads_nothing_is_cut_off(bank: DeviceBank):
    reader, writer = await asyncio.open_unix_connection(bank.find_socket((MAIA, 0)), limit=1)
    state = DeviceState(MAIA, 0, (fault(FaultKind.HANG),) * 1000)  # to fill the buffers soon
    async with asyncio.timeout(10):
        await reader.readexactly(1)
        while bank._sockets._open[MAIA, 0]:
            bank._sockets.tell(state)
            await asyncio.sleep(0)
    writer.close()


async def test_what_processes_do_with_a_device_is_summed_while_they_have_it(bank: DeviceBank):
    device = (MAIA, 0)
    path = bank.find_socket(device)

    async def until(busy: float, memory: float) -> None:
        deadline = time.monotonic() + 10
        while bank._sockets.sum_use(device) != DeviceUse(busy, memory):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    writers = []
    for use in (DeviceUse(0.5, 0.25), DeviceUse(0.75, 0.5)):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(encode_use(use))
        writers.append(writer)
    await until(1.0, 0.75)
    writers[0].write(encode_use(DeviceUse(0.125, 0.25)))
    await until(0.875, 0.75)
    writers[1].close()
    await until(0.125, 0.25)
    writers[0].close()
    await until(0.0, 0.0)


@pytest.mark.parametrize("line", [b"nonsense\n", b"x" * 100_000])
async def test_a_process_that_sends_what_is_no_use_is_cut_off(
    bank: DeviceBank, line: bytes, caplog: pytest.LogCaptureFixture
):
    reader, writer = await asyncio.open_unix_connection(bank.find_socket((MAIA, 0)))
    assert await read_kinds(reader) == []
    writer.write(line)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    assert "a process that has sluice.dev/maia 0 open sent" in caplog.text
    writer.close()


@pytest.mark.usefixtures("bank")
async def test_an_agent_takes_the_place_of_one_that_was_killed(tmp_path: Path, device_dir: Path):
    """A killed agent leaves its sockets: the next one listens at the same paths."""
    again = DeviceBank(make_config(tmp_path, device_dir=device_dir), lambda _: None)
    await again.start()
    reader, writer = await asyncio.open_unix_connection(again.find_socket((MAIA, 0)))
    assert await read_kinds(reader) == []
    writer.close()
    await again.stop()
    assert not again.find_socket((MAIA, 0)).exists()


async def test_a_path_too_long_for_a_socket_is_a_sentence(tmp_path: Path):
    long = DeviceBank(make_config(tmp_path, device_dir=tmp_path / ("d" * 100)), lambda _: None)
    with pytest.raises(OSError, match=r"may not exceed 107 bytes\. Name a shorter deviceDir"):
        await long.start()


async def test_the_health_agent_speaks_when_something_changed(tmp_path: Path, file: Path):
    told: list[str] = []
    bank = DeviceBank(make_config(tmp_path), lambda report: told.append(report.reason))
    bank.look()
    bank.look()
    break_device(file, fault(FaultKind.ECC))
    bank.look()
    break_device(file)
    bank.look()
    assert told == ["AcceleratorIsHealthy", "UncorrectableECCError", "AcceleratorIsHealthy"]
