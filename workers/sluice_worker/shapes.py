"""The shapes of answers: completions and chats, whole and in chunks."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


class Shape(ABC):
    """One answer's id, time and model, in the form of one endpoint."""

    prefix: str
    object_whole: str
    object_chunk: str

    def __init__(self, model: str) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._head = {
            "id": self.id,
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def _choice(self, text: str, finish: str | None, *, whole: bool) -> Json:
        """Return the one choice."""

    def begin(self) -> Sequence[Json]:
        """Return chunks that come before any text."""
        return ()

    def chunk(self, text: str, finish: str | None) -> Json:
        """Return a chunk of a stream."""
        choice = self._choice(text, finish, whole=False)
        return {**self._head, "object": self.object_chunk, "choices": [choice]}

    def usage(self, usage: Json) -> Json:
        """Return the last chunk, with token counts and no choice."""
        return {**self._head, "object": self.object_chunk, "choices": [], "usage": usage}

    def whole(self, text: str, finish: str, usage: Json) -> Json:
        """Return an answer that is not streamed."""
        choice = self._choice(text, finish, whole=True)
        return {**self._head, "object": self.object_whole, "choices": [choice], "usage": usage}


class CompletionShape(Shape):
    """Answers of /v1/completions."""

    prefix, object_whole, object_chunk = "cmpl", "text_completion", "text_completion"

    def _choice(self, text: str, finish: str | None, *, whole: bool) -> Json:
        del whole
        return {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}


class ChatShape(Shape):
    """Answers of /v1/chat/completions."""

    prefix, object_whole, object_chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choice(self, text: str, finish: str | None, *, whole: bool) -> Json:
        said: Json = {"content": text} if whole or text else {}
        if whole:
            said = {"role": "assistant", **said}
        part = "message" if whole else "delta"
        return {"index": 0, part: said, "finish_reason": finish, "logprobs": None}

    def begin(self) -> Sequence[Json]:
        """Return the chunk that names the role."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return ({**self._head, "object": self.object_chunk, "choices": [choice]},)
