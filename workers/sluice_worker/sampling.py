"""Choosing the next token, keyed by (seed, choice, absolute position): the same on every worker.

Each step is vLLM's, in its order: what may not come yet and the biases, then penalties, then (for
temperatures that are not 0) temperature, min-p, top-k and top-p, and a draw from what is left.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice_worker.checkpoint import Array
from sluice_worker.scores import TokenScore, score_token

GREEDY_BELOW: Final = 1e-5
"""Temperatures below this take the likeliest token, as in vLLM."""
MASK64: Final = 2**64 - 1
NO_BIAS: Final[Mapping[int, float]] = MappingProxyType({})

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a sequence goes on.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: smallest set of likeliest tokens with this probability.
        seed: with choice and position, the only source of chance.
        max_tokens: most output tokens; 0 only has the prompt computed.
        stop: texts before which the output ends.
        ignore_eos: go on past the end token.
        top_k: so many of the likeliest, and what is as likely as the last of them; 0 for all.
        min_p: least probability, as a share of the likeliest token's.
        presence_penalty: taken off the logits of tokens that the output has.
        frequency_penalty: the same, once for every time that it has them.
        repetition_penalty: divides positive and multiplies negative logits of tokens that prompt
            or output have; 1 for none.
        logit_bias: added to the logits of tokens.
        min_tokens: output tokens before which nothing ends the output but `max_tokens`.
        stop_token_ids: tokens that end the output.
        include_stop: the text or token that ended the output is part of it; the end token never is.
        logprobs: likeliest tokens told at each output token; None tells nothing, not even its own.
        prompt_logprobs: the same of the prompt's tokens.
    """

    temperature: float
    top_p: float
    seed: int
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: NO_BIAS)
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token, and its place among the others if that is asked for."""

    token: int
    score: TokenScore | None


class _Penalties:
    """Counts what a sequence has, and makes it less likely."""

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], output: Sequence[int], vocabulary: int
    ) -> None:
        self._params = params
        made = np.asarray(output, np.int64)
        self._counts = np.bincount(made, minlength=vocabulary).astype(np.float64)
        self._seen = self._counts > 0
        self._seen[np.asarray(prompt, np.int64)] = True

    def note(self, token: int) -> None:
        """Count an output token."""
        self._counts[token] += 1
        self._seen[token] = True

    def apply(self, logits: Floats) -> Floats:
        """Return logits with the penalties, first the one for repetition, as in vLLM."""
        rate = self._params.repetition_penalty
        if rate != 1:
            scaled = np.where(logits > 0, logits / rate, logits * rate)
            logits = np.where(self._seen, scaled, logits)
        penalty = self._params.frequency_penalty * self._counts
        penalty += self._params.presence_penalty * (self._counts > 0)
        return logits - penalty


class Sampler:
    """Draws the tokens of one sequence, one position after the other.

    Args:
        params: how.
        prompt: tokens of the prompt.
        output: output tokens that exist already; `draw` goes on after them.
        choice: which of several outputs of one prompt.
        end: the model's end token.
        vocabulary: size of the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        output: Sequence[int],
        *,
        choice: int,
        end: int | None,
        vocabulary: int,
    ) -> None:
        self._params = params
        self._key = np.array([params.seed & MASK64, choice], np.uint64)
        self._start = len(prompt)
        self._made = len(output)
        ends = set(params.stop_token_ids)
        if end is not None and not params.ignore_eos:
            ends.add(end)
        self.ends = frozenset(ends)
        self._ends = np.array(sorted(ends), np.int64)
        self._biased = np.array(list(params.logit_bias), np.int64)
        self._bias = np.array(list(params.logit_bias.values()), np.float64)
        self._penalties = None
        if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1:
            self._penalties = _Penalties(params, prompt, output, vocabulary)

    def draw(self, logits: Array) -> Drawn:
        """Return the next token, given the logits (vocabulary,) after the ones before it."""
        params = self._params
        with np.errstate(all="ignore"):  # a faulty device may hand us anything
            token = self._choose(self._adjust(logits))
            score = None
            if params.logprobs is not None:
                score = score_token(logits, token, params.logprobs)
        self._made += 1
        if self._penalties is not None:
            self._penalties.note(token)
        return Drawn(token, score)

    def _adjust(self, logits: Array) -> Array | Floats:
        """Return logits after what does not depend on chance: minimum, bias and penalties."""
        params = self._params
        too_early = self._made < params.min_tokens and len(self._ends)
        if not (too_early or len(self._biased) or self._penalties is not None):
            return logits
        adjusted: Floats = logits.astype(np.float64)
        if too_early:
            adjusted[self._ends] = -math.inf
        adjusted[self._biased] += self._bias
        return adjusted if self._penalties is None else self._penalties.apply(adjusted)

    def _choose(self, logits: Array | Floats) -> int:
        params = self._params
        if params.temperature < GREEDY_BELOW:
            return int(np.argmax(logits))
        # The largest is taken off first, so that no temperature is small enough to overflow.
        scaled = (logits.astype(np.float64) - float(logits.max())) / params.temperature
        if params.min_p > 0:
            scaled[scaled < math.log(params.min_p)] = -math.inf
        if params.top_k or params.top_p < 1:
            scaled = _keep_likeliest(scaled, params.top_k, params.top_p)
        # The Gumbel form of a draw: each token has chance of its own at each position, so that
        # numerics that differ a little seldom choose differently, as they would by a running sum.
        place = np.array([0, self._start + self._made, 0, 0], np.uint64)
        chance = np.random.Generator(np.random.Philox(key=self._key, counter=place))
        uniform = chance.random(len(scaled))
        return int(np.argmax(scaled - np.log(-np.log(uniform))))


def _keep_likeliest(scaled: Floats, top_k: int, top_p: float) -> Floats:
    """Return scaled logits of which only the `top_k`, and of those `top_p`, are left."""
    order = np.argsort(-scaled, kind="stable")
    ordered = scaled[order]
    if 0 < top_k < len(ordered):
        ordered[ordered < ordered[top_k - 1]] = -math.inf
    if top_p < 1:
        weights = np.exp(ordered)
        before = np.cumsum(weights) - weights
        ordered[1:][before[1:] >= top_p * weights.sum()] = -math.inf
    kept = np.empty_like(scaled)
    kept[order] = ordered
    return kept
