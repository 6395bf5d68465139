"""Faults of devices, and known answers, as they show from outside of a real worker process."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package
# ruff: noqa: S310 - the only URL opened is the worker's

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from sluice.observe.rounds import Round

from ..unit.worker.fakedevice import FakeDevice
from ..unit.worker.workerprocess import DEADLINE, WorkerProcess

COMPACT = Path(__file__).parents[2] / "workers" / "models" / "compact"
EMULATED = ("--profile=maia-200", "--nominal=llama-3.3-70b", "--token-scale=96")
ASKED = {"model": "compact", "prompt": "some text", "seed": 7, "extra_body": {"ignore_eos": True}}
KNOWN = "/internal/known-answers"


@pytest.fixture
def devices(tmp_path):
    devices = [FakeDevice(tmp_path, number) for number in range(2)]
    yield devices
    for device in devices:
        device.close()


@pytest.fixture
def start(tmp_path, devices):
    started = []

    def start(*args, ready=True, model=COMPACT, **over):
        worker = WorkerProcess(model, tmp_path, *args, devices=devices, **over)
        started.append(worker)
        if ready:
            worker.until("/readyz", 200)
        return worker

    yield start
    for worker in started:
        worker.close()


def connect(worker):
    return openai.OpenAI(
        base_url=f"{worker.url}/v1", api_key="unused", max_retries=0, timeout=DEADLINE
    )


def ask_known(worker, one, headers=()):
    """Return status and document of a known prompt's answer."""
    body = json.dumps({"prompt": one["prompt"], "maxTokens": len(one["output"])}).encode()
    request = urllib.request.Request(worker.url + KNOWN, body, dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def list_known(worker):
    return json.loads(worker.get(KNOWN)[1])["answers"]


def are_right(worker):
    """Run a round of known answers; tell after each whether all was right, as the operator does."""
    known = json.loads(worker.get(KNOWN)[1])
    judged = Round([SimpleNamespace(**one) for one in known["answers"]], known["tolerance"])
    right = []
    for one in known["answers"]:
        given = ask_known(worker, one)[1]
        right.append(judged.judge(given["output"], given["logprobs"]) == "")
    return right


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begin_stream(client, **over):
    """Return a stream that has begun."""
    stream = client.completions.create(**(ASKED | {"max_tokens": 150, "stream": True} | over))
    next(iter(stream))
    return stream


def count_tokens(worker):
    return worker.metric("vllm:generation_tokens_total")


def test_a_healthy_worker_gives_the_known_answers(start):
    worker = start()
    known = json.loads(worker.get(KNOWN)[1])
    assert known["modelDigest"].startswith("sha256:")
    assert known["numerics"] == "float32"
    assert known["tolerance"] > 0
    status, given = ask_known(worker, known["answers"][0], {"X-Sluice-Worker-Uid": "uid-1"})
    assert status == 200
    scores = given.pop("logprobs")
    assert scores == pytest.approx(known["answers"][0]["logprobs"], abs=known["tolerance"])
    assert given == {
        "output": known["answers"][0]["output"],
        "modelDigest": known["modelDigest"],
        "numerics": "float32",
    }
    assert are_right(worker) == [True] * 4
    assert worker.metric("sluice_worker_known_answers_total") == 5
    assert count_tokens(worker) == 0


def test_a_worker_in_other_numerics_has_the_known_answers_of_those(start):
    worker = start("--numerics=mx9")
    assert json.loads(worker.get(KNOWN)[1])["numerics"] == "mx9"
    given = ask_known(worker, list_known(worker)[0])[1]
    assert given["numerics"] == "mx9"
    assert are_right(worker) == [True] * 4


def test_known_prompts_for_another_pod_are_sent_back(start):
    worker = start()
    one = list_known(worker)[0]
    assert ask_known(worker, one, {"X-Sluice-Worker-Uid": "uid-2"})[0] == 421
    assert worker.get(KNOWN, {"X-Sluice-Worker-Uid": "uid-2"})[0] == 421


def test_without_known_answers_a_worker_says_why_and_serves(start, tmp_path):
    bare = shutil.copytree(COMPACT, tmp_path / "bare", ignore=lambda *_: ["probes.json"])
    worker = start(model=bare)
    status, text = worker.get(KNOWN)
    assert status == 404
    assert "sluice model record" in json.loads(text)["error"]["message"]
    with connect(worker) as client:
        assert client.completions.create(**ASKED, max_tokens=3).usage.completion_tokens == 3


def test_known_prompts_are_answered_when_batch_and_queue_are_full(start):
    worker = start(*EMULATED, "--max-num-seqs=2", "--max-waiting=2")
    with connect(worker) as client, ThreadPoolExecutor(4) as pool:
        held = []
        for gauge, full in (("running", 2), ("waiting", 2)):
            held += [
                pool.submit(client.completions.create, **ASKED, max_tokens=250) for _ in range(full)
            ]
            wait_until(lambda: worker.metric(f"vllm:num_requests_{gauge}") == full)  # noqa: B023
        with pytest.raises(openai.RateLimitError):
            client.completions.create(**ASKED, max_tokens=1)
        assert are_right(worker) == [True] * 4
        assert worker.metric("vllm:num_requests_running") == 2
        assert not any(one.done() for one in held)
        worker.terminate()
        worker.until("/readyz", 503)  # or two signals at once would count as one
        worker.terminate()


def test_a_second_known_prompt_has_to_wait_its_turn(start, devices):
    worker = start(*EMULATED)
    one = list_known(worker)[0]
    devices[0].tell("throttle", slowdown=6)  # so that they meet, however late the second comes
    with ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(lambda _: ask_known(worker, one)[0], range(2)))
    assert sorted(statuses) == [200, 429]


@pytest.mark.parametrize("numerics", ["float32", "fp8-block", "fp4"])
def test_a_device_that_computes_wrongly_looks_healthy_and_answers_wrongly(start, devices, numerics):
    worker = start(f"--numerics={numerics}")
    assert are_right(worker) == [True] * 4
    devices[1].tell("corruption", rate=0.02, seed=3)  # one of two: 1 % of all values
    wait_until(lambda: not all(are_right(worker)))
    assert worker.get("/healthz") == (200, "ok")
    with connect(worker) as client:
        assert client.completions.create(**ASKED, max_tokens=5).usage.completion_tokens == 5
    devices[1].tell()
    wait_until(lambda: all(are_right(worker)))
    assert "fault" not in worker.log.read_text()


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


def test_a_crash_ends_the_worker_at_once_and_a_later_one_serves(start, devices):
    worker = start(*EMULATED)
    devices[0].tell("crash")
    assert worker.wait() == 134
    last = worker.log.read_text().splitlines()[-1]
    assert last == "sluice-worker: example.com/device 0: fatal error in the runtime, aborting"
    again = start(*EMULATED)
    assert are_right(again) == [True] * 4


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


def test_a_device_that_is_gone_ends_a_worker_that_has_nothing_to_do(start, devices):
    worker = start(*EMULATED)
    devices[0].tell("off-bus")
    assert worker.wait() == 1
    assert "Xid 79" in worker.log.read_text()


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
