"""Tells what can be an answer of a worker from what cannot.

Pure. What does not pass never reaches a client: it is one more fault of the worker.
"""

import json
from typing import Any, Final, NoReturn

Json = dict[str, Any]

_SAME: Final = ("id", "model")
"""What all events of a stream have in common. An event that differs is another request's."""
_SAID_MOST: Final = 500
"""Characters of what a worker says in a form of its own that its client is told."""


class StreamError(ValueError):
    """A worker's stream that is not one: nonsense, too long, or an error inside a 200.

    Attributes:
        body: The error's JSON, if the worker sent one.
    """

    def __init__(self, message: str, body: bytes = b"") -> None:
        super().__init__(message)
        self.body = body


def read_object(data: bytes) -> Json:
    """Return a worker's JSON object.

    Raises:
        StreamError: If it is anything else, numbers that JSON does not know included.
    """
    try:
        document = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StreamError("it is not JSON, or nested too deeply") from error
    if not isinstance(document, dict):
        raise StreamError("it is not a JSON object")
    return document


def check_answer(document: Json, *, chat: bool, choices: int | None) -> None:
    """Return if a document can be a whole answer.

    Args:
        document: What the worker sent.
        chat: A chat was asked for.
        choices: How many there have to be at most; None if nobody knows.

    Raises:
        StreamError: If it cannot.
    """
    if document.get("error"):
        raise StreamError("an error in a 200")
    said = document.get("choices")
    if not isinstance(said, list) or not said:
        raise StreamError("a 200 without choices")
    if choices is not None and len(said) > choices:
        raise StreamError(f"{len(said)} choices instead of {choices}")
    for one in said:
        _check_choice(one, choices)
        if chat and not isinstance(one.get("message"), dict):
            raise StreamError("a choice without a message")
        if not chat and not isinstance(one.get("text"), str):
            raise StreamError("a choice without a text")


def check_event(document: Json, *, head: Json, choices: int | None) -> None:
    """Return if a document can be an event of a stream.

    Args:
        document: What the worker sent.
        head: What the stream's first event had beside its choices; empty if that is of no account.
        choices: How many the stream has; None if nobody knows.

    Raises:
        StreamError: If it cannot.
    """
    for key in _SAME:
        if key in head and document.get(key, head[key]) != head[key]:
            raise StreamError(f"an event of another stream: its `{key}` differs")
    said = document.get("choices")
    if said is None:
        return
    if not isinstance(said, list):
        raise StreamError("its `choices` are no list")
    for one in said:
        _check_choice(one, choices)
        delta, text = one.get("delta"), one.get("text")
        if not isinstance(delta, dict | None):
            raise StreamError("a `delta` is no object")
        content = delta.get("content") if delta else None
        if not isinstance(text, str | None) or not isinstance(content, str | None):
            raise StreamError("a choice's text is none")


def shape_error(body: bytes, status: int) -> bytes:
    """Return a worker's word of an error as OpenAI's clients expect it, whatever it wrote."""
    message: object = None
    error: Json = {}
    try:
        document = json.loads(body.decode())
    except UnicodeDecodeError:
        pass
    except (ValueError, RecursionError):
        text = body.decode().strip()
        message = text if "<" not in text and text.isprintable() else None
    else:
        said = document.get("error") or document if isinstance(document, dict) else None
        if isinstance(said, dict):
            error, message = said, said.get("message")
            detail = said.get("detail")
            if message is None and detail:
                message = detail if isinstance(detail, str) else json.dumps(detail)[:_SAID_MOST]
        elif isinstance(said, str):
            message = said
    if isinstance(message, str) and message:
        if isinstance(error.get("type"), str) and {"param", "code"} <= error.keys():
            return json.dumps({"error": error}).encode()
        message = message[:_SAID_MOST]
    else:
        error, message = {}, f"the worker answered {status}"
    ours = status < 500  # noqa: PLR2004 - the client's own mistake
    kind = error.get("type")
    told = {
        "message": message,
        "type": kind if isinstance(kind, str) else _name_kind(ours=ours),
        "param": error.get("param"),
        "code": error.get("code", "invalid_request" if ours else "worker_error"),
    }
    return json.dumps({"error": told}).encode()


def is_json(data: bytes) -> bool:
    """Return whether bytes are JSON."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def count_characters(text: bytes) -> int | None:
    """Return the code points of a text in JSON, without its quotes; None if it is none."""
    if b"\\" not in text and text.isascii():
        return len(text)
    try:
        return len(json.loads(b'"%b"' % text))
    except ValueError:
        return None


def read_text(said: Json) -> tuple[str, bool]:
    """Return a choice's text in a sound event, and whether it has nothing else to remember."""
    if "delta" not in said:
        text = said.get("text")
        return (text, True) if isinstance(text, str) else ("", text is None)
    delta = said["delta"]
    if not isinstance(delta, dict):
        return "", False
    text = delta.get("content") or ""
    beside = any(delta[key] for key in delta if key not in ("role", "content"))
    return (text, not beside) if isinstance(text, str) else ("", False)


def are_ids(value: object) -> bool:
    """Return whether a value is a list of token ids."""
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)


def _name_kind(*, ours: bool) -> str:
    return "invalid_request_error" if ours else "server_error"


def _check_choice(one: object, choices: int | None) -> None:
    """Check what choices of whole answers and of events have in common."""
    if not isinstance(one, dict):
        raise StreamError("a choice is no object")
    index = one.get("index", 0)
    if type(index) is not int or index < 0 or (choices is not None and index >= choices):
        raise StreamError(f"a choice {str(index)[:20]!r}, which nobody asked for")
    if not isinstance(one.get("logprobs"), dict | None):
        raise StreamError("a choice's `logprobs` are no object")
    if not isinstance(one.get("finish_reason"), str | None):
        raise StreamError("a choice's `finish_reason` is no text")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
