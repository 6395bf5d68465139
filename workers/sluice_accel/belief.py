"""What planner and router believe of accelerators: the profiles, with errors of their own.

Whoever predicts reckons with these copies and never with the profiles that pace the workers, so
that no prediction equals the emulated truth by construction. What is observed makes up for it.
"""

from functools import lru_cache
from typing import Final

from sluice_accel.profiles import AcceleratorProfile, perturb
from sluice_accel.rounding import find_profile

BELIEF_SEED: Final = 20260101
"""Seed of the errors, up to +-20 % on every constant that one would have to measure."""


@lru_cache(maxsize=256)
def believe(name: str, numerics: str | None) -> AcceleratorProfile:
    """Return the believed profile of a kind of device in a worker's numerics; None: its own.

    Raises:
        NumericsError: the device has no such products.
        KeyError: there is no such profile.
    """
    return perturb(find_profile(name, numerics), seed=BELIEF_SEED)
