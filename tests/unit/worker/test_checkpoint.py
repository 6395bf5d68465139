"""What a worker cannot load is named in a sentence, whatever is wrong with it."""

import json

import numpy as np
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn
from safetensors.numpy import load_file, save_file

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.errors import CheckpointError
from sluice_worker.main import load_model
from sluice_worker.tokens import Vocabulary

from .checkpoints import write_checkpoint


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; supported is llama"),
        ({"rope_scaling": {"factor": 8}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"rms_norm_eps": None}, "lacks rms_norm_eps"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\]; supported is one number"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"bos_token_id": -1}, "bos_token_id is -1; supported is 0 to"),
        ({"eos_token_id": 100}, "eos_token_id is 100; the vocabulary ends at 99"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0; supported is 1 to"),
        ({"max_position_embeddings": 10**15}, "max_position_embeddings is 1000000000000000;"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"rope_theta": 0}, "rope_theta is 0; it must be positive and finite"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_key_value_heads": 3}, "num_attention_heads is 4; it must be a multiple"),
    ],
)
def test_a_configuration_that_is_not_supported_is_named(tmp_path, over, said):
    path = write_checkpoint(tmp_path / "odd", **over)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path)


def test_the_width_of_heads_follows_when_it_is_not_given(tmp_path):
    assert load_checkpoint(write_checkpoint(tmp_path, head_dim=8)).config.head_dim == 8
    config = json.loads((tmp_path / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(tmp_path).config.head_dim == 8


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        load_checkpoint(tmp_path / "nowhere")
    path = write_checkpoint(tmp_path / "half")
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (path / name).unlink()
        with pytest.raises(CheckpointError, match=f"lacks {name}"):
            load_checkpoint(path)


@pytest.mark.parametrize("content", ["", "[1]", '{"model_type"'])
def test_a_configuration_that_is_none_is_named(tmp_path, content):
    path = write_checkpoint(tmp_path)
    (path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(path)


def change_weights(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("model.norm.weight"), r"lacks the tensor model\.norm\.weight"),
        (
            lambda w: w.update({"model.norm.weight": np.ones(31, np.float32)}),
            r"has the shape \(31,\); config\.json says \(32,\)",
        ),
        (lambda w: w.update({"model.norm.weight": np.ones(32, np.int64)}), "is int64"),
        (
            lambda w: w.update({"model.norm.weight": np.full(32, np.nan, np.float32)}),
            r"model\.norm\.weight has values that are not finite",
        ),
        (
            lambda w: w.update({"model.norm.weight": np.ones(32, float8_e4m3fn)}),
            "not supported",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, said):
    path = write_checkpoint(tmp_path)
    change_weights(path, change)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path)


def test_a_broken_file_is_named(tmp_path):
    path = write_checkpoint(tmp_path)
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(path)
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot read"):
        Vocabulary(path / "tokenizer.json")


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    path = write_checkpoint(tmp_path, vocab_size=90)
    with pytest.raises(CheckpointError, match=r"tokens up to 99; .* end at 89"):
        load_model(path)


def test_bf16_weights_lose_nothing_on_the_way_to_float32(tmp_path):
    path = write_checkpoint(tmp_path)
    stored = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    assert stored.dtype == bfloat16
    checkpoint = load_checkpoint(path)
    assert checkpoint.embedding.dtype == np.float32
    assert np.array_equal(checkpoint.embedding, stored.astype(np.float32))
    assert np.array_equal(checkpoint.head, stored.astype(np.float32).T)
