"""Parity: do two ways to compute a model agree? Pure functions from logits to a verdict.

Both sides read the same tokens and say what they expect after each (teacher forcing), so that one
other choice does not change everything after it. What of that counts, and the bounds, are those of
`LIMITS`; docs/numerics.md says what they can tell on the compact model, and what not.

Two questions: what do numerics cost (reference: float32; `LIMITS`), and does a device compute as
its numerics say (reference: the same numerics on a machine known to be good; tighter bounds,
`SAME_LIMITS`)? Only the second one finds small faults of devices with narrow numerics, whose own
rounding hides them from the first.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sluice_worker.checkpoint import Array

LEAST_ENTROPY: Final = 0.5
"""Nats of the reference on average, else nothing is judged (assumed).

Where the model is all but sure, a small fault changes neither the likeliest token nor the
divergence: agreement there says nothing.
"""
FINE_RATIO: Final = 1.2
BUG_RATIO: Final = 3.0
"""R-ratio below which a difference is fine, and beyond which it is likely a bug (published: AWS
Neuron documentation on matching logits)."""


_ONE_IN_TWENTY: Final = 1.645
"""Standard deviations that a normal variable exceeds once in twenty times."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far numerics may be from the reference.

    Attributes:
        agreement: least share of positions with the same likeliest token.
        divergence: most mean KL divergence, nats.
        score: least share of the reference's right answers; None if it is told and not judged.
    """

    agreement: float
    divergence: float
    score: float | None


BITS16: Final = Limits(0.99, 1e-3, 0.99)
BITS8: Final = Limits(0.97, 1e-2, 0.99)
BITS4: Final = Limits(0.90, 5e-2, None)
"""Plain rounding to 4 to 6 bits costs a model as small as the compact one more than one answer in
a hundred, on healthy devices (docs/numerics.md has the numbers): a bound there would tell nothing.
"""

LIMITS: Final[Mapping[str, Limits]] = MappingProxyType(
    {
        "float32": BITS16,
        "bfloat16": BITS16,
        "fp8-row": BITS8,
        "fp8-block": BITS8,
        "mx9": BITS8,
        "fp4": BITS4,
        "mx6": BITS4,
    }
)
"""By numerics: the bounds proposed for 16, 8 and 4 to 6 bits (assumed; no standard has any).

What is published bounds task scores instead: MLPerf Inference asks for 99 % or 99.9 % of the
reference's.
"""


def widen_limits(one: Limits, other: Limits) -> Limits:
    """Return the bounds for two against each other that each keep their own to one reference.

    Derived: positions where they differ from each other are at most those where either differs from
    it, and squared distances, as small divergences are, add up where errors are unrelated.
    """
    agreement = max(0.0, one.agreement + other.agreement - 1)
    return Limits(agreement, one.divergence + other.divergence, None)


_SAME: Final = Limits(0.97, 3e-3, None)

SAME_LIMITS: Final[Mapping[str, Limits]] = MappingProxyType(
    {
        "float32": BITS16,
        "bfloat16": BITS16,
        "fp8-row": _SAME,
        "fp8-block": _SAME,
        "mx9": _SAME,
        "mx6": Limits(0.97, 6e-3, None),
        "fp4": Limits(0.93, 2.5e-2, None),
    }
)
"""By numerics: bounds for a device against a healthy one of the same numerics (assumed).

Rounding makes of another order of summation what it makes of any small difference, so that healthy
devices with 4 to 8 bits differ more than the bounds of 16 bits allow, most where a model is unsure
and where a row has one scale, which moves all of it. On the compact model healthy fp8-row has 99 %
at least and 1.4e-3 nat at most, mx6 99.3 % and 1.9e-3 (4.3e-3 in the middle of its training), fp4
97.9 % and 1.1e-2; with one value in a thousand wrong those of 6 to 9 bits have 2.4e-2 nat at least,
fp4 6e-2. Early in a training (2 nat) healthy fp8-row had 98.4 % at least, fp4 95.9 %. The bounds
lie between.
"""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far logits are from those of the reference.

    Attributes:
        positions: tokens after which both were asked.
        agreement: share of positions with the same likeliest token.
        divergence: mean KL(reference ‖ device), nats.
        entropy: mean entropy of the reference, nats.
        ratio: ‖device − reference‖ / ‖healthy − reference‖, the R-ratio; None if it was not asked.
    """

    positions: int
    agreement: float
    divergence: float
    entropy: float
    ratio: float | None = None


Outcome = Literal["pass", "suspect", "blind", "fail"]
"""Of a check or of all of them: "suspect" as the R-ratio calls it; "blind" if too little could be
seen to pass anything."""


