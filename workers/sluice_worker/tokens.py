"""Text to tokens and back, streaming included."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from sluice_worker.errors import CheckpointError, RequestError

ROLES = ("system", "user", "assistant")


class Vocabulary:
    """The tokenizer of a checkpoint, and the form of its chats.

    A chat is `<s>`, then `<|role|>` and the text of each message (an assistant's ends with `</s>`),
    then `<|assistant|>`: what the chat template of the compact model says.

    Raises:
        CheckpointError: the file at `path` is no tokenizer, or has no tokens for chats.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise CheckpointError(f"cannot read {path}: {error}") from error
        # What a user writes is text: nobody can end a turn by writing `</s>`.
        self._tokenizer.encode_special_tokens = True
        self._special = {name: self._find(f"<|{name}|>", path) for name in ROLES}
        self._begin, self._end = self._find("<s>", path), self._find("</s>", path)

    def _find(self, token: str, path: Path) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"{path} has no token {token}, which chats need")
        return int(number)

    @property
    def size(self) -> int:
        """One more than the largest token."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of a plain prompt; special tokens in its text are plain text too."""
        return [self._begin, *self._encode(text)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a chat, ready for the assistant's turn.

        Raises:
            RequestError: a message has another role than system, user or assistant.
        """
        tokens = [self._begin]
        for index, message in enumerate(messages):
            role = message["role"]
            if role not in self._special:
                raise RequestError(
                    f"messages[{index}].role is {role!r}; it can be {', '.join(ROLES)}",
                    param="messages",
                )
            tokens += [self._special[role], *self._encode(message["content"])]
            if role == "assistant":
                tokens.append(self._end)
        return [*tokens, self._special["assistant"]]

    def _encode(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError("the prompt has half a surrogate pair, which is no text") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of output tokens, without special ones."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


class TextStream:
    """Output tokens to text as it becomes final: whole characters, and never half a stop text."""

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._stop = stop
        self._tokens: list[int] = []
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token and return the text that is now final, "" if none is."""
        self._tokens.append(token)
        text = self._vocabulary.decode(self._tokens)
        ends = [place for one in self._stop if (place := text.find(one)) >= 0]
        if ends:
            self.stopped = True
            return self._take(text[: min(ends)], len(text))
        if text.endswith("\ufffd"):
            return ""  # in the middle of a character
        held = max((_overlap(text, one) for one in self._stop), default=0)
        return self._take(text, len(text) - held)

    def finish(self) -> str:
        """Return what was held back; nothing after a stop text."""
        if self.stopped:
            return ""
        text = self._vocabulary.decode(self._tokens)
        return self._take(text, len(text))

    def _take(self, text: str, until: int) -> str:
        fresh = text[self._sent : until]
        self._sent += len(fresh)
        return fresh


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
