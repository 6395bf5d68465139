"""One request for known answers to a worker: what it said, or why that says nothing."""

from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import aiohttp
from pydantic import ValidationError

from sluice.observe.knownlists import Wire
from sluice.observe.probes import UID_HEADER
from sluice.observe.text import clean_text

PATH = "/internal/known-answers"

BODY_LIMIT = 1 << 20
"""Bytes; the lists are a few kilobytes."""

_BUSY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.MISDIRECTED_REQUEST,  # another pod at the address: a matter of liveness
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}

_Parsed = TypeVar("_Parsed", bound=Wire)


class NoVerdictError(Exception):
    """Nobody answered in time: the round does not count."""


class SilentError(NoVerdictError):
    """It did not come in time."""


class UnavailableError(Exception):
    """Nothing can be judged; the message says why."""


class UnreadableError(Exception):
    """The body is not what was asked for; the message says why."""


class Reply(NamedTuple):
    """The body of a 200.

    Attributes:
        data: its first bytes, one more than `BODY_LIMIT` at most.
        signed: it names the uid of the pod that was asked: the worker's own word, and no proxy's.
    """

    data: bytes
    signed: bool


class _Message(Wire):
    message: str


class _Refusal(Wire):
    error: _Message


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    uid: str,
    timeout: float,  # noqa: ASYNC109  # aiohttp's, which bounds connecting, too
    body: dict[str, Any] | None = None,
) -> Reply:
    """Ask for the list or, with a body, for an answer.

    Args:
        session: HTTP client.
        url: the worker's, without a slash at its end.
        uid: of its pod.
        timeout: seconds.
        body: the prompt, and how many tokens its answer has.

    Raises:
        NoVerdictError: no answer in time, or the worker is busy or broken.
        UnavailableError: it answers that it cannot.
    """
    try:
        async with session.request(
            "GET" if body is None else "POST",
            url + PATH,
            json=body,
            headers={UID_HEADER: uid, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,  # a worker sends us nowhere
        ) as response:
            data = await _read_bounded(response)
            status = response.status
            named = response.headers.get(UID_HEADER)
    except TimeoutError as error:
        raise SilentError from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoVerdictError from error
    other = named is not None and named != uid
    if other or status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise NoVerdictError
    if status != HTTPStatus.OK:
        said = _find_message(data)
        raise UnavailableError(said or f"the worker answers {status} without a reason")
    return Reply(data, named == uid)


def parse(kind: type[_Parsed], data: bytes) -> _Parsed:
    """Return what a reply says.

    Raises:
        UnreadableError: it is something else, or too long.
    """
    if len(data) > BODY_LIMIT:
        raise UnreadableError(f"it has more than {BODY_LIMIT} bytes")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = clean_text(f"{place}: {first['msg']}" if place else first["msg"])
        raise UnreadableError(said) from error


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > BODY_LIMIT:
            response.close()
            break
    return bytes(data[: BODY_LIMIT + 1])


def _find_message(data: bytes) -> str:
    """Return the message of an error body in OpenAI's form, cleaned, or ""."""
    try:
        return clean_text(parse(_Refusal, data).error.message)
    except UnreadableError:
        return ""
