"""What workers compute in: the names, which devices have them, and what holds by default.

A pair that no device has is refused in a class by the API server; in a pool's variant, whose class
is another object, it becomes a finding of the planner.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic.config import JsonDict

from sluice.api.rules import rule
from sluice_accel.profiles import PROFILES
from sluice_accel.rounding import FORMATS, REFERENCE, ROUNDING, find_products, list_profiles

if TYPE_CHECKING:
    from sluice.api.accelerator import AcceleratorClassSpec
    from sluice.api.pool import VariantSpec

NAMES = (REFERENCE, *FORMATS)
NumericsName = StrEnum("NumericsName", {name: name for name in NAMES})  # type: ignore[misc]

ABOUT = (
    "bfloat16; fp8-row (FP8 e4m3, a scale a row); fp8-block (FP8 e4m3, a scale a block of 32); fp4;"
    " mx9 and mx6 (Maia 100's 9 and 6 bits); or float32, in which nothing is rounded: the"
    " reference, which no device serves in"
)


def choose_numerics(
    variant: "VariantSpec | None", accelerator: "AcceleratorClassSpec"
) -> str | None:
    """Return what the workers of a variant compute in, or None where nothing says it.

    What the variant says comes before what its class says, and that before what the class's
    emulation profile stands for. None leaves it to the worker.
    """
    if variant is not None and variant.numerics is not None:
        return str(variant.numerics)
    if accelerator.numerics is not None:
        return str(accelerator.numerics)
    if accelerator.emulation is not None:
        return ROUNDING[str(accelerator.emulation.profile)]
    return None


def fits(numerics: str | None, profile: str | None) -> bool:
    """Tell whether a profile's device multiplies in some numerics; what is not said fits."""
    return numerics is None or profile is None or profile in list_profiles(numerics)


def check_fit(numerics: str | None, profile: str | None) -> None:
    """Check that a profile's device multiplies in some numerics.

    Raises:
        ValueError: it does not.
    """
    if numerics is not None and not fits(numerics, profile):
        raise ValueError(f"numerics {_describe_format(find_products(numerics))}")


def write_rules() -> list[JsonDict]:
    """Return the CEL half of `check_fit`: a rule for what not every device multiplies."""
    return [
        rule(
            "!has(self.numerics) || !has(self.emulation)"
            f" || !(self.numerics in {_quote(_list_names(form))})"
            f" || self.emulation.profile in {_quote(list_profiles(_list_names(form)[0]))}",
            _describe_format(form),
            ".numerics",
        )
        for form in dict.fromkeys(map(find_products, FORMATS))
        if len(list_profiles(_list_names(form)[0])) < len(PROFILES)
    ]


def _list_names(form: str) -> list[str]:
    return [name for name in FORMATS if find_products(name) == form]


def _describe_format(form: str) -> str:
    names = _list_names(form)
    return (
        f"must not be {' or '.join(names)} with this emulation.profile: only devices of"
        f" {', '.join(list_profiles(names[0]))} multiply {form}"
    )


def _quote(names: list[str] | tuple[str, ...]) -> str:
    """Return a CEL list of texts."""
    return f"[{', '.join(repr(name) for name in names)}]"
