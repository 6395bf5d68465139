"""Whole answers to clients: OpenAI error bodies, and what a worker answered.

Every path that does not stream ends in an `Answer`; `Refusal` carries one up from wherever a
request cannot go on.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete HTTP answer, without the headers that every answer gets."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    retry_after: int | None = None


class Refusal(Exception):  # noqa: N818 - refusing is an ordinary end of a request
    """A request that the gateway answers itself."""

    def __init__(self, answer: Answer, outcome: str) -> None:
        super().__init__(f"{answer.status} {outcome}")
        self.answer = answer
        self.outcome = outcome


def render_error(message: str, *, kind: str, code: str, param: str | None = None) -> bytes:
    """Return an OpenAI error body."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}).encode()


def refuse_request(
    message: str, *, code: str, status: int = 400, param: str | None = None
) -> Answer:
    """Answer for a request that is wrong in itself."""
    body = render_error(message, kind="invalid_request_error", code=code, param=param)
    return Answer(status, body)


def refuse_model(model: str, served: list[str]) -> Answer:
    """404 for a model that no pool serves, listing what is served."""
    known = ", ".join(served) if served else "none"
    message = f"The model {model[:100]!r} is not served here; served: {known}"
    return refuse_request(message, code="model_not_found", status=404, param="model")


def answer_unavailable(message: str, *, code: str, retry_after: int) -> Answer:
    """503: nobody can serve it now."""
    body = render_error(message, kind="service_unavailable", code=code)
    return Answer(503, body, retry_after=retry_after)


def answer_overloaded(message: str, *, code: str, retry_after: int) -> Answer:
    """429: too much of it now."""
    body = render_error(message, kind="rate_limit_error", code=code)
    return Answer(429, body, retry_after=retry_after)


def answer_bad_gateway(message: str, *, code: str, status: int = 502) -> Answer:
    """502 or 504: the worker failed, and no other could take over."""
    return Answer(status, render_error(message, kind="server_error", code=code))


def render_json(document: Any) -> Answer:
    """200 with a JSON document."""
    return Answer(200, json.dumps(document).encode())
