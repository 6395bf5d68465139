"""Number formats: each rounds float32 values to those that it can hold, and gives them as float32.

A device that computes in a narrow format stores a value's nearest representable neighbour and
multiplies that. So does this, by real rounding: to the nearest, ties to even; nothing is added as
noise. Scales are shared along the last axis, by the whole row or by a block of it. No other row
matters. Elements of 8 and 4 bits are rounded by arithmetic on float32, which takes a seventh of the
time of the types of `ml_dtypes`; a test holds the two equal.

Common to all: rounding what is rounded already changes no bit; zero stays zero, of its sign; the
formats that share scales make all values of a scale no numbers (NaN) if one of them is not finite.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import ml_dtypes
import numpy as np

from sluice_worker.checkpoint import Array

FLOAT8_MOST: Final = np.float32(448)
"""Largest value of e4m3 without infinities (OCP 8-bit Floating Point, 1.0)."""
FLOAT4_MOST: Final = np.float32(6)
"""Largest value of e2m1 (OCP Microscaling Formats, 1.0)."""
LEAST_SCALE: Final = np.float32(2.0**-120)
"""Scales end here, where all they multiply is still exact: rows of some 1e-35 fade to zero."""
LEAST_POWER: Final = np.float32(2.0**-126)
"""Of a shared exponent: the smallest normal float32."""
_EXPONENT: Final = np.uint32(0x7F800000)
"""Bits of a float32's exponent."""


class Format(Protocol):
    """How values are stored."""

    def round(self, x: Array) -> Array:
        """Return x (…, width), each value rounded to one that the format holds."""


@dataclass(frozen=True, slots=True)
class Float32:
    """The reference: everything stays what it is, NaN and infinities included."""

    def round(self, x: Array) -> Array:
        """Return x itself."""
        return x


@dataclass(frozen=True, slots=True)
class Bfloat16:
    """Eight bits of exponent, eight of significand, no scale.

    Error: 2⁻⁸ of the value, but 2⁻¹³⁴ below 2⁻¹²⁶. What rounds beyond 3.39e38 becomes infinite, as
    IEEE 754 has it; NaN and infinities stay.
    """

    def round(self, x: Array) -> Array:
        """Return x (…, width), each value rounded by itself."""
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Float8Row:
    """e4m3 with one scale a row: its largest magnitude becomes 448.

    The scale keeps 20 bits of its significand, so that an element times its scale is exact. Nothing
    saturates by more than 2⁻¹⁹ of itself. Error: 2⁻⁴ of the value, or 2⁻¹⁰ scales if that is more.
    """

    def round(self, x: Array) -> Array:
        """Return x (…, width), rounded with a scale a row."""
        scale = _cut(_find_largest(x) / FLOAT8_MOST, 20)
        return _to_float8(x / scale) * scale


@dataclass(frozen=True, slots=True)
class Float8Block:
    """e4m3 with a power of two as scale for each block along the row (OCP MXFP8: blocks of 32).

    The scale is the least with which the largest magnitude of the block is at most 448, so that
    nothing saturates. Error: 2⁻⁴ of the value, or 2⁻¹⁰ scales if that is more.
    """

    block: int = 32

    def round(self, x: Array) -> Array:
        """Return x (…, width), rounded with a scale a block."""
        blocks = _split(x, self.block)
        largest: Array = np.abs(blocks).max(-1, keepdims=True)
        power = _refuse_infinite(_find_power(largest))
        # 448 is 1.75 · 2⁸.
        scale = power * np.where(
            largest > power * np.float32(1.75), np.float32(2.0**-7), np.float32(2.0**-8)
        )
        scale = np.maximum(scale, LEAST_SCALE)
        return _join(_to_float8(blocks / scale) * scale, x)


