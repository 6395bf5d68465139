"""The compact model's shape, chat form and files other than weights.

`network` and `state` read the shape from here; run as a program, this writes config.json,
tokenizer_config.json with the chat template, and generation_config.json:

    python -m models.training.layout DIR
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SPECIAL: Final = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
BEGIN, END, USER, ASSISTANT, _SYSTEM = range(len(SPECIAL))
VOCABULARY: Final = 1024
CONTEXT: Final = 1024
ROPE_BASE: Final = 10_000.0
NORM_EPSILON: Final = 1e-5

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama-architecture decoder with tied embeddings.

    Attributes:
        width: of the residual stream.
        layers: their number.
        heads: query heads of a layer.
        kv_heads: key-value heads of a layer; `heads` is a multiple.
        head_width: of each head.
        hidden: inner width of the MLP.
        vocabulary: tokens.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocabulary: int = VOCABULARY


COMPACT: Final = Shape(width=192, layers=6, heads=6, kv_heads=2, head_width=32, hidden=512)
"""2.6 million parameters. Six layers: the longest chain of steps within one token (find the digits
of a column, add them and what was carried) takes about four; more would only be slower."""


def list_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint by its name."""
    width, queries = shape.width, shape.heads * shape.head_width
    shared = shape.kv_heads * shape.head_width
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, width)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (width,),
            f"{prefix}.self_attn.q_proj.weight": (queries, width),
            f"{prefix}.self_attn.k_proj.weight": (shared, width),
            f"{prefix}.self_attn.v_proj.weight": (shared, width),
            f"{prefix}.self_attn.o_proj.weight": (width, queries),
            f"{prefix}.post_attention_layernorm.weight": (width,),
            f"{prefix}.mlp.gate_proj.weight": (shape.hidden, width),
            f"{prefix}.mlp.up_proj.weight": (shape.hidden, width),
            f"{prefix}.mlp.down_proj.weight": (width, shape.hidden),
        }
    return shapes | {"model.norm.weight": (width,)}


def describe_config(shape: Shape) -> dict[str, Any]:
    """Return config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_BASE,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "torch_dtype": "bfloat16",
    }


def describe_files(shape: Shape = COMPACT) -> dict[str, dict[str, Any]]:
    """Return the JSON files of a checkpoint by name, all but tokenizer.json."""
    return {
        "config.json": describe_config(shape),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[BEGIN],
            "eos_token": SPECIAL[END],
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT,
            "chat_template": CHAT_TEMPLATE,
        },
        "generation_config.json": {
            "bos_token_id": BEGIN,
            "eos_token_id": END,
            "do_sample": False,
        },
    }


def write_files(out: Path, shape: Shape = COMPACT) -> None:
    """Write the JSON files into a directory, which is made if it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    for name, document in describe_files(shape).items():
        (out / name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]))
