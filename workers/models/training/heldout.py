"""Writes heldout.jsonl: questions that training never saw, with their answers.

    python -m models.training.heldout workers/models/compact

The demo and the tests take their questions from this file. Each line tells how many tokens the
question has as a chat (`tokens`) and how many its answer (`answerTokens`), so that whoever follows
a trace of lengths needs no tokenizer. Of each task the questions are spread over all lengths that
it has.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from models.training.packing import count_tokens, encode_item
from models.training.tasks import TASKS, draw_items

SEED: Final = 20270103
_DRAWN: Final = 200
_CHOSEN: Final = 20
"""Questions of each task: drawn, and chosen of those."""


def choose_items(task: str, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return lines for the questions of one task, shortest first."""
    lines = []
    for item in draw_items(task, random.Random(f"{SEED}:{task}"), _DRAWN):
        turn = encode_item(tokenizer, item)
        answered = len(turn[1])
        asked = count_tokens(turn) - answered
        line: dict[str, Any] = {"task": task, "prompt": item.prompt, "answer": item.answer}
        lines.append(line | {"tokens": asked, "answerTokens": answered})
    lines.sort(key=lambda line: (line["tokens"], line["prompt"]))
    shortest, longest = lines[0]["tokens"], lines[-1]["tokens"]
    chosen = []
    for place in range(_CHOSEN):
        # Evenly over the lengths, not over the questions: most have about the same.
        wanted = shortest + (longest - shortest) * place / (_CHOSEN - 1)
        best = min(lines, key=lambda line: abs(line["tokens"] - wanted))
        lines.remove(best)
        chosen.append(best)
    return sorted(chosen, key=lambda line: (line["tokens"], line["prompt"]))


def write_held_out(out: Path) -> None:
    """Write the file beside the tokenizer."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    lines = [json.dumps(line) for task in TASKS for line in choose_items(task, tokenizer)]
    (out / "heldout.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_held_out(Path(sys.argv[1]))
