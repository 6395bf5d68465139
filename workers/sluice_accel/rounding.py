"""In which numerics workers compute by the kind of device, unless told otherwise.

The names are those of `sluice-worker --numerics`; docs/numerics.md says what each rounds. Those of
`sluice_accel.numerics` count bytes and products, and tell two kinds of FP8 scales not apart.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

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
