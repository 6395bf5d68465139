"""Trains the compact model from nothing, or goes on where an earlier run stopped.

    export PYTHONPATH=workers
    python -m models.training.train --checkpoints DIR --minutes 60
    python -m models.training.train --checkpoints DIR --decay-tokens 8e6 --out OUT

The first command trains at a constant rate and can be given as often as there is time; it saves
every five minutes, and when it is interrupted. The second lets the rate fall to nothing from where
the first stopped, which is worth as much as many hours more, and exports the result; it can be
interrupted too. More of the first after it goes on from before the fall. With `--out` alone, the
mean of the weights so far is exported. DIR lies outside the repository.

Needs the locked requirements of requirements/train.lock; nothing else in the repository needs JAX.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoints", type=Path, required=True, help="state and log are there")
    parser.add_argument("--minutes", type=_read_amount, default=0.0, help="time to train")
    parser.add_argument("--decay-tokens", type=_read_amount, default=0.0, help="let the rate fall")
    parser.add_argument("--out", type=Path, help="export a checkpoint to this directory")
    parser.add_argument(
        "--threads", type=_read_count, default=os.cpu_count(), help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="products in bfloat16")
    parser.add_argument("--speed", action="store_true", help="measure tokens/s, train nothing")
    return parser.parse_args(given)


def _read_amount(text: str) -> float:
    amount = float(text)
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no finite number of at least 0")
    return amount


def _read_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number of at least 1")
    return count


def main() -> None:
    """Train as the command line says, or say why not."""
    arguments = parse_arguments()
    # Both are read when JAX is imported.
    os.environ["NPROC"] = str(arguments.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from models.training import loop  # noqa: PLC0415
    from models.training.state import StateError  # noqa: PLC0415

    plan = loop.Plan(
        directory=arguments.checkpoints,
        seed=arguments.seed,
        seconds=60 * arguments.minutes,
        decay_tokens=int(arguments.decay_tokens),
        half=arguments.bfloat16,
        out=arguments.out,
    )
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        if arguments.speed:
            loop.measure_speed(plan.directory, plan.seed)
        else:
            loop.run(plan)
    except (StateError, FloatingPointError, OSError) as error:
        sys.exit(f"the training ends: {error}")


if __name__ == "__main__":
    main()
