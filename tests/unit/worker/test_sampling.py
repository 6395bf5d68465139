"""A token depends on logits, seed and position, and on nothing else."""

import numpy as np
import pytest

from sluice_worker.sampling import SamplingParams, choose_token

LOGITS = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))


def params(**over):
    return SamplingParams(**({"temperature": 1.0, "top_p": 1.0, "seed": 0, "max_tokens": 1} | over))


def test_no_temperature_takes_the_likeliest():
    assert choose_token(LOGITS, params(temperature=0), 5) == 1


@pytest.mark.parametrize("temperature", [1e-300, 1e-5])
def test_almost_no_temperature_does_too(temperature):
    assert {choose_token(LOGITS, params(temperature=temperature), p) for p in range(50)} == {1}


def test_draws_in_proportion():
    drawn = [choose_token(LOGITS, params(), position) for position in range(4000)]
    assert np.bincount(drawn) / 4000 == pytest.approx(np.exp(LOGITS), abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {1}), (0.6, {1, 3}), (0.85, {1, 2, 3})])
def test_top_p_keeps_the_smallest_set_of_likeliest(top_p, kept):
    assert {choose_token(LOGITS, params(top_p=top_p), p) for p in range(400)} == kept


def test_seed_and_position_decide_alone():
    def draw(seed):
        return [choose_token(LOGITS, params(seed=seed), position) for position in range(64)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert draw(-1) == draw(2**64 - 1)
    assert [choose_token(LOGITS, params(seed=3), position) for position in (9, 2)] == [
        draw(3)[9],
        draw(3)[2],
    ]
