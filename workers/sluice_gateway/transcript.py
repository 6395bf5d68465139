"""What the client of one stream has been given: what another worker needs in order to go on.

Pure: events in, events for the client out, with what the client did not ask for taken out of them.
Each token passes through here, so the form of our own workers' events has a path of its own; all
others are read as JSON.
"""

import json
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sluice_gateway.continuedchoices import write_as_chat
from sluice_gateway.soundness import (
    StreamError,
    are_ids,
    check_event,
    count_characters,
    is_json,
    read_text,
)

Json = dict[str, Any]
Maker = tuple[str, str]
"""What a worker computes in, and the digest of its model; two empty texts if it does not say."""

DONE_EVENT: Final = b"data: [DONE]"
_CHOICES: Final = b',"choices":[{"index":'
_TEXT: Final = rb'"([^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*)"'
_TOKEN: Final = re.compile(
    rb'(\d+),(?:"text":' + _TEXT + rb'|"delta":\{(?:"content":' + _TEXT + rb")?\}),"
    rb'"logprobs":(?:null|(\{.*\})),"finish_reason":null(?:,"stop_reason":null)?'
    rb'(,"token_ids":\[(\d{1,18})\])?(\}\](?:,"usage":null)?\})'
)
"""What follows `_CHOICES` in an event of our workers, or of vLLM, that brings one token and ends
nothing."""
_END: Final = b"}]}"
_BESIDE: Final = frozenset({"choices", "usage", "prompt_token_ids"})


@dataclass(slots=True, eq=False)
class GivenChoice:
    """How far one choice has come.

    Attributes:
        tokens: Ids of its output tokens.
        solid: How many of them came when its text last grew: those after may be half a character.
        characters: Of their text, in code points; what `echo` puts before it does not count.
        untold: Pieces of text that came without token ids.
        opened: An event of it came, such as the one that names the role.
        finished: The event with its `finish_reason` came.
    """

    index: int
    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    solid: int = 0
    characters: int = 0
    untold: int = 0
    opened: bool = False
    finished: bool = False

    def forget_loose(self) -> None:
        """Drop the tokens after `solid`, for a worker that does not know what text was sent."""
        del self.tokens[self.solid :]


@dataclass(frozen=True, slots=True)
class Leg:
    """One request that goes on with some choices of a stream.

    Attributes:
        choices: By index in its events, the index in the stream.
        is_text: Its events are those of a completion, and the stream may be a chat.
        foreign: It goes to a worker that knows nothing of continuations.
    """

    path: str
    body: bytes
    choices: Mapping[int, int]
    is_text: bool = False
    foreign: bool = False


