"""Compares what two workers of different accelerators expect after the same tokens.

Pure: what workers answered goes in, sums come out. Both are given the same tokens and say what they
expect after each (teacher forcing); texts that run freely, where one other token changes all that
follows, are never compared.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice_gateway.calls import Call
from sluice_gateway.objects import PoolDecision

Position = Mapping[int, float]
"""Log-probabilities of the likeliest tokens in one place, and of the one that stands there."""

SURE: Final = 0.8
"""A place is judged if one of the two gives its likeliest token so much. Where neither knows what
to say, the numerics of healthy devices disagree, too (docs/numerics.md)."""
_ROUNDING: Final = 1e-3
_LEAST: Final = 1e-9
"""No probability counts for less, so that one that was rounded to nothing is not infinitely far."""


class ScoreError(ValueError):
    """An answer that scores nothing; the message says why, without any text of users."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two workers agree on one answer.

    Attributes:
        positions: Tokens of the answer.
        judged: Those where one of the two was sure.
        agreed: Those of the judged where both have the same likeliest token.
        divergence: Sum over the judged of KL(maker ‖ reference), in nat. Of the likeliest tokens
            that both tell, and of all others as one: no more than the whole one.
    """

    positions: int
    judged: int
    agreed: int
    divergence: float


def compare(maker: Sequence[Position], reference: Sequence[Position]) -> Agreement:
    """Compare two workers' scores of the same tokens.

    Raises:
        ScoreError: They are of different lengths.
    """
    if len(maker) != len(reference):
        raise ScoreError(f"{len(maker)} scores against {len(reference)}")
    judged = agreed = 0
    divergence = 0.0
    for mine, theirs in zip(maker, reference, strict=True):
        first, second = _find_likeliest(mine), _find_likeliest(theirs)
        if math.exp(max(mine[first], theirs[second])) < SURE:
            continue
        judged += 1
        agreed += first == second
        divergence += _find_divergence(mine, theirs)
    return Agreement(len(maker), judged, agreed, divergence)


def _find_likeliest(position: Position) -> int:
    """Return the likeliest token; of equal ones the smallest id, so that ties do not disagree."""
    return min(position, key=lambda token: (-position[token], token))


def _find_divergence(mine: Position, theirs: Position) -> float:
    """Return KL(mine ‖ theirs) over the tokens that both tell and all others as one, in nat."""
    common = mine.keys() & theirs.keys()
    pairs = [(math.exp(mine[token]), math.exp(theirs[token])) for token in common]
    pairs.append((1.0 - sum(p for p, _ in pairs), 1.0 - sum(q for _, q in pairs)))
    total = 0.0
    for p, q in pairs:
        if p > _LEAST:
            total += p * math.log(p / max(q, _LEAST))
    return max(0.0, total)


def read_scores(body: bytes, first: int) -> list[Position]:
    """Return what a worker's answer says of its prompt's tokens, from place `first` on.

    Raises:
        ScoreError: It says nothing of the kind.
    """
    try:
        told = json.loads(body)["choices"][0]["prompt_logprobs"]
        scores: list[Position] = [
            {int(token): float(one["logprob"]) for token, one in place.items()}
            for place in told[first:]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ScoreError("the answer has no prompt_logprobs") from error
    if not scores or not all(place and all(map(_is_logprob, place.values())) for place in scores):
        raise ScoreError("the answer's prompt_logprobs are incomplete")
    return scores


def _is_logprob(value: float) -> bool:
    """Return whether a number is one; a little above 0 is rounding."""
    return value <= _ROUNDING


def render_scoring(model: str, tokens: Sequence[int], top: int, *, ours: bool) -> bytes:
    """Return the body of a request that has a worker score tokens and make nothing of its own.

    Args:
        model: What the worker calls its model.
        tokens: Prompt and answer.
        top: Likeliest tokens that it tells of each place.
        ours: It is a worker of ours. Others refuse a priority that they were not set up for, and
            make a token at least.
    """
    document: dict[str, Any] = {
        "model": model,
        "prompt": list(tokens),
        "temperature": 0,
        "prompt_logprobs": top,
        "max_tokens": 0 if ours else 1,
    }
    if ours:
        document["priority"] = LAST
    return json.dumps(document, separators=(",", ":")).encode()


LAST: Final = 100
"""Priority of a scoring in a worker's line: after all that clients wait for."""


def read_texts(call: Call, body: bytes) -> tuple[dict[str, Any], str] | None:
    """Return prompt and text of a whole answer, as `/tokenize` takes them; None if it has none.

    Of several choices the first. What has several prompts, or echoes its own, is left out.
    """
    try:
        asked = json.loads(call.body)
        choice = json.loads(body)["choices"][0]
        if call.is_chat:
            return {"messages": asked["messages"]}, str(choice["message"]["content"] or "")
        prompt = asked["prompt"]
        if asked.get("echo") or not isinstance(prompt, str):
            return None
        return {"prompt": prompt}, str(choice["text"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def read_tokens(body: bytes) -> list[int]:
    """Return the tokens that `/tokenize` found.

    Raises:
        ScoreError: It answered something else.
    """
    try:
        tokens = json.loads(body)["tokens"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ScoreError("the answer of /tokenize has no tokens") from error
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise ScoreError("the answer of /tokenize has no tokens")
    return tokens


def find_unproven(decision: PoolDecision) -> frozenset[str]:
    """Return the groups of workers that have to earn their traffic.

    Those that come back, and those that get none while others do.
    """
    return find_unserved(decision) | frozenset(decision.returning.values())


def find_unserved(decision: PoolDecision) -> frozenset[str]:
    """Return the groups of workers that get no traffic while others do."""
    if not decision.shares:
        return frozenset()
    shares = decision.find_group_shares()
    return frozenset(group for group, share in shares.items() if share <= 0)


class Budget:
    """Seconds of a worker's time that audits may take: a fraction of what goes by.

    Args:
        fraction: Of the worker's time, 0 to 1.
        now: The present, monotonic seconds.
        most: Seconds that it may have saved.
    """

    def __init__(self, fraction: float, now: float, most: float = 1.0) -> None:
        self.fraction = fraction
        self._most = most
        self._level = 0.0
        self._at = now

    def is_open(self, now: float) -> bool:
        """Return whether one more audit may begin: all before it have been paid."""
        return self._fill(now) >= 0

    def spend(self, seconds: float, now: float) -> None:
        """Take the time of an audit; what is more than there was has to be earned again."""
        self._level = self._fill(now) - seconds

    def _fill(self, now: float) -> float:
        earned = max(0.0, now - self._at) * self.fraction
        self._at = now
        self._level = min(self._most, self._level + earned)
        return self._level
