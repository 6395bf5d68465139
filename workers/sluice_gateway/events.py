"""Follows one worker's event stream: splits it, tells when it begins and ends, counts tokens.

Pure: bytes and times in, bytes for the client out. What of it is remembered for longer than one
worker lives is the `Transcript`'s.
"""

import re
from typing import Any, Final

from sluice_gateway.soundness import StreamError, read_object, shape_error
from sluice_gateway.transcript import Transcript

Usage = dict[str, Any]

_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_HELD_MOST: Final = 32
_TOKENS_MOST: Final = 1 << 24
_BESIDE_TOKENS: Final = 8
"""Events of one choice that bring no token of their own: its role, its prompt, its end."""
_SERVER_ERROR: Final = 500
_EMPTY_USAGE: Final = re.compile(rb',\s*"usage":\s*null\s*}$')


class EventSplitter:
    """Cuts a byte stream into server-sent events (without their blank line)."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are complete now.

        Raises:
            StreamError: If an event is longer than allowed.
        """
        self._size += len(data)
        if b"\n" in data:
            data = b"".join([*self._parts, data])
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n")
            *events, rest = data.split(b"\n\n")
            self._parts, self._size = [rest], len(rest)
        else:  # nothing ends here, and a long event is put together but once
            self._parts.append(data)
            events = []
        if self._size > self._most_bytes:
            raise StreamError(f"an event is longer than {self._most_bytes} bytes")
        return [event for event in events if event]

    @property
    def is_clean(self) -> bool:
        """Whether the stream stands between two events."""
        return not b"".join(self._parts).strip()


class StreamProgress:
    """What has come of one stream from one worker.

    Events before the first token (a role, comments) are held back: until then nothing was sent to
    the client, and another worker can still take over. What goes on with a stream that the client
    has seen a part of holds nothing back.

    Args:
        transcript: Where what the client was given is recorded.
        wants_usage: The client asked for token counts.
        tokens_most: Tokens that it may have, if that is known.

    Attributes:
        first_at: When the first token came; None before. From then on the stream has begun.
        last_at: When the last token came.
        done: The worker ended the stream properly.
        token_events: How many events brought tokens.
        usage: The worker's own count of tokens, once it gave one.
        failure: What the worker did wrong after the stream had begun, if anything.
    """

    def __init__(
        self, transcript: Transcript, *, wants_usage: bool, tokens_most: int | None = None
    ) -> None:
        self._transcript = transcript
        self._goes_on = transcript.in_leg
        self._wants_usage = wants_usage
        self._held: list[bytes] = []
        self.token_events = 0
        self._events_most = _TOKENS_MOST if tokens_most is None else tokens_most
        self._events_most += _BESIDE_TOKENS * len(transcript.choices)
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.done = False
        self.usage: Usage | None = None
        self.failure: StreamError | None = None

    def take(self, events: list[bytes], now: float) -> bytes:
        """Digest events; return what the client gets of them now.

        In a stream that the client has seen a part of, tokens before an error are not lost: they
        are returned, and `failure` is set.

        Raises:
            StreamError: If an event is an error or not JSON, and the client has seen nothing yet.
        """
        begun = self.begun or self._goes_on
        out: list[bytes] = []
        for event in events:
            if self.done:
                break  # what comes after the end is nothing
            try:
                kept = self._take_event(event, now)
            except StreamError as error:
                if not begun:
                    raise
                self.failure = error
                break
            if kept is None:
                continue
            if self.first_at is None and not self.done and not self._goes_on:
                self._hold(kept)
                continue
            if self._held:
                out += self._held
                self._held = []
            out.append(kept)
        return b"".join(event + b"\n\n" for event in out)

    @property
    def begun(self) -> bool:
        """Whether there is something to send: a token, or a proper end."""
        return self.first_at is not None or self.done

    def count_tokens(self) -> tuple[int, int]:
        """Return prompt and output tokens: the worker's count, else one a chunk."""
        return read_usage(self.usage, otherwise=self.token_events)

    def _hold(self, event: bytes) -> None:
        if len(self._held) >= _HELD_MOST:
            raise StreamError(f"more than {_HELD_MOST} events before the first token")
        self._held.append(event)

    def _take_event(self, event: bytes, now: float) -> bytes | None:
        """Return the event as the client gets it, or None to keep it to ourselves."""
        if self.token_events >= self._events_most:
            raise StreamError("it has more tokens than were asked for")
        kept = self._transcript.take_token(event)
        if kept is not None:
            self._note_token(now)
            return kept
        payload = read_payload(event)
        if payload is None:
            return event if self.begun else None  # a comment
        if not payload:
            return None  # says nothing, and clients would take it for JSON
        if payload == _DONE:
            if self.first_at is None and not self._goes_on:
                raise StreamError("it ended before its first token")
            self.done = True
            if not self._goes_on:
                self._transcript.note_end()
                return event
            if not self._transcript.leg_complete:
                raise StreamError("the stream ended before its choices had")
            return None
        if not self._wants_usage and payload.endswith(b"null}"):
            # The client did not ask for usage, so it should not see the field either.
            payload = _EMPTY_USAGE.sub(b"}", payload)
            event = b"data: " + payload
        return self._take_document(event, payload, now)

    def _take_document(self, event: bytes, payload: bytes, now: float) -> bytes | None:
        """Look into an event that may be more than a token, or that has another form."""
        document = read_object(payload)
        choices = document.get("choices")
        if document.get("error"):
            body = shape_error(payload, _SERVER_ERROR)
            raise StreamError("the worker sent an error instead of a token", body)
        usage = document.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
            if not choices:
                return self._take_usage(event)
        kept = self._transcript.take_document(event, document)
        if kept is not None and has_token(choices):
            self._note_token(now)
        return kept

    def _take_usage(self, event: bytes) -> bytes | None:
        """Return the event with the worker's counts if it is for the client.

        Of a stream that goes on they are of a part of it: the whole is counted at its end.
        """
        if self._goes_on or not self._wants_usage:
            return None
        self._transcript.note_usage()
        return event

    def _note_token(self, now: float) -> None:
        if self.first_at is None:
            self.first_at = now
        self.last_at = now
        self.token_events += 1


def read_usage(usage: Usage | None, *, otherwise: int) -> tuple[int, int]:
    """Return prompt and output tokens of a worker's count; `otherwise` if it lacks the latter."""
    told = usage or {}
    prompt = _read_count(told.get("prompt_tokens"))
    output = _read_count(told.get("completion_tokens"))
    return 0 if prompt is None else prompt, otherwise if output is None else output


def _read_count(value: object) -> int | None:
    """Return a number of tokens that an answer can have; None if it is anything else."""
    return value if type(value) is int and 0 <= value <= _TOKENS_MOST else None


def read_payload(event: bytes) -> bytes | None:
    """Return the data of a server-sent event, or None if it carries none."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[len(_DATA) :].strip() for line in event.split(b"\n") if line.startswith(_DATA)]
    return b"\n".join(lines) if lines else None


def has_token(choices: object) -> bool:
    """Return whether a chunk's choices carry a token.

    A token may have no text yet (half a character, the start of a stop string), so only the chunk
    that opens a chat message, with a role and nothing else, is told apart.
    """
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return True
        said = any(delta[key] for key in delta if key != "role")
        if said or "role" not in delta or choice.get("finish_reason"):
            return True
    return False


def render_event(body: bytes) -> bytes:
    """Return one server-sent event with this data."""
    return b"data: " + body + b"\n\n"
