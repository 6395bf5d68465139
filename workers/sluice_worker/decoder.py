"""The decoder: Llama, independent of what else is in the batch.

A sequence gets the same bits alone, in any batch, in any chunking of its prompt, and after a prefix
that another one has computed; a property test holds this. What makes it so is in the two ways to
compute: `compiled` (kernels that were compiled at set-up) and `plain` (NumPy). Sums are float32;
what enters a product is rounded to the formats of the numerics, row by row, and keys and values
when they are written, so that a chunk attends to its own keys as later ones do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sluice_worker.checkpoint import Array, Checkpoint, ModelConfig
from sluice_worker.compiled import CompiledArithmetic
from sluice_worker.kernelload import Kernels
from sluice_worker.kvcache import KeyValueCache
from sluice_worker.numerics import FLOAT32, Numerics, round_weights
from sluice_worker.plain import PlainArithmetic, Product
from sluice_worker.steplayout import BLOCK

__all__ = ["Chunk", "Decoder", "Disturb", "KeyValueCache"]


@dataclass(slots=True)
class Chunk:
    """New tokens of one sequence; they stand at positions from `start` on.

    Attributes:
        every: logits are asked for after every token, not only after the last.
    """

    tokens: Sequence[int]
    start: int
    cache: KeyValueCache
    every: bool = False


Disturb = Callable[[Array], Array]
"""What a faulty device makes of the rows (rows, width) that it computed."""


class Arithmetic(Protocol):
    """How the layers are computed."""

    def run_layers(
        self,
        tokens: NDArray[np.int64],
        places: NDArray[np.int64],
        chunks: Sequence[Chunk],
        wanted: NDArray[np.int64],
        disturb: Disturb | None,
    ) -> Array:
        """Return the wanted rows (wanted, width) of what the last layer hands on.

        Args:
            tokens: of all chunks.
            places: their positions.
            chunks: whose they are; new keys and values are written into their caches.
            wanted: rows to return, ascending.
            disturb: put to the outputs of attention and of the MLP in each layer.
        """

    def finish(self, x: Array) -> Array:
        """Return the logits (rows, vocabulary) of rows of the last layer."""


class Decoder:
    """Runs chunks of several sequences in one step.

    Args:
        checkpoint: the model, as it is stored.
        numerics: formats of what is multiplied.
        product: None for the kernels, if they are there, and else for NumPy's; another one stands
            for another processor.
        kernels: the compiled kernels, None for NumPy.

    Attributes:
        disturb: None on healthy devices. Otherwise it is put to the outputs of attention and of the
            MLP in each layer, and to the logits: what a device hands on. A faulty device is free to
            make a sequence's bits depend on its company.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        numerics: Numerics = FLOAT32,
        product: Product | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        self.disturb: Disturb | None = None
        self._weights = round_weights(checkpoint, numerics)
        self._arithmetic: Arithmetic
        if product is None and kernels is not None:
            self._arithmetic = CompiledArithmetic(self._weights, numerics, kernels)
        else:
            self._arithmetic = PlainArithmetic(self._weights, numerics, product or np.matmul)

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self._weights.config

    def run(self, chunks: Sequence[Chunk]) -> Array:
        """Return the logits (chunks, vocabulary) after the last token of each chunk.

        Keys and values of the new tokens are written into the chunks' caches.
        """
        ends = np.cumsum([len(chunk.tokens) for chunk in chunks]) - 1
        return self._run(chunks, ends)

    def run_all(self, chunk: Chunk) -> Array:
        """Return the logits (tokens, vocabulary) after every token of one chunk."""
        return self._run([chunk], np.arange(len(chunk.tokens)))

    def run_asked(self, chunks: Sequence[Chunk]) -> list[Array]:
        """Return for each chunk the logits (rows, vocabulary) that it asks for: one row or all."""
        ends = np.cumsum([len(chunk.tokens) for chunk in chunks])
        counts = [len(chunk.tokens) if chunk.every else 1 for chunk in chunks]
        wanted = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        logits = self._run(chunks, np.concatenate(wanted))
        return np.split(logits, np.cumsum(counts)[:-1])

    def _run(self, chunks: Sequence[Chunk], wanted: NDArray[np.int64]) -> Array:
        disturb = self.disturb  # once, so that a step is all of one state
        context = self.config.max_position_embeddings
        for chunk in chunks:  # kernels would write wherever they are told to
            end = chunk.start + len(chunk.tokens)
            if not chunk.tokens or end > min(context, len(chunk.cache.blocks) * BLOCK):
                raise IndexError(f"positions {chunk.start} to {end - 1} are not in the cache")
        tokens = np.array([token for chunk in chunks for token in chunk.tokens], np.int64)
        if len(tokens) == len(chunks):
            places = np.array([chunk.start for chunk in chunks], np.int64)
        else:
            places = np.concatenate(
                [np.arange(chunk.start, chunk.start + len(chunk.tokens)) for chunk in chunks]
            )
        rows = self._arithmetic.run_layers(tokens, places, chunks, wanted, disturb)
        logits = self._arithmetic.finish(rows)
        return logits if disturb is None else disturb(logits)
