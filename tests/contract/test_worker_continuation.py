"""What a worker tells a gateway for the day that it is gone, and how another one goes on."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json

import pytest

from ..unit.worker.checkpoints import write_byte_checkpoint
from ..unit.worker.workerprocess import WorkerProcess

PROMPT = "to be continued"
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two workers of one model that run their batches in different ways."""
    path = write_byte_checkpoint(tmp_path_factory.mktemp("model") / "bytes")
    workers = [
        WorkerProcess(path, tmp_path_factory.mktemp("worker"), *args, uid=uid)
        for uid, args in (("uid-1", ()), ("uid-2", ("--max-num-batched-tokens=3",)))
    ]
    for worker in workers:
        worker.until("/readyz", 200)
    yield workers
    for worker in workers:
        worker.close()


def stream(worker, path, body):
    """Return headers and events of a stream; of an error its status and body."""
    status, headers, text = worker.post(path, body)
    if status != 200:
        return status, json.loads(text)
    return headers, text.removesuffix("\n\n").split("\n\n")


def ask(path, **over):
    """Return the body of a request."""
    said = {"prompt": PROMPT} if path == TEXT else {"messages": [{"role": "user", "content": "a"}]}
    asked = {"model": "compact", "max_tokens": 16, "stream": True, "seed": 3, "temperature": 1.5}
    more = {"return_token_ids": True, "stream_options": {"include_usage": True}, "n": 2}
    return asked | said | more | over


def read(events):
    """Return the documents of a stream's events but for its end."""
    return [json.loads(event.removeprefix("data: ")) for event in events if "[DONE]" not in event]


def remember(events, path, asked):
    """Return the body of a continuation after these events, as a gateway would keep it."""
    told = read(events)
    places = {index: {"index": index, "token_ids": [], "characters": 0} for index in range(2)}
    for document in told:
        for choice in document["choices"]:
            place = places[choice["index"]]
            place["token_ids"] += choice.get("token_ids", ())
            text = choice["text"] if path == TEXT else choice["delta"].get("content", "")
            place["characters"] += len(text)
            if choice["finish_reason"] is not None:
                del places[choice["index"]]
    where = told[0]["choices"][0] if path == TEXT else told[0]
    return {
        "path": path,
        "request": asked,
        "id": told[0]["id"],
        "created": told[0]["created"],
        "prompt_token_ids": where["prompt_token_ids"],
        "choices": list(places.values()),
    }


@pytest.mark.parametrize(
    ("path", "over"),
    [
        (TEXT, {"logprobs": 1}),
        (TEXT, {"stop": ["\ufffd\ufffd"]}),
        (CHAT, {"logprobs": True}),
        (CHAT, {"min_tokens": 12, "presence_penalty": 1.5}),
    ],
)
def test_another_worker_goes_on_with_the_same_stream(workers, path, over):
    one, other = workers
    asked = ask(path, **over)
    headers, whole = stream(one, path, asked)
    assert {headers["X-Sluice-Worker-Uid"], headers["X-Sluice-Numerics"]} == {"uid-1", "float32"}
    for cut in (2, 7, len(whole) // 2):
        body = remember(whole[:cut], path, asked)
        headers, rest = stream(other, "/internal/v1/continue", body)
        assert headers["X-Sluice-Model-Digest"].startswith("sha256:")
        # Each choice has its own order; the worker may run them side by side in another one.
        assert sort_events(rest) == sort_events(whole[cut:])
        assert rest[-1] == whole[-1] == "data: [DONE]"


def sort_events(events):
    """Return the events of each choice, and the rest but for counts of choices that had ended."""
    found = {}
    for document in read(events):
        index = document["choices"][0]["index"] if document["choices"] else None
        found.setdefault(index, []).append(document)
    return {index: found.get(index, []) for index in (0, 1)}


def test_usage_counts_the_whole_of_what_goes_on(workers):
    asked = ask(TEXT, n=1, ignore_eos=True)
    _, whole = stream(workers[0], TEXT, asked)
    body = remember(whole[:5], TEXT, asked)
    body["choices"] = body["choices"][:1]
    _, rest = stream(workers[1], "/internal/v1/continue", body)
    assert read(rest)[-1]["usage"] == read(whole)[-1]["usage"]
    assert read(rest)[-1]["usage"]["completion_tokens"] == 16


def test_what_was_complete_ends_at_once(workers):
    asked = ask(TEXT, n=1, ignore_eos=True)
    _, whole = stream(workers[0], TEXT, asked)
    body = remember(whole[:15], TEXT, asked)
    body["choices"] = body["choices"][:1]
    body["choices"][0]["token_ids"].append(read(whole)[15]["choices"][0]["token_ids"][0])
    _, (last, usage, end) = stream(workers[1], "/internal/v1/continue", body)
    assert json.loads(last[6:])["choices"][0]["finish_reason"] == "length"
    assert json.loads(last[6:])["choices"][0]["text"] == read(whole)[15]["choices"][0]["text"]
    assert json.loads(usage[6:])["usage"]["completion_tokens"] == 16
    assert end == "data: [DONE]"


@pytest.mark.parametrize(
    ("over", "status", "said"),
    [
        ({"choices": []}, 400, "choices is"),
        ({"choices": [{"index": 0, "token_ids": [1.5], "characters": 0}]}, 400, "choices.0"),
        ({"prompt_token_ids": []}, 400, "prompt_token_ids is"),
        ({"path": "/v1/models"}, 400, "path is"),
        ({"request": []}, 400, "request is"),
        ({"request": {"model": "other", "stream": True}}, 404, "'other' is not served"),
        ({"request": {"model": "compact", "stream": True}}, 400, "request.seed is missing"),
        ({"request": {"model": "compact", "seed": 1}}, 400, "only streams can go on"),
        ({"id": ""}, 400, "id is"),
    ],
)
def test_a_wrong_continuation_is_refused_by_a_sentence(workers, over, status, said):
    body = {"path": TEXT, "request": ask(TEXT), "id": "x", "created": 1, "prompt_token_ids": [0, 9]}
    body |= {"choices": [{"index": 0, "token_ids": [9], "characters": 1}]} | over
    found, answer = stream(workers[0], "/internal/v1/continue", body)
    assert found == status
    assert said in answer["error"]["message"]
