"""What narrow numerics cost: time of their emulation, distance from float32, and from themselves.

    python benchmarks/worker/numerics.py speed
    python benchmarks/worker/numerics.py parity
    python benchmarks/worker/numerics.py orders

`speed` times steps of the worker's decoder; rounding in NumPy is emulation, so a device that
computes in these formats gets faster where this gets slower. `parity` compares the logits of the
compact model's held-out questions and answers with float32, with the same numerics summed in other
orders, and with a device that makes a share of its values wrong. `orders` tells how far other
orders of summation move the lead of the likeliest token on the prompts that known answers are
chosen from: the margins of `sluice_worker.record` stand on that.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# As for a worker: another number of BLAS threads would sum in another order.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from sluice_worker.arithmetic import ORDERS
from sluice_worker.checkpoint import Array, Checkpoint
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.main import choose_kernels, load_model
from sluice_worker.numerics import NUMERICS
from sluice_worker.parity import (
    LIMITS,
    SAME_LIMITS,
    Limits,
    Parity,
    judge_parity,
    measure_parity,
)
from sluice_worker.record import (
    LONGEST_PROMPT,
    MARGINS,
    SHORTEST_OUTPUT,
    answer_prompts,
    draw_prompts,
    read_held_out,
)
from sluice_worker.tokens import Vocabulary

MODEL = Path(__file__).parents[2] / "workers" / "models" / "compact"
STEPS = (("decode, 1 sequence", 1, 1), ("decode, 8 sequences", 8, 1), ("prompt chunk of 16", 1, 16))
DEPTH = 64
"""Positions that are in the cache already when a step is timed."""
RATES = (1e-2, 1e-3, 1e-4)


def time_steps(decoders: dict[str, Decoder], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the median time of each step, ms; numerics take turns, so that all see one machine."""
    rng = np.random.default_rng(1)
    for label, sequences, length in STEPS:
        drawn = rng.integers(0, 261, (sequences, DEPTH + length)).tolist()
        work = {}
        for name, decoder in decoders.items():
            caches = [KeyValueCache(decoder.config, DEPTH + length) for _ in drawn]
            decoder.run([Chunk(p[:DEPTH], 0, c) for p, c in zip(drawn, caches, strict=True)])
            work[name] = [Chunk(p[DEPTH:], DEPTH, c) for p, c in zip(drawn, caches, strict=True)]
        times: dict[str, list[float]] = {name: [] for name in decoders}
        for _ in range(repeats):
            for name, decoder in decoders.items():
                start = time.perf_counter()
                decoder.run(work[name])
                times[name].append(1e3 * (time.perf_counter() - start))
        for name, each in times.items():
            ratio = median(each) / median(times[next(iter(times))])
            yield {"step": label, "numerics": name, "ms": median(each), "of_first": ratio}


def read_questions(vocabulary: Vocabulary, every: int) -> list[list[int]]:
    """Return every so many held-out questions with their answers, as tokens."""
    lines = (MODEL / "heldout.jsonl").read_text().splitlines()[::every]
    return [
        vocabulary.encode_chat([{"role": "user", "content": one["prompt"]}])
        + vocabulary.encode_text(one["answer"])[1:]
        for one in map(json.loads, lines)
    ]


def compute_logits(decoder: Decoder, sequences: Sequence[list[int]]) -> Array:
    """Return the logits (tokens of all sequences, vocabulary)."""
    context = decoder.config.max_position_embeddings
    cache = KeyValueCache(decoder.config, context)
    return np.concatenate([decoder.run_all(Chunk(one, 0, cache)) for one in sequences])


