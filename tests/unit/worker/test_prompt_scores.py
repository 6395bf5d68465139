"""How many log-probabilities of prompts one answer may have."""

from types import SimpleNamespace

import pytest

from sluice_worker.completions import SCORES_MOST, _refuse_scores
from sluice_worker.errors import RequestError


def asked(count, likeliest):
    return SimpleNamespace(count=count, prompt_logprobs=likeliest)


def test_what_fits_is_let_through():
    _refuse_scores(asked(1, 20), 4096)
    _refuse_scores(asked(128, None), 10**6)
    _refuse_scores(asked(1, 0), SCORES_MOST)


@pytest.mark.parametrize(("count", "likeliest", "tokens"), [(1, 0, SCORES_MOST + 1), (4, 20, 4096)])
def test_what_would_fill_the_memory_is_refused(count, likeliest, tokens):
    with pytest.raises(RequestError, match=f"at most {SCORES_MOST} in one answer") as caught:
        _refuse_scores(asked(count, likeliest), tokens)
    assert caught.value.param == "prompt_logprobs"