@dataclass(frozen=True, slots=True)
class Check:
    """One measure against its bound.

    Attributes:
        measure: "agreement", "divergence", "ratio", "entropy" or "score"; the last counts answers.
        value: what was found.
        bound: what it was compared with.
        reason: a sentence with both numbers; "" for a pass.
    """

    measure: Literal["agreement", "divergence", "ratio", "entropy", "score"]
    value: float
    bound: float
    outcome: Outcome = "pass"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison says.

    Attributes:
        outcome: the worst of its checks.
        reasons: a sentence each, with the numbers that were compared; none for a pass.
    """

    outcome: Outcome
    reasons: tuple[str, ...] = ()


def measure_parity(reference: Array, device: Array, healthy: Array | None = None) -> Parity:
    """Compare logits after the same tokens.

    Args:
        reference: (positions, vocabulary) in float32.
        device: the same of who is judged; what is not finite agrees with nothing.
        healthy: the same of numerics that are known to be good and no reference, for the R-ratio.
            The published ratio takes bfloat16; that of a device with narrower numerics is fair if
            it takes those.

    Raises:
        ValueError: shapes differ, there is no position, or a side that is to be trusted is not
            finite.
    """
    trusted = [reference] if healthy is None else [reference, healthy]
    shapes = {one.shape for one in (*trusted, device)}
    if len(shapes) > 1 or reference.ndim != 2 or not reference.size:  # noqa: PLR2004
        told = ", ".join(str(shape) for shape in sorted(shapes))
        raise ValueError(f"logits have the shapes {told}; wanted is one (positions, vocabulary)")
    if not all(np.isfinite(one).all() for one in trusted):
        raise ValueError("the reference has logits that are not finite: it is none")
    sound = np.asarray(np.isfinite(device).all(-1))
    judged = np.where(sound[:, None], device, np.float32(0))
    same = sound & (reference.argmax(-1) == judged.argmax(-1))
    expected = _find_log_shares(reference)
    shares = np.exp(expected)
    found = _find_log_shares(judged)
    divergence = np.where(sound, (shares * (expected - found)).sum(-1), np.inf)
    return Parity(
        positions=len(reference),
        agreement=float(same.mean()),
        divergence=max(0.0, float(divergence.mean())),
        entropy=float(-(shares * expected).sum(-1).mean()),
        ratio=None if healthy is None else _find_ratio(reference, device, healthy),
    )


def judge_checks(checks: Iterable[Check]) -> Verdict:
    """Return the worst outcome: a blind one can fail, but not pass.

    The reasons are those for it, then doubts.
    """
    checks = list(checks)
    for outcome in ("fail", "blind"):
        if worst := [one.reason for one in checks if one.outcome == outcome]:
            doubts = [one.reason for one in checks if one.outcome == "suspect"]
            return Verdict(outcome, (*worst, *doubts))
    doubts = [one.reason for one in checks if one.outcome == "suspect"]
    return Verdict("suspect" if doubts else "pass", tuple(doubts))


def check_distance(parity: Parity, limits: Limits) -> list[Check]:
    """Hold agreement, divergence and, if it was asked, the R-ratio against their bounds."""
    same = Check("agreement", parity.agreement, limits.agreement)
    if parity.agreement < limits.agreement:
        told = (
            f"the likeliest token is the same at {parity.agreement:.2%} of {parity.positions}"
            f" positions; wanted are {limits.agreement:.0%}"
        )
        same = replace(same, outcome="fail", reason=told)
    off = Check("divergence", parity.divergence, limits.divergence)
    if not parity.divergence <= limits.divergence:
        told = (
            f"the mean KL divergence is {parity.divergence:.2g} nat; {limits.divergence:g} is most"
        )
        off = replace(off, outcome="fail", reason=told)
    return [same, off] if parity.ratio is None else [same, off, _check_ratio(parity.ratio)]


def _check_ratio(ratio: float) -> Check:
    told = f"the R-ratio is {ratio:.2f}; below {FINE_RATIO:g} is fine"
    if ratio < FINE_RATIO:
        return Check("ratio", ratio, FINE_RATIO)
    if ratio <= BUG_RATIO:
        return Check("ratio", ratio, FINE_RATIO, "suspect", told)
    return Check(
        "ratio", ratio, BUG_RATIO, "fail", f"{told}, beyond {BUG_RATIO:g} it is likely a bug"
    )


def check_sight(parity: Parity) -> Check:
    """Tell whether the reference was unsure often enough for a fault to show."""
    if parity.entropy >= LEAST_ENTROPY:
        return Check("entropy", parity.entropy, LEAST_ENTROPY)
    told = (
        f"the reference has a mean entropy of {parity.entropy:.2f} nat on these prompts: below"
        f" {LEAST_ENTROPY:g} agreement says nothing"
    )
    return Check("entropy", parity.entropy, LEAST_ENTROPY, "blind", told)


def check_score(
    reference: NDArray[np.bool_], device: NDArray[np.bool_], limits: Limits
) -> Check | None:
    """Hold right answers against the reference's; None if the limits do not judge them.

    Some eighty questions cannot tell 99 % from 97 %: a near miss of the reference becomes right as
    easily as a narrow hit becomes wrong. So the loss has to be beyond the bound and beyond that:
    answers that turned either way, n, would differ by more than 1.645 √n in one healthy case of
    twenty (McNemar's test, one-sided at 5 %).

    Args:
        reference: whether each question is answered rightly.
        device: the same of who is judged.
        limits: of its numerics.
    """
    if limits.score is None:
        return None
    wanted, right = int(reference.sum()), int(device.sum())
    if not wanted:
        told = "the reference answers no question rightly: there is no task score to lose"
        return Check("score", right, 1, "blind", told)
    turned = int((reference != device).sum())
    least = wanted - math.floor((1 - limits.score) * wanted + _ONE_IN_TWENTY * math.sqrt(turned))
    if right < least:
        told = (
            f"{right} answers are right, {wanted} of the reference's; {least} are wanted at least"
        )
        return Check("score", right, least, "fail", told)
    return Check("score", right, least)


def _find_log_shares(logits: Array) -> NDArray[np.float64]:
    """Return the logarithm of each token's share (positions, vocabulary)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _find_ratio(reference: Array, device: Array, healthy: Array) -> float:
    if not np.isfinite(device).all():
        return float("inf")
    wide = reference.astype(np.float64)
    off, normal = (float(np.linalg.norm(one - wide)) for one in (device, healthy))
    if normal == 0:
        return 1.0 if off == 0 else float("inf")
    return off / normal
