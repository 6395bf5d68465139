"""The demo's watched stream without a cluster: what is shown of it, and what is a fault."""

from types import SimpleNamespace
from typing import Any

import pytest

from sluice.cli.demo.load import Load
from sluice.cli.demo.prompts import Question
from sluice.cli.demo.survival import STRIKE_AFTER, Tale, find_fault, tell_survival

QUESTION = Question("story", "tell", "", 4)
WORDS = [f"word{number} " for number in range(40)]
TOLD = "".join(WORDS)
MOVED = [
    {"pod": "w1", "goesOnAfter": None},
    {"pod": "w2", "goesOnAfter": "reset"},
]


class Client:
    """Tells a story, as the openai client would hand it on."""

    def __init__(self, *, breaks_at: int | None = None, mark: dict[str, str] | None = None) -> None:
        self.breaks_at, self.mark = breaks_at, mark or {}
        self.chat = SimpleNamespace(completions=self)
        self.with_raw_response = self
        self.headers = {
            "x-sluice-worker": "w1",
            "x-sluice-class": "maia-200",
            "x-request-id": "req-1",
        }

    async def create(self, **_: Any) -> "Client":
        return self

    async def parse(self) -> Any:
        for number, word in enumerate(WORDS):
            if number == self.breaks_at:
                raise ConnectionError("cut off")
            yield self._chunk(word, None)
        yield self._chunk(None, "stop")
        extra = {"sluice": self.mark} if self.mark else {}
        usage = SimpleNamespace(completion_tokens=len(WORDS))
        yield SimpleNamespace(choices=[], usage=usage, model_extra=extra)

    def _chunk(self, text: str | None, finish: str | None) -> Any:
        choice = SimpleNamespace(delta=SimpleNamespace(content=text), finish_reason=finish)
        return SimpleNamespace(choices=[choice], usage=None, model_extra=None)


async def follow(
    client: Client, *, told: str = TOLD, attempts: Any = MOVED
) -> tuple[Tale, list[str]]:
    said: list[str] = []
    load = Load(client, "compact", [], iter(()), [1.0])
    references = {"maia-200": {QUESTION.prompt: told}}

    def find_route(request_id: str) -> Any:
        assert request_id == "req-1"
        return {"attempts": attempts}

    tale = Tale(load, QUESTION, references, find_route, said.append)
    await tale.follow()
    return tale, said


async def test_each_word_is_shown_and_the_story_of_the_stream_told() -> None:
    tale, said = await follow(Client())
    shown = " ".join(line.removeprefix("  | ").strip() for line in said if line.startswith("  | "))
    assert shown == TOLD.strip()
    assert all(len(line) < 100 for line in said)
    assert len(tale.arrivals) == len(WORDS) > STRIKE_AFTER
    assert await tale.begun() is False  # it has ended: nothing is struck any more
    found = tale.describe()
    assert find_fault(found) == ""
    text = tell_survival(found)
    assert "began on w1" in text
    assert "went on at w2" in text
    assert "40 tokens, as an undisturbed worker tells it" in text


async def test_a_stream_that_goes_on_otherwise_has_to_say_so() -> None:
    tale, _ = await follow(Client(), told=TOLD + "and more")
    assert "otherwise than an undisturbed worker" in find_fault(tale.describe())
    tale, _ = await follow(Client(mark={"continuation": "approximate"}), told=TOLD + "and more")
    found = tale.describe()
    assert find_fault(found) == ""
    assert "as its last chunk says" in tell_survival(found)


@pytest.mark.parametrize(
    ("client", "attempts", "fault"),
    [
        (Client(breaks_at=20), MOVED, "did not outlive its worker: ConnectionError: cut off"),
        (Client(), MOVED[:1], "which was not killed under it"),
        (Client(), [], "ended on an unknown worker"),
    ],
)
async def test_a_stream_that_broke_or_was_never_struck_fails_the_demo(
    client: Client, attempts: Any, fault: str
) -> None:
    tale, _ = await follow(client, attempts=attempts)
    assert fault in find_fault(tale.describe())


async def test_the_place_where_the_story_broke_off_is_shown() -> None:
    said: list[str] = []
    load = Load(Client(), "compact", [], iter(()), [1.0])
    tale = Tale(load, QUESTION, {}, lambda _: None, said.append)
    tale._take("Once upon ")
    tale.arrivals[-1] -= 1.0
    tale._take("a time\n")
    shown, broken, rest = said
    assert (shown.strip(), rest.strip()) == ("| Once upon", "| a time")
    assert "nothing for 1.0" in broken
