"""What the server says when its engine is stuck, dead, or fails in the middle of an answer."""

import asyncio
import gzip
import json
import socket
import threading
import time

import pytest
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from sluice_worker import incoming, watchdog
from sluice_worker import server as server_module
from sluice_worker.engine import Emission, Engine, GenerationRequest
from sluice_worker.knownanswers import KnownAnswer, KnownAnswers
from sluice_worker.metrics import Metrics
from sluice_worker.sampling import SamplingParams
from sluice_worker.scores import LEAST, TokenScore
from sluice_worker.server import Identity, Server
from sluice_worker.shapes import CompletionShape
from sluice_worker.tokens import Vocabulary
from sluice_worker.watchdog import STUCK_AFTER

from .checkpoints import write_checkpoint

ASKED = {"model": "m", "prompt": "text", "stream": True}


PARAMS = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=9)
KNOWN = KnownAnswers("sha256:0", "float32", (KnownAnswer((5, 6), (7, 8), (-1.5,)),), tolerance=0.25)


class ScriptedEngine:
    """Gives every request the same emissions at once, in the loop's own thread."""

    context = 128
    refuse_long = Engine.refuse_long

    def __init__(self):
        self.beat = time.monotonic()
        self.call = None
        self.has_time = False
        self.alive = True
        self.script = []
        self.scores = []
        self.server = None

    def is_alive(self):
        return self.alive

    def refuse_more(self, sequences=1):
        pass

    def submit_all(self, sequences):
        for sequence in sequences:
            sequence.started_at = sequence.first_at = sequence.last_at = time.monotonic()
            self.server.emit([Emission(sequence, *step) for step in self.script])

    def submit_probe(self, prompt, max_tokens):
        params = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=max_tokens)
        sequence = GenerationRequest(prompt, params, time.monotonic(), probe=True)
        sequence.output, sequence.prompt_scores = [7] * max_tokens, [None, *self.scores]
        self.server.emit([Emission(sequence, None, "length")])
        return sequence

    def cancel(self, sequence):
        pass


class Fragile:
    """A vocabulary that cannot decode what is not in it."""

    longest = 1

    def __init__(self, vocabulary):
        self.encode_text = vocabulary.encode_text
        self.decode_bytes = {40: b"some"}.__getitem__


class Tired:
    """A vocabulary of single bytes that does nothing for anybody."""

    longest = 1

    def do_nothing(self, *_):
        raise AssertionError

    encode_text = encode_chat = decode = do_nothing


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
async def client(tmp_path, engine):
    path = write_checkpoint(tmp_path)
    server = Server(
        Identity("m", "uid-1"), Vocabulary(path / "tokenizer.json"), Metrics("m"), KNOWN
    )
    engine.server = server
    async with TestClient(TestServer(server.make_app())) as client:
        assert (await client.get("/readyz")).status == 503
        server.attach(engine)
        server.not_ready = ""
        yield client


async def ask(client, path):
    async with client.get(path) as answer:
        return answer.status, await answer.text()


async def test_a_working_engine_is_healthy_and_ready(client):
    assert await ask(client, "/healthz") == (200, "ok")
    assert await ask(client, "/readyz") == (200, "ok")


@pytest.mark.parametrize(
    ("has_time", "order"), [(True, ["written", "next step"]), (False, ["next step", "written"])]
)
async def test_a_step_waits_for_its_tokens_where_the_device_leaves_time(
    client, engine, monkeypatch, has_time, order
):
    assert (await ask(client, "/readyz"))[0] == 200
    monkeypatch.setattr(server_module, "WRITE_SECONDS", 30)
    engine.has_time, seen = has_time, []
    sequence = GenerationRequest([5], PARAMS, 0.0)
    monkeypatch.setattr(engine.server._completions, "take", lambda _: seen.append("written"))

    def step():
        engine.server.emit([Emission(sequence, 7, None)])
        seen.append("next step")

    thread = threading.Thread(target=step)
    thread.start()
    thread.join(0.2)  # the loop is busy with this test
    await asyncio.to_thread(thread.join, 30)
    assert seen == order


async def test_a_step_does_not_wait_for_ever_for_a_busy_loop(client, engine):
    assert (await ask(client, "/readyz"))[0] == 200
    engine.has_time = True
    sequence = GenerationRequest([5], PARAMS, 0.0)
    thread = threading.Thread(target=engine.server.emit, args=([Emission(sequence, 7, None)],))
    thread.start()
    thread.join(30)  # the loop stands still meanwhile
    assert not thread.is_alive()


