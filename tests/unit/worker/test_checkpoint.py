"""What a worker cannot load is named in a sentence, whatever is wrong with it."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn
from safetensors.numpy import load_file, save_file

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import CheckpointError
from sluice_worker.knownanswers import compute_digest
from sluice_worker.loading import load_model
from sluice_worker.tokens import Vocabulary

from .checkpoints import make_tokenizer, write_checkpoint


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; supported is llama"),
        ({"model_type": None}, "model_type is None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures is .*Sequence"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported is silu"),
        ({"rope_scaling": {"factor": 8}}, "rope_scaling is .*positions that are not scaled"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_scaling is .*llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 8}}, "rope_scaling is .*linear"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_parameters is .*yarn",
        ),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is .*gptq"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
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
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000.* must be positive and finite"),
        ({"rope_theta": 10**400}, "rope_theta is 1000.* must be positive and finite"),
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


def rewrite_config(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def test_what_a_configuration_leaves_out_is_what_a_llama_has(tmp_path):
    path = write_checkpoint(tmp_path, num_key_value_heads=4)
    said = load_checkpoint(path).config

    def leave_out(config):
        for name in ("hidden_act", "num_key_value_heads", "rope_theta", "rms_norm_eps"):
            del config[name]

    rewrite_config(path, leave_out)
    assert load_checkpoint(path).config == replace(said, rms_norm_eps=1e-6)


def test_the_base_of_positions_is_found_where_newer_files_have_it(tmp_path):
    path = write_checkpoint(
        tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 5e5}, rope_scaling=None
    )
    rewrite_config(path, lambda config: config.pop("rope_theta"))
    assert load_checkpoint(path).config.rope_theta == 5e5


def test_a_head_of_its_own_makes_the_logits(tmp_path):
    path = write_checkpoint(tmp_path, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lack the tensor lm_head\.weight"):
        load_checkpoint(path)
    head = np.random.default_rng(2).normal(size=(100, 32)).astype(np.float32)
    change_weights(path, lambda weights: weights.update({"lm_head.weight": head}))
    checkpoint = load_checkpoint(path)
    assert np.array_equal(checkpoint.head, head.T)
    assert not np.array_equal(checkpoint.embedding, head)
    rewrite_config(path, lambda config: config.update(tie_word_embeddings=True))
    tied = load_checkpoint(path)  # some files have a copy of the embedding under that name
    assert np.array_equal(tied.head, tied.embedding.T)


def shard(path, index=None):
    """Divide the weights over two files; return their index."""
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(weights)
    files = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in files.items():
        save_file({name: weights[name] for name in held}, path / file)
    found = {name: file for file, held in files.items() for name in held}
    document = {"metadata": {"total_size": 1}, "weight_map": found | (index or {})}
    (path / "model.safetensors.index.json").write_text(json.dumps(document))
    return found


def test_shards_are_the_same_model_as_one_file(tmp_path):
    whole = load_checkpoint(write_checkpoint(tmp_path / "whole"))
    path = write_checkpoint(tmp_path / "parts")
    digest = compute_digest(path)
    files = shard(path)
    parts = load_checkpoint(path)
    assert parts.config == whole.config
    for here, there in zip(parts.layers, whole.layers, strict=True):
        for field in fields(here):
            assert np.array_equal(getattr(here, field.name), getattr(there, field.name))
    assert np.array_equal(parts.head, whole.head)
    sharded = compute_digest(path)
    assert sharded != digest
    file = path / files["model.norm.weight"]
    save_file(load_file(file) | {"model.norm.weight": np.ones(32, np.float32)}, file)
    assert compute_digest(path) != sharded  # whichever shard changes


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"model.extra": "model-00001-of-00002.safetensors"}, "lacks the tensor model.extra that"),
        ({"model.extra": "lost.safetensors"}, "lacks lost.safetensors, which has model.extra"),
        ({"model.extra": "../lost.safetensors"}, "'../lost.safetensors', which is no name"),
        ({"model.extra": 7}, "model.extra in '7', which is no name"),
        ({"model.extra": "a" * 5000}, "model.extra in 'a{80}', which is no name"),
    ],
)
def test_an_index_that_does_not_fit_is_named(tmp_path, index, said):
    path = write_checkpoint(tmp_path)
    shard(path, index)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_that_is_none_is_named(tmp_path, content):
    path = write_checkpoint(tmp_path)
    shard(path)
    (path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        load_checkpoint(path)


def test_a_pickle_is_not_read_and_named(tmp_path):
    path = write_checkpoint(tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is not read: save the model as"):
        load_checkpoint(path)


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
        (lambda w: w.pop("model.norm.weight"), r"lack the tensor model\.norm\.weight"),
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
            lambda w: w["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 4), np.inf),
            r"model\.layers\.1\.mlp\.up_proj\.weight has values that are not finite",
        ),
        (
            lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}),
            r"weights have model\.layers\.0\.self_attn\.q_proj\.bias, which this decoder does not",
        ),
        (
            lambda w: w.update({name: np.ones(8, np.float32) for name in ("a", "b", "c")}),
            r"the weights have a and 2 others",
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


def test_positions_of_older_files_follow_from_the_base(tmp_path):
    """Older files have the rates of rotary positions as a tensor; these are wrong ones."""

    def read_logits():
        decoder = Decoder(load_checkpoint(path))
        return decoder.run_all(Chunk([5, 9, 7], 0, KeyValueCache(decoder.config, 32))).tobytes()

    path = write_checkpoint(tmp_path)
    without = read_logits()
    rates = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    change_weights(path, lambda weights: weights.update(rates))
    assert read_logits() == without


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (lambda size: size - 10, "cut off within the tensor model.norm.weight"),
        (
            lambda size: size // 2,
            "cut off within the tensor model.layers.0.self_attn.o_proj.weight",
        ),
        (lambda _: 300, "ends within its header"),
        (lambda _: 4, "ends within its header"),
        (lambda _: 0, "ends within its header"),
    ],
)
def test_a_file_that_is_cut_off_is_named_with_its_tensor(tmp_path, left, said):
    path = write_checkpoint(tmp_path)
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: left(len(whole))])
    with pytest.raises(CheckpointError, match=f"cannot read .*model.safetensors: it .*{said}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"\x02" + bytes(7) + b"{}" + bytes(9), b"\x04" + bytes(7) + b"nope"]
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = write_checkpoint(tmp_path)
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(path)


def test_a_broken_tokenizer_is_named(tmp_path):
    path = write_checkpoint(tmp_path)
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot read"):
        Vocabulary(path / "tokenizer.json")


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    path = write_checkpoint(tmp_path, vocab_size=90)
    with pytest.raises(CheckpointError, match=r"tokens up to 99; .* end at 89"):
        load_model(path)


def test_a_tokenizer_with_a_huge_number_is_named_and_fills_no_memory(tmp_path):
    path = write_checkpoint(tmp_path)
    document = make_tokenizer()
    document["model"]["vocab"]["zz"] = 3_000_000_000
    (path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"tokens up to 3000000000; .* end at 99"):
        load_model(path)


def test_bf16_weights_lose_nothing_on_the_way_to_float32(tmp_path):
    path = write_checkpoint(tmp_path)
    stored = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    assert stored.dtype == bfloat16
    checkpoint = load_checkpoint(path)
    assert checkpoint.embedding.dtype == np.float32
    assert np.array_equal(checkpoint.embedding, stored.astype(np.float32))
    assert np.array_equal(checkpoint.head, stored.astype(np.float32).T)
