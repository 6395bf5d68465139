"""What a user of the openai SDK counts on, asked of any server of ours.

Each check takes a `Target` and knows nothing of where it is: the same ones are run against a worker
without a cluster (tests/contract), and against gateway and worker of a pool (tests/e2e). An answer
is held against another answer of the same server, and not against what would be right.
"""

# ruff: noqa: S310 - the only URL opened is a worker's

import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import openai
import pytest
from tests.integration.story import wait_until

ABORTED = re.compile(
    r'^vllm:request_success_total\{.*finished_reason="abort".*\} (\S+)$', re.MULTILINE
)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Sort 31 17 12."}]},
]
STORY = "It was a fine morning in spring when Kira walked to the"
"""What the model goes on from for a while, in any numerics; other texts it may end at once."""


@dataclass(frozen=True)
class Target:
    """A server to ask; `worker` is the URL of the worker that answers in the end."""

    url: str
    model: str
    worker: str

    def connect(self, make=openai.OpenAI, key="unused", **more):
        """Return a client as a user would make it, but one that tries once."""
        url = f"{self.url}/v1"
        return make(base_url=url, api_key=key, max_retries=0, timeout=60, **more)

    def count_aborted(self):
        """Return how many sequences the worker has ended because nobody waited for them."""
        with urllib.request.urlopen(f"{self.worker}/metrics", timeout=10) as answer:
            found = ABORTED.search(answer.read().decode())
        return float(found[1]) if found else 0.0


class Asker:
    """A client and its model: what most checks need."""

    def __init__(self, target, client):
        self.target, self.client = target, client

    def complete(self, prompt="some text", tokens=24, **more):
        """Ask for a completion of just so many tokens, unless a stop text ends it."""
        return self.client.completions.create(
            model=self.target.model,
            prompt=prompt,
            max_tokens=tokens,
            extra_body={"ignore_eos": True},
            **more,
        )

    def chat(self, tokens=24, **more):
        """Ask for a chat of just so many tokens."""
        return self.client.chat.completions.create(
            model=self.target.model,
            messages=CHAT,
            max_completion_tokens=tokens,
            extra_body={"ignore_eos": True},
            **more,
        )


def check_models(ask):
    """The model is listed, can be had by its name, and another one cannot."""
    assert ask.target.model in [model.id for model in ask.client.models.list()]
    assert ask.client.models.retrieve(ask.target.model).owned_by == "sluice"
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        ask.client.models.retrieve("gpt-9")


def check_chats(ask):
    """A streamed chat says what the whole one says, and ends with the same usage."""
    whole = ask.chat(seed=5)
    chunks = list(ask.chat(seed=5, stream=True, stream_options={"include_usage": True}))
    *said, last = chunks
    assert said[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in said] == [None] * (len(said) - 1) + ["length"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert whole.usage.completion_tokens == 24
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in ask.chat(seed=5, tokens=3, stream=True))


