"""Reads a checkpoint in Hugging Face layout: config.json, model.safetensors, tokenizer.json."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # teaches NumPy bfloat16, which safetensors then returns
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sluice_worker.errors import CheckpointError

Array = NDArray[np.float32]

DTYPES = ("bfloat16", "float16", "float32")
"""Types that weights may be stored in; they are computed with in float32."""

MOST = 1 << 24
"""Largest number that is taken for a size: more is a mistake, and would only fill the memory."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a Llama-architecture decoder, in the words of its config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    bos_token_id: int
    eos_token_id: int


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of one layer, float32; matrices as (inputs, outputs), contiguous."""

    input_norm: Array
    query: Array
    key: Array
    value: Array
    output: Array
    post_norm: Array
    gate: Array
    up: Array
    down: Array


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model: shape, weights (float32) and where its tokenizer is.

    Attributes:
        embedding: (vocabulary, width); tied: its transpose makes the logits.
        head: (width, vocabulary).
    """

    config: ModelConfig
    embedding: Array
    layers: tuple[LayerWeights, ...]
    final_norm: Array
    head: Array
    tokenizer: Path


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint.

    Raises:
        CheckpointError: something is missing or not supported; the sentence names it.
    """
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint directory {path}")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (path / name).is_file():
            raise CheckpointError(f"the checkpoint {path} lacks {name}")
    config = read_config(path / "config.json")
    try:
        tensors = load_file(path / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {path / 'model.safetensors'}: {error}") from error
    except AttributeError as error:  # how safetensors says that NumPy has no such type
        raise CheckpointError(
            f"{path / 'model.safetensors'} has tensors of a type that is not supported ({error});"
            f" supported are {', '.join(DTYPES)}"
        ) from error
    return _assemble(config, tensors, path)


def read_config(path: Path) -> ModelConfig:
    """Read config.json and refuse what this decoder does not do.

    Raises:
        CheckpointError: a field is missing or has a value that is not supported.
    """
    try:
        raw: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is no JSON object")
    for field, allowed in (
        ("model_type", ("llama",)),
        ("hidden_act", ("silu",)),
        ("rope_scaling", (None,)),
        ("attention_bias", (False, None)),
        ("mlp_bias", (False, None)),
        ("tie_word_embeddings", (True,)),
    ):
        value = raw.get(field)
        if value not in allowed:
            names = " or ".join(str(one) for one in allowed)
            raise CheckpointError(f"{path}: {field} is {value!r}; supported is {names}")
    if raw.get("head_dim") is None:
        width, heads = (_read_number(raw, n, path) for n in ("hidden_size", "num_attention_heads"))
        raw["head_dim"] = int(width // heads)
    numbers: dict[str, Any] = {
        name: _read_number(raw, name, path) for name in ModelConfig.__annotations__
    }
    config = ModelConfig(**numbers)
    _check_shape(config, path)
    return config


def _check_shape(config: ModelConfig, path: Path) -> None:
    """Refuse numbers that do not go together."""
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(config, name) >= config.vocab_size:
            raise CheckpointError(
                f"{path}: {name} is {getattr(config, name)}; the vocabulary ends at"
                f" {config.vocab_size - 1}"
            )
    if config.head_dim < 2 or config.head_dim % 2:  # noqa: PLR2004  # rotary positions turn pairs
        raise CheckpointError(f"{path}: head_dim is {config.head_dim}; supported is an even number")
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{path}: num_attention_heads is {config.num_attention_heads}; it must be a multiple of"
            f" num_key_value_heads, {config.num_key_value_heads}"
        )


def _read_number(raw: dict[str, Any], name: str, path: Path) -> float:
    value = raw.get(name)
    if value is None:
        raise CheckpointError(f"{path} lacks {name}")
    fraction = ModelConfig.__annotations__[name] is float
    if isinstance(value, bool) or not isinstance(value, (int, float) if fraction else int):
        raise CheckpointError(f"{path}: {name} is {value!r}; supported is one number")
    least = 0 if name in ("bos_token_id", "eos_token_id") else 1
    if not fraction and not least <= value <= MOST:
        raise CheckpointError(f"{path}: {name} is {value!r}; supported is {least} to {MOST}")
    if fraction and not 0 < value < math.inf:
        raise CheckpointError(f"{path}: {name} is {value!r}; it must be positive and finite")
    return value


def _assemble(config: ModelConfig, tensors: dict[str, Any], path: Path) -> Checkpoint:
    width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    shared, inner = config.num_key_value_heads * config.head_dim, config.intermediate_size

    def take(name: str, *shape: int) -> Array:
        tensor = tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{path / 'model.safetensors'} lacks the tensor {name}")
        if tensor.shape != shape:
            raise CheckpointError(f"{name} has the shape {tensor.shape}; config.json says {shape}")
        if str(tensor.dtype) not in DTYPES:
            raise CheckpointError(f"{name} is {tensor.dtype}; supported are {', '.join(DTYPES)}")
        weights = np.asarray(tensor, dtype=np.float32)
        if not np.isfinite(weights).all():
            raise CheckpointError(f"{name} has values that are not finite: the file is damaged")
        return weights

    def take_matrix(name: str, outputs: int, inputs: int) -> Array:
        return np.ascontiguousarray(take(name, outputs, inputs).T)

    layers = []
    for number in range(config.num_hidden_layers):
        prefix = f"model.layers.{number}"
        layers.append(
            LayerWeights(
                input_norm=take(f"{prefix}.input_layernorm.weight", width),
                query=take_matrix(f"{prefix}.self_attn.q_proj.weight", queries, width),
                key=take_matrix(f"{prefix}.self_attn.k_proj.weight", shared, width),
                value=take_matrix(f"{prefix}.self_attn.v_proj.weight", shared, width),
                output=take_matrix(f"{prefix}.self_attn.o_proj.weight", width, queries),
                post_norm=take(f"{prefix}.post_attention_layernorm.weight", width),
                gate=take_matrix(f"{prefix}.mlp.gate_proj.weight", inner, width),
                up=take_matrix(f"{prefix}.mlp.up_proj.weight", inner, width),
                down=take_matrix(f"{prefix}.mlp.down_proj.weight", width, inner),
            )
        )
    embedding = take("model.embed_tokens.weight", config.vocab_size, width)
    return Checkpoint(
        config=config,
        embedding=embedding,
        layers=tuple(layers),
        final_norm=take("model.norm.weight", width),
        head=np.ascontiguousarray(embedding.T),
        tokenizer=path / "tokenizer.json",
    )
