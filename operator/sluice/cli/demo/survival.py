"""A stream that one can watch: its worker is killed while it tells a story, and the story goes on.

What came is held against what the same weights say undisturbed in the numerics of the class that
told it. On a worker of another class the rest may differ, which the stream's last chunk must say.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice.cli.demo.load import Load
from sluice.cli.demo.prompts import Question
from sluice.cli.demo.reference import Answers

LONGEST_TALE = 256
STRIKE_AFTER = 36
"""Tokens that have come when the worker is killed: two lines have been shown."""
BREAK_SECONDS = 0.25
"""A pause that is shown: ten times as long as a token takes."""
LINE = 72
BEGIN_SECONDS = 30.0
END_SECONDS = 90.0


@dataclass(slots=True)
class Tale:
    """One watched stream.

    Attributes:
        load: through whose client it is asked for.
        question: asks for the story.
        references: what each class tells undisturbed, by class and prompt.
        find_route: returns what the gateway remembers of a request, by its id.
        say: is told each line as it comes.
        worker: pod that began it; "" before.
        arrivals: when each piece came, in monotonic seconds.
        mark: what its last chunk says of how it went on.
    """

    load: Load
    question: Question
    references: Mapping[str, Answers]
    find_route: Callable[[str], Mapping[str, Any] | None]
    say: Callable[[str], None]
    worker: str = ""
    accelerator: str = ""
    request_id: str = ""
    text: str = ""
    finish: str = ""
    error: str = ""
    tokens: int = 0
    mark: Mapping[str, Any] = field(default_factory=dict)
    attempts: Sequence[Mapping[str, Any]] = ()
    arrivals: list[float] = field(default_factory=list)
    _line: str = ""

    async def follow(self) -> None:
        """Read it to its end, showing each line, and find out who told it."""
        self.say("a story is asked for, and shown as it comes (emulated devices)")
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._read()
        except Exception as error:  # noqa: BLE001  # whatever the client raises, it broke off
            self.error = f"{type(error).__name__}: {error}"[:200]
        if not self.error and not self.finish:
            self.error = "the stream ended without a finish reason"
        self._show(self._line)
        record = await asyncio.to_thread(self.find_route, self.request_id)
        self.attempts = record["attempts"] if record is not None else ()

    async def begun(self) -> bool:
        """Wait until there is something to go on from; False if it does not come, or has ended."""
        deadline = time.monotonic() + BEGIN_SECONDS
        while len(self.arrivals) < STRIKE_AFTER:
            if self.error or self.finish or time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return not self.error and not self.finish

    @property
    def undisturbed(self) -> str | None:
        """What the class that began it tells undisturbed; None if nobody knows."""
        return self.references.get(self.accelerator, {}).get(self.question.prompt)

    @property
    def longest_pause(self) -> float:
        """Seconds between two pieces, at most."""
        gaps = [later - one for one, later in zip(self.arrivals, self.arrivals[1:], strict=False)]
        return max(gaps, default=0.0)

    def describe(self) -> dict[str, Any]:
        """Return what the report says of it."""
        tellers = [str(one["pod"]) for one in self.attempts]
        moved = [one for one in self.attempts if one.get("goesOnAfter")]
        return {
            "tellers": tellers,
            "struck_after_tokens": STRIKE_AFTER,
            "cause": str(moved[0]["goesOnAfter"]) if moved else "",
            "pause_s": round(self.longest_pause, 2),
            "tokens": self.tokens,
            "as_undisturbed": self.text == self.undisturbed,
            "said_to_be_approximate": self.mark.get("continuation") == "approximate",
            "error": self.error,
        }

    async def _read(self) -> None:
        raw = await self.load.client.chat.completions.with_raw_response.create(
            model=self.load.model,
            messages=[{"role": "user", "content": self.question.prompt}],
            max_tokens=LONGEST_TALE,
            temperature=0,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
        self.worker = raw.headers.get("x-sluice-worker", "")
        self.accelerator = raw.headers.get("x-sluice-class", "")
        self.request_id = raw.headers.get("x-request-id", "")
        async for chunk in raw.parse():
            if chunk.usage is not None:
                self.tokens = chunk.usage.completion_tokens
                self.mark = (chunk.model_extra or {}).get("sluice", {})
            for choice in chunk.choices:
                self.finish = choice.finish_reason or self.finish
                if choice.delta.content:
                    self._take(choice.delta.content)

    def _take(self, piece: str) -> None:
        now = time.monotonic()
        if self.arrivals and now - self.arrivals[-1] > BREAK_SECONDS:
            self._show(self._line)
            self._line = ""
            self.say(f"  : nothing for {now - self.arrivals[-1]:.2f} s, then it goes on")
        self.arrivals.append(now)
        self.text += piece
        *lines, self._line = (self._line + piece).split("\n")
        for line in lines:
            self._show(line)
        if len(self._line) > LINE:
            line, _, self._line = self._line.rpartition(" ")
            self._show(line)

    def _show(self, line: str) -> None:
        if line:
            self.say(f"  | {line}")


def tell_survival(found: Mapping[str, Any]) -> str:
    """Return what became of a watched stream, for people."""
    if found["error"]:
        return f"the stream did not outlive its worker: {found['error']}"
    first, *others = found["tellers"] or ["an unknown worker"]
    if not found["cause"]:
        return f"the stream ended on {first}, which was not killed under it"
    lost = f" ({', '.join(others[:-1])} did not go on)" if others[1:] else ""
    same = "as an undisturbed worker tells it"
    other = "otherwise than an undisturbed worker tells it"
    if found["said_to_be_approximate"]:
        other += ", as its last chunk says: another class computes in other numerics"
    return (
        f"the story began on {first}, killed after {found['struck_after_tokens']} tokens"
        f" ({found['cause']}), and went on at {others[-1]}{lost} after {found['pause_s']:.2f} s:"
        f" {found['tokens']} tokens, {same if found['as_undisturbed'] else other}"
    )


def find_fault(found: Mapping[str, Any]) -> str:
    """Return what is wrong with how a watched stream went; nothing if nothing is."""
    told_rightly = found["as_undisturbed"] or found["said_to_be_approximate"]
    if found["error"] or not found["cause"] or not told_rightly:
        return tell_survival(found)
    return ""
