"""What comes out of one sequence: emissions of the engine in, pieces of an answer out."""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice_worker.engine import Emission, GenerationRequest
from sluice_worker.errors import EngineFailedError, RequestError
from sluice_worker.scores import TokenScore
from sluice_worker.tokens import TextStream


@dataclass(frozen=True, slots=True)
class Piece:
    """What one emission adds to a choice of an answer.

    Attributes:
        text: that is final now, "" while none is.
        token: output token, None if the choice only ends.
        score: of the token, if asked for.
        offset: where the token stands, in characters of the choice's whole text.
        finish: why the choice ends with this piece (stop, length), None while it goes on.
        stop_reason: the stop text or stop token that ended it, if one did.
    """

    text: str
    token: int | None
    score: TokenScore | None
    offset: int
    finish: str | None
    stop_reason: str | int | None


class Output:
    """One choice of an answer, between the engine and the client.

    Args:
        index: of the choice in the answer.
        sequence: what the engine makes of it.
        text: turns tokens into text.
        echo: text that the choice has before the output's own, None for none at all.

    Attributes:
        tokens: output tokens that the client was told of, here or before it came here.
        begun: the client has seen something of it.
        finish: why it ended (stop, length or error), None while it goes on.
    """

    def __init__(
        self,
        index: int,
        sequence: GenerationRequest,
        text: TextStream,
        echo: str | None = None,
    ) -> None:
        self.index = index
        self.sequence = sequence
        self.echo = echo
        self._text = text
        self._late = ""
        self.tokens = 0
        self.begun = False
        self.finish: str | None = None

    def resume(self, tokens: Sequence[int], sent: int) -> None:
        """Go on after output tokens of which the client has seen so many characters.

        Raises:
            RequestError: they have fewer characters to show, or had ended the output before.
        """
        text = ""
        for token in tokens:
            if self._text.stopped_by:
                raise RequestError(
                    f"choices: index {self.index} has tokens after the stop text that ended it",
                    param="choices",
                )
            text += self._text.push(token)
        if sent > len(text):
            raise RequestError(
                f"choices: index {self.index} has sent {sent} characters; of its tokens' text"
                f" {len(text)} were final",
                param="choices",
            )
        self._late = text[sent:]
        self.tokens = len(tokens)
        self.begun = bool(tokens)

    def end_resumed(self) -> Piece | None:
        """Return the last piece of an output that was complete before it broke off, else None."""
        text, reason = self._late, None
        if self._text.stopped_by:
            self.finish, reason = "stop", self._text.stopped_by
        elif self.begun and self.tokens >= self.sequence.params.max_tokens:
            self.finish = "length"
            text += self._text.finish()
        else:
            return None
        return Piece(text, None, None, self._offset, self.finish, reason)

    @property
    def _offset(self) -> int:
        return len(self.echo or "") + self._text.length

    def take(self, emission: Emission) -> Piece:
        """Return what an emission adds.

        Raises:
            EngineFailedError: the engine failed under this request.
        """
        if emission.finish == "error":
            raise EngineFailedError
        offset = self._offset
        reason: str | int | None = emission.ended_by
        text, self._late = self._late, ""
        if emission.token is not None:
            self.tokens += 1
            text += self._text.push(emission.token)
        if self._text.stopped_by:
            self.finish, reason = "stop", self._text.stopped_by
        elif emission.finish is not None:
            text += self._text.finish()
            self.finish = emission.finish
        return Piece(text, emission.token, emission.score, offset, self.finish, reason)