def compare_numerics(
    checkpoint: Checkpoint, names: Sequence[str], sequences: Sequence[list[int]]
) -> Iterator[dict[str, Any]]:
    """Yield how far numerics are from float32, and disturbed ones from themselves."""
    reference = compute_logits(Decoder(checkpoint, kernels=choose_kernels()), sequences)
    for name in names:
        decoder = Decoder(checkpoint, NUMERICS[name], kernels=choose_kernels())
        own = compute_logits(decoder, sequences)
        healthy = None if name == "float32" else own  # the reference has no cost to compare with
        cost = measure_parity(reference, own, healthy)
        yield _describe(name, "float32", "nothing", cost, LIMITS[name])
        for order, product in ORDERS.items():
            found = compute_logits(Decoder(checkpoint, NUMERICS[name], product), sequences)
            same = measure_parity(own, found)
            yield _describe(name, "itself", f"order: {order}", same, SAME_LIMITS[name])
        for rate in RATES:
            decoder.disturb = Corruption(rate, 1)
            found = compute_logits(decoder, sequences)
            cost, same = measure_parity(reference, found, healthy), measure_parity(own, found)
            yield _describe(name, "float32", f"wrong: {rate:g}", cost, LIMITS[name])
            yield _describe(name, "itself", f"wrong: {rate:g}", same, SAME_LIMITS[name])


def _describe(
    name: str, reference: str, changed: str, parity: Parity, limits: Limits
) -> dict[str, Any]:
    return {
        "numerics": name,
        "reference": reference,
        "changed": changed,
        "agreement": parity.agreement,
        "divergence": parity.divergence,
        "entropy": parity.entropy,
        "ratio": "" if parity.ratio is None else parity.ratio,
        "verdict": judge_parity(parity, limits).outcome,
    }


def move_leads(
    checkpoint: Checkpoint, vocabulary: Vocabulary, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield how far other orders move the lead of the likeliest token over any other, logits."""
    prompts = draw_prompts(checkpoint.config.vocab_size, LONGEST_PROMPT)
    prompts += read_held_out(MODEL, vocabulary, LONGEST_PROMPT)
    for name in names:
        decoder = Decoder(checkpoint, NUMERICS[name], kernels=choose_kernels())
        answers = [
            one for one in answer_prompts(decoder, prompts) if len(one.output) >= SHORTEST_OUTPUT
        ]
        others = [Decoder(checkpoint, NUMERICS[name], product) for product in ORDERS.values()]
        moved = []
        for one in answers:
            tokens, count = [[*one.prompt, *one.output[:-1]]], len(one.output)
            own = compute_logits(decoder, tokens)[-count:]
            off = np.stack([compute_logits(each, tokens)[-count:] - own for each in others])
            lead = np.take_along_axis(off, own.argmax(-1)[None, :, None], -1)
            moved.append(float(np.abs(off - lead).max()))
        yield {
            "numerics": name,
            "answers": len(answers),
            "median": median(moved),
            "largest": max(moved),
            "margin": MARGINS[name],
        }


def print_rows(rows: Iterator[dict[str, Any]]) -> None:
    """Print a line a row, as they come, below the names of the columns."""
    for number, row in enumerate(rows):
        if not number:
            print(" | ".join(row))
        words = [f"{one:.4g}" if isinstance(one, float) else str(one) for one in row.values()]
        print(" | ".join(words), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("speed", "parity", "orders"))
    parser.add_argument("--numerics", nargs="+", choices=list(NUMERICS), default=list(NUMERICS))
    parser.add_argument("--repeats", type=int, default=200, help="of each step, for speed")
    parser.add_argument("--every", type=int, default=12, help="so manieth question, for parity")
    arguments = parser.parse_args()
    checkpoint, vocabulary = load_model(MODEL)
    print("compact model; narrow numerics are emulated by rounding")
    if arguments.what == "speed":
        decoders = {
            name: Decoder(checkpoint, NUMERICS[name], kernels=choose_kernels())
            for name in arguments.numerics
        }
        print_rows(time_steps(decoders, arguments.repeats))
    elif arguments.what == "parity":
        questions = read_questions(vocabulary, arguments.every)
        print_rows(compare_numerics(checkpoint, arguments.numerics, questions))
    else:
        print_rows(move_leads(checkpoint, vocabulary, arguments.numerics))


if __name__ == "__main__":
    main()
