"""Two classes compared: what trips the gate, what does not, and when it is blind."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file

from sluice_accel.profiles import PROFILES
from sluice_accel.rounding import ROUNDING
from sluice_worker.arithmetic import multiply_in_parts
from sluice_worker.comparison import Side, compare_sides, compute_logits, judge_side, main
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Decoder
from sluice_worker.errors import CheckpointError
from sluice_worker.loading import load_model
from sluice_worker.numerics import NUMERICS
from sluice_worker.parity import check_sight, judge_checks, measure_parity
from sluice_worker.promptset import QUESTIONS, TEXTS, read_passages
from sluice_worker.tokens import Vocabulary

from .checkpoints import write_checkpoint

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"
RATES = (0.0, 1e-4, 1e-3, 1e-2)
QUESTION = {"task": "add", "prompt": "1 + 1", "answer": "2"}


def ignore(*_):
    """Take the progress, and say nothing."""


def read(model, context=512):
    return read_passages(model, Vocabulary(model / "tokenizer.json"), 1, context)


@pytest.fixture(scope="module")
def ask():
    """Return a function from numerics, product and share of wrong values to all logits."""
    checkpoint = load_model(COMPACT)[0]
    passages = read(COMPACT)[::7]  # about 800 positions

    @cache
    def answer(name, rate=0.0, *, healthy=False):
        product = {"product": multiply_in_parts} if healthy else {}
        decoder = Decoder(checkpoint, NUMERICS[name], **product)
        if rate:
            decoder.disturb = Corruption(rate, 1)
        return compute_logits(decoder, passages, ignore, name)

    return answer


def judge(ask, name, rate=0.0):
    side = Side("c", name, rate)
    return judge_side(side, ask("float32"), ask(name, rate), ask(name, healthy=True))


@pytest.fixture
def tiny(tmp_path):
    """Return a random model that no longer doubts, with two questions."""
    path = write_checkpoint(tmp_path / "tiny")
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"] = (tensors["model.norm.weight"] * 400).astype(bfloat16)
    save_file(tensors, path / "model.safetensors")
    (path / "heldout.jsonl").write_text("\n".join([json.dumps(QUESTION)] * 2))
    return path


@pytest.mark.parametrize("name", ["fp4", "mx6"])
def test_clean_narrow_numerics_compute_as_they_say_and_wrong_values_do_not(ask, name):
    """What they cost is held on the whole prompt set, by the command's own test."""
    rows = {rate: {row.kind: row for row in judge(ask, name, rate)} for rate in RATES}
    outcomes = {rate: judge_checks(rows[rate]["device"].checks).outcome for rate in RATES}
    assert outcomes[0.0] == "pass", rows[0.0]["device"]
    assert outcomes[1e-2] == outcomes[1e-3] == "fail", outcomes
    # Fewer wrong values than that are told, whether they trip it or not.
    off = [rows[rate]["device"].parity.divergence for rate in RATES]
    assert off[1] > 3 * off[0]
    assert off == sorted(off)


def test_free_form_text_and_questions_let_it_see_and_answers_alone_would_not(ask):
    reference = ask("float32")
    for over, outcome in (("everything", "pass"), ("answers", "blind")):
        rows = reference.choose(over)
        assert check_sight(measure_parity(rows, rows)).outcome == outcome


def test_a_model_without_doubts_makes_it_blind(tiny):
    sides = [Side(name, "float32") for name in "ab"]
    found = compare_sides(tiny, sides, ignore)
    assert found["outcome"] == "blind"
    assert "mean entropy of 0.0" in found["reasons"][0]
    assert "below 0.5 agreement says nothing" in found["reasons"][0]
    assert found["reasons"][1].startswith("a against float32, answers: the reference answers no")


def test_the_nearer_class_is_the_measure_of_the_other_whatever_the_order(tiny):
    sides = [Side("a", "mx9"), Side("b", "fp8-row")]
    one, other = (
        next(row for row in found["comparisons"] if row["kind"] == "pair")
        for found in (compare_sides(tiny, given, ignore) for given in (sides, sides[::-1]))
    )
    assert (one["of"], one["against"]) == ("a", "b") == (other["against"], other["of"])
    assert one["divergence"] == other["divergence"] > 0
    assert [check["bound"] for check in one["checks"]] == pytest.approx([0.94, 0.02])


def test_the_prompt_set_mixes_tasks_evenly_with_text_and_is_always_the_same():
    passages = read(COMPACT)
    tasks = [one.task for one in passages if one.task]
    lines = (COMPACT / "heldout.jsonl").read_text().splitlines()
    counts = {one["task"]: tasks.count(one["task"]) for one in map(json.loads, lines)}
    # As many of each, but of the look-ups in long lists, few of which are short enough.
    few = counts.pop("find")
    assert set(counts.values()) == {QUESTIONS // (len(counts) + 1)}
    assert 0 < few < max(counts.values())
    assert [one.answer for one in passages[-len(TEXTS) :]] == [0] * len(TEXTS)
    assert passages == read(COMPACT)
    answer = passages[0].tokens[-passages[0].answer :]
    assert (
        Vocabulary(COMPACT / "tokenizer.json").decode(answer)
        in (COMPACT / "heldout.jsonl").read_text()
    )


def test_passages_fit_into_the_context(tiny):
    assert max(len(one.tokens) for one in read(tiny, context=20)) == 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no heldout.jsonl with questions and answers"),
        ("\n", "has no heldout.jsonl with questions and answers"),
        ("{", "has a line without a task and a prompt"),
        ('["task"]', "has a line without a task and a prompt"),
        (json.dumps(QUESTION | {"answer": ""}), "has no question that fits into 128 tokens"),
        (json.dumps(QUESTION | {"prompt": "a" * 128}), "has no question that fits"),
        (json.dumps(QUESTION | {"prompt": "\ud800"}), "has a question that is no text"),
    ],
)
def test_a_model_without_questions_is_named(tiny, content, said):
    (tiny / "heldout.jsonl").unlink()
    if content is not None:
        (tiny / "heldout.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match=said) as raised:
        read(tiny, context=128)
    assert str(tiny) in str(raised.value)


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (["a=fp5", "b=fp4"], "'fp5' are no numerics; there are float32, bfloat16, fp8-row"),
        (["a=fp4:2", "b=fp4"], "'2' is no share of values; it should be 0 to 1"),
        (["a=fp4:nan", "b=fp4"], "'nan' is no share of values"),
        (["a=fp4:x", "b=fp4"], "'x' is no share of values"),
        (["a=fp4"], "there are 1; two are compared"),
    ],
)
def test_sides_that_are_none_are_refused(tiny, sides, said):
    ended = CliRunner().invoke(main, [f"--model={tiny}", *(f"--side={one}" for one in sides)])
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_logits_that_are_not_finite_are_an_error_with_a_name(tiny):
    tensors = load_file(tiny / "model.safetensors")
    tensors["model.norm.weight"] = (tensors["model.norm.weight"] * 0 + 3e38).astype(bfloat16)
    save_file(tensors, tiny / "model.safetensors")
    with (
        np.errstate(all="ignore"),
        pytest.raises(CheckpointError, match="float32 has logits that are not finite"),
    ):
        compare_sides(tiny, [Side("a", "float32"), Side("b", "mx9")], ignore)


def test_every_profile_stands_for_numerics_that_there_are():
    assert set(ROUNDING) == set(PROFILES)
    assert set(ROUNDING.values()) <= set(NUMERICS)
