"""What the demo holds answers against: real workers, one for each kind of numerics."""

from pathlib import Path

import pytest

from sluice.cli.demo.prompts import load_questions
from sluice.cli.demo.reference import answer_questions, find_different, measure_accuracy
from sluice.cli.errors import CommandError

MODELS = Path("workers/models")


async def test_each_class_is_answered_for_in_its_own_numerics() -> None:
    questions = load_questions(MODELS, 12)
    asked = {"old": "fp4", "new": "float32", "also-new": "float32"}
    answers = await answer_questions(MODELS, questions, asked)
    assert all(set(each) == {one.prompt for one in questions} for each in answers.values())
    assert answers["new"] == answers["also-new"]
    assert answers["old"] != answers["new"]
    assert find_different(answers)
    assert not find_different({"new": answers["new"], "also-new": answers["also-new"]})
    assert measure_accuracy(answers["new"], questions) >= 0.5


async def test_a_worker_that_does_not_start_is_a_sentence_with_its_own_reason(
    tmp_path: Path,
) -> None:
    with pytest.raises(CommandError, match=r"A worker in mx9 does not start: .*compact"):
        await answer_questions(tmp_path, [], {"maia-100": "mx9"})
