"""Choosing the next token, keyed by (seed, absolute position): the same on every worker."""

from dataclasses import dataclass

import numpy as np

from sluice_worker.checkpoint import Array


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a sequence goes on.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: smallest set of likeliest tokens with this probability.
        seed: with the position, the only source of chance.
        max_tokens: most output tokens.
        stop: texts before which the output ends.
        ignore_eos: go on past the end token.
    """

    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


def choose_token(logits: Array, params: SamplingParams, position: int) -> int:
    """Return the token for `position`, given logits (vocabulary,)."""
    if params.temperature <= 0:
        return int(np.argmax(logits))
    # The largest is taken off first, so that no temperature is small enough to overflow.
    shifted = logits.astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):
        weights = np.exp(shifted / params.temperature)
    order = np.argsort(-weights, kind="stable")
    cumulative = np.cumsum(weights[order]) / weights.sum()
    kept = int(np.searchsorted(cumulative, params.top_p)) + 1
    kept = min(kept, len(order))
    key = np.array([params.seed & (2**64 - 1), position], np.uint64)
    draw = np.random.Generator(np.random.Philox(key=key)).random()
    index = int(np.searchsorted(cumulative[:kept], draw * cumulative[kept - 1], side="right"))
    return int(order[min(index, kept - 1)])
