"""A tiny random model in Hugging Face layout, for tests that need no sense in the answers."""

import json

import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from sluice_worker.tokens import CHARACTERS

SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")


def write_byte_checkpoint(path, **over):
    """Write the same model over all bytes; token 5 + n is byte n."""
    write_checkpoint(path, vocab_size=len(SPECIAL) + 256, **over)
    document = make_tokenizer()
    vocabulary = {token: number for number, token in enumerate(SPECIAL)}
    vocabulary |= {name: len(SPECIAL) + byte for name, byte in CHARACTERS.items()}
    document["model"]["vocab"] = vocabulary
    (path / "tokenizer.json").write_text(json.dumps(document))
    return path


def write_checkpoint(path, **over):
    """Write a two-layer model of width 32 and return its directory."""
    config = {
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "vocab_size": len(SPECIAL) + 95,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | over
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.normal(scale=0.4, size=shape).astype(bfloat16)
        for name, shape in list_shapes(config).items()
    }
    save_file(tensors, path / "model.safetensors")
    (path / "tokenizer.json").write_text(json.dumps(make_tokenizer()))
    return path


def list_shapes(config):
    """Return the shapes of all tensors by name."""
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (width,),
            f"{prefix}.post_attention_layernorm.weight": (width,),
            f"{prefix}.self_attn.q_proj.weight": (config["num_attention_heads"] * head, width),
            f"{prefix}.self_attn.k_proj.weight": (config["num_key_value_heads"] * head, width),
            f"{prefix}.self_attn.v_proj.weight": (config["num_key_value_heads"] * head, width),
            f"{prefix}.self_attn.o_proj.weight": (width, config["num_attention_heads"] * head),
            f"{prefix}.mlp.gate_proj.weight": (inner, width),
            f"{prefix}.mlp.up_proj.weight": (inner, width),
            f"{prefix}.mlp.down_proj.weight": (width, inner),
        }
    return shapes


def make_tokenizer():
    """Return a tokenizer of one token a printable character."""
    vocabulary = {token: number for number, token in enumerate(SPECIAL)}
    vocabulary |= {chr(code): len(SPECIAL) + code - 32 for code in range(33, 127)}
    vocabulary["Ġ"] = len(SPECIAL)
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": n,
                "content": t,
                "special": True,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for n, t in enumerate(SPECIAL)
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
