"""Writes heldout.jsonl: questions that training never saw, with their answers.

    python workers/models/heldout.py workers/models/compact

The demo, the tests and `evaluate.py` take their questions from this file. Most prompts are a
question alone; some have solved examples before it, so that lengths spread up to 200 tokens.
"""

import json
import random
import sys
from functools import partial
from pathlib import Path

from tasks import TASKS, Item, draw_items

SEED = 20260601
ALONE = 34
LONG = 7
"""Questions of each task alone, and after examples."""
LONG_RANGE = (60, 200)
"""Lengths of prompts with examples, in tokens; the last is the longest possible."""


def choose_items(task: str) -> list[Item]:
    """Return the questions of one task, all different."""
    rng = random.Random(f"{SEED}:{task}")
    first, last = LONG_RANGE
    spread = [first + (last - first) * step // (LONG - 1) for step in range(LONG)]
    chosen: dict[str, Item] = {}
    for length in [0] * ALONE + spread:
        source = draw_items(task, rng, held_out=True, length=partial(int, length))
        item = next(one for one in source if one.question not in chosen)
        chosen[item.question] = item
    return list(chosen.values())


def main(out: Path) -> None:
    """Write the file."""
    lines = [
        json.dumps({"task": item.task, "prompt": item.prompt, "answer": item.answer})
        for task in TASKS
        for item in choose_items(task)
    ]
    (out / "heldout.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