async def test_a_stuck_engine_is_neither(client, engine, monkeypatch):
    monkeypatch.setattr(watchdog, "CONFIRM_AFTER", 0.05)
    engine.beat -= STUCK_AFTER + 1
    deadline = time.monotonic() + 30
    while (found := await ask(client, "/healthz")) == (200, "ok"):
        assert time.monotonic() < deadline
    assert found[0] == 503
    assert found[1].startswith("no step for")
    assert (await ask(client, "/readyz"))[0] == 503
    async with client.post("/v1/completions", json=ASKED) as answer:
        assert answer.status == 503
        assert "no step for" in (await answer.json())["error"]["message"]


async def test_known_answers_are_listed_with_scores_and_how_far_these_may_be_off(client):
    told = json.loads((await ask(client, "/internal/known-answers"))[1])
    assert told["tolerance"] == 0.25
    assert told["answers"] == [{"prompt": [5, 6], "output": [7, 8], "logprobs": [-1.5]}]


async def test_a_known_prompt_is_answered_with_its_scores(client, engine):
    engine.scores = [TokenScore(6, -1.25, 1, ()), TokenScore(6, LEAST, 1, ()), None]
    asked = {"prompt": [5, 6, 6, 6], "maxTokens": 2}
    async with client.post("/internal/known-answers", json=asked) as answer:
        told = await answer.json()
    assert told["output"] == [7, 7]
    assert told["logprobs"] == [-1.25, -9999.0, None]


async def test_a_dead_engine_is_neither(client, engine):
    engine.alive = False
    assert await ask(client, "/healthz") == (503, "the engine's thread has ended")
    assert (await ask(client, "/readyz"))[0] == 503


async def test_an_engine_that_fails_before_the_first_token_gives_a_status(client, engine):
    engine.script = [(None, "error")]
    async with client.post("/v1/completions", json=ASKED) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["code"] == "engine_failed"
        assert answer.headers["X-Sluice-Worker-Uid"] == "uid-1"


async def test_an_engine_that_fails_later_gives_an_error_event_and_no_end(client, engine):
    engine.script = [(40, None), (None, "error")]
    async with client.post("/v1/completions", json=ASKED) as answer:
        assert answer.status == 200
        events = (await answer.text()).strip().split("\n\n")
    assert len(events) == 2
    assert '"code":"engine_failed"' in events[-1]


