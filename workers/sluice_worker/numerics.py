"""Numerics: in which formats a worker holds what it multiplies; docs/numerics.md lists the points.

The compact model is computed on CPUs in float32 whatever the numerics are. What enters a product is
rounded before it: weights once when they are loaded, activations and queries a row, keys and values
when they are written into the cache. Sums, norms, softmax, activation functions and the residual
stream are float32, as on the accumulators and vector units of the devices this stands for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from sluice_worker.checkpoint import Array, Checkpoint, LayerWeights
from sluice_worker.formats import (
    Bfloat16,
    Float4Block,
    Float8Block,
    Float8Row,
    Float32,
    Format,
    Microexponent,
)


@dataclass(frozen=True, slots=True)
class Numerics:
    """The formats of one way to compute.

    Attributes:
        name: what `--numerics` takes and known answers are keyed by.
        about: rounding in a few words, with its standing.
        linear: of weights of the linear layers, and of the activations that enter them.
        attention: of queries, keys and values, along the head dimension.
        head: of the output matrix and what enters it. 16 bits in all narrow numerics, as quantised
            checkpoints leave it (llm-compressor's recipes: ignore lm_head).
        bits: of a stored weight, its share of scales included; scales of a row are left out.
    """

    name: str
    about: str
    linear: Format
    attention: Format
    head: Format
    bits: float


FLOAT32: Final = Numerics(
    "float32", "nothing is rounded: the reference", Float32(), Float32(), Float32(), 32
)
_FLOAT8 = Float8Row()

_ALL = (
    FLOAT32,
    Numerics("bfloat16", "to nearest even, no scale", Bfloat16(), Bfloat16(), Bfloat16(), 16),
    Numerics("fp8-row", "e4m3, a float32 scale a row", _FLOAT8, _FLOAT8, Bfloat16(), 8),
    Numerics(
        "fp8-block",
        "e4m3, a power of two a block of 32 (OCP MXFP8; assumed for Maia 200)",
        Float8Block(),
        Float8Block(),
        Bfloat16(),
        8 + 8 / 32,
    ),
    Numerics(
        "fp4",
        "e2m1, an e4m3 scale a block of 16 and a float32 scale a row (as NVFP4); attention as"
        " fp8-row",
        Float4Block(),
        _FLOAT8,
        Bfloat16(),
        4 + 8 / 16,
    ),
    Numerics(
        "mx9",
        "7 bits and sign, exponents a block of 16 and a pair (assumed for Maia 100's 9-bit)",
        Microexponent(7),
        Microexponent(7),
        Bfloat16(),
        9,
    ),
    Numerics(
        "mx6",
        "4 bits and sign, exponents a block of 16 and a pair (assumed for Maia 100's 6-bit)",
        Microexponent(4),
        Microexponent(4),
        Bfloat16(),
        6,
    ),
)

NUMERICS: Final[Mapping[str, Numerics]] = MappingProxyType({one.name: one for one in _ALL})


def round_weights(checkpoint: Checkpoint, numerics: Numerics) -> Checkpoint:
    """Return the model with its matrices in the formats of the numerics.

    Scales and blocks run along the inputs, over which products sum: a scale a row is one an output.
    Embedding and norms stay as they are stored; neither enters a product.
    """
    if numerics is FLOAT32:
        return checkpoint
    return replace(
        checkpoint,
        layers=tuple(_round_layer(layer, numerics.linear) for layer in checkpoint.layers),
        head=_round_matrix(checkpoint.head, numerics.head),
    )


def _round_layer(layer: LayerWeights, form: Format) -> LayerWeights:
    matrices = [field.name for field in fields(layer) if getattr(layer, field.name).ndim > 1]
    return replace(layer, **{name: _round_matrix(getattr(layer, name), form) for name in matrices})


def _round_matrix(matrix: Array, form: Format) -> Array:
    """Round (inputs, outputs) along the inputs."""
    return np.ascontiguousarray(form.round(np.ascontiguousarray(matrix.T)).T)
