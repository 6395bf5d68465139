"""The decoder's arithmetic by the compiled kernels: fast, and the same on every processor.

Weights lie in panels of 64 outputs, buffers of a step are made once and used again. What a step
computes is told to the kernels in one array of addresses and sizes (`steplayout`); a step takes two
calls, and lets other threads run meanwhile.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sluice_worker import steplayout as at
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
from sluice_worker.kernelload import Kernels
from sluice_worker.kvcache import align_zeros
from sluice_worker.numerics import Numerics
from sluice_worker.plain import make_turns

if TYPE_CHECKING:
    from sluice_worker.decoder import Chunk, Disturb

ROWS: Final = 128
"""Rows that go through the layers at once; more would leave the processor's second cache. A longer
chunk goes in parts, which changes nothing: its later rows find the keys of the earlier ones."""


def describe_format(form: Format) -> tuple[int, int]:
    """Return a format's number and parameter for the kernels."""
    match form:
        case Float32():
            return at.FLOAT32, 0
        case Bfloat16():
            return at.BFLOAT16, 0
        case Float8Row():
            return at.FLOAT8_ROW, 0
        case Float8Block(block=block):
            return at.FLOAT8_BLOCK, block
        case Float4Block(block=block):
            return at.FLOAT4_BLOCK, block
        case Microexponent(mantissa=mantissa, block=16):
            return at.MICROEXPONENT, mantissa
    raise ValueError(f"the kernels do not round to {form}")


