"""`formats` once more, as kernels: the same bits, at a small part of the time; a test holds it.

Only the build of the kernels imports this.
"""

from typing import Any

import numpy as np

from sluice_worker import steplayout as at
from sluice_worker.vectors import bits_of, float_of, floats_at, kernel, round_even

_EXPONENT = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_NAN = np.uint32(0x7FC00000)
_LEAST_SCALE = np.float32(2.0**-120)
_LEAST_POWER = np.float32(2.0**-126)
_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_FLOAT8_MOST = np.float32(448)
_BOTH_MOST = np.float32(448 * 6)
_FLOAT4_MOST = np.float32(6)
_FLOAT8_NORMAL, _FLOAT8_STEP = np.float32(2.0**-6), np.float32(2.0**-3)
_SPLIT = np.float32(1.75)
_SHIFT_7, _SHIFT_8 = np.float32(2.0**-7), np.float32(2.0**-8)


@kernel
def round_row(form: int, parameter: int, address: int, count: int) -> None:
    """Round values in place, in one of the formats of `steplayout`."""
    if form == at.BFLOAT16:
        _round_bfloat16(address, count)
    elif form == at.FLOAT8_ROW:
        _round_float8(address, count, _cut(_largest(address, count) / _FLOAT8_MOST, 0xFFFFFFF0))
    elif form == at.FLOAT8_BLOCK:
        for start in range(0, count, parameter):
            size = min(parameter, count - start)
            _round_float8_block(address + 4 * start, size)
    elif form == at.FLOAT4_BLOCK:
        _round_float4(address, count, parameter)
    elif form == at.MICROEXPONENT:
        for start in range(0, count, 16):
            _round_shared(address + 4 * start, min(16, count - start), parameter)


@kernel
def _power(x: Any) -> Any:
    return float_of(np.uint32(bits_of(x) & _EXPONENT))


@kernel
def _cut(scale: Any, mask: int) -> Any:
    cut = float_of(np.uint32(bits_of(scale) & np.uint32(mask)))
    return max(cut, _LEAST_SCALE)


@kernel
def _largest(address: int, count: int) -> Any:
    """Return the largest magnitude, NaN if one is not finite: of positive numbers, bits order."""
    x = floats_at(address)
    most = np.uint32(0)
    for i in range(count):
        most = max(most, np.uint32(bits_of(x[i]) & _MAGNITUDE))
    return float_of(_NAN if most >= _EXPONENT else most)


@kernel
def _round_bfloat16(address: int, count: int) -> None:
    x = floats_at(address)
    for i in range(count):
        bits = bits_of(x[i])
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        up = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
        if np.uint32(bits & _MAGNITUDE) > _EXPONENT:
            up = np.uint32(bits | _NAN)
        x[i] = float_of(np.uint32(up & np.uint32(0xFFFF0000)))


@kernel
def _to_float8(x: Any) -> Any:
    power = _power(x)
    step = max(power, _FLOAT8_NORMAL) * _FLOAT8_STEP
    return round_even(x / step) * step


@kernel
def _round_float8(address: int, count: int, scale: Any) -> None:
    x = floats_at(address)
    for i in range(count):
        x[i] = _to_float8(x[i] / scale) * scale


@kernel
def _round_float8_block(address: int, count: int) -> None:
    largest = _largest(address, count)
    power = _power(largest)
    if power >= float_of(_EXPONENT):
        power = float_of(_NAN)
    scale = power * (_SHIFT_7 if largest > power * _SPLIT else _SHIFT_8)
    if scale < _LEAST_SCALE:
        scale = _LEAST_SCALE
    _round_float8(address, count, scale)


@kernel
def _round_float4(address: int, count: int, block: int) -> None:
    x = floats_at(address)
    outer = _cut(_largest(address, count) / _BOTH_MOST, 0xFFFFFFC0)
    for start in range(0, count, block):
        size = min(block, count - start)
        inner = _largest(address + 4 * start, size) / _FLOAT4_MOST / outer
        if inner < _FLOAT8_NORMAL:
            inner = _FLOAT8_NORMAL
        scale = _to_float8(inner) * outer
        for i in range(start, start + size):
            y = x[i] / scale
            power = _power(y)
            step = max(power, _ONE) * _HALF
            x[i] = round_even(y / step) * step * scale


@kernel
def _round_shared(address: int, count: int, mantissa: int) -> None:
    x = floats_at(address)
    shared = _power(_largest(address, count))
    if shared >= float_of(_EXPONENT):
        shared = float_of(_NAN)
    if shared < _LEAST_POWER:
        shared = _LEAST_POWER
    unit = float_of(np.uint32(np.uint32(128 - mantissa) << np.uint32(23)))  # 2^(1 − mantissa)
    most = np.float32((1 << mantissa) - 1)
    for start in range(0, count, 2):
        end = min(start + 2, count)
        near = shared * _HALF
        for i in range(start, end):
            near = max(near, _power(x[i]))
        if shared != shared:  # max passes over what is no number
            near = shared
        step = near * unit
        for i in range(start, end):
            element = round_even(x[i] / step)
            if element > most:
                element = most
            elif element < -most:
                element = -most
            x[i] = element * step
