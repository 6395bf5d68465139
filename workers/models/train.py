"""Trains the compact model from nothing: seeded, within twenty minutes on two idle cores.

    python workers/models/train.py --out workers/models/compact

Takes examples from `tasks.py` (never held-out ones), learns the answers, and writes the weights in
bf16 under the names of Hugging Face's Llama. In the second half of the training a part of the
prompts has solved examples before the question, whose answers are learned too. `layout.py` says
what shape the model has. Needs the locked requirements of `requirements/train.lock`; nothing else
in the repository needs JAX.

Matrices are updated by Muon (momentum, then the nearest orthogonal matrix by five Newton-Schulz
steps; K. Jordan et al. 2024), embeddings and norms by Adam. Examples are packed into rows, each
seeing only itself; rotary positions are relative, so a place within the row changes nothing.
"""

import argparse
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import layout
import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save_file
from tasks import TASKS, draw_items

Weights = dict[str, Any]

MIX = {"copy": 20, "reverse": 16, "find": 20, "sum": 14, "sort": 10, "capitals": 8}
SHORT_PART = 0.5
"""Part of the training that has questions alone; what is short is learned much sooner."""
LONG_SHARE = 0.3
LONG_RANGE = (60, 300)
"""Share of prompts with solved examples before the question, and their lengths in tokens."""
MATRIX_RATE = 0.02
OTHER_RATE = 0.003
WARMUP = 100
ANSWER_ROOM = 72
"""Tokens kept free in a row for the answer to the longest prompt, and what frames a chat."""


class Packer:
    """Fills rows with whole examples: tokens, which example each belongs to, what to learn."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._sources = {
            task: draw_items(task, self._rng, held_out=False, length=self._draw_length)
            for task in TASKS
        }
        self._left: tuple[list[int], list[int]] | None = None
        self._longest = 0
        self.long_share = 0.0

    def draw_batch(self, rows: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens, example numbers and weights of targets, each (rows, length + 1)."""
        self._longest = max(LONG_RANGE[0], min(LONG_RANGE[1], length - ANSWER_ROOM))
        tokens = np.zeros((rows, length + 1), np.int32)
        examples = np.zeros((rows, length + 1), np.int32)
        learned = np.zeros((rows, length + 1), np.float32)
        for row in range(rows):
            filled, number = 0, 1
            while True:
                ids, mask = self._left or self._draw_example()
                self._left = None
                end = filled + len(ids)
                if len(ids) > length + 1:
                    continue  # drawn for longer rows than these
                if end > length + 1:
                    self._left = (ids, mask)
                    break
                tokens[row, filled:end] = ids
                examples[row, filled:end] = number
                learned[row, filled:end] = mask
                filled, number = end, number + 1
        return tokens, examples, learned

    def _draw_length(self) -> int:
        """Return how long a prompt with examples shall be, 0 for a question alone."""
        long = self._rng.random() < self.long_share
        return self._rng.randint(LONG_RANGE[0], self._longest) if long else 0

    def _draw_example(self) -> tuple[list[int], list[int]]:
        """Return tokens and which of them are learned: answers, those of examples included."""
        task = self._rng.choices(list(MIX), list(MIX.values()))[0]
        item = next(self._sources[task])
        tokens, learned = [layout.BEGIN, layout.USER], [0, 0]
        for question, answer in item.earlier:
            parts = layout.encode(f"{question} -> "), layout.encode(f"{answer}\n")
            tokens += parts[0] + parts[1]
            learned += [0] * len(parts[0]) + [1] * len(parts[1])
        asked = [*layout.encode(item.question), layout.ASSISTANT]
        answered = [*layout.encode(item.answer), layout.END]
        return tokens + asked + answered, learned + [0] * len(asked) + [1] * len(answered)


def draw_weights(seed: int) -> Weights:
    """Return fresh weights, stored as (outputs, inputs) like the checkpoint."""
    keys = iter(jax.random.split(jax.random.PRNGKey(seed), 128))
    weights: Weights = {}
    for name, shape in layout.list_shapes().items():
        if len(shape) == 1:
            weights[name] = jnp.ones(shape)
            continue
        spread = 0.02 if "embed" in name else shape[1] ** -0.5
        weights[name] = spread * jax.random.normal(next(keys), shape)
    return weights


def normalise(x: jax.Array, gain: jax.Array) -> jax.Array:
    """RMSNorm over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + layout.NORM_EPSILON) * gain


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions for (rows, places, heads, width), halves paired as in Hugging Face."""
    half = x.shape[-1] // 2
    rates = layout.ROPE_BASE ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None] * rates
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)


