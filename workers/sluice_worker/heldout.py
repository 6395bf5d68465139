"""The held-out questions beside a model's weights: `heldout.jsonl`, a question a line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice_worker.errors import CheckpointError

FILE: Final = "heldout.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that training never saw.

    Attributes:
        task: what kind it is.
        prompt: what the user says.
        answer: the right one; "" if the file has none.
    """

    task: str
    prompt: str
    answer: str


def read_questions(model: Path) -> list[Question]:
    """Return the questions of the model in a directory; none if it has no such file.

    Raises:
        CheckpointError: the file cannot be read, or a line of it is no question.
    """
    file = model / FILE
    try:
        entries = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        return [
            Question(str(one["task"]), str(one["prompt"]), str(one.get("answer", "")))
            for one in entries
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} has a line without a task and a prompt") from error
