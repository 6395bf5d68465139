"""An engine that hangs is told from one whose process was stopped and continued."""

from types import SimpleNamespace

import pytest

from sluice_worker.pacing import DeviceCall
from sluice_worker.watchdog import CONFIRM_AFTER, LOOK_EVERY, STUCK_AFTER, Watchdog


@pytest.fixture
def watched():
    engine = SimpleNamespace(beat=100.0, call=None, is_alive=lambda: True)
    clock = SimpleNamespace(now=100.0)
    return engine, clock, Watchdog(engine, lambda: clock.now)


def test_a_step_that_hangs_is_told_as_long_as_it_hangs(watched):
    engine, clock, watchdog = watched
    clock.now += STUCK_AFTER + 1
    watchdog.find_fault()
    clock.now += CONFIRM_AFTER
    assert watchdog.find_fault() == "no step for 12 s"
    clock.now += 60
    assert watchdog.find_fault() == "no step for 72 s"
    engine.beat = clock.now
    assert watchdog.find_fault() == ""


def test_a_process_that_was_stopped_is_healthy_when_it_goes_on(watched):
    engine, clock, watchdog = watched
    for _ in range(2):
        clock.now += 300
        assert [watchdog.find_fault() for _ in range(20)] == [""] * 20  # what piled up
        clock.now += CONFIRM_AFTER / 2
        engine.beat = clock.now
        assert watchdog.find_fault() == ""


def test_a_thread_that_has_ended_is_told_at_once(watched):
    engine, _, watchdog = watched
    engine.is_alive = lambda: False
    assert watchdog.find_fault() == "the engine's thread has ended"


def look_for(watchdog, clock, seconds):
    """Let time go on with the looks that the server makes."""
    for _ in range(round(seconds / LOOK_EVERY)):
        clock.now += LOOK_EVERY
        watchdog.look()


def test_a_device_call_that_hangs_is_told_within_seconds(watched):
    engine, clock, watchdog = watched
    engine.call = DeviceCall(due=100.03, expected=0.03)
    look_for(watchdog, clock, 1.0)
    assert watchdog.find_fault() == ""
    look_for(watchdog, clock, 1.0)
    assert watchdog.find_fault() == "device call late: 2.0 s, expected 0.03 s"
    engine.call, engine.beat = DeviceCall(clock.now, 0.03), clock.now  # healed: the next step
    assert watchdog.find_fault() == ""


def test_a_long_call_has_twenty_times_its_time(watched):
    engine, clock, watchdog = watched
    engine.call = DeviceCall(due=100.4, expected=0.4)
    look_for(watchdog, clock, 8.0)
    assert watchdog.find_fault() == ""
    look_for(watchdog, clock, 1.5)
    assert watchdog.find_fault().startswith("device call late: 9.1 s, expected 0.40 s")


def test_slow_computing_is_no_late_call(watched):
    _, clock, watchdog = watched
    look_for(watchdog, clock, 9.0)
    assert watchdog.find_fault() == ""


def test_a_process_that_was_stopped_again_and_again_blames_no_device(watched):
    engine, clock, watchdog = watched
    engine.call = DeviceCall(due=100.03, expected=0.03)
    for _ in range(3):
        clock.now += 3
        watchdog.look()
        clock.now += LOOK_EVERY  # and the engine's thread has not had its turn yet
        watchdog.look()
        assert watchdog.find_fault() == ""


def test_a_hung_device_stays_told_when_the_process_is_stopped(watched):
    engine, clock, watchdog = watched
    engine.call = DeviceCall(due=100.03, expected=0.03)
    look_for(watchdog, clock, 3.0)
    clock.now += 30
    watchdog.look()
    assert watchdog.find_fault().startswith("device call late: 33.0 s")
