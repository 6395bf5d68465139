"""Reads a checkpoint in Hugging Face layout: config.json, model.safetensors, tokenizer.json."""

import json
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
    return _assemble(config, tensors, path)


def read_config(path: Path) -> ModelConfig:
    """Read config.json and refuse what this decoder does not do.

    Raises:
        CheckpointError: a field is missing or has a value that is not supported.
    """
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
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
    raw.setdefault("head_dim", raw.get("hidden_size", 0) // (raw.get("num_attention_heads") or 1))
    try:
        return ModelConfig(**{name: raw[name] for name in ModelConfig.__dataclass_fields__})
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}") from error


def _assemble(config: ModelConfig, tensors: dict[str, Any], path: Path) -> Checkpoint:
    width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    shared, inner = config.num_key_value_heads * config.head_dim, config.intermediate_size

    def take(name: str, *shape: int) -> Array:
        tensor = tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{path / 'model.safetensors'} lacks the tensor {name}")
        if tensor.shape != shape:
            raise CheckpointError(f"{name} has the shape {tensor.shape}; config.json says {shape}")
        return np.asarray(tensor, dtype=np.float32)

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