def pack_panels(*matrices: Array) -> Array:
    """Return matrices (inputs, outputs) as panels (panels, inputs, 64), side by side."""
    parts = []
    for matrix in matrices:
        inputs, outputs = matrix.shape
        panels = -(-outputs // at.PANEL)
        room = np.zeros((inputs, panels * at.PANEL), np.float32)
        room[:, :outputs] = matrix
        parts.append(room.reshape(inputs, panels, at.PANEL).transpose(1, 0, 2))
    packed = align_zeros(sum(map(len, parts)), *parts[0].shape[1:])
    np.concatenate(parts, out=packed)
    return packed


def narrow_panels(panels: Sequence[Array]) -> list[NDArray[Any]]:
    """Return panels as bfloat16, if all values of all of them are; else as they are."""
    words = [one.view(np.uint32) for one in panels]
    if any((one & 0xFFFF).any() for one in words):
        return list(panels)
    narrow = []
    for one in words:
        room = align_zeros(-(-one.size // 2)).view(np.uint16)[: one.size].reshape(one.shape)
        room[...] = one >> 16
        narrow.append(room)
    return narrow


class CompiledArithmetic:
    """Runs the layers by the kernels.

    Args:
        weights: rounded to the formats of the numerics.
        numerics: formats of everything else that is multiplied.
        kernels: the kernels.
    """

    def __init__(self, weights: Checkpoint, numerics: Numerics, kernels: Kernels) -> None:
        config = weights.config
        self._kernels = kernels
        self._embedding = weights.embedding
        self._vocabulary = config.vocab_size
        self._kept: list[NDArray[Any]] = []  # what only an address refers to
        self._step = np.zeros(at.FIELDS, np.int64)
        self._layers = self._pack_layers(weights.layers)
        self._tell_model(weights, numerics)
        self._make_buffers()
        # An address is looked up once: NumPy takes longer for one than a call does.
        self._calls = self._step.ctypes.data, self._layers.ctypes.data

    def _keep(self, array: NDArray[Any]) -> int:
        self._kept.append(array)
        return array.ctypes.data

    def _pack_layers(self, layers: Sequence[LayerWeights]) -> NDArray[np.int64]:
        """Return the addresses of all layers' weights, (layers, fields)."""
        panels = narrow_panels(
            [
                pack_panels(*matrices)
                for layer in layers
                for matrices in (
                    (np.concatenate([layer.query, layer.key, layer.value], 1),),
                    (layer.output,),
                    (layer.gate, layer.up),
                    (layer.down,),
                )
            ]
        )
        self._step[at.LINEAR_NARROW] = panels[0].dtype == np.uint16
        told = np.zeros((len(layers), at.LAYER_FIELDS), np.int64)
        matrices = (at.PROJECT, at.OUTPUT, at.GATE_UP, at.DOWN)
        for number, layer in enumerate(layers):
            told[number, at.INPUT_NORM] = self._keep(np.ascontiguousarray(layer.input_norm))
            told[number, at.POST_NORM] = self._keep(np.ascontiguousarray(layer.post_norm))
            for field, one in zip(matrices, panels[4 * number : 4 * number + 4], strict=True):
                told[number, field] = self._keep(one)
        return told

    def _tell_model(self, weights: Checkpoint, numerics: Numerics) -> None:
        config, step = weights.config, self._step
        heads, shared, width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        room = -(-width // at.LANES) * at.LANES
        step[at.WIDTH], step[at.INNER] = config.hidden_size, config.intermediate_size
        step[at.HEADS], step[at.SHARED], step[at.HEAD_WIDTH] = heads, shared, width
        step[at.HEAD_ROOM] = room
        for field, outputs in (
            (at.PROJECT_PANELS, (heads + 2 * shared) * width),
            (at.OUTPUT_PANELS, config.hidden_size),
            (at.INNER_PANELS, config.intermediate_size),
            (at.HEAD_PANELS, config.vocab_size),
        ):
            step[field] = -(-outputs // at.PANEL)
        step[at.COSINES], step[at.SINES] = map(self._keep, make_turns(weights))
        factors = np.array([config.rms_norm_eps, width**-0.5], np.float32)
        step[at.FACTORS] = self._keep(factors)
        step[at.VALUE_BYTES] = shared * room * at.BLOCK * 4
        step[at.LAYER_BYTES] = 2 * step[at.VALUE_BYTES]
        step[at.FINAL_NORM] = self._keep(np.ascontiguousarray(weights.final_norm))
        (head,) = narrow_panels([pack_panels(weights.head)])
        step[at.HEAD_MATRIX], step[at.HEAD_NARROW] = self._keep(head), head.dtype == np.uint16
        step[at.LINEAR : at.LINEAR + 2] = describe_format(numerics.linear)
        step[at.ATTENTION : at.ATTENTION + 2] = describe_format(numerics.attention)
        step[at.HEAD : at.HEAD + 2] = describe_format(numerics.head)
        self._positions = config.max_position_embeddings

    def _make_buffers(self) -> None:
        step = self._step
        self._places = np.zeros(ROWS, np.int64)
        self._tables = np.zeros(ROWS, np.int64)
        step[at.PLACES], step[at.TABLES] = self._places.ctypes.data, self._tables.ctypes.data
        width, heads = int(step[at.WIDTH]), int(step[at.HEADS] * step[at.HEAD_WIDTH])
        self._stream = align_zeros(ROWS, width)
        self._part = align_zeros(ROWS, int(step[at.OUTPUT_PANELS]) * at.PANEL)
        step[at.STREAM], step[at.PART] = self._stream.ctypes.data, self._part.ctypes.data
        positions = math.ceil(self._positions / at.BLOCK) * at.BLOCK
        for field, size in (
            (at.FITTED, ROWS * width),
            (at.PROJECTED, ROWS * int(step[at.PROJECT_PANELS]) * at.PANEL),
            (at.MIXED, ROWS * heads),
            (at.GATES, ROWS * 2 * int(step[at.INNER_PANELS]) * at.PANEL),
            (at.HIDDEN, ROWS * int(step[at.INNER])),
            (at.SCRATCH, 4 * (positions + int(step[at.HEAD_ROOM]))),
            (at.SUMS, at.LANES),
            (at.PANEL_ROOM, max(width, heads, int(step[at.INNER])) * at.PANEL),
        ):
            step[field] = self._keep(align_zeros(size))

    def run_layers(
        self,
        tokens: NDArray[np.int64],
        places: NDArray[np.int64],
        chunks: "Sequence[Chunk]",
        wanted: NDArray[np.int64],
        disturb: "Disturb | None",
    ) -> Array:
        """Return the wanted rows (wanted, width) of what the last layer hands on."""
        tables = np.array([chunk.cache.table for chunk in chunks], np.int64)
        if len(tables) < len(tokens):
            tables = np.repeat(tables, [len(chunk.tokens) for chunk in chunks])
        if len(tokens) <= ROWS:
            self._run_part(tokens, places, tables, disturb)
            return self._stream[wanted]
        found = np.empty((len(wanted), self._stream.shape[1]), np.float32)
        for start in range(0, len(tokens), ROWS):
            end = min(start + ROWS, len(tokens))
            part = slice(start, end)
            self._run_part(tokens[part], places[part], tables[part], disturb)
            first, last = np.searchsorted(wanted, (start, end))
            found[first:last] = self._stream[wanted[first:last] - start]
        return found

    def _run_part(
        self,
        tokens: NDArray[np.int64],
        places: NDArray[np.int64],
        tables: NDArray[np.int64],
        disturb: "Disturb | None",
    ) -> None:
        rows = len(tokens)
        self._step[at.ROWS] = rows
        self._places[:rows] = places
        self._tables[:rows] = tables
        np.take(self._embedding, tokens, axis=0, out=self._stream[:rows], mode="clip")
        run, layers = self._kernels.run_layers, len(self._layers)
        if disturb is None:
            run(*self._calls, 0, layers, at.ATTEND | at.THINK | at.ADD)
            return
        stream = self._stream[:rows]
        part = self._part[:rows, : stream.shape[1]]
        for layer in range(layers):
            for half in (at.ATTEND, at.THINK):
                run(*self._calls, layer, layer + 1, half)
                stream += disturb(part)

    def finish(self, x: Array) -> Array:
        """Return the logits (rows, vocabulary) of rows of the last layer."""
        logits = np.empty((len(x), int(self._step[at.HEAD_PANELS]) * at.PANEL), np.float32)
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS]
            self._stream[: len(rows)] = rows
            self._step[at.ROWS] = len(rows)
            self._kernels.finish(self._calls[0], logits[start:].ctypes.data)
        return logits[:, : self._vocabulary]
