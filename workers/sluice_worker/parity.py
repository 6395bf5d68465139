"""Parity: do two ways to compute a model agree? Pure functions from logits to a verdict.

Both sides read the same tokens and say what they expect after each (teacher forcing), so that one
other choice does not change everything after it. What of that counts, and the bounds, are those of
`LIMITS`; docs/numerics.md says what they can tell on the compact model, and what not.

Two questions: what do numerics cost (reference: float32; bounds by numerics), and does a device
compute as its numerics say (reference: the same numerics on a machine known to be good; bounds one
class tighter, `SAME_LIMITS`)? Only the second one finds small faults of devices with narrow
numerics, whose own rounding hides them from the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Limits:
    """How far numerics may be from the reference.

    Attributes:
        agreement: least share of positions with the same likeliest token.
        divergence: most mean KL divergence, nats.
    """

    agreement: float
    divergence: float


BITS16: Final = Limits(0.99, 1e-3)
BITS8: Final = Limits(0.97, 1e-2)
BITS4: Final = Limits(0.90, 5e-2)

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

SAME_LIMITS: Final[Mapping[str, Limits]] = MappingProxyType(
    {name: BITS8 if limits is BITS4 else BITS16 for name, limits in LIMITS.items()}
)
"""By numerics: bounds for a device against a healthy one of the same numerics (assumed).

Rounding makes of another order of summation what it makes of any small difference, so that healthy
devices with 4 to 6 bits differ more than the bounds of 16 bits allow.
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison says.

    Attributes:
        outcome: "pass"; "suspect", as the R-ratio calls it; "blind" if too little could be seen to
            pass anything; "fail".
        reasons: a sentence each, with the numbers that were compared; none for a pass.
    """

    outcome: Literal["pass", "suspect", "blind", "fail"]
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


def judge_parity(parity: Parity, limits: Limits) -> Verdict:
    """Return what a comparison says; a blind one can fail, but not pass."""
    wrong, doubts = [], []
    if parity.agreement < limits.agreement:
        wrong.append(
            f"the likeliest token is the same at {parity.agreement:.2%} of {parity.positions}"
            f" positions; wanted are {limits.agreement:.0%}"
        )
    if not parity.divergence <= limits.divergence:
        wrong.append(
            f"the mean KL divergence is {parity.divergence:.2g} nat; {limits.divergence:g} is most"
        )
    if parity.ratio is not None and not parity.ratio < FINE_RATIO:
        told = f"the R-ratio is {parity.ratio:.2f}; below {FINE_RATIO:g} is fine"
        if parity.ratio <= BUG_RATIO:
            doubts.append(told)
        else:
            wrong.append(f"{told}, beyond {BUG_RATIO:g} it is likely a bug")
    if wrong:
        return Verdict("fail", (*wrong, *doubts))
    if parity.entropy < LEAST_ENTROPY:
        blind = (
            f"the reference has a mean entropy of {parity.entropy:.2f} nat on these prompts: below"
            f" {LEAST_ENTROPY:g} agreement says nothing"
        )
        return Verdict("blind", (blind, *doubts))
    return Verdict("suspect" if doubts else "pass", tuple(doubts))


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
