"""A sequence gets the same bits alone, in any batch, and in any chunking of its prompt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache

from .checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return Decoder(load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")))


def alone(decoder, tokens):
    """Return the logits after each token, one token a step."""
    cache = KeyValueCache(decoder.config, 64)
    return [decoder.run([Chunk([t], i, cache)])[0] for i, t in enumerate(tokens)]


sequences = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=24), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sequences=sequences, cuts=st.lists(st.integers(1, 9), min_size=30, max_size=30))
def test_batch_and_chunking_change_no_bit(decoder, sequences, cuts):
    expected = [alone(decoder, tokens)[-1] for tokens in sequences]
    caches = [KeyValueCache(decoder.config, 64) for _ in sequences]
    done, last, cut = [0] * len(sequences), [None] * len(sequences), iter(cuts * 10)
    while any(done[i] < len(tokens) for i, tokens in enumerate(sequences)):
        chosen = [i for i, tokens in enumerate(sequences) if done[i] < len(tokens)]
        chunks = [
            Chunk(sequences[i][done[i] : done[i] + next(cut)], done[i], caches[i]) for i in chosen
        ]
        for i, chunk, row in zip(chosen, chunks, decoder.run(chunks), strict=True):
            done[i] += len(chunk.tokens)
            last[i] = row
    for found, wanted in zip(last, expected, strict=True):
        assert np.array_equal(found, wanted)


def test_a_reused_cache_leaks_nothing(decoder):
    cache = KeyValueCache(decoder.config, 64)
    decoder.run([Chunk(list(range(40)), 0, cache)])
    again = decoder.run([Chunk([5, 6, 7], 0, cache)])[0]
    assert np.array_equal(again, alone(decoder, [5, 6, 7])[-1])


def compute_plainly(weights, tokens):
    """Return the last logits as the Llama papers and Hugging Face's code define them, float64."""
    config, places = weights.config, np.arange(len(tokens))
    width, heads = config.head_dim, config.num_attention_heads
    inverse = 1 / config.rope_theta ** (np.arange(0, width, 2) / width)
    angles = np.concatenate([np.outer(places, inverse)] * 2, axis=-1)[:, None]

    def normalise(x, gain):
        return gain * x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps)

    def rotate(x):
        half = np.concatenate([-x[..., width // 2 :], x[..., : width // 2]], axis=-1)
        return x * np.cos(angles) + half * np.sin(angles)

    def split(x):
        return x.reshape(len(tokens), -1, width)

    x = weights.embedding[tokens].astype(np.float64)
    for layer in weights.layers:
        h = normalise(x, layer.input_norm)
        query, key = rotate(split(h @ layer.query)), rotate(split(h @ layer.key))
        value = split(h @ layer.value)
        mixed = []
        for head in range(heads):
            shared = head * config.num_key_value_heads // heads
            scores = query[:, head] @ key[:, shared].T / np.sqrt(width)
            scores[places[:, None] < places] = -np.inf
            parts = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(parts / parts.sum(-1, keepdims=True) @ value[:, shared])
        x = x + np.concatenate(mixed, axis=-1) @ layer.output
        h = normalise(x, layer.post_norm)
        gate = h @ layer.gate
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer.up)) @ layer.down
    return normalise(x[-1], weights.final_norm) @ weights.head


@settings(max_examples=10, deadline=None)
@given(tokens=st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_logits_are_those_of_the_published_architecture(decoder, tokens):
    found = decoder.run([Chunk(tokens, 0, KeyValueCache(decoder.config, 64))])[0]
    wanted = compute_plainly(decoder._weights, tokens)
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
