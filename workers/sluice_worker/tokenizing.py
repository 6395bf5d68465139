"""/tokenize and /detokenize, as vLLM has them: the model's tokens of any text, and back.

A text may be far longer than any prompt. Its tokens are made in a thread, one text after the other,
so that no stream and no probe waits for them and the memory is that of one text.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from sluice_worker.engine import Engine
from sluice_worker.errors import RequestError
from sluice_worker.incoming import read_body
from sluice_worker.parsing import check_body, parse_body, parse_request
from sluice_worker.protocol import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest
from sluice_worker.shapes import dump
from sluice_worker.tokens import Vocabulary

MOST_WAITING: Final = 64
"""Requests that may wait for the thread, each with its body in memory."""
_PART: Final = 4096
"""Entries of a list that are written at once: all threads stand still meanwhile."""


class Tokenizing:
    """Answers what asks for tokens alone.

    Args:
        vocabulary: tokenizer.
        check_model: refuses other models' names.
        require_engine: returns the engine, or raises a `RequestError` while nothing is served.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        check_model: Callable[[str], None],
        require_engine: Callable[[], Engine],
    ) -> None:
        self._vocabulary = vocabulary
        self._check_model = check_model
        self._require_engine = require_engine
        self._thread = ThreadPoolExecutor(1, "tokenizing")
        self._waiting = 0

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /tokenize: a text or a chat."""
        self._refuse_more()
        document = parse_body(await read_body(request))
        if isinstance(given := document.get("model"), str):
            self._check_model(given)
        kind = TokenizeChatRequest if "messages" in document else TokenizeRequest
        asked = check_body(kind, document)
        return await self._answer(self._tokenize, asked, self._require_engine().context)

    async def detokenize(self, request: web.Request) -> web.Response:
        """POST /detokenize: the text of tokens."""
        self._refuse_more()
        return await self._answer(self._detokenize, await read_body(request))

    async def _answer(self, make: Callable[..., str], *given: object) -> web.Response:
        """Return what the thread makes when it comes to it."""
        self._refuse_more()
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            text = await loop.run_in_executor(self._thread, make, *given)
        finally:
            self._waiting -= 1
        return web.json_response(text=text)

    def _refuse_more(self) -> None:
        if self._waiting >= MOST_WAITING:
            raise RequestError(
                f"{self._waiting} texts and lists of tokens wait already: try again later",
                status=429,
                code="rate_limit_exceeded",
                retry_after=1,
            )

    def _tokenize(self, asked: TokenizeRequest | TokenizeChatRequest, context: int) -> str:
        if isinstance(asked, TokenizeChatRequest):
            tokens = self._vocabulary.encode_chat(asked.list_messages())
        else:
            begin = asked.add_special_tokens is not False
            tokens = self._vocabulary.encode_text(asked.prompt, begin=begin)
        named = "null"
        if asked.return_token_strs:
            named = _dump_long([self._vocabulary.describe(one) for one in tokens])
        return (
            f'{{"count":{len(tokens)},"max_model_len":{context},"tokens":{_dump_long(tokens)},'
            f'"token_strs":{named}}}'
        )

    def _detokenize(self, body: bytes) -> str:
        asked = parse_request(DetokenizeRequest, body)
        size = self._vocabulary.size
        odd = next((token for token in asked.tokens if not 0 <= token < size), None)
        if odd is not None:
            raise RequestError(
                f"tokens has {str(odd)[:40]}; the vocabulary ends at {size - 1}", param="tokens"
            )
        return dump({"prompt": self._vocabulary.decode(asked.tokens)})

    async def close(self, _: web.Application) -> None:
        """End the thread after what it does just now."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _dump_long(values: Sequence[int | str]) -> str:
    """Return a list as JSON."""
    starts = range(0, len(values), _PART)
    return f"[{','.join(dump(values[start : start + _PART])[1:-1] for start in starts)}]"
