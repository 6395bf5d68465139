"""A round of known answers: tokens the same, scores near, and nothing that is no number passes."""

from dataclasses import dataclass
from math import inf, nan

import pytest

from sluice.observe.rounds import Round


@dataclass
class Known:
    output: list
    logprobs: list | None


LIST = [Known([4, 5], [-1.0, -2.0, -3.0]), Known([6], []), Known([7], [-0.5])]
RIGHT = [([4, 5], [-1.0, -2.0, -3.0]), ([6], []), ([7], [-0.5])]


def judge(answers, tolerance=0.1):
    """Return what a round says after each of its answers."""
    judged = Round(LIST, tolerance)
    return [judged.judge(*one) for one in answers]


def test_the_same_tokens_and_scores_are_right():
    assert judge(RIGHT) == ["", "", ""]


def test_scores_may_be_off_as_far_as_other_healthy_devices_are():
    """Either way, and on average: one token may be off further."""
    assert judge([([4, 5], [-1.0, -1.7, -3.0]), ([6], []), ([7], [-0.5])]) == ["", "", ""]
    assert judge([([4, 5], [-1.1, -1.9, -3.1]), ([6], []), ([7], [-0.55])]) == ["", "", ""]


def test_scores_further_off_are_wrong_with_the_numbers_though_all_tokens_are_right():
    first, second, last = judge([([4, 5], [-1.1, -1.9, -3.1]), ([6], []), ([7], [-1.0])])
    assert (first, second) == ("", "")
    assert last == (
        "its scores of 3 known prompts are off by 0.2 on average; healthy devices stay within 0.1"
    )


def test_what_is_too_far_off_for_the_whole_round_is_wrong_at_once():
    assert judge([([4, 5], [-1.0, -2.0, -4.5])]) == [
        "its scores of 1 known prompt are off by 0.5 on average; healthy devices stay within 0.1"
    ]


@pytest.mark.parametrize("shift", [0.11, -0.11])
def test_scores_that_are_all_off_a_little_too_far_are_wrong_either_way(shift):
    answers = [(output, [one + shift for one in scores]) for output, scores in RIGHT]
    assert "off by 0.11 on average" in judge(answers)[-1]


def test_a_wrong_token_is_wrong_whatever_the_scores():
    assert judge([([4, 6], [-1.0, -2.0, -3.0])]) == ["prompt 1: expected 4 5, got 4 6"]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (None, "prompt 1: expected scores of 3 tokens, got none"),
        ([], "prompt 1: expected scores of 3 tokens, got 0"),
        ([-1.0, -2.0, -3.0, -4.0], "prompt 1: expected scores of 3 tokens, got 4"),
        ([-1.0, None, -3.0], "prompt 1: the score of a token is no number"),
        ([-1.0, nan, -3.0], "prompt 1: the score of a token is no number"),
        ([-1.0, -inf, -3.0], "prompt 1: the score of a token is no number"),
    ],
)
def test_an_answer_without_the_scores_that_the_list_has_is_wrong(scores, said):
    assert judge([([4, 5], scores)]) == [said]


def test_scores_beyond_all_numbers_are_wrong():
    assert "off by inf on average" in judge([([4, 5], [-1e308, -1e308, -1.0])])[0]
    assert "off by 3.33e+03 on average" in judge([([4, 5], [-1.0, -9999.0, -3.0])])[0]


@pytest.mark.parametrize("scores", [None, [], [None], [-9999.0] * 3])
def test_without_scores_in_the_list_tokens_alone_are_compared(scores):
    assert judge([([4, 5], scores)], tolerance=None) == [""]
    assert judge([([4, 6], scores)], tolerance=None) == ["prompt 1: expected 4 5, got 4 6"]
