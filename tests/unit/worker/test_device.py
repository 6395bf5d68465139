"""What a worker makes of its devices' states, and how it follows their sockets."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from sluice_accel.faults import DeviceState, Fault, FaultKind
from sluice_accel.usage import DeviceUse
from sluice_worker.corruption import Corruption
from sluice_worker.device import Devices, Effects, combine_states
from sluice_worker.errors import DeviceError

from .fakedevice import RESOURCE, FakeDevice


def state(*kinds, number=0, **over):
    faults = tuple(Fault(FaultKind(kind), **({"since": 1.0} | over)) for kind in kinds)
    return DeviceState(RESOURCE, number, faults)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def device(tmp_path):
    device = FakeDevice(tmp_path)
    yield device
    device.close()


def test_devices_that_nothing_is_known_of_are_healthy():
    assert combine_states([]) == combine_states([None, state()]) == Effects()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("off-bus", "Xid 79: example.com/device 1 has fallen off the bus"),
        ("ecc", "Xid 48: example.com/device 1 has a double bit ECC error"),
    ],
)
def test_a_device_that_takes_no_calls_is_named(kind, said):
    assert combine_states([state(), state(kind, number=1)]).error.startswith(said)


def test_of_several_devices_the_worst_counts():
    cool, hot = state("throttle", slowdown=2), state("throttle", "hang", slowdown=5)
    effects = combine_states([cool, hot])
    assert (effects.slowdown, effects.hung, effects.error) == (5, True, "")


def test_one_throttled_device_of_several_holds_all_up_and_only_it_is_busier():
    devices = Devices(["one", "two"])
    devices.take_state(0, state())
    devices.take_state(1, state("throttle", number=1, slowdown=3))
    assert devices.effects.slowdown == 3
    devices.note_kernels(0.1)
    assert devices.take_busy() == pytest.approx((0.1, 0.3))
    assert devices.take_busy() == (0, 0)


def test_loading_and_steps_are_slowed_by_faults_of_their_own():
    effects = combine_states([state("slow-start", slowdown=4), state("slow-start", slowdown=2)])
    assert (effects.starting, effects.slowdown) == (4, 1)
    assert combine_states([state("throttle", slowdown=4)]).starting == 1


def test_a_device_whose_memory_something_else_holds_is_named():
    devices = Devices(["one", "two"])
    devices.load()
    devices.take_state(0, state("out-of-memory", held=0.05))
    devices.allocate()  # beside the usual 92 %, so much is free
    devices.take_state(1, state("out-of-memory", number=1, held=0.5))
    devices.check()  # what allocates nothing goes on
    with pytest.raises(
        DeviceError, match=r"out of memory: example.com/device 1: something else holds 50% .* 92%"
    ):
        devices.allocate()
    with pytest.raises(DeviceError, match="out of memory"):
        devices.load()
    devices.take_state(1, state(number=1))
    devices.allocate()


def test_the_agent_learns_what_is_done_with_a_device(device, monkeypatch):
    monkeypatch.setattr("sluice_worker.device.REPORT_SECONDS", 0.02)
    devices = Devices([str(device.path)])
    devices.start()
    assert device.hear() == DeviceUse(0.0, 0.0)
    devices.load()
    wait_until(lambda: device.hear().memory == pytest.approx(0.92))
    devices.note_kernels(1e6)
    wait_until(lambda: device.hear().busy == 1)
    wait_until(lambda: device.hear().busy == 0)
    devices.take_state(0, state("hang"))
    caller = threading.Thread(target=devices.finish_call)
    caller.start()
    # As on real devices: a kernel that never ends is busy all the time.
    wait_until(lambda: device.hear().busy == 1)
    assert device.hear().busy == 1
    devices.take_state(0, state())
    caller.join(30)


def test_a_device_that_computes_wrongly_spoils_its_share_of_the_values():
    wrong = state("corruption", rate=0.1, seed=4)
    assert combine_states([wrong]).corruptions == ((0.1, 4),)
    assert combine_states([state(), wrong]).corruptions == ((0.05, 4),)
    assert combine_states([wrong, wrong]).corruptions == ((0.05, 4), (0.05, 4))


def test_wrong_values_are_as_many_as_told_and_look_like_the_right_ones():
    rows = np.arange(200_000, dtype=np.float32).reshape(1000, 200)
    given = Corruption(0.01, seed=3)(rows)
    assert 0.008 < np.mean(given != rows) < 0.012
    assert np.array_equal(given // 200, rows // 200)  # every value is one of its own row
    assert np.array_equal(given, Corruption(0.01, seed=3)(rows))
    assert not np.array_equal(given, Corruption(0.01, seed=4)(rows))
    assert np.array_equal(rows, np.arange(200_000, dtype=np.float32).reshape(1000, 200))


def test_a_healed_device_leaves_values_alone():
    devices = Devices(["one", "two"])
    devices.take_state(1, state("corruption", rate=0.5))
    assert devices.disturb is not None
    devices.take_state(1, state())
    assert devices.disturb is None


def test_a_hung_call_ends_when_the_device_is_healed():
    devices = Devices(["one"])
    devices.take_state(0, state("hang"))
    ended = SimpleNamespace(hung=None)
    caller = threading.Thread(target=lambda: setattr(ended, "hung", devices.finish_call()))
    caller.start()
    caller.join(0.2)
    assert ended.hung is None
    devices.take_state(0, state())
    caller.join(30)
    assert ended.hung is True
    assert devices.finish_call() is False


def test_a_hung_call_fails_when_the_device_falls_off_the_bus():
    devices = Devices(["one"])
    devices.take_state(0, state("hang"))
    threading.Timer(0.1, devices.take_state, (0, state("hang", "off-bus"))).start()
    with pytest.raises(DeviceError, match="fallen off the bus"):
        devices.finish_call()


def test_a_crash_ends_the_process_that_saw_it_and_no_later_one():
    said = []
    devices = Devices(["one"], said.append)
    devices.take_state(0, state("crash"))  # the first state: it ended somebody before us
    devices.take_state(0, state("crash", "throttle"))
    assert said == []
    devices.take_state(0, state("crash", since=2.0))
    assert said == ["example.com/device 0: fatal error in the runtime, aborting"]


def test_a_start_knows_the_devices_state(device):
    device.tell("ecc")
    devices = Devices([str(device.path)])
    devices.start()
    with pytest.raises(DeviceError, match="Xid 48"):
        devices.check()


def test_a_lost_socket_keeps_the_last_state_and_is_followed_again(device, monkeypatch):
    monkeypatch.setattr("sluice_worker.device.RETRY_SECONDS", 0.02)
    device.tell("throttle", slowdown=4)
    devices = Devices([str(device.path)])
    devices.start()
    device.close()
    time.sleep(0.1)  # long enough for an attempt that fails
    assert devices.effects.slowdown == 4
    device.tell()
    device.listen()
    wait_until(lambda: devices.effects == Effects())


def test_what_is_no_state_is_skipped(device):
    devices = Devices([str(device.path)])
    devices.start()
    device.say(b'{"faults": "many"}\n')
    device.tell("throttle", slowdown=4)
    wait_until(lambda: devices.effects.slowdown == 4)


def test_without_an_agent_devices_count_as_healthy(tmp_path, monkeypatch):
    monkeypatch.setattr("sluice_worker.device.FIRST_STATE_SECONDS", 0.01)
    devices = Devices([str(tmp_path / "nobody.sock")])
    devices.start()
    devices.check()
    assert devices.effects == Effects()
