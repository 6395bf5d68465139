"""Devices that are slow or hang, as they show from outside of a real worker process."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import openai
import pytest

from ..unit.worker.workerprocess import DEADLINE
from .faultyworker import (
    ASKED,
    EMULATED,
    are_right,
    ask_known,
    begin_stream,
    connect,
    count_tokens,
    list_known,
    wait_until,
)


def read_log(worker, event):
    """Return the one line of a worker's log that tells of an event."""
    [found] = [
        line
        for line in map(json.loads, worker.log.read_text().splitlines())
        if line["event"] == event
    ]
    return found


def test_a_slow_start_takes_longer_and_nothing_else(start, devices):
    def measure():
        worker = start(*EMULATED, "--startup-seconds=30", "--time-compression=60")
        begun, ended = (
            datetime.fromisoformat(read_log(worker, event)["timestamp"])
            for event in ("emulated start-up", "ready")
        )
        return ended - begun, worker

    usual, worker = measure()
    begun = read_log(worker, "emulated start-up")
    assert (begun["seconds"], begun["uncompressed_seconds"]) == (0.5, 30)
    assert begun["time_compression"] == 60
    devices[0].tell("slow-start", slowdown=8)
    assert are_right(worker) == [True] * 4  # what runs is as it was
    slow, worker = measure()
    assert slow > 3 * usual
    assert are_right(worker) == [True] * 4


def test_a_slow_start_that_is_healed_goes_on_as_usual(start, devices):
    devices[0].tell("slow-start", slowdown=1e5)
    worker = start(*EMULATED, "--startup-seconds=1", ready=False)
    wait_until(lambda: worker.get("/readyz")[1] == "loading, emulated as 1 s")
    devices[0].tell()
    worker.until("/readyz", 200)


def test_one_throttled_device_of_two_holds_the_worker_up_and_is_the_busier_one(start, devices):
    worker = start(*EMULATED)
    with connect(worker) as client:
        stream = begin_stream(client, max_tokens=200)
        wait_until(lambda: 0 < devices[0].hear().busy == devices[1].hear().busy)
        devices[1].tell("throttle", slowdown=4)

        def is_waiting():
            waiting, throttled = (device.hear().busy for device in devices)
            return 0 < waiting < throttled / 2

        wait_until(is_waiting)
        assert worker.get("/healthz") == (200, "ok")
        stream.close()


def test_a_throttled_device_answers_rightly_and_late(start, devices):
    worker = start(*EMULATED)

    measured = []

    def measure():
        began = time.monotonic()
        with connect(worker) as client:
            answer = client.completions.create(**ASKED, max_tokens=5)
        measured.append((time.monotonic() - began, answer.choices[0].text))
        return measured[-1][0]

    # The least of some: one alone may have waited for the processor, and be no measure.
    seconds = min(measure() for _ in range(3))
    devices[0].tell("throttle", slowdown=8)
    wait_until(lambda: measure() > 3 * seconds)
    assert len({text for _, text in measured}) == 1
    assert worker.get("/healthz") == (200, "ok")


def test_without_an_emulated_device_throttling_changes_nothing(start, devices):
    worker = start()
    devices[0].tell("throttle", slowdown=1e6)
    assert are_right(worker) == [True] * 4


@pytest.mark.parametrize(("emulated", "tokens"), [(EMULATED, 60), ((), 150)])
def test_a_device_that_hangs_is_told_until_it_is_healed(start, devices, emulated, tokens):
    worker = start(*emulated)
    with connect(worker) as client, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(list, begin_stream(client, max_tokens=tokens))
        devices[0].tell("hang")
        told = worker.until("/healthz", 503)
        assert told.startswith("device call late: ")
        assert worker.get("/readyz")[0] == 503
        made = count_tokens(worker)
        with pytest.raises(openai.InternalServerError, match="device call late"):
            client.completions.create(**ASKED, max_tokens=3)
        assert ask_known(worker, list_known(worker)[0])[0] == 503
        assert count_tokens(worker) == made
        assert not stream.done()
        devices[0].tell()
        worker.until("/healthz", 200)
        assert len(stream.result(DEADLINE)) == tokens - 1
        assert client.completions.create(**ASKED, max_tokens=3).usage.completion_tokens == 3


@pytest.mark.parametrize("emulated", [EMULATED, ()])
def test_a_device_that_hangs_is_told_before_a_request_meets_it(start, devices, emulated):
    worker = start(*emulated)
    devices[0].tell("hang")
    assert worker.until("/healthz", 503).startswith("device call late: ")
    devices[0].tell()
    worker.until("/healthz", 200)
    assert are_right(worker) == [True] * 4


def test_a_worker_on_a_hung_device_ends_when_told_to(start, devices):
    worker = start(*EMULATED)
    with connect(worker) as client:
        begin_stream(client)
        devices[0].tell("hang")
        worker.until("/healthz", 503)
        worker.terminate()
        assert worker.wait() == 0


def test_no_worker_is_ready_on_a_hung_device(start, devices):
    devices[0].tell("hang")
    worker = start(ready=False)
    wait_until(lambda: worker.get("/readyz")[1] == "loading: a device does not answer")
    devices[0].tell()
    worker.until("/readyz", 200)
    devices[0].tell("hang")
    again = start(ready=False)
    wait_until(lambda: again.get("/readyz")[0] == 503)
    again.terminate()
    assert again.wait() == 0


def test_a_worker_that_was_stopped_for_a_while_blames_no_device(start):
    worker = start(*EMULATED)
    with connect(worker) as client, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(list, begin_stream(client, max_tokens=100))
        for _ in range(3):
            worker.process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            worker.process.send_signal(signal.SIGCONT)
            for _ in range(10):
                assert worker.get("/healthz") == (200, "ok")
                time.sleep(0.02)
        assert len(stream.result(DEADLINE)) == 99
    assert "fault found" not in worker.log.read_text()
