"""Compares two accelerator classes: `python -m sluice_worker.comparison`, or `sluice parity`.

Each class is a name and numerics. Both read the passages of `promptset`, as float32 does, and:

- **cost**: how far is each from float32 on right answers, and how many of them does it lose?
- **pair**: how far are the two from each other there?
- **device**: does each compute as its numerics say, on everything? A healthy one is the same
  numerics summed in another order. Only this finds small faults of narrow numerics, and only where
  the model is unsure; if it nowhere is, the gate is blind.
- **told**: the cost on everything, with no bound: docs/numerics.md says why.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

# As for a worker: another number of BLAS threads would sum in another order.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click
import numpy as np
from numpy.typing import NDArray

from sluice_worker.arithmetic import multiply_in_parts
from sluice_worker.checkpoint import Array
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import CheckpointError, KnownAnswersError
from sluice_worker.knownanswers import compute_digest
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.numerics import FLOAT32, NUMERICS
from sluice_worker.parity import (
    LIMITS,
    SAME_LIMITS,
    Check,
    Parity,
    check_distance,
    check_score,
    check_sight,
    judge_checks,
    measure_parity,
    widen_limits,
)
from sluice_worker.promptset import Passage, read_passages

EMULATED: Final = "numerics are emulated: rounded on this machine's CPU; no accelerator was asked"
_SEED: Final = 1
"""Of corruption: the same command makes the same mistakes."""

Note = Callable[[str, int, int], None]
"""Takes what is being computed, how many passages are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Side:
    """Who is compared.

    Attributes:
        name: of the class.
        numerics: what it computes in, one of `NUMERICS`.
        corruption: share of the values that its devices make wrong, to see what the gate sees.
    """

    name: str
    numerics: str
    corruption: float = 0.0


