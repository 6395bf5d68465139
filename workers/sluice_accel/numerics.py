"""Number formats that weights, products and KV cache can have, and what they cost in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sluice_accel.quantities import Quantity, assumed, derived


@dataclass(frozen=True, slots=True)
class Numerics:
    """How a model is stored and multiplied.

    Attributes:
        weight_bytes: bytes per weight of the layers, block scales included.
        cache_bytes: bytes per element of the KV cache.
        products: format in which the layers' products run; names a peak of the device.
        attention: the same for attention's products.
    """

    name: str
    weight_bytes: Quantity
    cache_bytes: Quantity
    products: str
    attention: str


_BF16 = derived(2, "B", "16 bits")
_FP8 = derived(1, "B", "8 bits; the scales of rows are less than 1 % more")
_FP8_BLOCK = assumed(
    1.03125, "B", "8 bits and an 8-bit scale for 32 weights, as OCP MXFP8; for Maia 200 a guess"
)

_NUMERICS = (
    Numerics("bf16", _BF16, _BF16, "bf16", "bf16"),
    Numerics("fp8", _FP8, _FP8, "fp8", "fp8"),
    Numerics("fp8-block", _FP8_BLOCK, _FP8_BLOCK, "fp8", "fp8"),
    Numerics(
        "fp4",
        assumed(0.5625, "B", "4 bits and an 8-bit scale for 16 weights, as NVFP4 (recalled)"),
        assumed(1, "B", "more bits than the weights, as published FP4 checkpoints keep (recalled)"),
        "fp4",
        "fp8",
    ),
    Numerics(
        "mx9",
        assumed(1.125, "B", "9 bits a weight on average, shared exponents included"),
        assumed(1.125, "B", "the same format as the weights"),
        "mx9",
        "mx9",
    ),
    Numerics(
        "mx6",
        assumed(0.75, "B", "6 bits a weight on average, shared exponents included"),
        assumed(0.75, "B", "the same format as the weights"),
        "mx6",
        "mx6",
    ),
    Numerics("int8-weights", derived(1, "B", "8 bits, scales left out"), _BF16, "bf16", "bf16"),
    Numerics("int4-weights", derived(0.5, "B", "4 bits, scales left out"), _BF16, "bf16", "bf16"),
)

NUMERICS: Final[Mapping[str, Numerics]] = MappingProxyType({each.name: each for each in _NUMERICS})
"""By name. The last two store less and multiply in bf16: any device that multiplies bf16 can."""

HEAD_BYTES: Final = assumed(
    2, "B", "published quantised checkpoints leave the output head in bf16 (recalled)"
)
