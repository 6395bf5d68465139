"""Reads what workers answer: bodies within their bounds, what they say of themselves, usage."""

import asyncio
from contextlib import suppress
from typing import Final

from sluice_gateway import names
from sluice_gateway.calls import Call
from sluice_gateway.events import StreamProgress
from sluice_gateway.faults import tell_nonsense
from sluice_gateway.members import Worker
from sluice_gateway.soundness import StreamError, check_answer, read_object
from sluice_gateway.transcript import Maker, Transcript
from sluice_gateway.workerconnection import BrokenConnectionError, WorkerResponse

_EVENT_STREAM: Final = "text/event-stream"
_TAIL_SECONDS: Final = 0.5


def read_whole_usage(call: Call, body: bytes) -> dict[str, object]:
    """Return the usage of a whole answer.

    Raises:
        Fault: If the body is no answer to the call, a 200 with an error inside included.
    """
    try:
        document = read_object(body)
        choices = call.sequences if call.counted else None
        check_answer(document, chat=call.is_chat, choices=choices)
    except StreamError as error:
        raise tell_nonsense(str(error)) from error
    usage = document.get("usage")
    return usage if isinstance(usage, dict) else {}


def begin_progress(call: Call, transcript: Transcript) -> StreamProgress:
    """Return the empty record of what one worker gives of a stream."""
    most = call.tokens_most
    if most is not None:
        most *= len(transcript.choices)
    return StreamProgress(transcript, wants_usage=call.wants_usage, tokens_most=most)


def check_stream(response: WorkerResponse) -> None:
    """Return if an answer is a stream.

    Raises:
        Fault: If it is something else.
    """
    if response.content_type != _EVENT_STREAM:
        raise tell_nonsense(f"content type {response.content_type} instead of a stream")


def note_maker(worker: Worker, response: WorkerResponse) -> Maker:
    """Remember what a worker says of its numerics and model, and return it."""
    numerics = response.find_header(names.HEADER_NUMERICS)
    maker = (numerics, response.find_header(names.HEADER_MODEL_DIGEST))
    worker.maker = maker
    if not any(maker):
        worker.continues = False  # none of ours
    return maker


async def read_body(response: WorkerResponse, most: int) -> bytes:
    """Return the body of a response.

    Raises:
        Fault: If it has more than `most` bytes.
    """
    parts: list[bytes] = []
    size = 0
    while part := await response.read():
        parts.append(part)
        size += len(part)
        if size > most:
            raise tell_nonsense(f"more than {most} bytes")
    return b"".join(parts)


async def read_tail(response: WorkerResponse) -> None:
    """Read to the end of a finished stream, so that its connection can be used again."""
    with suppress(BrokenConnectionError, TimeoutError):
        async with asyncio.timeout(_TAIL_SECONDS):
            while await response.read():
                pass
