"""Requests are read strictly: what would change an answer is done or refused, never ignored."""

import json

import pytest

from sluice_worker.errors import RequestError
from sluice_worker.protocol import ChatRequest, CompletionRequest, parse_request


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
        ({"temperature": float("nan")}, "temperature is NaN"),
        ({"max_tokens": True}, "max_tokens is true"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"stream": "yes"}, 'stream is "yes"'),
        ({"stop": ["", "a"]}, "none of them empty"),
        ({"prompt": 5}, "prompt is 5: it should be a text, or a list of token ids"),
        ({"prompt": [True]}, r"prompt is \[true\]: it should be a text"),
        ({"prompt": [1.0]}, r"prompt is \[1\.0\]: it should be a text"),
        ({"prompt": ["a", 1]}, r'prompt is \["a", 1\]: it should be a text'),
        ({"prompt": [[1]]}, r"prompt is \[\[1\]\]: it should be a text"),
        ({"max_tokens": float("inf")}, "max_tokens is Infinity"),
        ({"logprobs": 0}, "logprobs is 0, which this server does not do"),
        ({"n": True}, "n is true, which this server does not do"),
        ({"prompt": "y" * 5, "model": None}, "model is null"),
        ({"echo": True}, "echo is true, which this server does not do: leave echo out"),
        ({"best_of": 3}, "best_of is 3"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is 0.5"),
        ({"logit_bias": {"5": 1}}, "logit_bias is"),
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
        ({"logprobs": True}, "logprobs is true"),
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
        (ChatRequest, {"messages": [1] * 1000}),
    ],
)
def test_one_fault_is_enough_to_refuse(kind, over):
    with pytest.raises(RequestError) as refused:
        parse(kind, **over)
    assert refused.value.__cause__.error_count() == 1


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