@pytest.mark.parametrize(
    ("script", "over", "reason", "answered"),
    [
        ([(40, None), (None, "stop")], {}, "stop", 1),
        ([(40, None), (41, "length")], {}, "length", 1),
        ([(40, None), (41, "length")], {"stop": "D"}, "stop", 1),  # found in the last token
        ([(40, None), (41, None), (42, None)], {"stop": "D"}, "stop", 1),
        ([(40, None), (None, "error")], {}, "error", 0),
        ([(None, "error")], {"stream": False}, "error", 0),
    ],
)
async def test_a_request_counts_as_what_its_client_was_told(
    client, engine, script, over, reason, answered
):
    engine.script = script
    with capture_logs() as lines:
        async with client.post("/v1/completions", json=ASKED | over) as answer:
            text = await answer.text()
    assert ("[DONE]" in text) is bool(answered)
    assert [line["finish"] for line in lines if line["event"] == "request"] == [reason]
    metrics = (await ask(client, "/metrics"))[1]
    counted = [line for line in metrics.splitlines() if line.startswith("vllm:request_success")]
    assert counted == [
        f'vllm:request_success_total{{finished_reason="{reason}",model_name="m"}} 1.0'
    ]
    for name in ("vllm:e2e_request_latency_seconds", "vllm:request_generation_tokens"):
        assert f'{name}_count{{model_name="m"}} {answered}.0' in metrics


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        ("mine-1", "mine-1"),
        ("", "cmpl-"),
        ("two words", "cmpl-"),
        ("x" * 129, "cmpl-"),
    ],
)
async def test_the_log_has_the_request_id_that_the_gateway_logs(client, engine, given, logged):
    engine.script = [(40, "length")]
    with capture_logs() as lines:
        headers = {"x-request-id": given}
        async with client.post("/v1/completions", json=ASKED, headers=headers) as answer:
            await answer.text()
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request_id"].startswith(logged)
    assert len(line["request_id"]) <= 128


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_takes_nothing_of_its_answer_is_not_waited_for(
    client, engine, monkeypatch, stream
):
    monkeypatch.setattr(incoming, "TAKE_SECONDS", 0.3)
    engine.script = [(40, None)] * 15 + [(40, "length")]
    # Sixteen MB in any case: more than the sockets' buffers hold.
    monkeypatch.setattr(CompletionShape, "write_piece", lambda *_: b"x" * (1 << 20))
    monkeypatch.setattr(CompletionShape, "gather", lambda *_: b"x" * (1 << 24))
    body = json.dumps(ASKED | {"stream": stream}).encode()
    others = set(client.server.handler.connections)
    with socket.socket() as dawdler:
        dawdler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        dawdler.connect(("127.0.0.1", client.server.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n"
        dawdler.sendall(head.encode() + body)
        deadline = time.monotonic() + 30
        seen, left = False, set()
        while left or not seen:
            left = set(client.server.handler.connections) - others
            seen = seen or bool(left)
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_health_is_told_while_a_large_answer_is_written(client, engine, monkeypatch):
    engine.script = [(40, "length")]
    gather, told = CompletionShape.gather, threading.Event()

    def take_long(*args):
        assert told.wait(30)
        return gather(*args)

    monkeypatch.setattr(CompletionShape, "gather", take_long)
    asking = asyncio.create_task(client.post("/v1/completions", json=ASKED | {"stream": False}))
    await asyncio.sleep(0.05)
    assert await ask(client, "/healthz") == (200, "ok")
    told.set()
    async with await asking as answer:
        assert (await answer.json())["choices"][0]["finish_reason"] == "length"


async def test_a_mistake_of_ours_in_the_middle_ends_the_stream_with_an_error(client, engine):
    engine.script = [(40, None), (10**6, None)]  # no such token
    completions = engine.server._completions
    completions._vocabulary = Fragile(completions._vocabulary)
    async with client.post("/v1/completions", json=ASKED) as answer:
        events = (await answer.text()).strip().split("\n\n")
    assert '"code":"internal_error"' in events[-1]


async def test_a_mistake_of_ours_is_an_answer_without_details(client, engine):
    def fail(sequences):
        raise ZeroDivisionError("detail of ours")

    engine.submit_all = fail
    async with client.post("/v1/completions", json=ASKED) as answer:
        assert answer.status == 500
        text = await answer.text()
    assert "internal_error" in text
    assert "detail of ours" not in text


@pytest.mark.parametrize(
    ("path", "over", "said"),
    [
        ("completions", {"prompt": "a" * 129}, "prompt has 129 characters; the context of 128"),
        ("completions", {"prompt": ["a", "b" * 129]}, "prompt has 129 characters"),
        ("completions", {"prompt": [9] * 128, "echo": True}, "128 prompt tokens and max_tokens 1"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "c" * 65}] * 2},
            "messages has 130 characters",
        ),
    ],
)
async def test_what_can_never_fit_is_refused_before_work_for_it(client, engine, path, over, said):
    completions = engine.server._completions
    vocabulary, completions._vocabulary = completions._vocabulary, Tired()
    if "prompt" in over and isinstance(over["prompt"], list):
        completions._vocabulary.encode_text = vocabulary.encode_text
    async with client.post(f"/v1/{path}", json=ASKED | over) as answer:
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert error["message"].startswith(said)
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405)]
)
async def test_unknown_paths_get_openais_error(client, method, path, status):
    async with client.request(method, path) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"].startswith(f"{method} {path}: ")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [(b"no gzip", 400, "not in the encoding"), (gzip.compress(b" " * 9_000_000), 413, "262144")],
)
async def test_a_body_that_cannot_be_unpacked_is_refused(client, body, status, said):
    headers = {"Content-Encoding": "gzip"}
    async with client.post("/v1/completions", data=body, headers=headers) as answer:
        assert answer.status == status
        assert said in (await answer.json())["error"]["message"]


async def test_metrics_have_the_names_others_rely_on(client):
    text = (await ask(client, "/metrics"))[1]
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_prompt_tokens_sum",
        "vllm:request_generation_tokens_count",
        "vllm:time_to_first_token_seconds_sum",
        "vllm:time_per_output_token_seconds_count",
        "sluice_worker_steps_total",
        "sluice_worker_steps_overrun_total",
        "sluice_worker_pacing_late_seconds_count",
    ):
        assert f'\n{name}{{model_name="m"}} 0.0' in text
