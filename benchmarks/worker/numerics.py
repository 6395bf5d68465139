"""What narrow numerics cost: time of their emulation, distance from float32, and from themselves.

    python benchmarks/worker/numerics.py speed
    python benchmarks/worker/numerics.py parity
    python benchmarks/worker/numerics.py orders

`speed` times steps of the worker's decoder; rounding in NumPy is emulation, so a device that
computes in these formats gets faster where this gets slower. `parity` compares logits on the
passages of `sluice parity` with float32, with the same numerics summed in other orders, and with a
device that makes a share of its values wrong. `orders` tells how far other orders of summation move
the lead of the likeliest token on the prompts that known answers are chosen from: the margins of
`sluice_worker.record` stand on that.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

# As for a worker: another number of BLAS threads would sum in another order.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from sluice_worker.arithmetic import ORDERS
from sluice_worker.checkpoint import Checkpoint
from sluice_worker.comparison import Logits, compute_logits
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.numerics import NUMERICS
from sluice_worker.parity import (
    LIMITS,
    SAME_LIMITS,
    Limits,
    Parity,
    check_distance,
    judge_checks,
    measure_parity,
)
from sluice_worker.promptset import Passage, read_passages
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
        size = next(iter(decoders.values())).config.vocab_size
        drawn = rng.integers(0, size, (sequences, DEPTH + length)).tolist()
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


def read(decoder: Decoder, passages: Sequence[Passage]) -> Logits:
    """Return what a decoder expects at every position."""
    return compute_logits(decoder, passages, lambda *_: None, "this decoder")


def compare_numerics(
    checkpoint: Checkpoint, names: Sequence[str], passages: Sequence[Passage]
) -> Iterator[dict[str, Any]]:
    """Yield how far numerics are from float32, and disturbed ones from themselves."""
    reference = read(Decoder(checkpoint, kernels=choose_kernels()), passages)
    for name in names:
        decoder = Decoder(checkpoint, NUMERICS[name], kernels=choose_kernels())
        own = read(decoder, passages)
        yield from _describe_cost(name, "nothing", reference, own)
        for order, product in ORDERS.items():
            found = read(Decoder(checkpoint, NUMERICS[name], product), passages)
            yield _describe_same(name, f"order: {order}", reference, own, found)
        for rate in RATES:
            decoder.disturb = Corruption(rate, 1)
            found = read(decoder, passages)
            yield from _describe_cost(name, f"wrong: {rate:g}", reference, found)
            yield _describe_same(name, f"wrong: {rate:g}", reference, own, found)


def _describe_cost(
    name: str, changed: str, reference: Logits, found: Logits
) -> Iterator[dict[str, Any]]:
    for over in ("answers", "everything"):
        parity = measure_parity(reference.choose(over), found.choose(over))
        yield _describe(name, "float32", over, changed, parity, LIMITS[name])


def _describe_same(
    name: str, changed: str, reference: Logits, own: Logits, found: Logits
) -> dict[str, Any]:
    parity = measure_parity(own.rows, found.rows)
    if name != "float32":  # which is its own reference, so that there is nothing to divide by
        ratio = measure_parity(reference.rows, found.rows, own.rows).ratio
        parity = replace(parity, ratio=ratio)
    return _describe(name, "itself", "everything", changed, parity, SAME_LIMITS[name])


def _describe(
    name: str, reference: str, over: str, changed: str, parity: Parity, limits: Limits
) -> dict[str, Any]:
    return {
        "numerics": name,
        "reference": reference,
        "over": over,
        "changed": changed,
        "agreement": parity.agreement,
        "divergence": parity.divergence,
        "entropy": parity.entropy,
        "ratio": "" if parity.ratio is None else parity.ratio,
        "verdict": judge_checks(check_distance(parity, limits)).outcome,
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
            passage, count = Passage((*one.prompt, *one.output)), len(one.output)
            own = read(decoder, [passage]).rows[-count:]
            off = np.stack([read(each, [passage]).rows[-count:] - own for each in others])
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
    parser.add_argument("--every", type=int, default=1, help="so manieth passage, for parity")
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
        config = checkpoint.config
        passages = read_passages(
            MODEL, vocabulary, config.eos_token_id, config.max_position_embeddings
        )
        print_rows(compare_numerics(checkpoint, arguments.numerics, passages[:: arguments.every]))
    else:
        print_rows(move_leads(checkpoint, vocabulary, arguments.numerics))


if __name__ == "__main__":
    main()
