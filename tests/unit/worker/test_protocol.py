"""Requests are read strictly: what would change an answer is done or refused, never ignored."""

import json

import pytest

from sluice_worker.errors import RequestError
from sluice_worker.parsing import parse_request
from sluice_worker.protocol import ChatRequest, CompletionRequest
from sluice_worker.sampling import SamplingParams


def parse(kind=CompletionRequest, **over):
    least = {"model": "m"}
    least |= {"prompt": "x"} if kind is CompletionRequest else {"messages": [say("x")]}
    return parse_request(kind, json.dumps(least | over).encode())


def say(content, role="user"):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"temperature": "1"}, 'temperature is "1": it should be a valid number'),
        ({"temperature": float("nan")}, "the body has NaN"),
        ({"max_tokens": True}, "max_tokens is true"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"stream": "yes"}, 'stream is "yes"'),
        ({"stop": ["", "a"]}, "none of them empty"),
        ({"prompt": 5}, "prompt is 5: it should be a text, a list of token ids, or a list of"),
        ({"prompt": [True]}, r"prompt is \[true\]: it should be a text"),
        ({"prompt": [1.0]}, r"prompt is \[1\.0\]: it should be a text"),
        ({"prompt": ["a", 1]}, r'prompt is \["a", 1\]: it should be a text'),
        ({"prompt": [[1], "a"]}, r'prompt is \[\[1\], "a"\]: it should be a text'),
        ({"prompt": [[[1]]]}, "it should be a text"),
        ({"max_tokens": float("inf")}, "the body has Infinity, which is no number in JSON"),
        ({"logprobs": True}, "logprobs is true"),
        ({"logprobs": 21}, "logprobs is 21: it should be less than or equal to 20"),
        ({"n": True}, "n is true"),
        ({"n": 0}, "n is 0"),
        ({"n": 10**9}, "n is 1000000000"),
        ({"max_tokens": 10**400}, "max_tokens is 1000"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"top_k": -2}, "top_k is -2"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"stop": "x" * 257}, "longer than 256 characters"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids is"),
        ({"logit_bias": {"a": 1}}, "its keys should be token ids"),
        ({"logit_bias": {"0" * 5000 + "5": 1}}, "its keys should be token ids"),
        ({"logit_bias": {"5": 101}}, r"logit_bias\.5 is 101"),
        ({"prompt_logprobs": 5, "stream": True}, "not possible with stream"),
        ({"n": 2, "best_of": 3}, "best_of is 3, which is not n"),
        ({"prompt": "y" * 5, "model": None}, "model is null"),
        ({"suffix": "z"}, 'suffix is "z", which this server does not do: leave suffix out'),
        ({"frequency_penalty": 2.5}, "frequency_penalty is 2.5"),
        ({"guided_regex": "a*"}, "guided_regex is"),
        ({"return_tokens_as_token_ids": True}, "return_tokens_as_token_ids is true"),
        ({"stream_options": []}, "stream_options"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(over, said):
    with pytest.raises(RequestError, match=said):
        parse(**over)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "messages is"),
        ({"messages": [{"content": "x"}]}, r"messages\.0\.role is missing"),
        ({"messages": [say([{"type": "image_url"}])]}, r"messages\.0\.content\.0\.type is"),
        ({"messages": [say(5)]}, r"messages\.0\.content is 5"),
        ({"tools": [{"type": "function"}]}, "tools is"),
        ({"response_format": {"type": "json_object"}}, "response_format is"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"logprobs": 1}, "logprobs is 1"),
    ],
)
def test_a_wrong_chat_is_refused_by_a_sentence(over, said):
    with pytest.raises(RequestError, match=said):
        parse(ChatRequest, **over)


@pytest.mark.parametrize(
    ("kind", "over"),
    [
        (CompletionRequest, {"prompt": [1.5] * 1000}),
        (CompletionRequest, {"prompt": ["", *[1] * 1000]}),
        (CompletionRequest, {"stop": [1] * 1000}),
        (ChatRequest, {"messages": [1] * 1000}),
        (ChatRequest, {"messages": [say([1] * 1000)]}),
    ],
)
def test_one_fault_is_enough_to_refuse(kind, over):
    with pytest.raises(RequestError) as refused:
        parse(kind, **over)
    # A field of two types has one of each.
    assert refused.value.__cause__.error_count() <= 2


def test_a_long_value_is_not_repeated_whole():
    with pytest.raises(RequestError) as refused:
        parse(seed="y" * 5000)
    assert len(str(refused.value)) < 120


def test_what_changes_nothing_is_allowed():
    asked = parse(user="u", n=1, presence_penalty=0, logprobs=None, stream_options=None, stop=None)
    assert asked.sampling(5, seed=9).seed == 9
    assert not asked.include_usage
    chat = parse(ChatRequest, messages=[say([{"type": "text", "text": "a"}]), say(None)])
    assert [message.text() for message in chat.messages] == ["a", ""]


def test_sampling_follows_the_request():
    asked = parse(temperature=0.5, top_p=0.9, seed=4, stop="END", ignore_eos=True)
    params = asked.sampling(7, seed=0)
    assert (params.temperature, params.top_p, params.seed) == (0.5, 0.9, 4)
    assert (params.stop, params.ignore_eos, params.max_tokens) == (("END",), True, 7)


def test_every_parameter_reaches_the_sampler():
    asked = parse(
        top_k=5,
        min_p=0.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.2,
        logit_bias={"7": -3},
        min_tokens=2,
        stop_token_ids=[9],
        include_stop_str_in_output=True,
        logprobs=3,
    )
    assert asked.sampling(7, seed=2) == SamplingParams(
        1.0,
        1.0,
        2,
        7,
        top_k=5,
        min_p=0.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.2,
        logit_bias={7: -3},
        min_tokens=2,
        stop_token_ids=frozenset({9}),
        include_stop=True,
        logprobs=3,
    )


def test_an_echo_with_logprobs_scores_the_prompt_too():
    assert parse(echo=True, logprobs=2).sampling(1, 0).prompt_logprobs == 2
    assert parse(echo=True).sampling(1, 0).prompt_logprobs is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_a_request_may_have_several_prompts(prompt, prompts):
    assert parse(prompt=prompt).list_prompts() == prompts


def test_the_newer_name_of_a_chats_limit_comes_first():
    assert parse(ChatRequest, max_tokens=5, max_completion_tokens=7).limit == 7
    assert parse(ChatRequest, max_tokens=5).limit == 5
