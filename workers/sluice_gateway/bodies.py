"""Reads request bodies within their bounds: bytes a request, bytes in all, and time."""

import asyncio
from typing import NoReturn

from aiohttp import web

from sluice_gateway.answers import Refusal, answer_overloaded, refuse_request
from sluice_gateway.settings import Limits


class Bodies:
    """Reads bodies and keeps account of the bytes that are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    async def read(self, request: web.BaseRequest) -> bytes:
        """Read a request's body; its bytes count as held until `release`.

        Raises:
            Refusal: With 408, 413, 415 or 429, if it is too slow, too large, encoded, or too much
                together with the others.
        """
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            message = f"Content-Encoding {encoding[:20]!r} is not accepted; send plain JSON"
            _refuse(415, message, "unsupported_encoding")
        if (request.content_length or 0) > self._limits.body_bytes:
            self._refuse_size()
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await self._read_parts(request)
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.body_seconds:g} s"
            _refuse(408, message, "slow_body")
        except web.RequestPayloadError:
            _refuse(400, "the body ended before it was complete", "bad_http")

    def release(self, size: int) -> None:
        """Count bytes as no longer held."""
        self._held -= size

    async def _read_parts(self, request: web.BaseRequest) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            while part := await request.content.readany():
                parts.append(part)
                size += len(part)
                self._held += len(part)
                if size > self._limits.body_bytes:
                    self._refuse_size()
                if self._held > self._limits.buffered_bytes:
                    self._refuse_more()
        except BaseException:
            self.release(size)
            raise
        return b"".join(parts)

    def _refuse_more(self) -> NoReturn:
        message = f"the gateway already holds {self._held} bytes of requests"
        answer = answer_overloaded(message, code="too_many_bytes", retry_after=1)
        raise Refusal(answer, "queue_full")

    def _refuse_size(self) -> NoReturn:
        message = f"the body is larger than {self._limits.body_bytes} bytes"
        _refuse(413, message, "body_too_large")


def _refuse(status: int, message: str, code: str) -> NoReturn:
    raise Refusal(refuse_request(message, code=code, status=status), "invalid") from None