@dataclass(frozen=True, slots=True)
class Logits:
    """What somebody expects at every position, with what was right.

    Attributes:
        rows: (positions, vocabulary) of all passages.
        answers: which positions are asked for a token of a right answer.
        right: whether each question is answered rightly: greedily, exactly with this answer.
    """

    rows: Array
    answers: NDArray[np.bool_]
    right: NDArray[np.bool_]

    def choose(self, over: str) -> Array:
        """Return the rows of answers, or all of them."""
        return self.rows[self.answers] if over == "answers" else self.rows


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; the module's docstring lists the kinds.

    Attributes:
        of: name of the class that is judged.
        against: what it is compared with.
        over: which positions.
        parity: what was measured.
        right: questions that it answers rightly; None if that was not asked.
        checks: each measure against its bound; none if there is no bound.
    """

    kind: Literal["cost", "pair", "device", "told"]
    of: str
    against: str
    over: Literal["answers", "everything"]
    parity: Parity
    right: int | None = None
    checks: list[Check] = field(default_factory=list)


def compare_sides(model: Path, sides: Sequence[Side], note: Note) -> dict[str, Any]:
    """Compare two classes on a model.

    Args:
        model: directory of its checkpoint.
        sides: two of them.
        note: is told how far it is.

    Returns:
        What was compared, every comparison with its checks, the outcome and the reasons for it.

    Raises:
        CheckpointError: the model cannot be loaded, or has no questions.
        KnownAnswersError: its files cannot be read.
    """
    begun = time.monotonic()
    checkpoint, vocabulary = load_model(model)
    config = checkpoint.config
    passages = read_passages(model, vocabulary, config.eos_token_id, config.max_position_embeddings)
    kernels = choose_kernels()
    reference = compute_logits(Decoder(checkpoint, kernels=kernels), passages, note, "float32")
    rows, devices = [], []
    for side in sides:
        device = Decoder(checkpoint, NUMERICS[side.numerics], kernels=kernels)
        if side.corruption:
            device.disturb = Corruption(side.corruption, _SEED)
        called = f"{side.name} ({side.numerics})"
        devices.append(compute_logits(device, passages, note, called))
        other = Decoder(checkpoint, NUMERICS[side.numerics], multiply_in_parts)
        healthy = compute_logits(other, passages, note, f"{called}, summed in another order")
        rows += judge_side(side, reference, devices[-1], healthy)
    rows.append(_judge_pair(sides, reference, devices))
    sight = check_sight(measure_parity(reference.rows, reference.rows))
    verdict = judge_checks([sight, *(_name(one, row) for row in rows for one in row.checks)])
    return {
        "model": {"path": str(model), "digest": compute_digest(model)},
        "prompts": {
            "questions": len(reference.right),
            "tasks": list(dict.fromkeys(one.task for one in passages if one.task)),
            "texts": sum(not one.task for one in passages),
            "positions": len(reference.rows),
            "answerPositions": int(reference.answers.sum()),
            "entropy": sight.value,
            "leastEntropy": sight.bound,
            "right": int(reference.right.sum()),
        },
        "classes": [asdict(side) for side in sides],
        "comparisons": [_describe(row) for row in rows],
        "outcome": verdict.outcome,
        "reasons": list(verdict.reasons),
        "about": EMULATED,
        "seconds": round(time.monotonic() - begun, 1),
    }


def compute_logits(
    decoder: Decoder, passages: Sequence[Passage], note: Note, called: str
) -> Logits:
    """Read all passages, each by itself.

    Args:
        decoder: who reads.
        passages: what.
        note: is told how far it is.
        called: what `note` calls it.

    Raises:
        CheckpointError: there is an infinity or no number among the logits.
    """
    rows, answers, right = [], [], []
    for number, passage in enumerate(passages):
        note(called, number, len(passages))
        cache = KeyValueCache(decoder.config, passage.positions)
        logits = decoder.run_all(Chunk(passage.tokens[:-1], 0, cache))
        rows.append(logits)
        first = passage.positions - passage.answer
        asked = np.arange(passage.positions) >= (first if passage.answer else passage.positions)
        answers.append(asked)
        if passage.answer:
            wanted = np.asarray(passage.tokens[-passage.answer :])
            right.append(bool((logits[first:].argmax(-1) == wanted).all()))
    note(called, len(passages), len(passages))
    found = np.concatenate(rows)
    if not np.isfinite(found).all():
        raise CheckpointError(
            f"{called} has logits that are not finite: this model cannot be computed in it"
        )
    return Logits(found, np.concatenate(answers), np.asarray(right, np.bool_))


def judge_side(side: Side, reference: Logits, device: Logits, healthy: Logits) -> list[Row]:
    """Return what numerics cost a class, and whether it computes as they say."""
    limits = LIMITS[side.numerics]
    cost = _measure(reference, device, "answers")
    score = check_score(reference.right, device.right, limits)
    checks = [*check_distance(cost, limits), *([score] if score else [])]
    # Of the same numerics twice, so that the reference is one of them; float32 makes the ratio.
    same = measure_parity(healthy.rows, device.rows)
    ratio = measure_parity(reference.rows, device.rows, healthy.rows).ratio
    same = replace(same, ratio=ratio)
    told = _measure(reference, device, "everything")
    return [
        Row("cost", side.name, FLOAT32.name, "answers", cost, int(device.right.sum()), checks),
        Row(
            "device",
            side.name,
            f"healthy {side.numerics}",
            "everything",
            same,
            None,
            check_distance(same, SAME_LIMITS[side.numerics]),
        ),
        Row("told", side.name, FLOAT32.name, "everything", told),
    ]


def _judge_pair(sides: Sequence[Side], reference: Logits, devices: Sequence[Logits]) -> Row:
    """Return how far the classes are from each other; the one nearer to float32 is the measure."""
    near, far = sorted(devices, key=lambda one: _measure(reference, one, "answers").divergence)
    parity = _measure(near, far, "answers")
    limits = widen_limits(*(LIMITS[side.numerics] for side in sides))
    checks = check_distance(parity, limits)
    return Row("pair", sides[0].name, sides[1].name, "answers", parity, None, checks)


def _measure(reference: Logits, device: Logits, over: str) -> Parity:
    return measure_parity(reference.choose(over), device.choose(over))


def _name(check: Check, row: Row) -> Check:
    """Return a check whose reason says what was compared."""
    told = f"{row.of} against {row.against}, {row.over}: {check.reason}" if check.reason else ""
    return replace(check, reason=told)


def _describe(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "of": row.of,
        "against": row.against,
        "over": row.over,
        "positions": row.parity.positions,
        "agreement": row.parity.agreement,
        "divergence": _finite(row.parity.divergence),
        "ratio": _finite(row.parity.ratio),
        "right": row.right,
        "checks": [asdict(one) | {"value": _finite(one.value)} for one in row.checks],
        "outcome": judge_checks(row.checks).outcome if row.checks else None,
    }


def _finite(value: float | None) -> float | None:
    """Return None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None


def _read_sides(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[Side, ...]:
    """Return the sides that are written as NAME=NUMERICS or NAME=NUMERICS:RATE."""
    sides = []
    for one in given:
        name, _, rest = one.partition("=")
        numerics, _, rate = rest.partition(":")
        if numerics not in NUMERICS:
            told = f"'{numerics}' are no numerics; there are {', '.join(NUMERICS)}"
            raise click.BadParameter(told, context, parameter)
        try:
            corruption = float(rate or 0)
        except ValueError:
            corruption = math.nan
        if not 0 <= corruption <= 1:
            told = f"'{rate}' is no share of values; it should be 0 to 1"
            raise click.BadParameter(told, context, parameter)
        sides.append(Side(name, numerics, corruption))
    if len(sides) != 2:  # noqa: PLR2004
        raise click.BadParameter(f"there are {len(sides)}; two are compared", context, parameter)
    return tuple(sides)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Its directory.")
@click.option(
    "--side",
    "sides",
    callback=_read_sides,
    multiple=True,
    required=True,
    metavar="NAME=NUMERICS[:RATE]",
    help="Who is compared, twice; RATE is the share of the values that its devices make wrong.",
)
def main(*, model: Path, sides: tuple[Side, ...]) -> None:
    """Compare two classes; print lines of JSON: the progress, and in the end the result."""

    def note(called: str, done: int, total: int) -> None:
        click.echo(json.dumps({"step": called, "done": done, "total": total}))

    try:
        found = compare_sides(model, sides, note)
    except (CheckpointError, KnownAnswersError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    click.echo(json.dumps({"result": found}, allow_nan=False))


if __name__ == "__main__":
    main()
