"""The shapes of answers: completions and chats, whole and as events of a stream.

Events are written by hand around the few parts that change: one is made for every token.
"""

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sluice_worker.outputs import Output, Piece
from sluice_worker.scores import TokenScore
from sluice_worker.tokens import StopRule, TextStream, Vocabulary

Json = dict[str, Any]

END_EVENT = b"data: [DONE]\n\n"
_quote = json.JSONEncoder().encode


def dump(value: object) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def render_event(document: Json) -> bytes:
    """Return one server-sent event."""
    return f"data: {dump(document)}\n\n".encode()


class Scored(NamedTuple):
    """A token of a text, its score (None for the first of all), and where it stands."""

    token: int
    score: TokenScore | None
    offset: int


@dataclass(slots=True)
class Gathered:
    """All pieces of one choice of a whole answer."""

    output: Output
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    stop_reason: str | int | None = None

    def add(self, piece: Piece) -> None:
        """Add a piece."""
        self.texts.append(piece.text)
        if piece.token is not None:
            self.tokens.append(piece.token)
            self.scored.append(Scored(piece.token, piece.score, piece.offset))
        if piece.finish is not None:
            self.stop_reason = piece.stop_reason


@dataclass(frozen=True, slots=True)
class Details:
    """What an answer tells beside its text.

    Attributes:
        logprobs: likeliest tokens told at each token; None tells no log-probabilities.
        token_ids: the tokens of prompt and output.
        prompt_logprobs: the scores of the prompt's tokens.
    """

    logprobs: int | None = None
    token_ids: bool = False
    prompt_logprobs: bool = False


class Shape(ABC):
    """One answer's id, time and model, in the form of one endpoint.

    Args:
        identity: id and time of the answer if it has begun elsewhere, else None.
    """

    prefix: str
    object_whole: str
    object_event: str

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        details: Details,
        identity: tuple[str, int] | None = None,
    ) -> None:
        self.id, created = identity or (f"{self.prefix}-{uuid.uuid4().hex}", int(time.time()))
        self._head: Json = {"id": self.id, "created": created, "model": model}
        self._vocabulary = vocabulary
        self._details = details
        self._front = f"data: {dump(self._head | {'object': self.object_event})[:-1]}"

    @abstractmethod
    def _say(self, text: str) -> str:
        """Return a choice's member with a text, for an event."""

    @abstractmethod
    def describe_scores(self, scored: Sequence[Scored]) -> Json:
        """Return the log-probabilities of tokens."""

    @abstractmethod
    def open_choice(self, output: Output, piece: Piece) -> bytes:
        """Return the events with a choice's first piece."""

    @abstractmethod
    def _gather_choice(self, one: Gathered) -> Json:
        """Return a choice of a whole answer."""

    def _tell_beside(self, first: Output) -> Json:
        """Return what a whole answer tells beside its choices, the first of which is given."""
        del first
        return {}

    def gather(self, gathered: Sequence[Gathered], usage: Json) -> bytes:
        """Return an answer that is not streamed; takes long if many log-probabilities are told."""
        beside = self._tell_beside(gathered[0].output)
        front = dump({**self._head, "object": self.object_whole, **beside})[:-1]
        # One by one: all other threads stand still while one of them is written.
        choices = ",".join(dump(self._gather_choice(one)) for one in gathered)
        return f'{front},"choices":[{choices}],"usage":{dump(usage)}}}'.encode()

    def _tell_prompt(self, output: Output) -> Json:
        """Return the members that tell a prompt's tokens and scores, if they are asked for."""
        told: Json = {}
        if self._details.token_ids:
            told["prompt_token_ids"] = output.sequence.prompt
        if self._details.prompt_logprobs:
            scores = output.sequence.prompt_scores
            told["prompt_logprobs"] = [self._describe_prompt_token(one) for one in scores]
        return told

    def write_piece(self, output: Output, piece: Piece, more: str = "") -> bytes:
        """Return the event of a piece; `more` are members of the choice, each after a comma."""
        scores = "null"
        if piece.score is not None:
            scored = Scored(piece.score.token, piece.score, piece.offset)
            scores = dump(self.describe_scores([scored]))
        finish = "null"
        if piece.finish is not None:
            finish = f'"{piece.finish}","stop_reason":{dump(piece.stop_reason)}'
        if self._details.token_ids:
            more = f',"token_ids":[{"" if piece.token is None else piece.token}]{more}'
        return self._write(output.index, self._say(piece.text), scores, finish, more)

    def _write(self, index: int, said: str, scores: str, finish: str, more: str) -> bytes:
        return (
            f'{self._front},"choices":[{{"index":{index},{said},"logprobs":{scores},'
            f'"finish_reason":{finish}{more}}}]}}\n\n'
        ).encode()

    def write_usage(self, usage: Json) -> bytes:
        """Return the last event before the end, with token counts and no choice."""
        return f'{self._front},"choices":[],"usage":{dump(usage)}}}\n\n'.encode()

    def _close(self, one: Gathered) -> Json:
        """Return the members that choices of both endpoints have in a whole answer."""
        details = self._details
        closed: Json = {
            "logprobs": None,
            "finish_reason": one.output.finish,
            "stop_reason": one.stop_reason,
        }
        if details.logprobs is not None:
            closed["logprobs"] = self.describe_scores(one.scored)
        if details.token_ids:
            closed["token_ids"] = one.tokens
        return closed

    def _describe_prompt_token(self, score: TokenScore | None) -> Json | None:
        """Return the log-probabilities in a prompt token's place, as vLLM's `prompt_logprobs`."""
        if score is None:
            return None
        ranked = [(rank, *one) for rank, one in enumerate(score.top, 1)]
        own = (score.rank, score.token, score.logprob)
        return {
            str(token): {
                "logprob": logprob,
                "rank": rank,
                "decoded_token": self._vocabulary.describe(token),
            }
            for rank, token, logprob in [own, *(one for one in ranked if one[1] != score.token)]
        }


