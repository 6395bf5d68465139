"""What is asked of an answer: the request's class, and by when.

A request says so itself (`X-Sluice-Class`, `X-Sluice-Deadline`), or its deadline tells, or its
pool's rule does, or it is `standard`. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sluice_gateway import names
from sluice_gateway.answers import Refusal, refuse_request

_DEADLINE_MOST: Final = 3_600_000
_BATCH_TIMES: Final = 10.0
"""A batch request may wait so many times the pool's objective for its first token; a deadline that
is as long as that makes one."""


class RequestClass(StrEnum):
    """Kinds of requests, the most urgent first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"

    @property
    def priority(self) -> int:
        """Its number in the workers' queue: lower comes first."""
        return _PRIORITIES[self]


_PRIORITIES: Final = {
    RequestClass.INTERACTIVE: -10,
    RequestClass.STANDARD: 0,
    RequestClass.BATCH: 10,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself; None where it does not.

    Attributes:
        deadline: Seconds from its arrival until its first token, or, if it does not stream, its
            whole answer.
        session: Requests of one session go where the last one went, if that pays.
    """

    kind: RequestClass | None = None
    deadline: float | None = None
    session: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """A request's class and objectives, in seconds.

    Attributes:
        ttft: From arrival until it should have begun.
        tpot: Between two of its tokens.
        strict: `ttft` is its own deadline, and of no use later.
    """

    kind: RequestClass
    ttft: float
    tpot: float
    strict: bool = False


def read_asked(headers: Mapping[str, str]) -> Asked:
    """Read a request's headers.

    Raises:
        Refusal: With a 400, if one of them is nonsense.
    """
    kind = headers.get(names.HEADER_REQUEST_CLASS)
    text = headers.get(names.HEADER_DEADLINE)
    session = headers.get(names.HEADER_SESSION, "")[:_SESSION_LENGTH]
    return Asked(
        None if kind is None else _read_class(kind),
        None if text is None else _read_deadline(text),
        session,
    )


_SESSION_LENGTH: Final = 128


def set_goal(asked: Asked, *, rule: str, ttft: float, tpot: float) -> Goal:
    """Return what a request has to be served by.

    Args:
        asked: What it says.
        rule: The class of the pool's requests that say nothing.
        ttft: The pool's objectives, in seconds.
        tpot: Likewise.
    """
    kind = asked.kind or _guess_class(asked.deadline, ttft) or RequestClass(rule)
    if asked.deadline is not None:
        return Goal(kind, asked.deadline, tpot, strict=True)
    return Goal(kind, ttft * (_BATCH_TIMES if kind is RequestClass.BATCH else 1.0), tpot)


def _guess_class(deadline: float | None, ttft: float) -> RequestClass | None:
    if deadline is None:
        return None
    if deadline <= ttft:
        return RequestClass.INTERACTIVE
    return RequestClass.BATCH if deadline >= _BATCH_TIMES * ttft else RequestClass.STANDARD


def _read_class(text: str) -> RequestClass:
    try:
        return RequestClass(text.strip().lower())
    except ValueError as error:
        known = ", ".join(RequestClass)
        raise _refuse(
            f"{names.HEADER_REQUEST_CLASS} is {text[:50]!r}; use one of {known}", "invalid_class"
        ) from error


def _read_deadline(text: str) -> float:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < len(str(_DEADLINE_MOST)) + 1:
        value = int(text)
        if 1 <= value <= _DEADLINE_MOST:
            return value / 1000
    raise _refuse(
        f"{names.HEADER_DEADLINE} is {text[:50]!r}; give milliseconds from 1 to {_DEADLINE_MOST}",
        "invalid_deadline",
    )


def _refuse(message: str, code: str) -> Refusal:
    return Refusal(refuse_request(message, code=code), "invalid")
