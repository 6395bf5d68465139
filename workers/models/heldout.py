"""Writes heldout.jsonl: questions that training never saw, with their answers.

    python workers/models/heldout.py workers/models/compact

The demo, the tests and `evaluate.py` take their questions from this file.
"""

import json
import random
import sys
from pathlib import Path

from tasks import TASKS, draw_items

SEED = 20260601
PER_TASK = 50


def main(out: Path) -> None:
    """Write the file: as many questions of each task, all different."""
    lines = []
    for task in TASKS:
        seen: set[str] = set()
        for item in draw_items(task, random.Random(f"{SEED}:{task}"), held_out=True):
            if item.prompt not in seen:
                seen.add(item.prompt)
                entry = {"task": item.task, "prompt": item.prompt, "answer": item.answer}
                lines.append(json.dumps(entry))
            if len(seen) == PER_TASK:
                break
    (out / "heldout.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