class CompletionShape(Shape):
    """Answers of /v1/completions."""

    prefix, object_whole, object_event = "cmpl", "text_completion", "text_completion"

    def _say(self, text: str) -> str:
        return f'"text":{_quote(text)}'

    def open_choice(self, output: Output, piece: Piece) -> bytes:
        """Return the events with the prompt, if it is asked for, and the first piece."""
        more = ""
        if self._details.token_ids:
            more = f',"prompt_token_ids":{dump(output.sequence.prompt)}'
        if output.echo is None:
            return self.write_piece(output, piece, more)
        scores = "null"
        if self._details.logprobs is not None:
            scores = dump(self.describe_scores(self._list_prompt(output)))
        echoed = self._write(output.index, self._say(output.echo), scores, "null", more)
        return echoed + self.write_piece(output, piece)

    def _list_prompt(self, output: Output) -> list[Scored]:
        stream = TextStream(self._vocabulary, StopRule())
        scored = []
        for token, score in zip(output.sequence.prompt, output.sequence.prompt_scores, strict=True):
            scored.append(Scored(token, score, stream.length))
            stream.push(token)
        return scored

    def describe_scores(self, scored: Sequence[Scored]) -> Json:
        """Return the log-probabilities of tokens; those of the likeliest contain the token's."""
        describe = self._vocabulary.describe
        return {
            "tokens": [describe(one.token) for one in scored],
            "token_logprobs": [one.score and one.score.logprob for one in scored],
            "top_logprobs": [one.score and self._describe_top(one.score) for one in scored],
            "text_offset": [one.offset for one in scored],
        }

    def _describe_top(self, score: TokenScore) -> Json:
        told = [*score.top[: self._details.logprobs], (score.token, score.logprob)]
        return {self._vocabulary.describe(token): logprob for token, logprob in told}

    def _gather_choice(self, one: Gathered) -> Json:
        output = one.output
        if output.echo is not None:
            one.texts.insert(0, output.echo)
            if self._details.logprobs is not None:
                one.scored[:0] = self._list_prompt(output)
        choice = {"index": output.index, "text": "".join(one.texts), **self._close(one)}
        return choice | self._tell_prompt(output)


class ChatShape(Shape):
    """Answers of /v1/chat/completions."""

    prefix, object_whole, object_event = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _say(self, text: str) -> str:
        return f'"delta":{{"content":{_quote(text)}}}' if text else '"delta":{}'

    def open_choice(self, output: Output, piece: Piece) -> bytes:
        """Return the event that names the role, and the one of the first piece."""
        said = '"delta":{"role":"assistant","content":""}'
        opened = self._write(output.index, said, "null", "null", "")
        if self._details.token_ids:
            told = f',"prompt_token_ids":{dump(output.sequence.prompt)}}}\n\n'
            opened = opened.removesuffix(b"}\n\n") + told.encode()
        return opened + self.write_piece(output, piece)

    def describe_scores(self, scored: Sequence[Scored]) -> Json:
        """Return the log-probabilities of tokens."""
        return {"content": list(self._describe_content(scored)), "refusal": None}

    def _describe_content(self, scored: Sequence[Scored]) -> Iterable[Json]:
        for one in scored:
            if one.score is not None:
                top = [self._describe(*each) for each in one.score.top]
                yield {**self._describe(one.token, one.score.logprob), "top_logprobs": top}

    def _describe(self, token: int, logprob: float) -> Json:
        raw = list(self._vocabulary.decode_bytes(token))
        return {"token": self._vocabulary.describe(token), "logprob": logprob, "bytes": raw}

    def _tell_beside(self, first: Output) -> Json:
        return self._tell_prompt(first)

    def _gather_choice(self, one: Gathered) -> Json:
        message = {"role": "assistant", "content": "".join(one.texts)}
        return {"index": one.output.index, "message": message, **self._close(one)}
