"""The compact model in JAX, for training: what the worker's decoder computes, for whole batches.

Matrices are stored as (outputs, inputs) under the names of the checkpoint. The products of the
layers can be done in bfloat16, which CPUs with AMX or AVX512-BF16 may do faster; weights, norms,
softmax, logits and loss are float32 either way.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from models.training.layout import NORM_EPSILON, ROPE_BASE, Shape, list_shapes

Weights = dict[str, jax.Array]

QUERY_BLOCK: Final = 128
"""Queries that attend at once: a block sees no keys after it, which spares near half the work."""
LONG_ROW: Final = 256
"""Places; the attention of longer rows is computed again for the slopes rather than kept."""
Z_LOSS: Final = 1e-4
"""Weight of the squared logarithm of the softmax's sum, which keeps logits from drifting away."""


@dataclass(frozen=True, slots=True)
class Network:
    """The model's functions, for one shape and precision.

    Attributes:
        shape: of the model.
        half: products in bfloat16.
    """

    shape: Shape
    half: bool = False

    def draw_weights(self, seed: int) -> Weights:
        """Return fresh weights; the products that end a branch begin as nothing."""
        rng = np.random.default_rng(seed)
        weights: dict[str, Any] = {}
        for name, shape in list_shapes(self.shape).items():
            if len(shape) == 1:
                weights[name] = np.ones(shape, np.float32)
            elif "o_proj" in name or "down_proj" in name:
                weights[name] = np.zeros(shape, np.float32)
            else:
                spread = 0.02 if "embed" in name else shape[1] ** -0.5
                weights[name] = np.float32(spread) * rng.standard_normal(shape, np.float32)
        return weights

    def run(self, weights: Weights, tokens: jax.Array, chats: jax.Array) -> jax.Array:
        """Return logits (rows, places, vocabulary) for tokens and chat numbers (rows, places)."""
        x = weights["model.embed_tokens.weight"][tokens]
        places = tokens.shape[1]
        attend = self._attend
        if places > LONG_ROW:
            attend = jax.checkpoint(attend)
        for layer in range(self.shape.layers):
            prefix = f"model.layers.{layer}."
            w = {name[len(prefix) :]: weights[name] for name in weights if name.startswith(prefix)}
            h = normalise(x, w["input_layernorm.weight"])
            # Products with the same rows are done as one: the narrow ones are slow alone.
            kinds = [w[f"self_attn.{kind}_proj.weight"] for kind in "qkv"]
            queries, keys, values = self._multiply_all(h, kinds)
            mixed = attend(queries, keys, values, chats)
            x = x + self._multiply(mixed, w["self_attn.o_proj.weight"])
            h = normalise(x, w["post_attention_layernorm.weight"])
            kinds = [w[f"mlp.{kind}_proj.weight"] for kind in ("gate", "up")]
            gate, up = self._multiply_all(h, kinds)
            x = x + self._multiply(jax.nn.silu(gate) * up, w["mlp.down_proj.weight"])
        x = normalise(x, weights["model.norm.weight"])
        return x @ weights["model.embed_tokens.weight"].T

    def measure_loss(
        self, weights: Weights, tokens: jax.Array, chats: jax.Array, learned: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return what training makes small, and the mean cross entropy of learned tokens (nats).

        All arrays are (rows, length + 1).
        """
        logits = self.run(weights, tokens[:, :-1], chats[:, :-1])
        sums = jax.nn.logsumexp(logits, -1)
        chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
        share = learned[:, 1:] / jnp.maximum(learned[:, 1:].sum(), 1.0)
        entropy = ((sums - chosen) * share).sum()
        return entropy + Z_LOSS * (sums * sums * share).sum(), entropy

    def find_wrong(
        self, weights: Weights, tokens: jax.Array, chats: jax.Array, learned: jax.Array
    ) -> jax.Array:
        """Return where the likeliest token is not the learned one, (rows, length + 1).

        An answer without such a place is what greedy decoding gives, token by token.
        """
        likeliest = self.run(weights, tokens[:, :-1], chats[:, :-1]).argmax(-1)
        wrong = (likeliest != tokens[:, 1:]) & (learned[:, 1:] > 0)
        return jnp.pad(wrong, ((0, 0), (1, 0)))

    def _multiply(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        """Return x (…, inputs) times a stored matrix (outputs, inputs)."""
        return self._product(x, matrix.T)

    def _multiply_all(self, x: jax.Array, matrices: Sequence[jax.Array]) -> list[jax.Array]:
        """Return x times each of the matrices."""
        ends = list(itertools.accumulate(len(matrix) for matrix in matrices))
        return list(jnp.split(self._multiply(x, jnp.concatenate(matrices)), ends[:-1], -1))

    def _product(self, left: jax.Array, right: jax.Array) -> jax.Array:
        if not self.half:
            return left @ right
        # Rounded at the end too, so that the products of the slopes are of bfloat16 as well.
        return (left.astype(jnp.bfloat16) @ right.astype(jnp.bfloat16)).astype(jnp.float32)

    def _attend(
        self, queries: jax.Array, keys: jax.Array, values: jax.Array, chats: jax.Array
    ) -> jax.Array:
        """Return (rows, places, heads x width): each token sees its own chat up to itself."""
        shape = self.shape
        rows, places = chats.shape
        queries = rotate(queries.reshape(rows, places, shape.heads, shape.head_width))
        keys = rotate(keys.reshape(rows, places, shape.kv_heads, shape.head_width))
        values = values.reshape(rows, places, shape.kv_heads, shape.head_width)
        queries = queries.swapaxes(1, 2) * shape.head_width**-0.5
        # Shared keys and values are repeated: XLA's CPU product is twice as fast on equal heads.
        keys, values = (
            jnp.repeat(one, shape.heads // shape.kv_heads, axis=2).swapaxes(1, 2)
            for one in (keys, values)
        )
        blocks = []
        for start in range(0, places, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, places)
            causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)
            visible = causal & (chats[:, start:end, None] == chats[:, None, :end])
            scores = self._product(queries[:, :, start:end], keys[:, :, :end].swapaxes(2, 3))
            parts = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e9))
            blocks.append(self._product(parts, values[:, :, :end]))
        return jnp.concatenate(blocks, 2).swapaxes(1, 2).reshape(rows, places, -1)


def normalise(x: jax.Array, gain: jax.Array) -> jax.Array:
    """RMSNorm over the last axis (Zhang and Sennrich, 2019)."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + NORM_EPSILON) * gain


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions for (rows, places, heads, width), halves paired as in Hugging Face."""
    half = x.shape[-1] // 2
    rates = ROPE_BASE ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None] * rates
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)
