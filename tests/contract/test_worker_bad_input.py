"""Whatever is sent to a worker: an OpenAI error, no leak, and no effect on anybody's stream."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..unit.worker.checkpoints import write_checkpoint
from ..unit.worker.workerprocess import DEADLINE, WorkerProcess

COMPLETIONS, CHATS, CONTINUE = "/v1/completions", "/v1/chat/completions", "/internal/v1/continue"
EMULATED = ("--profile=maia-200", "--nominal=llama-3.3-70b", "--token-scale=96")
FLOOD = 10_000


def with_prompt(raw):
    """Return a completion's body with this as its prompt, as bytes."""
    return b'{"model":"compact","prompt":' + raw + b"}"


def complete(**over):
    return json.dumps({"model": "compact", "prompt": "a", "max_tokens": 2} | over).encode()


def chat(*messages, **over):
    return json.dumps({"model": "compact", "messages": messages} | over).encode()


BAD = {
    "nothing": (COMPLETIONS, b"", 400),
    "half an object": (COMPLETIONS, b'{"model":', 400),
    "a list": (COMPLETIONS, b"[1]", 400),
    "a number": (COMPLETIONS, b"1", 400),
    "invalid UTF-8": (COMPLETIONS, with_prompt(b'"\xff\xfe"'), 400),
    "half a surrogate pair": (COMPLETIONS, with_prompt(b'"\\ud800"'), 400),
    "half a pair in a stop text's place": (COMPLETIONS, complete(model="\ud800"), 404),
    "deep lists": (COMPLETIONS, b"[" * 100_000, 400),
    "a deep prompt": (COMPLETIONS, with_prompt(b"[" * 900 + b"]" * 900), 400),
    "a deep field that nobody knows": (
        COMPLETIONS,
        b'{"model":"other","prompt":"a","x":' + b"[" * 900 + b"]" * 900 + b"}",
        404,
    ),
    "a deep field that is refused": (
        COMPLETIONS,
        b'{"model":"compact","prompt":"a","tools":' + b"[" * 900 + b"]" * 900 + b"}",
        400,
    ),
    "NaN": (COMPLETIONS, b'{"model":"compact","prompt":"a","temperature":NaN}', 400),
    "Infinity": (COMPLETIONS, b'{"model":"compact","prompt":"a","seed":-Infinity}', 400),
    "a float too large": (COMPLETIONS, b'{"model":"compact","prompt":"a","top_p":1e999}', 400),
    "an integer of 5,000 digits": (
        COMPLETIONS,
        b'{"model":"compact","prompt":"a","max_tokens":' + b"9" * 5000 + b"}",
        400,
    ),
    "an integer of 4,000 digits": (
        COMPLETIONS,
        b'{"model":"compact","prompt":"a","max_tokens":' + b"9" * 4000 + b"}",
        400,
    ),
    "a token of 4,000 digits": (COMPLETIONS, with_prompt(b"[" + b"9" * 4000 + b"]"), 400),
    "a huge token": (COMPLETIONS, complete(prompt=[2**70]), 400),
    "a negative token": (COMPLETIONS, complete(prompt=[-1]), 400),
    "a token that is true": (COMPLETIONS, complete(prompt=[True]), 400),
    "a number of wrong type": (COMPLETIONS, complete(max_tokens="5"), 400),
    "a negative number": (COMPLETIONS, complete(max_tokens=-1), 400),
    "no tokens at all": (COMPLETIONS, complete(max_tokens=0), 400),
    "an empty prompt": (COMPLETIONS, complete(prompt=""), 400),
    "no prompt": (COMPLETIONS, b'{"model":"compact"}', 400),
    "an empty prompt among others": (COMPLETIONS, complete(prompt=[[1], []]), 400),
    "too many prompts": (COMPLETIONS, complete(prompt=["a"] * 1000), 400),
    "a prompt beyond the context": (COMPLETIONS, complete(prompt="a" * 128), 400),
    "an answer beyond the context": (COMPLETIONS, complete(max_tokens=127), 400),
    "a huge prompt": (COMPLETIONS, complete(prompt="a" * 200_000), 400),
    "an unknown model": (COMPLETIONS, complete(model="gpt-9"), 404),
    "a model of 100,000 letters": (COMPLETIONS, complete(model="x" * 100_000), 404),
    "too many stop texts": (COMPLETIONS, complete(stop=["a"] * 40_000), 400),
    "a stop text too long": (COMPLETIONS, complete(stop="a" * 100_000), 400),
    "too many stop tokens": (COMPLETIONS, complete(stop_token_ids=[1] * 50_000), 400),
    "a stop token that is none": (COMPLETIONS, complete(stop_token_ids=[100]), 400),
    "a bias for no token": (COMPLETIONS, complete(logit_bias={"100": 1}), 400),
    "a bias of many digits": (COMPLETIONS, complete(logit_bias={"1" * 5000: 1}), 400),
    "a bias in other digits": (COMPLETIONS, complete(logit_bias={"٣": 1}), 400),
    "too many choices": (COMPLETIONS, complete(n=128), 400),
    "no messages": (CHATS, chat(), 400),
    "an unknown role": (CHATS, chat({"role": "x" * 9999, "content": "a"}), 400),
    "a picture": (CHATS, chat({"role": "user", "content": [{"type": "image_url"}]}), 400),
    "tools": (CHATS, chat({"role": "user", "content": "a"}, tools=[{"type": "function"}]), 400),
    "JSON mode": (
        CHATS,
        chat({"role": "user", "content": "a"}, response_format={"type": "json_object"}),
        400,
    ),
    "a continuation of nothing": (CONTINUE, b"{}", 400),
    "a text too large": (COMPLETIONS, b" " * 300_000, 413),
    "another API": ("/v1/responses", b"{}", 404),
    "a path that is none": ("/v1/nothing", b"{}", 404),
    "no text to tokenize": ("/tokenize", b'{"prompt":null}', 400),
    "tokens that are none": ("/detokenize", b'{"tokens":[99999999999999999999]}', 400),
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    path = write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    worker = WorkerProcess(path, tmp_path_factory.mktemp("worker"), *EMULATED, "--max-waiting=8")
    worker.until("/readyz", 200)
    yield worker
    worker.close()


ASKED = {"model": "compact", "prompt": "watched", "seed": 3, "max_tokens": 100, "stream": True}
ASKED |= {"ignore_eos": True, "temperature": 1.2}


def test_what_is_wrong_gets_a_sentence_and_disturbs_nobody(worker):
    _, _, undisturbed = worker.post(COMPLETIONS, ASKED)
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(worker.post, COMPLETIONS, ASKED)
        for name, (path, body, status) in BAD.items():
            found, headers, text = worker.post(path, body)
            assert (name, found) == (name, status)
            assert headers["Content-Type"].startswith("application/json")
            error = json.loads(text)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert 5 < len(error["message"]) < 300, name
        _, _, seen = watched.result(DEADLINE)
    assert strip(seen) == strip(undisturbed)
    assert worker.metric("vllm:num_requests_running") == 0
    log = worker.log.read_text()
    assert '"level": "error"' not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\n\r\n unheard-of words\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nAuthorization: unheard-of \x00 words\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nunheard-of",
    ],
)
def test_what_is_no_http_is_logged_without_what_it_was(worker, sent):
    before = worker.log.read_text().count('"a client sent no HTTP"')
    with connect(worker) as client:
        client.sendall(sent)
        assert b" 400 " in client.recv(1 << 16)
    deadline = time.monotonic() + DEADLINE
    while worker.log.read_text().count('"a client sent no HTTP"') == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    log = worker.log.read_text()
    assert "unheard-of" not in log
    assert "Traceback" not in log
    assert all(json.loads(line) for line in log.splitlines())


