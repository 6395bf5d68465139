"""The decoder's arithmetic in NumPy: what is used where the kernels cannot be, and for comparing.

Every row goes through a product of its own (`matmul` of (rows, 1, inputs) with (inputs, outputs)
runs one GEMV a row), every query attends by itself to exactly the keys before it, and sums run over
axes whose length depends on the sequence alone. So rows do not matter to each other here either;
but the bits are those of NumPy's library, not those of the kernels.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sluice_worker.checkpoint import Array, Checkpoint, LayerWeights
from sluice_worker.numerics import FLOAT32, Numerics

if TYPE_CHECKING:
    from sluice_worker.decoder import Chunk, Disturb

Product = Callable[[Array, Array], Array]
"""Products of stacks of matrices, as `np.matmul` defines them."""


def make_turns(checkpoint: Checkpoint) -> tuple[Array, Array]:
    """Return cosines and sines of the rotary positions, (positions, head width / 2) each."""
    config = checkpoint.config
    half = config.head_dim // 2
    rates = config.rope_theta ** (-np.arange(half) / half)
    angles = np.arange(config.max_position_embeddings)[:, None] * rates
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class PlainArithmetic:
    """Runs the layers in NumPy.

    Args:
        weights: rounded to the formats of the numerics.
        numerics: formats of everything else that is multiplied.
        product: multiplies and sums; another one than NumPy's stands for another processor.
    """

    def __init__(self, weights: Checkpoint, numerics: Numerics, product: Product) -> None:
        self._weights = weights
        self._numerics = numerics
        self._product = product
        self._cos, self._sin = make_turns(weights)
        self._epsilon = np.float32(weights.config.rms_norm_eps)

    def run_layers(
        self,
        tokens: NDArray[np.int64],
        places: NDArray[np.int64],
        chunks: "Sequence[Chunk]",
        wanted: NDArray[np.int64],
        disturb: "Disturb | None",
    ) -> Array:
        """Return the wanted rows (wanted, width) of what the last layer hands on."""
        weights = self._weights
        fit, multiply = self._numerics.linear.round, self._multiply
        x: Array = weights.embedding[tokens]
        for number, layer in enumerate(weights.layers):
            h = fit(normalise(x, layer.input_norm, self._epsilon))
            part = self._attend(h, places, chunks, layer, number)
            x = x + (part if disturb is None else disturb(part))
            h = fit(normalise(x, layer.post_norm, self._epsilon))
            inner = fit(silu(multiply(h, layer.gate)) * multiply(h, layer.up))
            part = multiply(inner, layer.down)
            x = x + (part if disturb is None else disturb(part))
        return x[wanted]

    def finish(self, x: Array) -> Array:
        """Return the logits (rows, vocabulary) of rows of the last layer."""
        weights = self._weights
        h = self._numerics.head.round(normalise(x, weights.final_norm, self._epsilon))
        return self._multiply(h, weights.head)

    def _multiply(self, rows: Array, matrix: Array) -> Array:
        """Return rows @ matrix, each row by a product of its own: the others do not matter."""
        product: Array = self._product(rows[:, None, :], matrix)[:, 0]
        return product

    def _attend(
        self,
        h: Array,
        places: NDArray[np.int64],
        chunks: "Sequence[Chunk]",
        layer: LayerWeights,
        number: int,
    ) -> Array:
        config = self._weights.config
        heads, shared, width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        rows, multiply, product = len(h), self._multiply, self._product
        queries = self._rotate(multiply(h, layer.query).reshape(rows, heads, width), places)
        keys = self._rotate(multiply(h, layer.key).reshape(rows, shared, width), places)
        values = multiply(h, layer.value).reshape(rows, shared, width)
        if self._numerics is not FLOAT32:
            # Together, as three calls would take NumPy longer; each head is rounded by itself.
            fitted = self._numerics.attention.round(np.concatenate([queries, keys, values], 1))
            queries, keys, values = np.split(fitted, (heads, heads + shared), axis=1)
        queries = queries * np.float32(width**-0.5)
        grouped = queries.reshape(rows, shared, heads // shared, width)
        mixed = np.empty((rows, shared, heads // shared, width), np.float32)
        row = 0
        for chunk in chunks:
            size = len(chunk.tokens)
            for offset in range(size):
                new = row + offset
                chunk.cache.write(number, chunk.start + offset, keys[new], values[new])
            all_keys, all_values = chunk.cache.read(number, chunk.start + size)
            for offset in range(size):
                count = chunk.start + offset + 1
                scores = product(grouped[row], all_keys[:, :count].swapaxes(1, 2))
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                parts = scores / scores.sum(-1, keepdims=True)
                mixed[row] = product(parts, all_values[:, :count])
                row += 1
        mix = self._numerics.linear.round(mixed.reshape(rows, heads * width))
        return multiply(mix, layer.output)

    def _rotate(self, x: Array, places: NDArray[np.int64]) -> Array:
        """Rotary positions for (rows, heads, width), halves paired as in Hugging Face."""
        half = x.shape[-1] // 2
        cos, sin = self._cos[places][:, None], self._sin[places][:, None]
        left, right = x[..., :half], x[..., half:]
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], -1)


def normalise(x: Array, gain: Array, epsilon: np.float32) -> Array:
    """RMSNorm over the last axis (Zhang and Sennrich, 2019)."""
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    return np.asarray(x / np.sqrt(mean + epsilon) * gain, np.float32)


def silu(x: Array) -> Array:
    """Return x times its logistic function."""
    return np.asarray(x / (1 + np.exp(-x)), np.float32)
