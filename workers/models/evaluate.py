"""Measures the compact model on held-out questions, greedily, with the worker's own decoder.

    python workers/models/evaluate.py workers/models/compact --per-task 200

Prints a Markdown table; the model card has it.
"""

import argparse
import random
from functools import partial
from pathlib import Path

from tasks import TASKS, Item, draw_items

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams
from sluice_worker.tokens import Vocabulary

SEED = 20260602


def answer_all(engine: Engine, vocabulary: Vocabulary, prompts: list[str]) -> list[str]:
    """Return the greedy answers."""
    params = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=64)
    asked = [
        engine.submit(vocabulary.encode_chat([{"role": "user", "content": prompt}]), params)
        for prompt in prompts
    ]
    while engine.step():
        pass
    return [vocabulary.decode(one.output) for one in asked]


def measure(engine: Engine, vocabulary: Vocabulary, items: list[Item]) -> float:
    """Return the share of right answers."""
    answers = answer_all(engine, vocabulary, [item.prompt for item in items])
    return sum(a == item.answer for a, item in zip(answers, items, strict=True)) / len(items)


def main() -> None:
    """Print the share of right answers for each task."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--per-task", type=int, default=200)
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.checkpoint)
    vocabulary = Vocabulary(checkpoint.tokenizer)
    limits = Limits(sequences=8, batched_tokens=64, waiting=arguments.per_task)
    engine = Engine(Decoder(checkpoint), limits, Pacer(None), Metrics("m"), lambda _: None)
    print("| task | alone | after examples, up to 200 tokens | up to 300 |\n|---|---|---|---|")
    for task in TASKS:
        rng = random.Random(f"{SEED}:{task}")
        shares = []
        for shortest, longest in ((0, 0), (60, 200), (200, 300)):
            length = partial(rng.randint, shortest, longest)
            source = draw_items(task, rng, held_out=True, length=length)
            items = [next(source) for _ in range(arguments.per_task)]
            shares.append(f"{100 * measure(engine, vocabulary, items):.1f} %")
        print(f"| {task} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