def strip(events):
    """Return a stream without what differs from one to the next."""
    return [json.loads(one[6:])["choices"] for one in events.split("\n\n") if one[6:7] == "{"]


def say(worker, body, path=COMPLETIONS):
    return (
        f"POST {path} HTTP/1.1\r\nHost: {worker.port}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def connect(worker):
    return socket.create_connection(("127.0.0.1", worker.port), timeout=DEADLINE)


def wait_until_idle(worker):
    deadline = time.monotonic() + DEADLINE
    while worker.metric("vllm:num_requests_running") + worker.metric("vllm:num_requests_waiting"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_flood_is_refused_and_leaves_nothing_behind(worker):
    lanes, lock, found = 50, threading.Lock(), []

    def send(count):
        with connect(worker) as lane:
            threading.Thread(target=lane.sendall, args=(say(worker, complete()) * count,)).start()
            got, statuses = b"", []
            while len(statuses) < count:
                more = lane.recv(1 << 16)
                assert more
                *whole, got = (got + more).split(b"HTTP/1.1 ")
                statuses += [one[:3] for one in whole if one]
                if len(statuses) == count - 1 and got.endswith(b"}"):
                    statuses.append(got[:3])
            with lock:
                found.extend(statuses)

    size = read_memory(worker)
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(send, [FLOOD // lanes] * lanes))
    assert len(found) == FLOOD
    assert set(found) == {b"200", b"429"}
    wait_until_idle(worker)
    assert worker.post(COMPLETIONS, complete())[0] == 200
    assert read_memory(worker) - size < 30 << 20


def test_a_request_for_a_million_answers_is_refused_before_one_is_begun(worker):
    size = read_memory(worker)
    body = complete(prompt=["a"] * 8000, n=128)
    status, _, text = worker.post(COMPLETIONS, body)
    assert (status, "1024000 outputs" in text) == (400, True)
    assert read_peak(worker) - size < 30 << 20


def read_memory(worker, name="VmRSS"):
    """Return the bytes that the process holds."""
    with open(f"/proc/{worker.process.pid}/status") as status:  # noqa: PTH123
        (line,) = [one for one in status if one.startswith(name)]
    return int(line.split()[1]) * 1024


def read_peak(worker):
    """Return the most bytes that the process ever held."""
    return read_memory(worker, "VmHWM")


def test_clients_that_vanish_or_dawdle_disturb_nobody(worker):
    _, _, undisturbed = worker.post(COMPLETIONS, ASKED)
    long = json.dumps(ASKED | {"n": 4, "logprobs": 20}).encode()
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(worker.post, COMPLETIONS, ASKED)
        slow = [connect(worker) for _ in range(20)]
        for number, client in enumerate(slow):
            request = say(worker, long)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            # Some stop in the header, some in the body, some read nothing of their answer.
            client.sendall(request[: (20, len(request) - 9, len(request))[number % 3]])
        time.sleep(0.5)
        for client in slow:
            client.close()
        _, _, seen = watched.result(DEADLINE)
    assert strip(seen) == strip(undisturbed)
    wait_until_idle(worker)
    deadline = time.monotonic() + DEADLINE
    while count_sockets(worker) > 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def count_sockets(worker):
    """Return how many connections the worker has with anybody on its port."""
    place = f":{worker.port:04X}"
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        rows = [line.split() for line in table][1:]
    return sum(row[1].endswith(place) and row[3] in ("01", "08") for row in rows)
