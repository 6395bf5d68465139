"""Streams of every kind, read in a form in which a disturbed one can be compared with another."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import asyncio
import json
from dataclasses import dataclass, field

from ..unit.gateway.polling import until

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
USAGE = {"stream_options": {"include_usage": True}}
LONG = {"max_tokens": 80, "ignore_eos": True}
PROMPT = "to be continued, héé"
CASES = {
    "greedy": (TEXT, {"temperature": 0}),
    "sampled, with usage": (TEXT, {"temperature": 1, **USAGE}),
    "sampled hot": (TEXT, {"temperature": 1.5, "top_k": 90, "min_p": 0.001}),
    "chat, with usage": (CHAT, {"temperature": 1, **USAGE}),
    "greedy chat of two": (CHAT, {"temperature": 0, "n": 2, **USAGE}),
    "two, with scores": (TEXT, {"n": 2, "logprobs": 2}),
    "chat with scores": (CHAT, {"logprobs": True, "top_logprobs": 2, "temperature": 1.2}),
    "stop text": (TEXT, {"stop": ["\ufffd\ufffd\ufffd\ufffd", "~~"], "temperature": 1.5, **USAGE}),
    "penalties": (TEXT, {"presence_penalty": 1.5, "frequency_penalty": 1, "min_tokens": 30}),
    "echo, with scores": (TEXT, {"echo": True, "logprobs": 1}),
    "two prompts of two": (TEXT, {"prompt": ["one", "and another"], "n": 2, **USAGE}),
    "with token ids": (TEXT, {"return_token_ids": True, "temperature": 1, **USAGE}),
    "ends itself": (CHAT, {"n": 3, "ignore_eos": False, "temperature": 1.8, **USAGE}),
}
"""Path and fields by name."""


def make_body(path, over):
    said = {"prompt": PROMPT} if path == TEXT else {"messages": [{"role": "user", "content": "é"}]}
    return {"model": "compact", "stream": True, "seed": 11} | said | LONG | over


@dataclass
class Told:
    """What a client was told.

    Attributes:
        choices: The documents of each choice, in their order, by index.
        rest: The documents without a choice, and the end.
        heads: Ids and times.
    """

    choices: dict = field(default_factory=dict)
    rest: list = field(default_factory=list)
    heads: set = field(default_factory=set)

    def add(self, payload):
        if payload == "[DONE]":
            self.rest.append(payload)
            return
        document = json.loads(payload)
        self.heads.add((document.pop("id", None), document.pop("created", None)))
        choices = document.get("choices")
        if choices:
            self.choices.setdefault(choices[0]["index"], []).append(document)
        else:
            self.rest.append(document)

    @property
    def count(self):
        return sum(map(len, self.choices.values()))

    @property
    def marks(self):
        """Return what its events tell of how it went on."""
        documents = [one for said in self.choices.values() for one in said] + self.rest
        return [one["sluice"] for one in documents if "sluice" in one]

    def join_text(self, index=0):
        said = [one["choices"][0] for one in self.choices[index]]
        return "".join(one.get("text") or one.get("delta", {}).get("content") or "" for one in said)


class Stream:
    """One stream through a gateway, read in a task of its own."""

    def __init__(self, world, path, over):
        self.told = Told()
        self.worker = ""
        self.comments = 0
        self._task = asyncio.create_task(self._read(world, path, make_body(path, over)))

    async def _read(self, world, path, body):
        async with world.http.post(f"{world.url}{path}", json=body) as response:
            assert response.status == 200, await response.text()
            self.worker = response.headers.get("x-sluice-worker", "")
            rest = ""
            async for data in response.content.iter_any():
                *events, rest = (rest + data.decode()).split("\n\n")
                for event in events:
                    if event.startswith(":"):  # a client leaves comments out
                        self.comments += 1
                        continue
                    self.told.add(event.removeprefix("data: "))
            assert rest == ""
        return self.told

    async def until(self, count):
        """Wait until so many events of choices have come."""
        await until(lambda: self.told.count >= count or self._task.done())

    async def end(self):
        """Return everything that came."""
        return await asyncio.wait_for(self._task, 60)
