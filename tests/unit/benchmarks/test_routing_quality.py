"""The benchmark of routing quality: its requests are the trace's, and its figures count all."""

import sys
from pathlib import Path
from random import Random

import pytest

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.pacing import EmulatedDevice
from sluice_worker.tokens import Vocabulary

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks" / "gateway"))
import balancer  # noqa: E402
import figures  # noqa: E402
import workload  # noqa: E402

DEVICE = EmulatedDevice(PROFILES["maia-200"], NOMINAL_MODELS["llama-3.3-70b"], 1, 32)
SCALE = workload.Scale(tokens=32, answers=4)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(ROOT / "workers/models/compact/tokenizer.json")


@pytest.fixture(scope="module")
def trace():
    return workload.read_trace(None)


def test_a_stretch_is_the_traces_own_with_only_its_clock_changed(trace, vocabulary):
    rows = workload.draw_stretch(trace, 200, seed=3)
    asks = workload.fit_stretch(rows, 7.0, SCALE, vocabulary, seed=3)
    assert [(ask.prompt, ask.answer) for ask in asks] == [SCALE.fit(row) for row in rows]
    assert asks[-1].at == pytest.approx(199 / 7.0)
    ratios = {
        round((after.at - before.at) / (late.arrival - early.arrival), 6)
        for before, after, early, late in zip(asks, asks[1:], rows, rows[1:], strict=False)
    }
    assert len(ratios) == 1
    assert asks == workload.fit_stretch(rows, 7.0, SCALE, vocabulary, seed=3)
    assert rows != workload.draw_stretch(trace, 200, seed=4)


def test_texts_are_as_long_as_the_trace_says_and_all_different(trace, vocabulary):
    rows = workload.draw_stretch(trace, 100, seed=1)
    asks = workload.fit_stretch(rows, 1.0, SCALE, vocabulary, seed=1)
    lengths = [len(vocabulary.encode_text(ask.text)) for ask in asks]
    assert sum(lengths) == pytest.approx(sum(ask.prompt for ask in asks), rel=0.05)
    assert len({ask.text for ask in asks}) == len(asks)


def test_requests_that_share_a_stamp_are_spread_up_to_the_next_one(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,input_tokens,output_tokens\n0,5,1\n0,6,1\n3,7,1\n")
    rows = workload.read_trace(file)
    assert [(row.arrival, row.prompt) for row in rows] == [(0, 5), (1.5, 6), (3, 7)]


@pytest.mark.parametrize("text", ["", "arrival_s,input_tokens\n1,2\n", "\x00", "a,b\n1,2\n"])
def test_what_is_no_trace_is_said_to_be_none(tmp_path, text):
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"trace\.csv is no trace.*columns arrival_s"):
        workload.read_trace(file)
    with pytest.raises(ValueError, match="is no trace"):
        workload.read_trace(tmp_path / "missing.csv")


def test_a_stretch_longer_than_the_trace_is_refused(trace):
    with pytest.raises(ValueError, match="are needed: lower --minutes"):
        workload.draw_stretch(trace, len(trace) + 1, seed=1)


def test_a_worker_that_is_never_idle_ends_a_batch_in_the_time_of_its_steps():
    # Prompts of one chunk: each step has one beside seven that decode, or is of eight that do.
    rate = workload.measure_capacity(DEVICE, [(16, 8)] * 400)
    steps = DEVICE.run_step([(16, 0, True), *[(1, 20, False)] * 7]).seconds
    assert 1 / rate == pytest.approx(steps, rel=0.05)
    assert workload.measure_capacity(DEVICE, [(16, 8)] * 4) == 0


def test_twice_the_answers_halve_what_is_carried():
    short = workload.measure_capacity(DEVICE, [(2, 40)] * 200)
    assert workload.measure_capacity(DEVICE, [(2, 80)] * 200) == pytest.approx(short / 2, rel=0.05)


def test_a_row_counts_refused_and_lost_requests_as_misses():
    objective = figures.Objective(ttft=1.0, tpot=0.05)
    outcomes = [
        figures.Outcome(200, 0.5, 0.04),
        figures.Outcome(200, 1.5, 0.04),
        figures.Outcome(200, 0.5, 0.06),
        figures.Outcome(200, 0.5, None),
        figures.Outcome(429),
    ]
    row = figures.count_outcomes(outcomes, objective, policy="p", load=0.8, seed=1, overrun=0.06)
    assert (row.inside, row.refused, row.slow_first, row.slow_rest) == (0.2, 0.2, 0.2, 0.2)
    assert (row.lost, row.requests) == (1, 5)
    assert "6.00% (too much)" in figures.render(row)
    assert figures.render(row).count("|") == figures.HEADER.partition("\n")[0].count("|")


def test_baselines_choose_as_their_names_say():
    servers = [balancer.Server("a", 2), balancer.Server("b", 0), balancer.Server("c", 1)]
    by_turns = balancer.POLICIES["round robin"](servers, Random(1))
    assert [by_turns().url for _ in range(4)] == ["a", "b", "c", "a"]
    least = balancer.POLICIES["least requests"](servers, Random(1))
    assert {least().url for _ in range(20)} == {"b"}
    of_two = balancer.POLICIES["power of two"](servers, Random(1))
    assert {of_two().url for _ in range(50)} == {"b", "c"}
