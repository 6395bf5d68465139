"""An engine that hangs is told from one whose process was stopped and continued."""

from types import SimpleNamespace

import pytest

from sluice_worker.watchdog import CONFIRM_AFTER, STUCK_AFTER, Watchdog


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
