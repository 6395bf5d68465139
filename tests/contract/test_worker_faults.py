"""Devices that fail, as they show from outside of a real worker process, which ends."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from ..unit.worker.workerprocess import DEADLINE
from .faultyworker import (
    ASKED,
    EMULATED,
    are_right,
    begin_stream,
    connect,
    count_tokens,
    wait_until,
)


@pytest.mark.parametrize(("kind", "said"), [("off-bus", "Xid 79"), ("ecc", "Xid 48")])
def test_a_device_that_fails_ends_its_worker_and_every_request(start, devices, kind, said):
    worker = start(*EMULATED)
    with connect(worker) as client, ThreadPoolExecutor(1) as pool:
        stream = begin_stream(client)
        whole = pool.submit(client.completions.create, **ASKED, max_tokens=150)
        wait_until(lambda: worker.metric("vllm:num_requests_running") == 2)
        devices[0].tell(kind)
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)
        with pytest.raises(openai.APIError, match="the engine failed"):
            whole.result(DEADLINE)
    assert worker.wait() == 1
    *lines, last = worker.log.read_text().splitlines()
    assert last.startswith(f"sluice-worker: {said}")
    logged = [line for line in map(json.loads, lines) if line["level"] == "critical"]
    assert [line["event"].partition(":")[0] for line in logged] == [said]


@pytest.mark.parametrize(("kind", "said"), [("off-bus", "Xid 79"), ("ecc", "Xid 48")])
def test_no_worker_starts_on_a_device_that_failed(start, devices, kind, said):
    devices[1].tell(kind)
    worker = start(ready=False)
    assert worker.wait() == 1
    (line,) = worker.log.read_text().splitlines()
    assert line.startswith(f"sluice-worker: {said}: example.com/device 1")


def test_a_worker_runs_out_of_memory_at_its_next_prompt_and_none_starts_until_it_is_freed(
    start, devices
):
    worker = start(*EMULATED)
    with connect(worker) as client:
        stream = begin_stream(client, max_tokens=40)
        devices[1].tell("out-of-memory", held=0.3)
        made = count_tokens(worker)
        wait_until(lambda: count_tokens(worker) > made + 2)  # decoding allocates nothing
        with pytest.raises(openai.InternalServerError, match="the engine failed"):
            client.completions.create(**ASKED, max_tokens=3)
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)
    assert worker.wait() == 1
    said = "out of memory: example.com/device 1: something else holds 30% of its memory"
    assert worker.log.read_text().splitlines()[-1].startswith(f"sluice-worker: {said}")
    late = start(*EMULATED, ready=False)
    assert late.wait() == 1  # Kubernetes starts it again, and waits longer each time
    assert said in late.log.read_text()
    devices[1].tell()
    assert are_right(start(*EMULATED)) == [True] * 4


def test_a_crash_ends_the_worker_at_once_and_a_later_one_serves(start, devices):
    worker = start(*EMULATED)
    devices[0].tell("crash")
    assert worker.wait() == 134
    last = worker.log.read_text().splitlines()[-1]
    assert last == "sluice-worker: example.com/device 0: fatal error in the runtime, aborting"
    again = start(*EMULATED)
    assert are_right(again) == [True] * 4


def test_a_device_that_is_gone_ends_a_worker_that_has_nothing_to_do(start, devices):
    worker = start(*EMULATED)
    devices[0].tell("off-bus")
    assert worker.wait() == 1
    assert "Xid 79" in worker.log.read_text()
