"""Known answers in all numerics: healthy devices pass, those that compute wrongly are seen.

The operator's comparison, over the committed answers.
"""

from pathlib import Path

import numpy as np
import pytest

from sluice.observe.rounds import Round
from sluice_worker.arithmetic import ORDERS
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.knownanswers import load_known_answers
from sluice_worker.numerics import NUMERICS
from sluice_worker.scores import score_tokens

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"
ROUNDS = 5


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(COMPACT)


def load(checkpoint, name):
    config = checkpoint.config
    known = load_known_answers(COMPACT, config.vocab_size, config.max_position_embeddings, name)
    assert known.unavailable == ""
    return known


def run_round(decoder, known):
    """Ask all prompts; return what the operator says of them, "" if they are right."""
    judged = Round(known.answers, known.tolerance)
    for one in known.answers:
        tokens = [*one.prompt, *one.output[:-1]]
        rows = decoder.run_all(Chunk(tokens, 0, KeyValueCache(decoder.config, len(tokens))))
        scores = score_tokens(rows[: len(one.prompt) - 1], one.prompt[1:], 0)
        output = [int(token) for token in rows[-len(one.output) :].argmax(-1)]
        if wrong := judged.judge(output, [score.logprob for score in scores]):
            return wrong
    return ""


@pytest.mark.parametrize("name", NUMERICS)
def test_healthy_devices_are_right_in_whatever_order_they_sum(checkpoint, name):
    known = load(checkpoint, name)
    for product in (np.matmul, *ORDERS.values()):
        assert run_round(Decoder(checkpoint, NUMERICS[name], product), known) == ""


@pytest.mark.parametrize("name", NUMERICS)
def test_one_wrong_value_in_a_hundred_is_seen_in_nearly_every_round(checkpoint, name):
    """By tokens alone, narrow numerics miss it in seven rounds of ten."""
    known, decoder = load(checkpoint, name), Decoder(checkpoint, NUMERICS[name])
    wrong = 0
    for seed in range(ROUNDS):
        decoder.disturb = Corruption(1e-2, seed)
        wrong += run_round(decoder, known) != ""
    assert wrong >= ROUNDS - 1
