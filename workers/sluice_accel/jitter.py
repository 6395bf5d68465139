"""How far a step's time is off the model's: chance as a pure function of seed and step."""

import hashlib
import math
from typing import Final

MOST_JITTER: Final = 0.7
"""Longest deviation, as a share (published, llm-d-inference-sim: normal, cut at ±70 %)."""
USUAL_JITTER: Final = (0.05, 0.15)
"""Standard deviations, as shares, that emulators use (published, llm-d-inference-sim)."""


def jitter_factor(seed: int, step: int, deviation: float) -> float:
    """Return the factor on the time of a step: normal around 1, cut at ±`MOST_JITTER`.

    Args:
        seed: of a device.
        step: its number; the same seed and step always give the same factor.
        deviation: standard deviation as a share; 0 gives 1.
    """
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    # Two uniform numbers in (0, 1] make a normal one (Box, Muller).
    first, second = ((int.from_bytes(digest[at : at + 8]) + 1) / (2**64 + 1) for at in (0, 8))
    normal = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
    return 1 + max(-MOST_JITTER, min(MOST_JITTER, deviation * normal))
