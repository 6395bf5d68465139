"""The worker against transformers, by the logits that benchmarks/worker/reference.py wrote."""

from pathlib import Path

import numpy as np

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.knownanswers import compute_digest
from sluice_worker.tokens import Vocabulary

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"
REFERENCE = COMPACT / "reference.npz"
TOLERANCE = 1e-3
"""Logits: float32 sums in another order are off by less than 1e-4."""


def test_tokens_and_logits_are_those_of_transformers():
    with np.load(REFERENCE) as reference:
        assert str(reference["digest"]) == compute_digest(COMPACT), "write reference.npz again"
        checkpoint = load_checkpoint(COMPACT)
        vocabulary, decoder = Vocabulary(checkpoint.tokenizer), Decoder(checkpoint)
        for number, prompt in enumerate(reference["prompts"]):
            tokens = vocabulary.encode_chat([{"role": "user", "content": str(prompt)}])
            assert tokens == reference[f"tokens{number}"].tolist()
            cache = KeyValueCache(checkpoint.config, len(tokens))
            logits = decoder.run([Chunk(tokens, 0, cache)])[0]
            wanted = reference[f"logits{number}"]
            assert np.abs(logits - wanted).max() < TOLERANCE
            assert logits.argmax() == wanted.argmax()
