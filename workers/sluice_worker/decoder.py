"""The decoder: Llama in NumPy, independent of what else is in the batch.

Every row goes through a product of its own (`matmul` of (rows, 1, inputs) with (inputs, outputs)
runs one GEMV a row), every query attends by itself to exactly the keys before it, and sums run over
axes whose length depends on the sequence alone. So a sequence gets the same bits alone, in any
batch, and in any chunking of its prompt; a property test holds this. Sums are float32; what enters
a product is rounded to the formats of the numerics, row by row, and keys and values when they are
written, so that a chunk attends to its own keys as later ones do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice_worker.checkpoint import Array, Checkpoint, LayerWeights, ModelConfig
from sluice_worker.numerics import FLOAT32, Numerics, round_weights


class KeyValueCache:
    """Keys and values of one sequence: (layers, kv heads, positions, head width)."""

    def __init__(self, config: ModelConfig, positions: int) -> None:
        shape = (
            config.num_hidden_layers,
            config.num_key_value_heads,
            positions,
            config.head_dim,
        )
        self.keys = np.zeros(shape, np.float32)
        self.values = np.zeros(shape, np.float32)


@dataclass(slots=True)
class Chunk:
    """New tokens of one sequence; they stand at positions from `start` on.

    Attributes:
        score: the logits after every token are wanted, not only after the last.
    """

    tokens: Sequence[int]
    start: int
    cache: KeyValueCache
    score: bool = False

    @property
    def rows(self) -> int:
        """Rows of logits that are wanted."""
        return len(self.tokens) if self.score else 1


Disturb = Callable[[Array], Array]
"""What a faulty device makes of the rows (rows, width) that it computed."""

Product = Callable[[Array, Array], Array]
"""Products of stacks of matrices, as `np.matmul` defines them."""


class Decoder:
    """Runs chunks of several sequences in one step.

    Args:
        checkpoint: the model, as it is stored.
        numerics: formats of what is multiplied.
        product: multiplies and sums; another one than NumPy's stands for another processor.

    Attributes:
        disturb: None on healthy devices. Otherwise it is put to the outputs of attention and of the
            MLP in each layer, and to the logits: what a device hands on. A faulty device is free to
            make a sequence's bits depend on its company.
    """

    def __init__(
        self, checkpoint: Checkpoint, numerics: Numerics = FLOAT32, product: Product = np.matmul
    ) -> None:
        self.disturb: Disturb | None = None
        self._weights = round_weights(checkpoint, numerics)
        self._numerics = numerics
        self._product = product
        config = checkpoint.config
        half = config.head_dim // 2
        rates = config.rope_theta ** (-np.arange(half) / half)
        angles = np.arange(config.max_position_embeddings)[:, None] * rates
        self._cos = np.cos(angles).astype(np.float32)
        self._sin = np.sin(angles).astype(np.float32)

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self._weights.config

    def run(self, chunks: Sequence[Chunk]) -> Array:
        """Return the logits (rows of all chunks, vocabulary) after the last token of each chunk.

        A chunk that is to be scored has a row after each of its tokens instead. Keys and values of
        the new tokens are written into the chunks' caches.
        """
        disturb = self.disturb  # once, so that a step is all of one state
        wanted: list[int] = []
        end = 0
        for chunk in chunks:
            end += len(chunk.tokens)
            wanted += range(end - chunk.rows, end)
        return self._finish(self._run_layers(chunks, disturb)[wanted], disturb)

    def run_all(self, chunk: Chunk) -> Array:
        """Return the logits (tokens, vocabulary) after every token of one chunk."""
        disturb = self.disturb
        return self._finish(self._run_layers([chunk], disturb), disturb)

    def _run_layers(self, chunks: Sequence[Chunk], disturb: Disturb | None) -> Array:
        """Return what the last layer hands on, (tokens of all chunks, width)."""
        weights = self._weights
        tokens = np.concatenate([np.asarray(chunk.tokens, np.int64) for chunk in chunks])
        places = np.concatenate(
            [np.arange(chunk.start, chunk.start + len(chunk.tokens)) for chunk in chunks]
        )
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
        return x

    def _finish(self, x: Array, disturb: Disturb | None) -> Array:
        """Return the logits (rows, vocabulary) of rows of the last layer."""
        weights = self._weights
        h = self._numerics.head.round(normalise(x, weights.final_norm, self._epsilon))
        logits = self._multiply(h, weights.head)
        return logits if disturb is None else disturb(logits)

    def _multiply(self, rows: Array, matrix: Array) -> Array:
        """Return rows @ matrix, each row by a product of its own: the others do not matter."""
        product: Array = self._product(rows[:, None, :], matrix)[:, 0]
        return product

    @property
    def _epsilon(self) -> np.float32:
        return np.float32(self._weights.config.rms_norm_eps)

    def _attend(
        self,
        h: Array,
        places: NDArray[np.int64],
        chunks: Sequence[Chunk],
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
            cached_keys, cached_values = chunk.cache.keys[number], chunk.cache.values[number]
            for offset in range(len(chunk.tokens)):
                place = chunk.start + offset
                cached_keys[:, place] = keys[row]
                cached_values[:, place] = values[row]
                scores = product(grouped[row], cached_keys[:, : place + 1].swapaxes(1, 2))
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                parts = scores / scores.sum(-1, keepdims=True)
                mixed[row] = product(parts, cached_values[:, : place + 1])
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
