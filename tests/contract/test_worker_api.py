"""The rest of OpenAI's API and of vLLM's additions, by the openai client."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json
import math

import openai
import pytest

from ..unit.worker.checkpoints import write_checkpoint
from ..unit.worker.workerprocess import DEADLINE, WorkerProcess

ASKED = {"model": "compact", "prompt": "some text", "seed": 7, "max_tokens": 12}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    path = write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    worker = WorkerProcess(
        path,
        tmp_path_factory.mktemp("worker"),
        "--api-key=secret",
        "--max-model-len=100",
        "--seed=1",
    )
    worker.until("/readyz", 200)
    yield worker
    worker.close()


@pytest.fixture
def client(worker):
    with openai.OpenAI(
        base_url=f"{worker.url}/v1", api_key="secret", max_retries=0, timeout=DEADLINE
    ) as client:
        yield client


KEY = {"Authorization": "Bearer secret"}


def post(worker, path, body, status=200):
    """Return the document that a POST is answered with."""
    found, _, text = worker.post(path, body, KEY)
    assert found == status, text
    return json.loads(text)


@pytest.mark.parametrize("key", ["", "Secret", "secret2", "sécret"])
def test_without_its_key_a_worker_tells_only_how_it_is(worker, key):
    headers = {"Authorization": f"Bearer {key}"}
    for path in ("/v1/models", "/internal/known-answers"):
        status, text = worker.get(path, headers)
        assert status == 401
        assert json.loads(text)["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/healthz", "/readyz", "/metrics"):
        assert worker.get(path, headers)[0] == 200
    assert "secret" not in worker.log.read_text()


def test_tells_its_context_and_keeps_to_it(client):
    (model,) = client.models.list().data
    assert model.max_model_len == 100
    with pytest.raises(openai.BadRequestError, match="context of 100"):
        client.completions.create(**(ASKED | {"max_tokens": 91}))


def test_choices_of_a_request_differ_and_repeat(client):
    asked = ASKED | {"n": 3, "temperature": 1.5}
    whole = client.completions.create(**asked)
    texts = [choice.text for choice in whole.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts
    assert client.completions.create(**(asked | {"n": 1})).choices[0].text == texts[0]
    assert whole.usage.prompt_tokens == len("<" + ASKED["prompt"])
    assert whole.usage.completion_tokens > 12


def test_several_prompts_are_answered_as_each_alone(client):
    prompts = ["some text", "other"]
    both = client.completions.create(**(ASKED | {"prompt": prompts, "n": 2}))
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    for place, prompt in enumerate(prompts):
        alone = client.completions.create(**(ASKED | {"prompt": prompt, "n": 2}))
        found = [choice.text for choice in both.choices[2 * place : 2 * place + 2]]
        assert found == [choice.text for choice in alone.choices]


def test_a_request_without_a_seed_differs_from_the_next(client):
    asked = {key: value for key, value in ASKED.items() if key != "seed"} | {"temperature": 1.5}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(3)}) == 3


def test_log_probabilities_of_chats_add_up(client):
    asked = {"model": "compact", "messages": [{"role": "user", "content": "a"}], "seed": 1}
    asked |= {"logprobs": True, "top_logprobs": 20, "max_tokens": 6, "temperature": 0}
    told = client.chat.completions.create(**asked).choices[0].logprobs.content
    for one in told:
        assert one.logprob == one.top_logprobs[0].logprob  # the likeliest was taken
        assert 0.2 < sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1.0001
        assert bytes(one.bytes).decode() in (one.token, "")
    streamed = [
        one
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert streamed == told


def test_an_echoed_prompt_is_scored_as_if_it_had_been_written(client):
    greedy = ASKED | {"temperature": 0, "logprobs": 2}
    written = client.completions.create(**greedy, echo=True)
    told = written.choices[0].logprobs
    assert written.choices[0].text.startswith("some text")
    assert (told.tokens[0], told.token_logprobs[0], told.top_logprobs[0]) == ("<s>", None, None)
    assert told.text_offset[:4] == [0, 0, 1, 2]
    # The same tokens given as a prompt have the same log-probabilities to the last bit.
    tokens = client.completions.create(**greedy, extra_body={"return_token_ids": True})
    given = tokens.choices[0].prompt_token_ids + tokens.choices[0].token_ids
    scored = client.completions.create(
        **(greedy | {"prompt": given, "max_tokens": 0}), echo=True
    ).choices[0]
    assert scored.logprobs.token_logprobs == told.token_logprobs
    assert scored.logprobs.top_logprobs == told.top_logprobs
    assert scored.logprobs.text_offset == told.text_offset
    assert scored.text == written.choices[0].text
    streamed = list(client.completions.create(**greedy, echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == scored.text
    assert streamed[0].choices[0].logprobs.token_logprobs == told.token_logprobs[:10]


def test_prompt_logprobs_come_as_from_vllm(worker):
    body = {"model": "compact", "prompt": [0, 40, 41], "max_tokens": 0, "prompt_logprobs": 2}
    choice = post(worker, "/v1/completions", body)["choices"][0]
    first, *rest = choice["prompt_logprobs"]
    assert first is None
    assert len(rest) == 2
    own = rest[0]["40"]
    assert own["decoded_token"] == "C"
    assert len(rest[0]) == (2 if own["rank"] <= 2 else 3)
    assert {one["rank"] for one in rest[0].values()} == {1, 2, own["rank"]}
    chat = {"model": "compact", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    answer = post(worker, "/v1/chat/completions", chat | {"prompt_logprobs": 0})
    assert len(answer["prompt_logprobs"]) == 4


def test_a_stop_token_ends_the_answer(client):
    asked = ASKED | {"extra_body": {"ignore_eos": True, "return_token_ids": True}}
    tokens = client.completions.create(**asked).choices[0].token_ids
    end = tokens[5]
    place = tokens.index(end)
    more = {"stop_token_ids": [end], "return_token_ids": True}
    cut = client.completions.create(**ASKED, extra_body=more).choices[0]
    assert (cut.token_ids, cut.finish_reason, cut.stop_reason) == (tokens[:place], "stop", end)
    more["include_stop_str_in_output"] = True
    kept = client.completions.create(**ASKED, extra_body=more).choices[0]
    assert kept.token_ids == tokens[: place + 1]


def test_tokenizes_as_completions_and_chats_do(worker, client):
    text = post(worker, "/tokenize", {"model": "compact", "prompt": "ab"})
    assert text == {"count": 3, "max_model_len": 100, "tokens": [0, 70, 71], "token_strs": None}
    bare = {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    assert post(worker, "/tokenize", bare)["token_strs"] == ["a", "b"]
    messages = [{"role": "user", "content": "ab"}]
    chat = post(worker, "/tokenize", {"messages": messages})
    asked = client.chat.completions.create(model="compact", messages=messages, max_tokens=1)
    assert chat["count"] == asked.usage.prompt_tokens
    assert post(worker, "/detokenize", {"tokens": text["tokens"]}) == {"prompt": "ab"}
    post(worker, "/detokenize", {"tokens": [100]}, 400)
    post(worker, "/tokenize", {"prompt": "ab", "return_token_strs": 1}, 400)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings"])
def test_endpoints_of_other_servers_are_refused_by_a_sentence(worker, path):
    answer = post(worker, path, {"model": "compact", "input": "a"}, 404)
    assert answer["error"]["message"].startswith(f"{path} is not served here: ")


def test_a_request_id_comes_back(worker):
    for stream in (False, True):
        asked = ASKED | {"stream": stream}
        _, headers, _ = worker.post("/v1/completions", asked, KEY | {"X-Request-Id": "mine-7"})
        assert headers.get_all("X-Request-Id") == ["mine-7"]
    assert '"request_id": "mine-7"' in worker.log.read_text()


def test_counts_in_vllms_names_and_buckets(worker):
    post(worker, "/v1/completions", ASKED)
    text = worker.get("/metrics")[1]
    for name in (
        "e2e_request_latency_seconds",
        "inter_token_latency_seconds",
        "iteration_tokens_total",
        "request_decode_time_seconds",
        "request_inference_time_seconds",
        "request_max_num_generation_tokens",
        "request_params_max_tokens",
        "request_params_n",
        "request_prefill_time_seconds",
        "request_queue_time_seconds",
        "time_per_output_token_seconds",
    ):
        assert worker.metric(f"vllm:{name}_count") > 0
    assert 'vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="compact"}' in text
    assert 'vllm:request_prompt_tokens_bucket{le="100.0",model_name="compact"}' in text
    assert 'vllm:request_prompt_tokens_bucket{le="200.0",model_name="compact"}' not in text
