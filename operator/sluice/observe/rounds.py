"""What a round of known answers says: the one comparison, of what was given with what is known.

Tokens have to be the same. Scores of the prompts' tokens have to be near: another order of
summation, as on another processor, moves them a little, and the list says by how much. They see far
more than tokens, for a wrong value moves the likelihood of every token after it, but changes the
likeliest one only where two are close.
"""

import math
from collections.abc import Sequence
from typing import Protocol

SHOWN_IDS = 8


class Known(Protocol):
    """What a healthy worker answers to a prompt."""

    @property
    def output(self) -> Sequence[int]:
        """Its greedy tokens."""

    @property
    def logprobs(self) -> Sequence[float] | None:
        """Natural log-probabilities of the prompt's tokens after the first; None: not known."""


class Round:
    """Judges the answers to the prompts of a list, in its order, as they come.

    Args:
        known: the list.
        tolerance: how far the scores of a healthy worker may be off, as a mean over all tokens that
            are scored in a round; None if tokens alone are compared.
    """

    def __init__(self, known: Sequence[Known], tolerance: float | None) -> None:
        self._known = known
        self._tolerance = tolerance
        self._tokens = sum(len(one.logprobs or ()) for one in known)
        self._answered = 0
        self._scored = 0
        self._off = 0.0

    def judge(self, output: Sequence[int], scores: Sequence[float | None] | None) -> str:
        """Take the answer to the next prompt; return what is wrong with the round, "" if nothing.

        Args:
            output: tokens of the answer.
            scores: of the prompt's tokens after the first; None if the answer has none.
        """
        known = self._known[self._answered]
        self._answered += 1
        if list(output) != list(known.output):
            return f"prompt {self._answered}: {_compare(known.output, output)}"
        if self._tolerance is None:
            return ""
        wanted = known.logprobs or ()
        if scores is None or len(scores) != len(wanted):
            given = "none" if scores is None else str(len(scores))
            return f"prompt {self._answered}: expected scores of {len(wanted)} tokens, got {given}"
        for one, score in zip(wanted, scores, strict=True):
            if score is None or not math.isfinite(score):
                return f"prompt {self._answered}: the score of a token is no number"
            self._off += abs(score - one)
        self._scored += len(wanted)
        # Differences only add up: what is too much already stays so, whatever is still to come.
        if self._off <= self._tolerance * self._tokens:
            return ""
        prompts = f"{self._answered} known prompt{'s' if self._answered > 1 else ''}"
        return (
            f"its scores of {prompts} are off by {self._off / self._scored:.3g} on average; healthy"
            f" devices stay within {self._tolerance:.3g}"
        )


def _compare(expected: Sequence[int], given: Sequence[int]) -> str:
    """Say where two outputs part: token ids only, a few around the first difference."""
    same = 0
    for one, other in zip(expected, given, strict=False):
        if one != other:
            break
        same += 1
    start = 0 if same < SHOWN_IDS else same - 2
    return f"expected {_show(expected, start)}, got {_show(given, start)}"


def _show(tokens: Sequence[int], start: int) -> str:
    if not tokens:
        return "nothing"
    shown = " ".join(str(token) for token in tokens[start : start + SHOWN_IDS]) or "the end"
    before, after = "… " if start else "", " …" if len(tokens) > start + SHOWN_IDS else ""
    return f"{before}{shown}{after}"
