"""How likely tokens were: log-probabilities by the model's own logits.

They are taken before temperature, penalties, biases and everything else that a request asks for, as
vLLM's are by default (`raw_logprobs`): the same text has the same ones however it was sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sluice_worker.checkpoint import Array

LEAST: Final = -9999.0
"""What is told of a token that cannot be, and of what is no number: JSON has none for either."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token among all that could have stood in its place.

    Attributes:
        rank: 1 for the likeliest.
        top: the likeliest tokens with their log-probabilities, likeliest first.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def score_token(logits: Array, token: int, top: int) -> TokenScore:
    """Return the score of `token` by the logits (vocabulary,), with the `top` likeliest."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    logprobs = wide - np.log(np.exp(wide).sum())
    own = logprobs[token]
    rank = 1 + int(np.count_nonzero(logprobs > own))
    likeliest: tuple[tuple[int, float], ...] = ()
    if top:
        most = min(top, len(logprobs))
        found = np.argpartition(-logprobs, most - 1)[:most]
        found = found[np.lexsort((found, -logprobs[found]))]
        likeliest = tuple((int(one), _tell(logprobs[one])) for one in found)
    return TokenScore(token, _tell(own), rank, likeliest)


def score_tokens(rows: Array, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Return the score of each token by its row of logits (tokens, vocabulary)."""
    with np.errstate(all="ignore"):  # a faulty device may hand us anything
        return [score_token(row, token, top) for row, token in zip(rows, tokens, strict=True)]


def _tell(logprob: float) -> float:
    return float(logprob) if logprob > LEAST else LEAST