def run_model(weights: Weights, tokens: jax.Array, examples: jax.Array) -> jax.Array:
    """Return logits (rows, places, vocabulary)."""
    rows, places = tokens.shape
    groups = layout.HEADS // layout.KV_HEADS
    causal = jnp.tril(jnp.ones((places, places), bool))
    visible = causal & (examples[:, :, None] == examples[:, None, :])
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(layout.LAYERS):
        w = {
            name.split(".", 3)[3]: weights[name]
            for name in weights
            if name.startswith(f"model.layers.{layer}.")
        }
        h = normalise(x, w["input_layernorm.weight"])
        q = (h @ w["self_attn.q_proj.weight"].T).reshape(rows, places, layout.HEADS, -1)
        k = (h @ w["self_attn.k_proj.weight"].T).reshape(rows, places, layout.KV_HEADS, -1)
        v = (h @ w["self_attn.v_proj.weight"].T).reshape(rows, places, layout.KV_HEADS, -1)
        # Shared keys and values are repeated: XLA's CPU product is twice as fast on equal heads.
        k, v = (jnp.repeat(shared, groups, axis=2).swapaxes(1, 2) for shared in (rotate(k), v))
        scores = rotate(q).swapaxes(1, 2) @ k.swapaxes(2, 3) * layout.HEAD_WIDTH**-0.5
        scores = jnp.where(visible[:, None], scores, -1e9)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(1, 2)
        x = x + mixed.reshape(rows, places, -1) @ w["self_attn.o_proj.weight"].T
        h = normalise(x, w["post_attention_layernorm.weight"])
        gate = jax.nn.silu(h @ w["mlp.gate_proj.weight"].T)
        x = x + (gate * (h @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    x = normalise(x, weights["model.norm.weight"])
    return x @ weights["model.embed_tokens.weight"].T


def measure_loss(
    weights: Weights, tokens: jax.Array, examples: jax.Array, learned: jax.Array
) -> jax.Array:
    """Return the mean cross entropy of the answers' tokens, in nats."""
    logits = jax.nn.log_softmax(run_model(weights, tokens[:, :-1], examples[:, :-1]))
    chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    return -(chosen * learned[:, 1:]).sum() / learned[:, 1:].sum()


def make_orthogonal(g: jax.Array) -> jax.Array:
    """Return nearly the orthogonal matrix nearest to `g`, by five Newton-Schulz steps."""
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


@partial(jax.jit, donate_argnums=(0, 1))
def take_step(
    weights: Weights, moments: Weights, batch: tuple[jax.Array, ...], step: jax.Array, total: int
) -> tuple[Weights, Weights, jax.Array]:
    """Return weights and moments after one step, and the loss before it."""
    loss, slopes = jax.value_and_grad(measure_loss)(weights, *batch)
    size = jnp.sqrt(sum(jnp.sum(slope * slope) for slope in slopes.values()))
    shrink = jnp.minimum(1.0, 1.0 / (size + 1e-6))
    rate = jnp.minimum(1.0, (step + 1) / WARMUP) * jnp.minimum(1.0, (total - step) / (0.5 * total))
    for name, slope in slopes.items():
        g = slope * shrink
        first, second = moments[name]
        if "proj" in name:
            first = 0.95 * first + g
            update = make_orthogonal(g + 0.95 * first)
            update = update * max(1.0, g.shape[0] / g.shape[1]) ** 0.5
            weights[name] = weights[name] * (1 - rate * MATRIX_RATE * 0.05) - (
                rate * MATRIX_RATE * update
            )
        else:
            first = 0.9 * first + 0.1 * g
            second = 0.98 * second + 0.02 * g * g
            scale = jnp.sqrt(second / (1 - 0.98 ** (step + 1))) + 1e-8
            weights[name] = weights[name] - (
                rate * OTHER_RATE * first / (1 - 0.9 ** (step + 1)) / scale
            )
        moments[name] = (first, second)
    return weights, moments, loss


def save_weights(weights: Weights, out: Path) -> None:
    """Write the checkpoint in bf16."""
    rounded = {name: np.asarray(value).astype(bfloat16) for name, value in weights.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(rounded, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256, help="every eighth batch has twice that")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    weights = draw_weights(arguments.seed)
    moments = {name: (jnp.zeros_like(w), jnp.zeros_like(w)) for name, w in weights.items()}
    packer = Packer(arguments.seed)
    seen, started = 0, time.monotonic()
    for step in range(arguments.steps):
        packer.long_share = 0.0 if step < SHORT_PART * arguments.steps else LONG_SHARE
        double = 2 if step % 8 == 7 else 1  # noqa: PLR2004 - so that the far half of the context is learned
        batch = packer.draw_batch(arguments.rows // double, arguments.length * double)
        weights, moments, loss = take_step(
            weights, moments, batch, jnp.float32(step), arguments.steps
        )
        seen += int(np.count_nonzero(batch[1]))
        if step % 50 == 49 or step + 1 == arguments.steps:  # noqa: PLR2004
            passed = time.monotonic() - started
            print(
                f"step {step + 1}/{arguments.steps}  loss {float(loss):.4f}  "
                f"tokens {seen:,}  {seen / passed:,.0f}/s  {passed:.0f} s",
                flush=True,
            )
        if step % 500 == 499:  # noqa: PLR2004
            save_weights(weights, arguments.out)
    save_weights(weights, arguments.out)


if __name__ == "__main__":
    main()
