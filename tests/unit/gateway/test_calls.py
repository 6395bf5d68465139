"""Reading completion requests: what is refused, and what is added for the workers."""

import json

import pytest

from sluice_gateway.answers import Refusal
from sluice_gateway.calls import parse_call

PATH = "/v1/completions"


def parse(document, *, seed=7):
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_call(PATH, raw, seed=seed)


def test_a_seed_is_added():
    call = parse({"model": "m", "prompt": "x"})
    assert json.loads(call.body) == {"model": "m", "prompt": "x", "seed": 7}
    assert json.loads(parse({"model": "m", "seed": None}).body)["seed"] == 7


def test_a_given_seed_stays():
    assert json.loads(parse({"model": "m", "seed": 0}).body)["seed"] == 0


def test_streams_ask_for_usage_and_remember_who_wanted_it():
    quiet = parse({"model": "m", "stream": True})
    assert json.loads(quiet.body)["stream_options"] == {"include_usage": True}
    assert not quiet.wants_usage
    options = {"include_usage": True, "other": 1}
    asking = parse({"model": "m", "stream": True, "stream_options": options})
    assert json.loads(asking.body)["stream_options"] == options
    assert asking.wants_usage


def test_whole_answers_are_not_asked_for_stream_options():
    assert "stream_options" not in json.loads(parse({"model": "m"}).body)


def test_what_the_worker_should_judge_goes_through():
    document = {"model": "m", "stream": True, "stream_options": "all", "n": "two", "seed": "x"}
    call = parse(document)
    assert json.loads(call.body) == {**document, "return_token_ids": True}
    assert call.choices == 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("number", [10**400, 10**15, True, -1, 0])
def test_a_length_that_no_answer_has_is_for_the_worker_to_refuse(field, number):
    call = parse({"model": "m", "prompt": "hello", field: number})
    assert json.loads(call.body)[field] == number
    assert (call.tokens_most, call.choices) == (None, 1)


@pytest.mark.parametrize(
    ("prompt", "size"),
    [
        ("hello", 5),
        ("é\ud800", 3),
        (["ab", "cde"], 5),
        ([7, 300, 12], 3),
        ({"odd": 1}, 1),
        (json.loads("[" * 800 + "]" * 800), 0),
        (None, 1),
    ],
)
def test_a_prompt_is_measured_without_what_is_around_it(prompt, size):
    assert parse({"model": "m" * 200, "prompt": prompt, "stop": ["x" * 50]}).prompt_size == size


def test_a_chat_is_as_long_as_its_texts():
    parts = [{"type": "text", "text": "four"}, {"type": "text", "text": "five5"}]
    messages = [{"role": "system", "content": "abc"}, {"role": "user", "content": parts}]
    raw = json.dumps({"model": "m", "messages": messages}).encode()
    assert parse_call("/v1/chat/completions", raw, seed=1).prompt_size == 12


@pytest.mark.parametrize(
    ("prompt", "n", "sequences"),
    [
        ("one", None, 1),
        ("one", 3, 3),
        (["one"], 2, 2),
        (["one", "two", "three"], None, 3),
        (["one", "two", "three"], 4, 12),
        ([7, 8, 9], 2, 2),
        ([[7, 8], [9]], 2, 4),
        ([], 5, 5),
    ],
)
def test_each_choice_of_each_prompt_is_a_sequence(prompt, n, sequences):
    assert parse({"model": "m", "prompt": prompt, "n": n}).sequences == sequences


def test_any_text_survives():
    text = "\ud800 lone, \u2028, é, \x00"
    assert json.loads(parse({"model": "m", "prompt": text}).body)["prompt"] == text


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON: NaN is not a number that JSON knows"),
        (b"\xff", "not valid JSON: it is not UTF-8"),
        (b"[" * 100_000, "not valid JSON: it is nested too deeply"),
        (b"1" * 5000, "not valid JSON: a number is too long"),
        (b'{"model": "m", "temperature": 1e999}', "a number in the body is too large"),
        (b"[]", "should be a JSON object, not list"),
        ({}, "`model` is missing"),
        ({"model": ""}, "`model` is missing"),
        ({"model": 5}, "`model` is missing"),
        ({"model": "m" * 300}, "longer than 256"),
        ({"model": "m", "stream": "yes"}, "`stream` should be true or false"),
    ],
)
def test_bad_requests_get_a_sentence(document, sentence):
    with pytest.raises(Refusal) as caught:
        parse(document)
    answer = caught.value.answer
    error = json.loads(answer.body)["error"]
    assert answer.status == 400
    assert sentence in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_text_of_a_bad_request_is_not_repeated():
    with pytest.raises(Refusal) as caught:
        parse(b'{"prompt": "my secret", oops')
    assert b"secret" not in caught.value.answer.body
