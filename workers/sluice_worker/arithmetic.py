"""Other orders of summation: how another healthy processor would multiply.

Processors, libraries and their versions sum products in orders of their own, each right to within
rounding. `record` asks how far that moves the logits, because no known answer may depend on it. In
narrow numerics it moves them much further than in float32: a sum that is off in its last bit now
and then falls on the other side of a rounding edge, and then its value moves by a whole step of
the format.
"""

from types import MappingProxyType
from typing import Final

import numpy as np

from sluice_worker.checkpoint import Array


def multiply_exactly(left: Array, right: Array) -> Array:
    """Return the product, summed in float64: as good as it can be rounded to float32."""
    product = np.matmul(left.astype(np.float64), right.astype(np.float64))
    return np.asarray(product, np.float32)


def multiply_backwards(left: Array, right: Array) -> Array:
    """Return the product, its terms in reversed order."""
    turned = np.ascontiguousarray(left[..., ::-1])
    product: Array = np.matmul(turned, np.ascontiguousarray(right[..., ::-1, :]))
    return product


def multiply_in_parts(left: Array, right: Array, size: int = 16) -> Array:
    """Return the product as a running sum of those of `size` terms, as a tensor unit's tiles do."""
    total: Array = np.matmul(left[..., :size], right[..., :size, :])
    for start in range(size, left.shape[-1], size):
        total = total + np.matmul(
            left[..., start : start + size], right[..., start : start + size, :]
        )
    return total


def multiply_in_strides(left: Array, right: Array, lanes: int = 8) -> Array:
    """Return the product as a tree of sums of every `lanes`-th term, as vector lanes do."""
    sums = [np.matmul(left[..., n::lanes], right[..., n::lanes, :]) for n in range(lanes)]
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
    total: Array = sums[0]
    return total


ORDERS: Final = MappingProxyType(
    {
        "float64": multiply_exactly,
        "backwards": multiply_backwards,
        "in parts": multiply_in_parts,
        "in strides": multiply_in_strides,
    }
)
"""Each stands for another processor than this one."""
