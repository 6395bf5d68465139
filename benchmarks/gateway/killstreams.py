"""The streams that are struck at: what is asked, and what each client was told, token by token."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from sluice.devcluster.images import find_models

MODEL = "compact"
CHATS = "/v1/chat/completions"
PATIENCE_SECONDS = 180.0
"""A stream that takes longer than that is lost: it hangs."""
REQUEST_ID = "x-request-id"


@dataclass
class Told:
    """What a client of one stream was told.

    Attributes:
        tokens: Ids of its tokens, and `at`, when each came (seconds since
            the epoch).
        finishes: The reasons why it ended, `ids` the ids of its events, `done` how often it was
            said to be done: one each, if all is well.
        worker: Name of the worker that it began on, and `variant` that worker's class.
        mark: What its last chunk tells of how it went on.
        error: What ended it, if not its end.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    usages: list[Any] = field(default_factory=list)
    worker: str = ""
    variant: str = ""
    mark: dict[str, str] = field(default_factory=dict)
    error: str = ""
    done: int = 0
    began: float = 0.0
    ended: float | None = None

    def add(self, payload: str) -> None:
        """Take one event's data."""
        if payload == "[DONE]":
            self.done += 1
            return
        document = json.loads(payload)
        if "error" in document:
            self.error = json.dumps(document["error"])
            return
        self.ids.add(document["id"])
        self.mark |= document.get("sluice", {})
        self.usages += [document["usage"]] if document.get("usage") else []
        for choice in document["choices"]:
            self.text += choice["delta"].get("content") or ""
            fresh = choice.get("token_ids") or ()
            self.tokens += fresh
            self.at += [time.time()] * len(fresh)
            if choice["finish_reason"] is not None:
                self.finishes.append(choice["finish_reason"])

    @property
    def is_whole(self) -> bool:
        """Whether it ended as a stream should: once, and with one usage."""
        once = (self.done, len(self.ids), len(self.finishes), len(self.usages)) == (1, 1, 1, 1)
        return not self.error and once

    @property
    def pause(self) -> float:
        """The longest time between two tokens, in seconds."""
        return max((b - a for a, b in zip(self.at, self.at[1:], strict=False)), default=0.0)


def load_prompts() -> list[str]:
    """Return the held-out questions of the compact model."""
    models = find_models() or Path("workers/models")
    lines = (models / MODEL / "heldout.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def write_body(prompts: Sequence[str], number: int, tokens: int, model: str) -> dict[str, Any]:
    """Return the request of one stream; every other one is drawn at a temperature of 1."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompts[number % len(prompts)]}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": number % 2,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


async def follow(
    session: aiohttp.ClientSession, url: str, name: str, body: dict[str, Any], told: Told
) -> None:
    """Read one stream, named `name` for the gateway's log."""
    told.began = time.time()
    try:
        async with session.post(f"{url}{CHATS}", json=body, headers={REQUEST_ID: name}) as response:
            if response.status != 200:  # noqa: PLR2004
                told.error = f"{response.status}: {(await response.text())[:300]}"
                return
            told.worker = response.headers.get("x-sluice-worker", "")
            told.variant = response.headers.get("x-sluice-class", "")
            rest = b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event.startswith(b"data: "):
                        told.add(event.removeprefix(b"data: ").decode())
    except (aiohttp.ClientError, TimeoutError) as error:
        told.error = f"broken: {error!r}"
    finally:
        told.ended = time.time()


class Streams:
    """So many streams, so many of them at a time, over one gateway or several in turn.

    Attributes:
        told: What each client was told, by number, as far as it has begun.
    """

    def __init__(self, urls: Sequence[str], *, count: int, at_once: int, tokens: int) -> None:
        self.told: dict[int, Told] = {}
        self._urls = urls
        self._left = iter(range(count))
        self._at_once = at_once
        self._tokens = tokens
        self._prompts = load_prompts()

    async def run(self, model: str = MODEL) -> None:
        """Run them all to their ends."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._run_some(session, model) for _ in range(self._at_once)))

    async def _run_some(self, session: aiohttp.ClientSession, model: str) -> None:
        for number in self._left:
            told = self.told[number] = Told()
            body = write_body(self._prompts, number, self._tokens, model)
            url = self._urls[number % len(self._urls)]
            await follow(session, url, f"stream-{number}", body, told)

    def list_running(self) -> dict[int, Told]:
        """Return those that have begun and not ended."""
        return {number: told for number, told in self.told.items() if told.ended is None}


def write_told(told: Told) -> dict[str, Any]:
    """Return it as JSON has it."""
    return {**asdict(told), "ids": sorted(told.ids)}
