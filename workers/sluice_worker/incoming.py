"""What comes in: headers, bodies within their bounds, and what a client is told of an error."""

import asyncio
import hmac
import re
import socket
from typing import Final

import structlog
from aiohttp import web

from sluice_worker.errors import RequestError

log = structlog.get_logger()

UID_HEADER: Final = "X-Sluice-Worker-Uid"
NUMERICS_HEADER: Final = "X-Sluice-Numerics"
MODEL_HEADER: Final = "X-Sluice-Model-Digest"
REQUEST_ID_HEADER: Final = "X-Request-Id"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a request id may look like to be taken over; the same as at the gateway."""
MAX_BODY: Final = 1 << 18
"""Bytes of a request; to read more would hold the probes up for longer than they wait."""
BODY_SECONDS: Final = 30.0
"""Longest time for a body to arrive."""
TAKE_SECONDS: Final = 30.0
"""Longest time in which a client may take nothing of what waits for it in the socket."""


async def read_body(request: web.Request) -> bytes:
    """Read a request's body.

    Raises:
        RequestError: it takes too long (408).
        HTTPRequestEntityTooLarge: it is larger than `MAX_BODY`.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        told = f"the body did not arrive within {BODY_SECONDS:g} s: send it faster"
        raise RequestError(told, status=408, code="slow_body") from error


def bound_patience(request: web.Request) -> None:
    """Have the kernel end the connection if the client stops taking what it is sent.

    It would wait for as long as the other machine lives, with whole answers in memory.
    """
    connection = request.get_extra_info("socket")
    if connection is not None:
        most = round(1000 * TAKE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, most)


def pick_request_id(request: web.Request) -> str:
    """Return the id that the client gave its request, "" if none or none to put into a log."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else ""


def fence(request: web.Request, uid: str) -> None:
    """Refuse what is meant for another pod: addresses are used again.

    Raises:
        RequestError: it names another uid (421).
    """
    meant = request.headers.get(UID_HEADER, uid)
    if meant != uid:
        raise RequestError(
            f"this is worker {uid or 'without uid'}, not {meant[:64]}",
            status=421,
            code="misdirected",
        )


def check_key(request: web.Request, key: str) -> None:
    """Refuse a request without the key.

    Raises:
        RequestError: its header has no key, or another one (401).
    """
    given = request.headers.get("Authorization", "")
    # As bytes: strings that are not ASCII cannot be compared in constant time.
    right = f"Bearer {key}".encode()
    if not hmac.compare_digest(given.encode(errors="surrogateescape"), right):
        raise RequestError(
            "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
            status=401,
            code="invalid_api_key",
        )


def explain(error: Exception, request: web.Request | None = None) -> RequestError:
    """Return what the client of a request is told of an error; a mistake of ours is logged."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        told = f"the body is larger than {MAX_BODY} bytes: shorten the prompt"
        return RequestError(told, status=error.status)
    if isinstance(error, web.HTTPException):
        named = f"{request.method} {request.path[:64]}: " if request is not None else ""
        return RequestError(f"{named}{error.reason}", status=error.status)
    if isinstance(error, web.RequestPayloadError):
        return RequestError("the body is not in the encoding that its headers name")
    log.error("a request failed", error=type(error).__name__, exc_info=error)
    return RequestError("this server made a mistake", status=500, code="internal_error")
