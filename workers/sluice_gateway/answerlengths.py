"""How long a pool's answers are, as those that ended were: what a sequence may still have to give.

`max_tokens` says little of it, and a mean says when no single one ends: of eight answers that are
as long as the mean in the mean, the first ends long before. So the distribution is kept, as
quantiles of the last answers. Pure but for what it has learnt.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

_KEPT: Final = 512
"""Answers that count: the last ones, so that it follows a traffic that changes."""
_EVERY: Final = 8
"""Answers after which quantiles are taken anew."""
_QUANTILES: Final = 20
_ENOUGH: Final = 8
"""Answers before which nothing is said: the short ones come first."""
_LONGER: Final = 0.25
"""Of what an answer has given that is longer than all known ones, so much is thought to be left."""


class Spread:
    """Quantiles of lengths, all equally likely; never changes.

    Args:
        lengths: In tokens, at least one.
    """

    def __init__(self, lengths: Iterable[float]) -> None:
        ordered = sorted(lengths)
        count = min(_QUANTILES, len(ordered))
        places = ((2 * place + 1) * len(ordered) // (2 * count) for place in range(count))
        self.quantiles: Sequence[float] = tuple(ordered[place] for place in places)
        self._above = (*reversed(tuple(accumulate(reversed(self.quantiles)))), 0.0)
        self.mean = sum(ordered) / len(ordered)

    def list_left(self, given: float, most: float) -> list[float]:
        """Return the tokens that an answer may still lack, each equally likely; at least 1.

        Args:
            given: Those that it has.
            most: Those that it may have.
        """
        first = bisect_right(self.quantiles, given)
        if first == len(self.quantiles):
            return [max(1.0, min(most - given, _LONGER * given))]
        return [max(1.0, min(most, length) - given) for length in self.quantiles[first:]]

    def expect_left(self, given: float, most: float) -> float:
        """Return the tokens that an answer still lacks in the mean; arguments as above."""
        first = bisect_right(self.quantiles, given)
        count = len(self.quantiles) - first
        if count and self.quantiles[-1] <= most:
            return max(1.0, self._above[first] / count - given)
        left = self.list_left(given, most)
        return sum(left) / len(left)


class AnswerLengths:
    """The lengths of a pool's last answers."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_KEPT)
        self._seen = 0
        self._spread: Spread | None = None

    def add(self, tokens: float) -> None:
        """Take in an answer that came to its end."""
        self._last.append(tokens)
        self._seen += 1
        if self._seen >= _ENOUGH and self._seen % _EVERY == 0:
            self._spread = Spread(self._last)

    @property
    def spread(self) -> Spread | None:
        """How long answers are; None while too few are known."""
        return self._spread


def find_end(lefts: Sequence[Sequence[float]], ends: int) -> float:
    """Return the steps until so many of some sequences are expected to have ended.

    Args:
        lefts: Of each sequence the steps that it may take, each equally likely.
        ends: How many, from 1 to the number of sequences.
    """
    parts = sorted((steps, 1 / len(left)) for left in lefts for steps in left)
    due = ends - 0.5  # by then it is as likely to have happened as not
    ended = 0.0
    for steps, part in parts:
        ended += part
        if ended >= due:
            return steps
    return parts[-1][0] if parts else 0.0
