"""Known answers' scores: what a healthy worker's may be, and that none passes without them."""

import pytest

from .fakeworker import find, target, until


async def test_scores_that_healthy_devices_may_have_are_right(prober, worker):
    worker.know_scores()
    worker.scores[1, 2, 3] = [-1.4, -0.35]
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 2)
    assert (find(prober).wrong, find(prober).unavailable) == (0, "")


async def test_scores_that_are_too_far_off_are_told_with_the_numbers(prober, worker):
    worker.know_scores()
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 2)
    worker.scores[9, 8, 7] = [-4.9, -0.3]
    await until(lambda: find(prober).wrong >= 1)
    assert find(prober).right == 0
    assert find(prober).detail == (
        "its scores of 3 known prompts are off by 0.3 on average; healthy devices stay within 0.1"
    )


@pytest.mark.parametrize("scores", [None, [], [-1.5], [-1.5, None], [-1.5, float("nan")]])
async def test_a_worker_does_not_pass_without_the_scores_that_its_list_has(prober, worker, scores):
    worker.know_scores()
    worker.scores[1, 2, 3] = scores
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).wrong >= 1)
    assert find(prober).detail.startswith("prompt 1: ")


async def test_workers_whose_list_has_no_scores_are_judged_by_tokens(prober, worker):
    worker.scores[1, 2, 3] = [-9999.0, None]
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 2)


@pytest.mark.parametrize(
    "fields",
    [
        ('"tolerance": 1', ""),
        ('"tolerance": 0', ', "logprobs": [-1]'),
        ('"tolerance": -1', ', "logprobs": [-1]'),
        ('"tolerance": NaN', ', "logprobs": [-1]'),
        ('"tolerance": 1e999', ', "logprobs": [-1]'),
        ('"tolerance": "1"', ', "logprobs": [-1]'),
        ('"tolerance": null', ', "logprobs": [-1]'),
        ('"tolerance": 1', ', "logprobs": []'),
        ('"tolerance": 1', ', "logprobs": [-1, -1]'),
        ('"tolerance": 1', ', "logprobs": [null]'),
        ('"tolerance": 1', ', "logprobs": [1]'),
        ('"tolerance": 1', ', "logprobs": [NaN]'),
        ('"tolerance": 1', ', "logprobs": [-1e999]'),
    ],
)
async def test_a_list_with_nonsense_for_scores_is_no_list(prober, worker, fields):
    kind, pair = '"modelDigest": "d", "numerics": "n"', '"prompt": [1, 2], "output": [1]'
    worker.given = f'{{{kind}, {fields[0]}, "answers": [{{{pair}{fields[1]}}}]}}'.encode()
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "list of known answers cannot be read" in find(prober).unavailable
