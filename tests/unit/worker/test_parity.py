"""Parity: metrics that can be computed by hand, and faults that must not pass."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sluice_worker.arithmetic import ORDERS
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.loading import load_model
from sluice_worker.numerics import NUMERICS
from sluice_worker.parity import (
    BITS4,
    BITS8,
    BITS16,
    LIMITS,
    SAME_LIMITS,
    Parity,
    check_distance,
    check_score,
    check_sight,
    judge_checks,
    measure_parity,
    widen_limits,
)

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"
named = pytest.mark.parametrize("name", NUMERICS)


@pytest.fixture(scope="module")
def model():
    return load_model(COMPACT)


@pytest.fixture(scope="module")
def prompts(model):
    """Return a handful of held-out questions with their answers, some 600 tokens."""
    lines = (COMPACT / "heldout.jsonl").read_text().splitlines()[::16]
    asked = [one for one in map(json.loads, lines) if one["tokens"] <= 120]
    return [
        model[1].encode_chat([{"role": "user", "content": one["prompt"]}])
        + model[1].encode_text(one["answer"])[1:]
        for one in asked
    ]


@pytest.fixture(scope="module")
def ask(model, prompts):
    """Return a function from numerics, order and share of wrong values to all logits."""

    @cache
    def answer(name, order="", rate=0.0):
        decoder = Decoder(model[0], NUMERICS[name], ORDERS.get(order, np.matmul))
        if rate:
            decoder.disturb = Corruption(rate, 1)
        return np.concatenate(
            [decoder.run_all(Chunk(one, 0, KeyValueCache(decoder.config, 256))) for one in prompts]
        )

    return answer


def judge_parity(parity, limits):
    return judge_checks([*check_distance(parity, limits), check_sight(parity)])


def logits(*shares):
    return np.log(np.array(shares)).astype(np.float32)


def test_equal_logits_agree_and_the_entropy_is_the_references():
    reference = logits([0.5, 0.5], [0.25, 0.75])
    found = measure_parity(reference, reference)
    assert (found.positions, found.agreement, found.divergence) == (2, 1, 0)
    wanted = (np.log(2) - 0.25 * np.log(0.25) - 0.75 * np.log(0.75)) / 2
    assert found.entropy == pytest.approx(wanted)
    assert found.ratio is None


def test_agreement_and_divergence_are_those_computed_by_hand():
    found = measure_parity(logits([0.6, 0.4], [0.9, 0.1]), logits([0.4, 0.6], [0.9, 0.1]))
    assert found.agreement == 0.5
    wanted = (0.6 * np.log(0.6 / 0.4) + 0.4 * np.log(0.4 / 0.6)) / 2
    assert found.divergence == pytest.approx(wanted)


def test_a_shift_of_all_logits_of_a_position_is_no_difference():
    reference = logits([0.6, 0.4], [0.3, 0.7])
    assert measure_parity(reference, reference + np.float32(40)).divergence < 1e-9


def test_the_ratio_compares_with_what_healthy_numerics_cost():
    reference = np.zeros((2, 3), np.float32)
    healthy, device = reference + np.float32(0.1), reference - np.float32(0.25)
    assert measure_parity(reference, device, healthy).ratio == pytest.approx(2.5)
    assert measure_parity(reference, reference, reference).ratio == 1
    assert measure_parity(reference, device, reference).ratio == float("inf")


def test_what_is_not_finite_agrees_with_nothing():
    reference = logits([0.6, 0.4], [0.6, 0.4])
    device = reference.copy()
    device[1, 1] = np.nan
    found = measure_parity(reference, device, reference + np.float32(1))
    assert found.agreement == 0.5
    assert found.divergence == found.ratio == float("inf")
    assert judge_parity(found, BITS4).outcome == "fail"


@pytest.mark.parametrize(
    ("reference", "device", "said"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "have the shapes"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "have the shapes"),
        (np.zeros(3), np.zeros(3), "have the shapes"),
        (np.full((1, 3), np.nan), np.zeros((1, 3)), "it is none"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference, device, said):
    with pytest.raises(ValueError, match=said):
        measure_parity(reference, device)


@pytest.mark.parametrize(
    ("parity", "limits", "outcome", "said"),
    [
        (Parity(900, 0.99, 1e-3, 0.5, 1.1), BITS16, "pass", ""),
        (Parity(900, 0.989, 1e-3, 0.5), BITS16, "fail", "at 98.90% of 900 positions"),
        (Parity(900, 0.989, 1e-3, 0.5), BITS8, "pass", ""),
        (Parity(900, 1, 1.1e-3, 0.5), BITS16, "fail", "divergence is 0.0011 nat; 0.001 is most"),
        (Parity(900, 0.9, 5e-2, 0.5), BITS4, "pass", ""),
        (Parity(900, 1, float("nan"), 0.5), BITS4, "fail", "nan nat"),
        (Parity(900, 1, 0, 0.49), BITS16, "blind", "mean entropy of 0.49 nat"),
        (Parity(900, 0.5, 0, 0.1), BITS16, "fail", "at 50.00%"),
        (Parity(900, 1, 0, 0.6, 1.2), BITS16, "suspect", "R-ratio is 1.20; below 1.2 is fine"),
        (Parity(900, 1, 0, 0.6, 3.0), BITS16, "suspect", "R-ratio is 3.00"),
        (Parity(900, 1, 0, 0.6, 3.1), BITS16, "fail", "beyond 3 it is likely a bug"),
        (Parity(900, 1, 0, 0.4, 2.0), BITS16, "blind", "mean entropy"),
    ],
)
def test_verdicts_name_the_numbers_that_were_compared(parity, limits, outcome, said):
    verdict = judge_parity(parity, limits)
    assert verdict.outcome == outcome
    assert said in " ".join(verdict.reasons)
    assert bool(verdict.reasons) == (outcome != "pass")


@pytest.mark.parametrize(
    ("lost", "gained", "outcome"),
    [
        (0, 0, "pass"),
        (1, 0, "pass"),
        (3, 0, "pass"),
        (4, 0, "fail"),
        (9, 5, "pass"),
        (9, 1, "fail"),
    ],
)
def test_lost_answers_count_beyond_one_in_a_hundred_and_beyond_chance(lost, gained, outcome):
    reference = np.arange(84) < 68
    device = reference.copy()
    device[:lost], device[68 : 68 + gained] = False, True
    check = check_score(reference, device, BITS8)
    assert check.outcome == outcome
    if outcome == "fail":
        assert check.reason.startswith(f"{68 - lost + gained} answers are right, 68 of the ref")


def test_answers_of_four_bits_are_told_and_not_judged():
    right = np.ones(9, bool)
    assert check_score(right, ~right, BITS4) is None


def test_a_reference_that_knows_nothing_has_no_score_to_lose():
    nothing = np.zeros(9, bool)
    assert check_score(nothing, nothing, BITS16).outcome == "blind"


def test_two_that_keep_their_bounds_may_be_as_far_from_each_other_as_both_together():
    both = widen_limits(BITS16, BITS4)
    assert both.agreement == pytest.approx(0.89)
    assert both.divergence == pytest.approx(5.1e-2)


def test_every_numerics_has_its_limits():
    assert set(LIMITS) == set(SAME_LIMITS) == set(NUMERICS)


@named
def test_a_healthy_device_that_sums_in_another_order_passes(ask, name):
    found = measure_parity(ask(name), ask(name, "in strides"))
    assert judge_parity(found, SAME_LIMITS[name]).outcome == "pass", found
    assert found.positions > 500


@named
@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_wrong_values_fail_against_a_healthy_device_of_the_same_numerics(ask, name, rate):
    found = measure_parity(ask(name), ask(name, rate=rate))
    assert judge_parity(found, SAME_LIMITS[name]).outcome == "fail", found


@pytest.mark.parametrize("name", ["bfloat16", "mx9"])
def test_what_numerics_cost_is_within_their_limits_and_wrong_values_are_not(ask, name):
    reference, healthy = ask("float32"), ask(name)
    found = measure_parity(reference, healthy, healthy)
    assert judge_parity(found, LIMITS[name]).outcome == "pass", found
    for rate in (1e-2, 1e-3):
        found = measure_parity(reference, ask(name, rate=rate), healthy)
        assert judge_parity(found, LIMITS[name]).outcome == "fail", found


def test_prompts_whose_answers_are_certain_make_the_gate_blind(model, ask, prompts):
    """Teacher-forced answers alone: the model is all but sure of them."""
    task, vocabulary = "reverse", model[1]
    lines = (COMPACT / "heldout.jsonl").read_text().splitlines()
    one = next(e for e in map(json.loads, lines) if e["task"] == task)
    question = vocabulary.encode_chat([{"role": "user", "content": one["prompt"]}])
    tokens = question + vocabulary.encode_text(one["answer"])[1:]
    rows = Decoder(model[0]).run_all(Chunk(tokens, 0, KeyValueCache(model[0].config, 256)))
    rows = rows[len(question) - 1 : -1]
    assert judge_parity(measure_parity(rows, rows), BITS16).outcome == "blind"
