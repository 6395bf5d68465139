"""A token depends on logits, seed and position, and on nothing else."""

import numpy as np
import pytest

from sluice_worker.sampling import Sampler, SamplingParams
from sluice_worker.scores import LEAST, score_token

LOGITS = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))


def params(**over):
    return SamplingParams(**({"temperature": 1.0, "top_p": 1.0, "seed": 0, "max_tokens": 1} | over))


def draw(params, position, logits=LOGITS, choice=0, output=(), **over):
    """Return the token for a position after a prompt of so many."""
    prompt = [0] * (position - len(output))
    sampler = Sampler(params, prompt, output, choice=choice, end=3, vocabulary=len(logits), **over)
    return sampler.draw(logits).token


def test_no_temperature_takes_the_likeliest():
    assert draw(params(temperature=0), 5) == 1


@pytest.mark.parametrize("temperature", [1e-300, 1e-5])
def test_almost_no_temperature_does_too(temperature):
    assert {draw(params(temperature=temperature), p) for p in range(50)} == {1}


def test_draws_in_proportion():
    drawn = [draw(params(), position) for position in range(2000)]
    assert np.bincount(drawn) / 2000 == pytest.approx(np.exp(LOGITS), abs=0.04)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, {1}), (0.6, {1, 3}), (0.85, {1, 2, 3})])
def test_top_p_keeps_the_smallest_set_of_likeliest(top_p, kept):
    assert {draw(params(top_p=top_p), p) for p in range(400)} == kept


def test_seed_choice_and_position_decide_alone():
    def list_draws(seed, choice=0):
        return [draw(params(seed=seed), position, choice=choice) for position in range(64)]

    assert list_draws(3) == list_draws(3)
    assert list_draws(3) != list_draws(4)
    assert list_draws(3) != list_draws(3, choice=1)
    assert list_draws(-1) == list_draws(2**64 - 1)
    assert [draw(params(seed=3), position) for position in (9, 2)] == [
        list_draws(3)[9],
        list_draws(3)[2],
    ]


def test_neighbouring_positions_share_no_chance():
    wide = np.zeros(64, np.float32)
    drawn = [draw(params(), position, logits=wide) for position in range(2000)]
    shifted = [(drawn[i] - drawn[i + 1]) % 64 for i in range(1999)]
    assert np.bincount(shifted, minlength=64).max() < 70  # 31 expected of each


@pytest.mark.parametrize(
    ("over", "kept"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 2}),
        ({"min_p": 0.4}, {1, 3}),
        ({"min_p": 0.2, "top_k": 2}, {1, 3}),
        ({"top_k": 2, "top_p": 0.6}, {1}),  # of the two that are left, one has two thirds
        ({"logit_bias": {0: 100.0}}, {0}),
        ({"logit_bias": {1: -100.0, 3: -100.0}}, {0, 2}),
    ],
)
def test_what_cannot_be_drawn(over, kept):
    assert {draw(params(**over), p) for p in range(300)} == kept


def test_nothing_ends_the_output_before_its_minimum():
    sure = np.array([0, 0, 1, 50], np.float32)  # 3 is the end token
    asked = params(temperature=0, min_tokens=2, max_tokens=9, stop_token_ids=frozenset({2}))
    found = [draw(asked, 5 + made, logits=sure, output=[0] * made) for made in range(3)]
    assert found == [0, 0, 3]
    assert draw(params(temperature=0, min_tokens=2, ignore_eos=True), 5, logits=sure) == 3


def make(asked, logits, prompt, steps, output=()):
    sampler = Sampler(asked, prompt, output, choice=0, end=None, vocabulary=len(logits))
    return [sampler.draw(logits).token for _ in range(steps)]


@pytest.mark.parametrize(
    ("over", "logits", "drawn"),
    [
        # Presence counts once, frequency every time, and neither counts the prompt (token 0).
        ({"presence_penalty": 1.0}, [3, 2.5, 2.2, 0], [0, 1, 2, 0, 0]),
        ({"frequency_penalty": 1.0}, [3, 2.5, 2.2, 0], [0, 1, 2, 0, 1]),
        # Repetition divides what is above zero, multiplies what is below, and counts the prompt.
        ({"repetition_penalty": 2.0}, [3, 2.5, 2.2, 0], [1, 2, 0, 0, 0]),
        ({"repetition_penalty": 2.0}, [-1, -1.5, -3.5, -9], [1, 0, 0, 0, 0]),
        ({"presence_penalty": -2.0}, [3, 3.1, 2.2, 0], [1, 1, 1, 1, 1]),
    ],
)
def test_penalties_count_what_they_should(over, logits, drawn):
    asked, rows = params(temperature=0, **over), np.array(logits, np.float32)
    assert make(asked, rows, [0], 5) == drawn
    # The same goes on from an output that exists already.
    assert make(asked, rows, [0], 3, output=drawn[:2]) == drawn[2:]


def test_logprobs_are_the_models_own_whatever_the_sampling():
    asked = params(temperature=0, logprobs=2, logit_bias={0: 100.0}, presence_penalty=1.0)
    sampler = Sampler(asked, [0], [], choice=0, end=None, vocabulary=4)
    score = sampler.draw(LOGITS).score
    assert (score.token, score.rank) == (0, 4)
    assert score.logprob == pytest.approx(np.log(0.1))
    assert [token for token, _ in score.top] == [1, 3]
    assert [logprob for _, logprob in score.top] == pytest.approx(np.log([0.5, 0.25]))


def test_what_is_no_number_has_the_least_logprob():
    broken = np.array([np.nan, 1, np.inf, 0], np.float32)
    score = score_token(broken, 1, 3)
    assert (score.logprob, {logprob for _, logprob in score.top}) == (LEAST, {LEAST})
