"""Known answers, as a real worker process gives them, also where its device computes wrongly."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from .faultyworker import (
    ASKED,
    COMPACT,
    EMULATED,
    KNOWN,
    are_right,
    ask_known,
    connect,
    count_tokens,
    list_known,
    wait_until,
)


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
