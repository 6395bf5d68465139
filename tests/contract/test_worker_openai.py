"""The openai client, and rude ones, against a real worker process."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from ..unit.worker.checkpoints import write_checkpoint
from ..unit.worker.workerprocess import DEADLINE, WorkerProcess, starting

EMULATED = (
    "--profile=maia-200",
    "--nominal=llama-3.3-70b",
    "--token-scale=96",
)
ASKED = {"model": "compact", "prompt": "some text", "seed": 7, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def start(checkpoint, tmp_path):
    with starting(tmp_path) as begin:
        yield lambda *args, **over: begin(checkpoint, *args, **over)


@pytest.fixture(scope="module")
def shared(checkpoint, tmp_path_factory):
    worker = WorkerProcess(checkpoint, tmp_path_factory.mktemp("shared"))
    worker.until("/readyz", 200)
    yield worker
    worker.close()


def connect(worker):
    return openai.OpenAI(base_url=f"{worker.url}/v1", api_key="unused", max_retries=0)


def until_metric(worker, name, value):
    """Wait until a metric has a value."""
    deadline = time.monotonic() + DEADLINE
    while worker.metric(name) != value:
        assert time.monotonic() < deadline


@pytest.fixture
def client(shared):
    with connect(shared) as client:
        yield client


def test_completions_stream_what_they_answer_whole(client):
    whole = client.completions.create(**ASKED, max_tokens=24)
    chunks = list(
        client.completions.create(
            **ASKED, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert len(chunks) == 24 + 1
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 23 + ["length"]
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 24
    assert whole.usage.prompt_tokens == 1 + len("some text")


def test_chats_stream_what_they_answer_whole(client):
    asked = {
        "model": "compact",
        "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        "seed": 3,
        "max_completion_tokens": 20,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage.prompt_tokens == len("abcdef")  # <s> <system> a <user> b <assistant>


def test_the_same_question_has_the_same_answer_on_every_worker_and_in_any_company(shared, start):
    other = start("--max-num-batched-tokens=3", "--max-num-seqs=5", uid="uid-2")

    def ask(worker, seed):
        with connect(worker) as client:
            asked = ASKED | {"seed": seed, "prompt": "text " * (seed + 1)}
            return client.completions.create(**asked, max_tokens=30).choices[0].text

    alone = [ask(shared, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: ask(other, seed), range(8))) == alone
    assert len(set(alone)) == 8


def test_stop_texts_end_the_answer_and_its_count(client):
    whole = client.completions.create(**ASKED, max_tokens=40).choices[0].text
    end = whole[9:11]
    answer = client.completions.create(**ASKED, max_tokens=40, stop=[end])
    cut = whole.index(end)
    assert answer.choices[0].text == whole[:cut]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 40
    again = client.completions.create(**ASKED, max_tokens=40, stop=[end])
    assert again.usage == answer.usage


def test_lists_its_model(client):
    assert [model.id for model in client.models.list()] == ["compact"]
    assert client.models.retrieve("compact").owned_by == "sluice"
    with pytest.raises(openai.NotFoundError, match="'compact' is"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("over", "said", "param"),
    [
        ({"model": "other"}, "'other' is not served here", "model"),
        ({"max_tokens": 0}, "max_tokens is 0", "max_tokens"),
        ({"max_tokens": 500}, "context of 128", "max_tokens"),
        ({"temperature": 9}, "temperature is 9", "temperature"),
        ({"top_p": 0}, "top_p is 0", "top_p"),
        ({"n": 129}, "n is 129", "n"),
        ({"n": 65}, "at most 64 may wait here", "n"),
        ({"logprobs": 21}, "logprobs is 21", "logprobs"),
        ({"suffix": "x"}, 'suffix is "x", which this server does not do', "suffix"),
        ({"logit_bias": {"100": 1}}, "logit_bias has the token 100", "logit_bias"),
        ({"extra_body": {"stop_token_ids": [-1]}}, "stop_token_ids has the token -1", None),
        ({"max_tokens": 2, "extra_body": {"min_tokens": 3}}, "at most max_tokens, 2", None),
        ({"stop": ["a"] * 5}, "up to four", "stop"),
        ({"prompt": ""}, "prompt is empty", "prompt"),
        ({"prompt": ["a", ""]}, "prompt is empty", "prompt"),
        ({"prompt": []}, "prompt is empty", "prompt"),
        ({"prompt": [5, 100000]}, "the token 100000", "prompt"),
        ({"prompt": [-1]}, "the token -1", "prompt"),
        ({"prompt": "text " * 25, "max_tokens": 9}, "context of 128", "max_tokens"),
        ({"prompt": "text " * 60}, "context of 128", "prompt"),
    ],
)
def test_what_cannot_be_served_is_refused_by_a_sentence(client, over, said, param):
    with pytest.raises(openai.APIStatusError, match=said) as refused:
        client.completions.create(**(ASKED | over))
    assert refused.value.status_code == (404 if param == "model" else 400)
    assert param is None or refused.value.body["param"] == param
    assert client.completions.create(**ASKED, max_tokens=2).usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[1]", 400),
        (b"[" * 100_000, 400),
        (b'{"model":"compact","prompt":"\\ud800"}', 400),
        (b'{"model":"compact","messages":[{"role":"user","content":[{"type":"image_url"}]}]}', 400),
        (b" " * 2_000_000, 413),
    ],
)
def test_bodies_that_are_no_requests_get_openais_error(client, body, status):
    path = "/chat/completions" if b"messages" in body else "/completions"
    answer = client._client.post(str(client.base_url) + path[1:], content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert answer.headers["X-Sluice-Worker-Uid"] == "uid-1"


def test_what_is_meant_for_another_pod_is_sent_back(shared, client):
    misdirected = {"X-Sluice-Worker-Uid": "uid-2"}
    assert shared.get("/healthz", misdirected)[0] == 421
    with pytest.raises(openai.APIStatusError, match="not uid-2") as refused:
        client.completions.create(**ASKED, extra_headers=misdirected)
    assert refused.value.status_code == 421
    right = {"X-Sluice-Worker-Uid": "uid-1"}
    raw = client.completions.with_raw_response.create(**ASKED, extra_headers=right)
    assert raw.headers["X-Sluice-Worker-Uid"] == "uid-1"


def test_a_client_that_leaves_frees_its_slot(start):
    worker = start(*EMULATED, "--max-num-seqs=1")
    with connect(worker) as client:
        stream = client.completions.create(**ASKED, max_tokens=110, stream=True)
        next(iter(stream))
        stream.close()
        began = worker.metric("vllm:generation_tokens_total")
        assert client.completions.create(**ASKED, max_tokens=3).usage.completion_tokens == 3
        assert worker.metric("vllm:generation_tokens_total") - began < 100
    assert worker.metric('vllm:request_success_total{finished_reason="abort"') == 1


def test_a_client_that_leaves_the_queue_is_not_served(start):
    worker = start(*EMULATED, "--max-num-seqs=1")
    with connect(worker) as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.completions.create, **ASKED, max_tokens=110)
        until_metric(worker, "vllm:num_requests_running", 1)
        body = json.dumps({"model": "compact", "prompt": "a", "max_tokens": 120})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", worker.port)) as waiting:
            waiting.sendall((head + body).encode())
            until_metric(worker, "vllm:num_requests_waiting", 1)
        until_metric(worker, "vllm:num_requests_waiting", 0)
        assert not held.done()
        held.result(DEADLINE)
    assert worker.metric('vllm:request_success_total{finished_reason="abort"') == 1
    assert worker.metric("vllm:generation_tokens_total") == 110


def test_a_client_that_does_not_read_holds_nobody_up(shared, client):
    with socket.create_connection(("127.0.0.1", shared.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        body = json.dumps({"model": "compact", "prompt": "a", "max_tokens": 120, "stream": True})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall((head + body).encode())
        for _ in range(3):
            assert client.completions.create(**ASKED, max_tokens=60).usage.completion_tokens == 60


def test_a_full_queue_says_when_to_come_back(start):
    worker = start(*EMULATED, "--max-num-seqs=1", "--max-waiting=1")
    with connect(worker) as client, ThreadPoolExecutor(2) as pool:
        held = []
        for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            held.append(pool.submit(client.completions.create, **ASKED, max_tokens=60))
            until_metric(worker, gauge, 1)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(**ASKED)
        assert refused.value.response.headers["Retry-After"] == "1"
        assert all(one.result(DEADLINE).usage.completion_tokens == 60 for one in held)


def test_health_is_answered_under_load(start):
    worker = start(*EMULATED)
    with connect(worker) as client, ThreadPoolExecutor(16) as pool:
        held = [pool.submit(client.completions.create, **ASKED, max_tokens=40) for _ in range(16)]
        worst = 0.0
        while not all(one.done() for one in held):
            began = time.monotonic()
            assert worker.get("/healthz") == (200, "ok")
            worst = max(worst, time.monotonic() - began)
    # The gateway gives up after 0.5 s; a busy machine is granted all of it.
    assert worst < 0.5
    assert worker.metric("sluice_worker_steps_total") >= 40


def test_terminated_it_finishes_what_runs_and_refuses_the_rest(start):
    worker = start(*EMULATED, uid="uid-9")
    with connect(worker) as client, ThreadPoolExecutor(1) as pool:
        stream = client.completions.create(**ASKED, max_tokens=60, stream=True)
        first = next(iter(stream))
        rest = pool.submit(list, stream)
        worker.terminate()
        assert worker.until("/readyz", 503) == "draining"
        with pytest.raises(openai.APIStatusError, match="draining") as refused:
            client.completions.create(**ASKED)
        assert refused.value.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        chunks = [first, *rest.result(DEADLINE)]
    assert len(chunks) == 60
    assert chunks[-1].choices[0].finish_reason == "length"
    assert worker.wait() == 0


def test_terminated_twice_it_ends_at_once(start):
    worker = start(*EMULATED)
    with connect(worker) as client:
        stream = client.completions.create(**ASKED, max_tokens=110, stream=True)
        next(iter(stream))
        worker.terminate()
        worker.until("/readyz", 503)
        worker.terminate()
        assert worker.wait() == 0
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert [line["requests"] for line in lines if "unfinished" in line["event"]] == [1]


def test_a_host_that_cannot_be_one_ends_with_one_sentence(checkpoint, tmp_path):
    worker = WorkerProcess(checkpoint, tmp_path, "--host=a..b")
    assert worker.wait() == 1
    assert worker.log.read_text().startswith("sluice-worker: cannot listen on a..b:")


def test_loading_is_told_and_takes_the_time_it_was_told_to(start):
    worker = start(*EMULATED, "--startup-seconds=600", ready=False)
    assert worker.until("/readyz", 503) == "loading, emulated as 600 s"
    assert worker.get("/healthz")[0] == 200
    with connect(worker) as client, pytest.raises(openai.InternalServerError, match="loading"):
        client.completions.create(**ASKED)
    start(*EMULATED, "--startup-seconds=1")


def test_logs_are_json_without_anybodys_text(start):
    worker = start()
    with connect(worker) as client:
        secret = "unheard-of words"
        client.completions.create(**(ASKED | {"prompt": secret}), max_tokens=5)
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**(ASKED | {"prompt": [secret, 5]}))
    worker.terminate()
    assert worker.wait() == 0
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert secret not in worker.log.read_text()
    (request,) = [line for line in lines if line["event"] == "request"]
    assert (request["output_tokens"], request["finish"]) == (5, "length")


def test_a_missing_checkpoint_ends_with_one_sentence(tmp_path):
    worker = WorkerProcess(tmp_path / "nowhere", tmp_path)
    assert worker.wait() == 1
    assert worker.log.read_text().splitlines() == [
        f"sluice-worker: there is no checkpoint directory {tmp_path / 'nowhere'}"
    ]


def test_an_occupied_port_ends_with_one_sentence(shared, checkpoint, tmp_path):
    worker = WorkerProcess(checkpoint, tmp_path, f"--port={shared.port}")
    assert worker.wait() == 1
    assert f"cannot listen on 127.0.0.1:{shared.port}" in worker.log.read_text()
