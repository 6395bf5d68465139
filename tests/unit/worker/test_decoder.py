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


@settings(max_examples=25, deadline=None)
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
