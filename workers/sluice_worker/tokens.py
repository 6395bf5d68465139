"""Text to tokens and back, streaming included."""

import codecs
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders

from sluice_worker.errors import CheckpointError, RequestError

# Whoever encodes is a thread already; more of them help nobody, and forks would warn of them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROLES = ("system", "user", "assistant")
SAME_ROLES = {"developer": "system"}
"""What OpenAI calls a role nowadays, and what it is to the model."""


class Vocabulary:
    """The tokenizer of a checkpoint, and the form of its chats.

    A chat is `<s>`, then `<|role|>` and the text of each message (an assistant's ends with `</s>`),
    then `<|assistant|>`: what the chat template of the compact model says.

    Raises:
        CheckpointError: the file at `path` is no tokenizer, has no tokens for chats, or its tokens
            are no bytes.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise CheckpointError(f"cannot read {path}: {error}") from error
        # What a user writes is text: nobody can end a turn by writing `</s>`.
        self._tokenizer.encode_special_tokens = True
        # Some files say how batches were made for training, which is nothing for a prompt.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = {name: self._find(f"<|{name}|>", path) for name in ROLES}
        self._begin, self._end = self._find("<s>", path), self._find("</s>", path)
        decoder = self._tokenizer.decoder
        if not isinstance(decoder, decoders.ByteLevel):
            named = None if decoder is None else type(decoder).__name__
            raise CheckpointError(f"{path} has the decoder {named}; only ByteLevel is supported")
        entries = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(entries.values()) + 1
        """One more than the largest token."""
        self._names = {number: name for name, number in entries.items()}
        special = self._tokenizer.get_added_tokens_decoder()
        # No list: nobody has said yet that the numbers are small.
        self._bytes = {
            number: _read_bytes(name) for name, number in entries.items() if number not in special
        }
        self.longest = max(map(len, self._bytes.values()), default=0)
        """Bytes of the longest token of text: no more characters can one stand for."""

    def _find(self, token: str, path: Path) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"{path} has no token {token}, which chats need")
        return int(number)

    def encode_text(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the tokens of a plain prompt; special tokens in its text are plain text too."""
        return [*([self._begin] if begin else []), *self._encode(text)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a chat, ready for the assistant's turn.

        Raises:
            RequestError: a message has another role than system, user or assistant.
        """
        tokens = [self._begin]
        for index, message in enumerate(messages):
            role = SAME_ROLES.get(message["role"], message["role"])
            if role not in self._special:
                raise RequestError(
                    f"messages[{index}].role is {role[:40]!r}; it can be {', '.join(ROLES)}",
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
        # A batch of one, as the library's `encode` keeps the interpreter locked while it works.
        (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(encoded.ids)

    def decode_bytes(self, token: int) -> bytes:
        """Return the bytes of a token, none if it is a special one or unknown."""
        return self._bytes.get(token, b"")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return b"".join(self.decode_bytes(token) for token in tokens).decode(errors="replace")

    def describe(self, token: int) -> str:
        r"""Return a token's text, or `bytes:\x…` if it is no whole characters, or its name."""
        raw = self.decode_bytes(token)
        if not raw:
            return self._names.get(token, "")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _map_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(256 + place): byte for place, byte in enumerate(others)}


CHARACTERS = _map_characters()


def _read_bytes(name: str) -> bytes:
    try:
        return bytes(CHARACTERS[character] for character in name)
    except KeyError:
        return name.encode()  # as the tokenizers library takes it


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a text ends an output.

    Attributes:
        texts: that end it.
        included: the text that ended it is part of the output.
        min_tokens: what ends within the text of so many tokens ends nothing.
    """

    texts: tuple[str, ...] = ()
    included: bool = False
    min_tokens: int = 0


class TextStream:
    """Output tokens to text as it becomes final: whole characters, and never half a stop text.

    Attributes:
        stopped_by: the stop text that ended the output, "" if none has.
        length: characters of the tokens' text so far, whether final or not.
        sent: characters that were returned as final.
    """

    def __init__(self, vocabulary: Vocabulary, rule: StopRule) -> None:
        self._vocabulary = vocabulary
        self._rule = rule
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._tokens = 0
        self.stopped_by = ""
        self.length = 0
        self.sent = 0

    def push(self, token: int) -> str:
        """Take a token and return the text that is now final, "" if none is."""
        self._tokens += 1
        fresh = self._decoder.decode(self._vocabulary.decode_bytes(token))
        self.length += len(fresh)
        if not self._rule.texts:
            return self._release(fresh)
        text = self._held + fresh
        found = self._find_stop(text) if self._tokens > self._rule.min_tokens else None
        if found is not None:
            place, self.stopped_by = found
            return self._release(text[: place + len(self.stopped_by) * self._rule.included])
        keep = max(_overlap(text, one) for one in self._rule.texts)
        self._held = text[len(text) - keep :]
        return self._release(text[: len(text) - keep])

    def _find_stop(self, text: str) -> tuple[int, str] | None:
        """Return the first stop text that ends in what is fresh, and its place."""
        held = len(self._held)
        found = [(text.find(one, max(0, held + 1 - len(one))), one) for one in self._rule.texts]
        return min((one for one in found if one[0] >= 0), default=None)

    def finish(self) -> str:
        """Return what was held back; nothing after a stop text."""
        if self.stopped_by:
            return ""
        rest = self._decoder.decode(b"", final=True)
        self.length += len(rest)
        held, self._held = self._held, ""
        return self._release(held + rest)

    def _release(self, text: str) -> str:
        self.sent += len(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
