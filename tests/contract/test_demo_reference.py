"""What the demo holds answers against: real workers, one for each kind of numerics."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file

from sluice.cli.demo.prompts import load_questions
from sluice.cli.demo.reference import answer_questions, find_different, measure_accuracy
from sluice.cli.errors import CommandError

MODELS = Path("workers/models")


async def test_each_class_is_answered_for_in_its_own_numerics(tmp_path: Path) -> None:
    """By a model that has learnt nothing: what the compact one is sure of, all numerics answer."""
    model = shutil.copytree(MODELS / "compact", tmp_path / "compact")
    weights = load_file(model / "model.safetensors")
    rng = np.random.default_rng(1)
    made = {name: rng.normal(scale=0.3, size=one.shape) for name, one in weights.items()}
    save_file({n: one.astype(bfloat16) for n, one in made.items()}, model / "model.safetensors")
    questions = load_questions(MODELS, 4)
    asked = {"old": "fp4", "new": "float32", "also-new": "float32"}
    answers = await answer_questions(tmp_path, questions, asked)
    assert all(set(each) == {one.prompt for one in questions} for each in answers.values())
    assert answers["new"] == answers["also-new"]
    assert answers["old"] != answers["new"]
    assert find_different(answers)
    assert not find_different({"new": answers["new"], "also-new": answers["also-new"]})


async def test_the_compact_model_answers_most_questions_rightly_undisturbed() -> None:
    questions = load_questions(MODELS, 12)
    answers = await answer_questions(MODELS, questions, {"one": "float32"})
    assert measure_accuracy(answers["one"], questions) >= 0.75


async def test_a_worker_that_does_not_start_is_a_sentence_with_its_own_reason(
    tmp_path: Path,
) -> None:
    with pytest.raises(CommandError, match=r"A worker in mx9 does not start: .*compact"):
        await answer_questions(tmp_path, [], {"maia-100": "mx9"})
