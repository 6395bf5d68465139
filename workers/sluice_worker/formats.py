"""Number formats: each rounds float32 values to those that it can hold, and gives them as float32.

A device that computes in a narrow format stores a value's nearest representable neighbour and
multiplies that. So does this, by real rounding: to the nearest, ties to even, with the element
types of `ml_dtypes`; nothing is added as noise. Scales are shared along the last axis, by the whole
row or by a block of it. No other row matters.

Common to all: rounding what is rounded already changes no bit; zero stays zero, of its sign; the
formats that share scales make all values of a scale no numbers (NaN) if one of them is not finite.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import ml_dtypes
import numpy as np

from sluice_worker.checkpoint import Array

FLOAT8_MOST: Final = 448.0
"""Largest value of e4m3 without infinities (OCP 8-bit Floating Point, 1.0)."""
FLOAT4_MOST: Final = 6.0
"""Largest value of e2m1 (OCP Microscaling Formats, 1.0)."""
LEAST_SCALE: Final = np.float32(2.0**-120)
"""Scales end here, where all they multiply is still exact: rows of some 1e-35 fade to zero."""
LEAST_EXPONENT: Final = -126
"""Of a shared exponent: that of the smallest normal float32."""


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
        scale = _cut(_find_largest(x) / np.float32(FLOAT8_MOST), 20)
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
        part, exponent = np.frexp(_find_largest(blocks))
        # 448 is 0.875 · 2⁹, and the largest is part · 2^exponent with a part of 0.5 to 1.
        exponent = np.maximum(exponent - 9 + (part > FLOAT8_MOST / 512), LEAST_EXPONENT + 6)
        scale = np.ldexp(_keep_nan(part), exponent)
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
        most = np.float32(FLOAT8_MOST * FLOAT4_MOST)
        outer = _cut(largest.max(-2, keepdims=True) / most, 18)
        inner = np.maximum(largest / np.float32(FLOAT4_MOST) / outer, np.float32(2.0**-6))
        scale = _to_float8(inner) * outer
        # e2m1 has no NaN; the scale brings it back.
        element = np.nan_to_num(blocks / scale).clip(-FLOAT4_MOST, FLOAT4_MOST)
        return _join(element.astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scale, x)


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
    pair: int = 2

    def round(self, x: Array) -> Array:
        """Return x (…, width), rounded with an exponent a block and a bit a pair."""
        pairs = _split(x, self.block)
        pairs = pairs.reshape(*pairs.shape[:-1], -1, self.pair)
        near = _find_largest(pairs)
        shared = near.max(-2, keepdims=True)
        exponent = np.maximum(np.frexp(shared)[1] - 1, LEAST_EXPONENT)
        lower = np.clip(exponent - (np.frexp(near)[1] - 1), 0, 1)
        step = np.ldexp(_keep_nan(shared), exponent - lower - self.mantissa + 1)
        most = np.float32(2**self.mantissa - 1)
        return _join(np.rint(pairs / step).clip(-most, most) * step, x)


def _find_largest(x: Array) -> Array:
    """Return the largest magnitude along the last axis (…, 1), NaN if one is not finite."""
    largest: Array = np.abs(x).max(-1, keepdims=True)
    if not np.isfinite(largest).all():
        largest = np.where(np.isfinite(largest), largest, np.float32(np.nan))
    return largest


def _keep_nan(x: Array) -> Array:
    """Return ones, but NaN where x is."""
    return np.where(np.isnan(x), x, np.float32(1))


def _cut(scale: Array, bits: int) -> Array:
    """Return scales cut to so many bits of significand, towards zero; none is below the least."""
    mask = np.uint32(0xFFFFFFFF << (24 - bits) & 0xFFFFFFFF)
    kept: Array = np.maximum((scale.view(np.uint32) & mask).view(np.float32), LEAST_SCALE)
    return kept


def _to_float8(x: Array) -> Array:
    """Round values to e4m3, saturating; NaN stays."""
    limited = x.clip(-FLOAT8_MOST, FLOAT8_MOST)
    return limited.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


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
