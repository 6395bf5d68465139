"""`python -m sluice_worker.speed --model DIR`: how long this machine computes on a step, alone.

An emulated device promises steps of its own length, and this machine has to compute them in time.
What counts is the processor's time of a step at full batch, not how long it took meanwhile: so the
number is right also beside a cluster that is starting.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as a worker has it

import argparse
import json
import sys
import time
from pathlib import Path

from sluice_worker.checkpoint import Checkpoint, load_checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import CheckpointError
from sluice_worker.loading import choose_kernels
from sluice_worker.metrics import Metrics
from sluice_worker.numerics import FLOAT32, NUMERICS, Numerics
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams

PROMPT = 48
"""Tokens of each prompt: contexts of the demo's size. Longer ones take longer."""
MEASURE_SECONDS = 0.25
"""Of processor time, after the prompts; tens of steps."""


def measure_step(
    checkpoint: Checkpoint,
    sequences: int,
    numerics: Numerics = FLOAT32,
    seconds: float = MEASURE_SECONDS,
) -> float:
    """Return the processor seconds of an engine's step in which so many sequences decode."""
    decoder = Decoder(checkpoint, numerics, kernels=choose_kernels())
    context = decoder.config.max_position_embeddings
    prompt = min(PROMPT, context // 2)
    limits = Limits(sequences, batched_tokens=sequences * prompt, waiting=sequences)
    engine = Engine(decoder, limits, Pacer(None), Metrics("speed"), lambda _: None)
    params = SamplingParams(
        temperature=0, top_p=1, seed=0, max_tokens=context - prompt, ignore_eos=True
    )
    for number in range(sequences):
        # No two alike: what they could share would not be computed twice.
        tokens = [(number * prompt + at) % decoder.config.vocab_size for at in range(prompt)]
        engine.submit(tokens, params)
    engine.step()
    engine.step()
    steps, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < seconds and engine.load() == sequences:
        engine.step()
        steps += 1
    return spent / max(1, steps)


def main() -> int:
    """Print one line of JSON; 1 when there is nothing to measure."""
    parser = argparse.ArgumentParser(prog="python -m sluice_worker.speed", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint")
    parser.add_argument("--sequences", type=int, default=8, metavar="N", help="batch (default 8)")
    parser.add_argument(
        "--numerics",
        action="append",
        choices=list(NUMERICS),
        help="again for more; else float32",
    )
    chosen = parser.parse_args()
    if chosen.sequences < 1:
        parser.error(f"--sequences {chosen.sequences}: at least 1 is needed")
    os.nice(10)  # what is counted is processor time: whoever starts beside us goes first
    try:
        checkpoint = load_checkpoint(chosen.model)
    except CheckpointError as error:
        sys.stderr.write(f"nothing was measured: {error}\n")
        return 1
    names = dict.fromkeys(chosen.numerics or [FLOAT32.name])
    found = {name: measure_step(checkpoint, chosen.sequences, NUMERICS[name]) for name in names}
    print(json.dumps({"sequences": chosen.sequences, "stepSeconds": found}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
