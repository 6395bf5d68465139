"""Load: an open loop of streamed chats by the openai client, each held against its reference.

A reference is what the same weights answer undisturbed in the numerics of the class that answered,
to the same question, greedily and for the longest output (`reference`); an answer cut at fewer
tokens must be its beginning. That says nothing of the model's own accuracy, which is counted beside
it.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from sluice.cli.demo.prompts import LONGEST_OUTPUT, Question, Request

REQUEST_SECONDS = 90.0
DRAIN_SECONDS = 90.0


@dataclass(slots=True)
class Outcome:
    """What became of one request; times are seconds since the epoch.

    Attributes:
        accelerator: class that answered.
        wrong: the answer is not what that class answers undisturbed.
        unjudged: there is an answer, and nobody knows what that class answers undisturbed.
    """

    sent: float
    question: Question
    max_tokens: int
    first: float | None = None
    ended: float | None = None
    text: str = ""
    pieces: int = 0
    accelerator: str = ""
    finish: str = ""
    error: str = ""
    shed: bool = False
    wrong: bool = False
    unjudged: bool = False

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token."""
        return None if self.first is None else self.first - self.sent


@dataclass(slots=True)
class Load:
    """Sends requests at a rate that may be changed while it runs.

    Attributes:
        references: right answers by accelerator class and prompt; empty judges nothing.
    """

    client: Any
    model: str
    questions: Sequence[Question]
    requests: Iterator[Request]
    gaps: Sequence[float]
    rate: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    references: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def ask_all(self, at_once: int = 2, max_tokens: int = LONGEST_OUTPUT) -> list[Outcome]:
        """Ask every question once, so many at a time, and return what became of them."""
        gate = asyncio.Semaphore(at_once)

        async def ask(question: Question) -> Outcome:
            async with gate:
                outcome = Outcome(time.time(), question, max_tokens)
                await self.ask(outcome)
                return outcome

        return list(await asyncio.gather(*(ask(question) for question in self.questions)))

    async def run(self) -> None:
        """Send until cancelled, then let what runs come to its end."""
        try:
            index = 0
            while True:
                if self.rate <= 0:
                    await asyncio.sleep(0.1)
                    continue
                await asyncio.sleep(self.gaps[index % len(self.gaps)] / self.rate)
                index += 1
                request = next(self.requests)
                outcome = Outcome(time.time(), request.question, request.max_tokens)
                self.outcomes.append(outcome)
                task = asyncio.create_task(self.ask(outcome))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        finally:
            if self._running:
                await asyncio.wait(self._running, timeout=DRAIN_SECONDS)

    def recent(self, seconds: float) -> list[Outcome]:
        """Return the outcomes sent in the last so many seconds."""
        since = time.time() - seconds
        return [outcome for outcome in self.outcomes if outcome.sent >= since]

    async def ask(self, outcome: Outcome) -> None:
        """Send one request and write into `outcome` what became of it."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._stream(outcome)
        except Exception as error:  # noqa: BLE001  # whatever the client raises, the request failed
            outcome.error = f"{type(error).__name__}: {error}"[:200]
            outcome.shed = getattr(error, "status_code", None) == HTTPStatus.TOO_MANY_REQUESTS
        outcome.ended = time.time()
        if self.references and not outcome.error:
            self._judge(outcome)

    def _judge(self, outcome: Outcome) -> None:
        reference = self.references.get(outcome.accelerator, {}).get(outcome.question.prompt)
        if reference is None:
            outcome.unjudged = True
            return
        cut = outcome.finish == "length"
        same = reference.startswith(outcome.text) if cut else reference == outcome.text
        outcome.wrong = not same

    async def _stream(self, outcome: Outcome) -> None:
        raw = await self.client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "user", "content": outcome.question.prompt}],
            max_tokens=outcome.max_tokens,
            temperature=0,
            seed=1,
            stream=True,
        )
        outcome.accelerator = raw.headers.get("x-sluice-class", "")
        async for chunk in raw.parse():
            for choice in chunk.choices:
                if choice.delta.content:
                    outcome.first = outcome.first or time.time()
                    outcome.text += choice.delta.content
                    outcome.pieces += 1
                outcome.finish = choice.finish_reason or outcome.finish
        if not outcome.finish:
            outcome.error = "the stream ended without a finish reason"