class Transcript:
    """The record of one stream, over all the workers that give parts of it.

    Args:
        chat: Its events are those of a chat.
        choices: How many it has in all.
        per_prompt: How many for each prompt.
        wants_ids: The client itself asked for token ids.
        wants_usage: The client itself asked for usage.
        counted: The number of choices is known for sure.

    Attributes:
        trackable: Everything that another worker needs has come.
        head: What every event has beside its choices, `id` and `created` among it.
        prompts: Token ids of the prompts, by number.
        maker: Of the worker that began it; None until it said.
        approximate: A part came of a worker that may have gone on otherwise.
    """

    def __init__(
        self,
        *,
        chat: bool,
        choices: int,
        per_prompt: int,
        wants_ids: bool,
        wants_usage: bool,
        counted: bool = True,
    ) -> None:
        self.chat = chat
        self.per_prompt = per_prompt
        self.choices = [GivenChoice(index) for index in range(choices)]
        self._counted = counted
        self._wants_ids = wants_ids
        self._wants_usage = wants_usage
        self._front = b""
        self._open: dict[bytes, GivenChoice] = {}
        self._leg: Leg | None = None
        self._left = choices
        self._usage_given = False
        self._end_given = False
        self._may_differ = False
        self.trackable = True
        self.head: Json = {}
        self.prompts: dict[int, array[int]] = {}
        self.maker: Maker | None = None
        self.approximate = False

    @property
    def complete(self) -> bool:
        """Whether every choice has ended."""
        return not self._left

    @property
    def needs_no_worker(self) -> bool:
        """Whether nothing is missing but its end, or not even that."""
        return self._end_given or (self.complete and self.trackable)

    @property
    def leg_complete(self) -> bool:
        """Whether every choice of the present leg has ended."""
        indices = self._leg.choices.values() if self._leg else ()
        return all(self.choices[index].finished for index in indices)

    @property
    def in_leg(self) -> bool:
        """Whether it goes on from another worker than the one that began it."""
        return self._leg is not None

    def begin_leg(self, leg: Leg, maker: Maker) -> bool:
        """From now on, take the events of a worker that goes on with some choices.

        Returns:
            Whether it goes on as the stream would have gone on undisturbed.
        """
        exact = not leg.foreign and all(maker) and maker == self.maker
        self._leg = leg
        self._may_differ = not exact
        same = not leg.is_text and all(here == there for here, there in leg.choices.items())
        going_on = [self.choices[index] for index in leg.choices.values()] if same else []
        self._open = {b"%d" % one.index: one for one in going_on}
        return exact

    def count_tokens(self) -> tuple[int, int]:
        """Return prompt and output tokens; a piece of text without token ids counts as one."""
        output = sum(len(choice.tokens) + choice.untold for choice in self.choices)
        return sum(map(len, self.prompts.values())), output

    def count_characters(self) -> int:
        """Return characters of the choices that have not ended."""
        return sum(choice.characters for choice in self.choices if not choice.finished)

    def note_usage(self) -> None:
        """The client was given the token counts."""
        self._usage_given = True

    def note_end(self) -> None:
        """The client was given the very end."""
        self._end_given = True

    def take_token(self, event: bytes) -> bytes | None:
        """Take an event with one token in our workers' form; return what the client gets.

        None if the event has another form: nothing was taken then.
        """
        front = self._front
        if not front or not event.startswith(front):
            return None
        found = _TOKEN.fullmatch(event, len(front))
        if found is None:
            return None
        index, text, content, scores, ids, token, end = found.groups()
        choice = self._open.get(index)
        if choice is None or (scores and not is_json(scores)):
            return None
        if self._may_differ:
            self.approximate = True
        text = text or content
        size = count_characters(text) if text else 0
        if size is None:
            return None
        choice.characters += size
        if ids is None:
            choice.untold += bool(text)
            self.trackable &= not text
        else:
            choice.tokens.append(int(token))
            if text:
                choice.solid = len(choice.tokens)
        if (self._wants_ids or not ids) and len(end) == len(_END):
            return event
        kept = event[: -len(end)] if self._wants_ids or not ids else event[: -len(ids) - len(end)]
        return kept + (end if self._wants_usage else _END)

    def take_document(self, event: bytes, document: Json) -> bytes | None:
        """Take any event; return what the client gets of it, None if nothing.

        Raises:
            StreamError: It can be no event of this stream, or speaks of choices that nobody asked
                this worker to go on with.
        """
        if self._leg is None:
            count = len(self.choices) if self._counted else None
            check_event(document, head=self.head, choices=count)
        else:
            check_event(document, head={}, choices=None)
        choices = document.get("choices")
        if not isinstance(choices, list):
            self.trackable = False
            return event
        if not self.head:
            self._note_head(event, document)
        changed = False
        kept: list[object] = []
        opened: list[bytes] = []
        for said in choices:
            if self._leg is None:
                if self._is_over(said):
                    changed = True
                    continue
            else:
                changed |= self._fit_choice(self._leg, said, opened)
                if not self._leg.foreign and self._repeats(said):
                    changed = True
                    continue
            self._note_choice(said, document)
            self.approximate |= self._may_differ
            kept.append(said)
        if choices and not kept and not document.get("usage"):
            return None
        document["choices"] = kept
        changed |= self._strip(document)
        if self._leg is not None:
            changed |= self._fit_document(document)
        written = render_data(document) if changed else event
        return b"\n\n".join([*opened, written])

    def render_end(self) -> bytes:
        """Return the events that end it, as far as they are still due: counts, and the very end."""
        if self._end_given:
            return b""
        self._end_given = True
        ending = [DONE_EVENT]
        if self._wants_usage and not self._usage_given:
            prompt, output = self.count_tokens()
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
            }
            ending.insert(
                0, render_data({**self.head, "choices": [], "usage": usage, **self._mark()})
            )
        return b"".join(event + b"\n\n" for event in ending)

    def end_choice(self, index: int, reason: str) -> bytes:
        """End a choice of which only that was missing; return its event."""
        said: Json = {"index": index, "text": "", "logprobs": None, "finish_reason": reason}
        self._note_finish(self.choices[index])
        document = {**self.head, "choices": [write_as_chat(said) if self.chat else said]}
        self._fit_document(document)
        return render_data(document) + b"\n\n"

    def _mark(self) -> Json:
        """Return what the last chunk tells of how it was made; nothing if all of it is exact."""
        if not self.approximate:
            return {}
        return {"sluice": {"continuation": "approximate"}}

    def _note_head(self, event: bytes, document: Json) -> None:
        """Remember what every event has."""
        self.head = {key: document[key] for key in document if key not in _BESIDE}
        named = isinstance(document.get("id"), str) and type(document.get("created")) is int
        self.trackable &= named
        place = event.find(_CHOICES)
        self._front = event[: place + len(_CHOICES)] if place > 0 and named else b""

    def _fit_choice(self, leg: Leg, said: Json, opened: list[bytes]) -> bool:
        """Give a leg's choice its index and form in the stream; return whether that changed it."""
        here = said.get("index", 0)
        index = leg.choices.get(here) if type(here) is int else None
        if index is None or self.choices[index].finished:
            raise StreamError(f"it goes on with choice {str(here)[:20]}, which nobody asked for")
        said["index"] = index
        if not (leg.is_text and self.chat):
            return bool(here != index)
        told = write_as_chat(said)
        said.clear()
        said |= told
        choice = self.choices[index]
        if not choice.opened:
            delta = {"role": "assistant", "content": ""}
            role = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            opened.append(render_data({**self.head, "choices": [role]}))
            choice.opened = True
        return True

    def _is_over(self, said: Json) -> bool:
        """Return whether a choice has ended before: some servers end one twice.

        Raises:
            StreamError: If it goes on all the same.
        """
        index = said.get("index", 0)
        if index >= len(self.choices) or not self.choices[index].finished:
            return False
        if said.get("token_ids") or read_text(said)[0]:
            raise StreamError(f"choice {index} goes on after its end")
        return True

    def _repeats(self, said: Json) -> bool:
        """Return whether a choice opens again: with its role or echo, and before any token."""
        choice = self.choices[said["index"]]
        if said.get("token_ids") is not None or said.get("finish_reason") is not None:
            return False
        return choice.opened and not choice.tokens and not choice.untold

    def _fit_document(self, document: Json) -> bool:
        """Give a leg's event what every event of the stream has; return whether that changed it."""
        odd = {key: value for key, value in self.head.items() if document.get(key) != value}
        document |= odd
        mark = self._mark() if self.complete and not self._wants_usage else {}
        document |= mark
        return bool(odd or mark)

    def _note_choice(self, said: Json, document: Json) -> None:
        """Take in what a choice of an event brings."""
        index, ids = said.get("index", 0), said.get("token_ids")
        if type(index) is not int or not 0 <= index < len(self.choices):
            self.trackable = False
            return
        choice = self.choices[index]
        text, plain = read_text(said)
        self.trackable &= plain
        prompt = said.get("prompt_token_ids") or document.get("prompt_token_ids")
        number = index // self.per_prompt
        if prompt is not None and number not in self.prompts and are_ids(prompt):
            self.prompts[number] = array("q", prompt)
        if ids is None:
            echoes = prompt is not None and not choice.tokens and not self.chat
            if text and not echoes:
                choice.untold += 1
                self.trackable = False
        elif are_ids(ids):
            choice.tokens.extend(ids)
            choice.characters += len(text)
            if text:
                choice.solid = len(choice.tokens)
        else:
            self.trackable = False
        if self._leg is None and not choice.opened:
            self._open[b"%d" % index] = choice
        choice.opened = True
        if said.get("finish_reason") is not None:
            self._note_finish(choice)

    def _note_finish(self, choice: GivenChoice) -> None:
        if not choice.finished:
            choice.finished = True
            self._left -= 1
            self._open.pop(b"%d" % choice.index, None)

    def _strip(self, document: Json) -> bool:
        """Take out the ids that the client did not ask for; return whether there were any."""
        if self._wants_ids:
            return False
        said = [one for one in document["choices"] if isinstance(one, dict)]
        found = [
            one.pop(key)
            for one in (document, *said)
            for key in ("token_ids", "prompt_token_ids")
            if key in one
        ]
        return bool(found)


def render_data(document: Json) -> bytes:
    """Return one event, without its blank line, as our workers write it."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode()
