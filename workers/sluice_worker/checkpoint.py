"""Reads a checkpoint in Hugging Face layout: config.json, weights, tokenizer.json.

Any Llama checkpoint whose config.json asks for nothing but the plain architecture. What would
change the answers and is not computed here is refused by name: a number that is passed over in
silence gives a model that talks, and talks worse.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice_worker.errors import CheckpointError
from sluice_worker.weightfiles import DTYPES, list_weight_files, read_tensors

Array = NDArray[np.float32]

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
    tied: bool = True
    """Whether the embedding also makes the logits (tie_word_embeddings)."""


_SUPPORTED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "model_type": (None, ("llama",)),
    "architectures": (None, (None, ["LlamaForCausalLM"])),
    "hidden_act": ("silu", ("silu",)),
    "attention_bias": (False, (False, None)),
    "mlp_bias": (False, (False, None)),
    "tie_word_embeddings": (False, (True, False)),
    "quantization_config": (None, (None,)),
    "sliding_window": (None, (None,)),
    "partial_rotary_factor": (None, (None, 1, 1.0)),
}
"""Fields that decide what is computed: what a Llama has that does not say, and what is computed."""

_USUAL: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
"""What a Llama has that does not say (transformers, LlamaConfig)."""


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
        embedding: (vocabulary, width).
        head: (width, vocabulary); makes the logits. If tied, the transpose of the embedding.
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
    if not (path / "config.json").is_file():
        raise CheckpointError(f"the checkpoint {path} lacks config.json")
    list_weight_files(path)
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(f"the checkpoint {path} lacks tokenizer.json")
    config = read_config(path / "config.json")
    return _assemble(config, read_tensors(path), path)


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
    for field, (usual, allowed) in _SUPPORTED.items():
        value = raw.get(field, usual)
        if value not in allowed:
            names = " or ".join(str(one) for one in allowed)
            raise CheckpointError(f"{path}: {field} is {value!r}; supported is {names}")
    _check_positions(raw, path)
    for name, usual in _USUAL.items():
        raw.setdefault(name, usual)
    if raw.get("num_key_value_heads") is None:
        raw["num_key_value_heads"] = raw.get("num_attention_heads")
    if raw.get("head_dim") is None:
        width, heads = (_read_number(raw, n, path) for n in ("hidden_size", "num_attention_heads"))
        raw["head_dim"] = int(width // heads)
    fields = [name for name in ModelConfig.__annotations__ if name != "tied"]
    numbers: dict[str, Any] = {name: _read_number(raw, name, path) for name in fields}
    config = ModelConfig(tied=bool(raw.get("tie_word_embeddings", False)), **numbers)
    _check_shape(config, path)
    return config


def _check_positions(raw: dict[str, Any], path: Path) -> None:
    """Refuse rotary positions that are scaled; take their base from where newer files have it."""
    for field in ("rope_scaling", "rope_parameters"):
        told = raw.get(field)
        if told is None:
            continue
        kind = told.get("rope_type", told.get("type")) if isinstance(told, dict) else told
        if kind != "default":
            raise CheckpointError(
                f"{path}: {field} is {told!r}; supported are positions that are not scaled"
                " (none, or rope_type default)"
            )
        if "rope_theta" in told:
            raw["rope_theta"] = told["rope_theta"]


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
    if fraction and not 0 < value <= sys.float_info.max:  # JSON's integers go far beyond
        raise CheckpointError(
            f"{path}: {name} is {str(value)[:40]}; it must be positive and finite"
        )
    return value


def _assemble(config: ModelConfig, tensors: dict[str, Any], path: Path) -> Checkpoint:
    width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    shared, inner = config.num_key_value_heads * config.head_dim, config.intermediate_size

    def take(name: str, *shape: int) -> Array:
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise CheckpointError(f"the weights in {path} lack the tensor {name}")
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
    if config.tied:
        tensors.pop("lm_head.weight", None)  # a copy of the embedding that some files have
        head = np.ascontiguousarray(embedding.T)
    else:
        head = take_matrix("lm_head.weight", config.vocab_size, width)
    final_norm = take("model.norm.weight", width)
    _refuse_more(tensors)
    return Checkpoint(
        config=config,
        embedding=embedding,
        layers=tuple(layers),
        final_norm=final_norm,
        head=head,
        tokenizer=path / "tokenizer.json",
    )


def _refuse_more(tensors: dict[str, Any]) -> None:
    """Refuse tensors that nothing was computed with, such as biases."""
    # Older files keep the rates of rotary positions, which follow from the base.
    more = sorted(name for name in tensors if not name.endswith("rotary_emb.inv_freq"))
    if more:
        others = f" and {len(more) - 1} others" if len(more) > 1 else ""
        raise CheckpointError(
            f"the weights have {more[0]}{others}, which this decoder does not compute with:"
            " supported is Llama without biases and adapters"
        )
