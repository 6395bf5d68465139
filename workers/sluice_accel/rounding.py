"""In which numerics workers compute by the kind of device, and what that means for its time.

The names are those of `sluice-worker --numerics`; docs/numerics.md says what each rounds. Those of
`sluice_accel.numerics` are of what devices store and multiply.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sluice_accel.numerics import NUMERICS
from sluice_accel.profiles import PROFILES, AcceleratorProfile, NumericsError, serve_in

REFERENCE: Final = "float32"
"""What nothing is rounded in. It is no device's: with it, a device takes the time and memory of its
own format."""

FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bfloat16": "bf16",
        "fp8-row": "fp8",
        "fp8-block": "fp8-block",
        "fp4": "fp4",
        "mx9": "mx9",
        "mx6": "mx6",
    }
)
"""By the worker's numerics, the number format whose time and memory its device takes."""

ROUNDING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "maia-100": "mx9",
        "maia-200": "fp8-block",
        "maia-200-neutral": "fp8-block",
        "a100": "bfloat16",
        "h100": "fp8-row",
        "h200": "fp8-row",
        "b200": "fp8-row",
        "trainium2": "fp8-row",
        "tpu-v6e": "bfloat16",
    }
)
"""By profile. That Maia 100 has MX9, and that Maia 200 scales FP8 by block and Trainium2 by row, is
assumed; docs/numerics.md has what is published."""


def find_products(numerics: str) -> str:
    """Return the format in which a device multiplies for a worker's numerics; not of float32."""
    return NUMERICS[FORMATS[numerics]].products


def find_profile(name: str, numerics: str | None) -> AcceleratorProfile:
    """Return a profile whose device serves in a worker's numerics; None and float32: in its own.

    Raises:
        NumericsError: the device has no such products; the message says which it has.
    """
    if numerics is None or numerics == REFERENCE:
        return PROFILES[name]
    return serve_in(name, FORMATS[numerics])


def list_profiles(numerics: str) -> tuple[str, ...]:
    """Return the profiles whose devices multiply in a worker's numerics, sorted."""
    return tuple(sorted(name for name in PROFILES if _multiplies(name, numerics)))


def list_numerics(profile: str) -> tuple[str, ...]:
    """Return the worker's numerics that a profile's device multiplies in, float32 first."""
    return (REFERENCE, *(one for one in FORMATS if _multiplies(profile, one)))


def _multiplies(profile: str, numerics: str) -> bool:
    try:
        find_profile(profile, numerics)
    except NumericsError:
        return False
    return True