@dataclass(frozen=True, slots=True)
class Float4Block:
    """e2m1 with an e4m3 scale for each block of 16, and a float32 scale a row over those.

    As NVFP4, but that the outer scale is a row's, not a tensor's: a tensor holds other sequences.
    The largest magnitude of a block becomes 6, that of the row's largest block scale 448; block
    scales are rounded, which moves the largest by up to 1/16 of itself and may saturate it. Block
    scales end at 2⁻⁶: blocks below 3.5e-5 of the row's largest magnitude lose their last bits.
    Error: a quarter of the value, or of the block's scale if that is more.
    """

    block: int = 16

    def round(self, x: Array) -> Array:
        """Return x (…, width), rounded with a scale a row and one a block."""
        blocks = _split(x, self.block)
        largest = _find_largest(blocks)
        outer = _cut(largest.max(-2, keepdims=True) / (FLOAT8_MOST * FLOAT4_MOST), 18)
        inner = np.maximum(largest / FLOAT4_MOST / outer, np.float32(2.0**-6))
        scale = _to_float8(inner) * outer
        return _join(_to_float4(blocks / scale) * scale, x)


@dataclass(frozen=True, slots=True)
class Microexponent:
    """Block floating point with exponents on two levels (MX9 and MX6, arXiv:2302.08007).

    Sixteen values share the exponent of the largest; two neighbours share one bit more, which
    halves their step if both are below that power of two. An element is a sign and `mantissa` bits
    without a hidden one. Error: half a step, step = 2^(exponent − mantissa + 1); a whole one where
    it saturates, which is above the last step before the next power of two.

    Attributes:
        mantissa: bits of magnitude: 7 makes MX9, 4 makes MX6.
    """

    mantissa: int
    block: int = 16

    def round(self, x: Array) -> Array:
        """Return x (…, width), rounded with an exponent a block and a bit a pair."""
        blocks = _split(x, self.block)
        powers = _find_power(blocks)
        near = np.maximum(powers[..., ::2], powers[..., 1::2])
        shared = np.maximum(_refuse_infinite(near.max(-1, keepdims=True)), LEAST_POWER)
        # A pair below the shared power has half the step, one far below it no less than that.
        step = np.maximum(near, shared * np.float32(0.5)) * np.float32(2.0 ** (1 - self.mantissa))
        step = np.repeat(step, 2, -1)
        most = np.float32(2**self.mantissa - 1)
        element = np.minimum(np.maximum(np.rint(blocks / step), -most), most)
        return _join(element * step, x)


def _find_largest(x: Array) -> Array:
    """Return the largest magnitude along the last axis (…, 1), NaN if one is not finite."""
    return _refuse_infinite(np.abs(x).max(-1, keepdims=True))


def _refuse_infinite(largest: Array) -> Array:
    """Return magnitudes, but NaN where they are not finite."""
    if np.isfinite(largest).all():
        return largest
    return np.where(np.isfinite(largest), largest, np.float32(np.nan))


def _find_power(x: Array) -> Array:
    """Return the power of two at or below each magnitude; 0 for subnormal ones, inf for NaN."""
    power: Array = (x.view(np.uint32) & _EXPONENT).view(np.float32)
    return power


def _cut(scale: Array, bits: int) -> Array:
    """Return scales cut to so many bits of significand, towards zero; none is below the least."""
    mask = np.uint32(0xFFFFFFFF << (24 - bits) & 0xFFFFFFFF)
    kept: Array = np.maximum((scale.view(np.uint32) & mask).view(np.float32), LEAST_SCALE)
    return kept


def _to_float8(x: Array) -> Array:
    """Round values of at most 464 in magnitude to e4m3; NaN stays."""
    step = np.maximum(_find_power(x), np.float32(2.0**-6)) * np.float32(2.0**-3)
    rounded: Array = np.rint(x / step) * step
    return rounded


def _to_float4(x: Array) -> Array:
    """Round values below 7 in magnitude to e2m1; NaN stays."""
    step = np.maximum(_find_power(x), np.float32(1)) * np.float32(0.5)
    rounded: Array = np.rint(x / step) * step
    return rounded


def _split(x: Array, block: int) -> Array:
    """Return x (…, width) as (…, blocks, block); the last block is filled up with zeros."""
    short = -x.shape[-1] % block
    if short:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], short), np.float32)], -1)
    return x.reshape(*x.shape[:-1], -1, block)


def _join(blocks: Array, like: Array) -> Array:
    """Undo `_split`, and any splitting inside blocks."""
    joined: Array = blocks.reshape(*like.shape[:-1], -1)[..., : like.shape[-1]]
    return joined
