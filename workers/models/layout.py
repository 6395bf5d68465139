"""The compact model's shape, vocabulary and files other than weights.

`train.py` reads the shape from here; run as a program, it writes config.json, the tokenizer, the
chat template and generation_config.json beside the weights:

    python workers/models/layout.py workers/models/compact
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

WIDTH: Final = 128
LAYERS: Final = 4
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_WIDTH: Final = 32
HIDDEN: Final = 384
CONTEXT: Final = 512
ROPE_BASE: Final = 10_000.0
NORM_EPSILON: Final = 1e-5

SPECIAL: Final = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
BEGIN, END, USER, ASSISTANT, _SYSTEM = range(len(SPECIAL))
VOCABULARY: Final = len(SPECIAL) + 256

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def encode(text: str) -> list[int]:
    """Return the token ids of a text: its UTF-8 bytes, after the special tokens."""
    return [len(SPECIAL) + byte for byte in text.encode()]


def list_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the checkpoint; embeddings are tied."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (WIDTH,),
            f"{prefix}.self_attn.q_proj.weight": (HEADS * HEAD_WIDTH, WIDTH),
            f"{prefix}.self_attn.k_proj.weight": (KV_HEADS * HEAD_WIDTH, WIDTH),
            f"{prefix}.self_attn.v_proj.weight": (KV_HEADS * HEAD_WIDTH, WIDTH),
            f"{prefix}.self_attn.o_proj.weight": (WIDTH, HEADS * HEAD_WIDTH),
            f"{prefix}.post_attention_layernorm.weight": (WIDTH,),
            f"{prefix}.mlp.gate_proj.weight": (HIDDEN, WIDTH),
            f"{prefix}.mlp.up_proj.weight": (HIDDEN, WIDTH),
            f"{prefix}.mlp.down_proj.weight": (WIDTH, HIDDEN),
        }
    return shapes | {"model.norm.weight": (WIDTH,)}


def describe_config() -> dict[str, Any]:
    """Return config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_WIDTH,
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


def describe_tokenizer() -> dict[str, Any]:
    """Return tokenizer.json: one token a byte, plus the special tokens."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {byte: chr(byte) for byte in letters}
    for byte in range(256):
        # GPT-2's alphabet: bytes without a letter of their own get one from 256 on.
        shown.setdefault(byte, chr(256 + len(shown) - len(letters)))
    vocabulary = {token: number for number, token in enumerate(SPECIAL)}
    vocabulary |= {shown[byte]: len(SPECIAL) + byte for byte in range(256)}
    plain = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **plain},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **plain},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def describe_files() -> dict[str, dict[str, Any]]:
    """Return all JSON files of the checkpoint by name."""
    return {
        "config.json": describe_config(),
        "tokenizer.json": describe_tokenizer(),
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


def main(out: Path) -> None:
    """Write the files."""
    out.mkdir(parents=True, exist_ok=True)
    for name, document in describe_files().items():
        (out / name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