def check_completions(ask):
    """A streamed completion is the whole one, one event a token, with and without usage."""
    whole = ask.complete(seed=5)
    chunks = list(ask.complete(seed=5, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert len(chunks) == 24 + 1
    assert chunks[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24
    assert all(chunk.usage is None for chunk in ask.complete(seed=5, tokens=3, stream=True))


def check_choices(ask):
    """Two choices are two answers, counted together, and a stream tells them apart."""
    whole = ask.complete(n=2, seed=5, temperature=1.5)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.usage.completion_tokens == 2 * 24
    texts = [choice.text for choice in whole.choices]
    assert texts[0] != texts[1]
    assert ask.complete(seed=5, temperature=1.5).choices[0].text == texts[0]
    streamed = ["", ""]
    for chunk in ask.complete(n=2, seed=5, temperature=1.5, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts
    assert len(ask.chat(n=2, seed=5).choices) == 2


def check_seeds(ask):
    """The same seed gives the same answer, alone and among others; another seed another one."""
    alone = [ask.complete(seed=seed, temperature=1.5).choices[0].text for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask.complete, seed=seed, temperature=1.5) for seed in range(4)]
        together = [one.result().choices[0].text for one in asked]
    assert together == alone
    assert len(set(alone)) == 4


def check_temperature(ask):
    """Without temperature nothing is left to chance: the seed makes no difference."""
    cold = {ask.complete(temperature=0, seed=seed).choices[0].text for seed in (None, 1, 2)}
    assert len(cold) == 1
    hot = {ask.complete(temperature=2, seed=seed).choices[0].text for seed in (1, 2)}
    assert len(hot | cold) == 3


def check_stops(ask):
    """A stop text ends the answer, is no part of it, and is told apart from the limit."""
    tell = partial(ask.complete, STORY, temperature=0)
    whole = tell()
    assert whole.choices[0].finish_reason == "length"
    text = whole.choices[0].text
    end = text[9:11]
    stopped = tell(stop=[end, "no such text"])
    assert stopped.choices[0].text == text[: text.index(end)]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens < 24
    chunks = list(tell(stop=end, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == stopped.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


def check_logprobs(ask):
    """Every token's log-probability is told, and the greedy answer takes the likeliest."""
    chat = ask.chat(temperature=0, logprobs=True, top_logprobs=3).choices[0]
    assert len(chat.logprobs.content) == 24
    for one in chat.logprobs.content:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == one.logprob
    raw = b"".join(bytes(one.bytes) for one in chat.logprobs.content)
    assert raw.decode(errors="replace") == chat.message.content
    told = ask.complete(temperature=0, logprobs=2).choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == 24
    pairs = zip(told.top_logprobs, told.token_logprobs, strict=True)
    assert all(max(top.values()) == own for top, own in pairs)
    streamed = ask.chat(temperature=0, logprobs=True, top_logprobs=3, stream=True)
    content = [c.choices[0].logprobs.content for c in streamed if c.choices[0].logprobs]
    assert [one for part in content for one in part] == chat.logprobs.content


def check_refusals(ask):
    """What cannot be done is refused by the SDK's own error class, with a sentence."""
    for more in ({"tools": [TOOL]}, {"response_format": {"type": "json_object"}}):
        (name,) = more
        with pytest.raises(openai.BadRequestError, match=f"leave {name} out") as refused:
            ask.chat(**more)
        assert refused.value.code == "unsupported_parameter"
        assert refused.value.param == name
    with pytest.raises(openai.BadRequestError, match="temperature is 9"):
        ask.complete(temperature=9)
    with pytest.raises(openai.BadRequestError, match="tools is"):
        ask.chat(tools=[TOOL], stream=True)
    for create, prompt in (
        (ask.client.completions.create, {"prompt": "a"}),
        (ask.client.chat.completions.create, {"messages": CHAT}),
    ):
        with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served here") as missing:
            create(model="gpt-9", **prompt)
        assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        ask.client.responses.create(model=ask.target.model, input="a")


def check_leaving(ask):
    """A stream that its reader closes is ended in the worker, and the next one is served."""
    before = ask.target.count_aborted()
    with ask.complete(tokens=100, stream=True) as stream:
        for _ in range(3):
            next(stream)
    wait_until(lambda: ask.target.count_aborted() == before + 1, "the worker has ended the stream")
    assert ask.complete(tokens=2).usage.completion_tokens == 2


def check_request_ids(ask):
    """The id that a client gives a request comes back where the SDK looks for it."""
    answer = ask.complete(tokens=1, extra_headers={"X-Request-Id": "mine-31"})
    assert answer._request_id == "mine-31"


CHECKS = [
    check_models,
    check_chats,
    check_completions,
    check_choices,
    check_seeds,
    check_temperature,
    check_stops,
    check_logprobs,
    check_refusals,
    check_leaving,
    check_request_ids,
]


def check_names(check):
    """Return a check's name as a test's id."""
    return check.__name__.removeprefix("check_")
