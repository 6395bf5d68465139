"""How soon known answers catch a device that computes wrongly, by the share of wrong values.

    python benchmarks/corruption.py --rates 1e-1 1e-2 1e-3 1e-4 --rounds 200

Needs no cluster: the worker's decoder answers the prompts of the committed probes.json in this
process, disturbed by the worker's own model of a faulty device, and the operator's own comparison
judges each round. From the share of rounds that catch a rate follow the times, at the period in
which classes ask by default. Emulated devices: real ones may err in other ways.
"""

import argparse
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As for a worker: another number of BLAS threads would sum in another order.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from sluice.api.accelerator import KnownAnswerProbes
from sluice.devcluster.images import find_models
from sluice.observe.rounds import Round
from sluice_worker.corruption import Corruption
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.knownanswers import (
    POSITIONS,
    KnownAnswer,
    KnownAnswers,
    load_known_answers,
    name_file,
)
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.numerics import NUMERICS
from sluice_worker.scores import score_tokens

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
SURE = 0.95
Z = 1.96
"""Of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What became of the rounds at one rate.

    Attributes:
        prompts: how often a round was wrong at the answer to the prompt with this index.
    """

    rate: float
    rounds: int
    prompts: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of rounds with a wrong answer."""
        return sum(self.prompts) / self.rounds


def answer(decoder: Decoder, known: KnownAnswer) -> tuple[list[int], list[float]]:
    """Answer a known prompt greedily, up to the first wrong token, and score its own tokens."""
    cache = KeyValueCache(decoder.config, POSITIONS)
    rows = decoder.run_all(Chunk(known.prompt, 0, cache))
    scores = score_tokens(rows[:-1], known.prompt[1:], 0)
    output = [int(rows[-1].argmax())]
    while len(output) < len(known.output) and output[-1] == known.output[len(output) - 1]:
        place = len(known.prompt) + len(output) - 1
        row = decoder.run([Chunk(output[-1:], place, cache)])[0]
        output.append(int(row.argmax()))
    return output, [one.logprob for one in scores]


def find_wrong(decoder: Decoder, known: KnownAnswers, tolerance: float | None) -> int | None:
    """Run a round; return the index of the prompt that it was wrong at, None if it was right."""
    judged = Round(known.answers, tolerance)
    for number, one in enumerate(known.answers):
        if judged.judge(*answer(decoder, one)):
            return number
    return None


def count_caught(
    decoder: Decoder,
    known: KnownAnswers,
    tolerance: float | None,
    rate: float,
    rounds: int,
    seed: int,
) -> Caught:
    """Ask all prompts in so many rounds; a round ends as soon as it is wrong.

    As in a worker, the fault goes on from one prompt and round to the next.
    """
    decoder.disturb = Corruption(rate, seed)
    prompts = [0] * len(known.answers)
    for _ in range(rounds):
        first = find_wrong(decoder, known, tolerance)
        if first is not None:
            prompts[first] += 1
    decoder.disturb = None
    return Caught(rate, rounds, tuple(prompts))


def find_bounds(caught: Caught) -> tuple[float, float]:
    """Return the 95 % interval of the share of rounds that catch (Wilson, 1927)."""
    n, share = caught.rounds, caught.share
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def expect_seconds(share: float, period: float) -> float:
    """Return the mean time from a fault to its catch; it begins anywhere within a period."""
    return period * (1 / share - 0.5) if share > 0 else math.inf


def find_sure_seconds(share: float, period: float) -> float:
    """Return within which time 95 % are caught, of faults that begin just after a round."""
    if share >= SURE:
        return period
    return period * math.ceil(math.log(1 - SURE) / math.log1p(-share)) if share > 0 else math.inf


def describe(caught: Caught, period: float) -> dict[str, Any]:
    """Return the row of one rate; times in seconds, None for what no round has caught."""
    low, high = find_bounds(caught)
    times = {
        "expected_s": expect_seconds(caught.share, period),
        "within_95_s": find_sure_seconds(caught.share, period),
        "within_95_s_at_low_share": find_sure_seconds(low, period),
    }
    return {
        "rate": caught.rate,
        "rounds": caught.rounds,
        "caught": sum(caught.prompts),
        "share": round(caught.share, 4),
        "share_95": [round(low, 4), round(high, 4)],
        **{name: round(s, 1) if math.isfinite(s) else None for name, s in times.items()},
        "first_wrong_by_prompt": list(caught.prompts),
    }


def print_table(rows: list[dict[str, Any]], period: float) -> None:
    """Print a line a rate."""
    print(f"known answers every {period:g} s (emulated devices)")
    heads = ("rounds caught", "share (95 %)", "mean", "95 %")
    print(f"{'wrong values':>12} {heads[0]:>14} {heads[1]:>22} {heads[2]:>10} {heads[3]:>10}")
    for row in rows:
        low, high = row["share_95"]
        share = f"{row['share']:.3f} ({low:.3f}-{high:.3f})"
        caught = f"{row['caught']} of {row['rounds']}"
        mean, sure = (_word_seconds(row[key]) for key in ("expected_s", "within_95_s"))
        print(f"{row['rate']:>12g} {caught:>14} {share:>22} {mean:>10} {sure:>10}")


def _word_seconds(value: float | None) -> str:
    return "never seen" if value is None else f"{value:.0f} s"


def measure(
    models: Path, numerics: str, rates: list[float], rounds: int, seed: int, *, tokens_only: bool
) -> list[Caught]:
    """Return what became of each rate, after a round without a fault that must be right.

    Raises:
        SystemExit: there are no known answers, or a healthy decoder does not give them.
    """
    checkpoint, _ = load_model(models)
    decoder = Decoder(checkpoint, NUMERICS[numerics], kernels=choose_kernels())
    config = decoder.config
    known = load_known_answers(models, config.vocab_size, config.max_position_embeddings, numerics)
    if known.unavailable:
        raise SystemExit(known.unavailable)
    tolerance = None if tokens_only else known.tolerance
    if find_wrong(decoder, known, tolerance) is not None:
        file = models / name_file(numerics)
        raise SystemExit(f"This machine computes other answers than those of {file}.")
    return [count_caught(decoder, known, tolerance, rate, rounds, seed) for rate in rates]


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--period", type=float, default=KnownAnswerProbes().period)
    parser.add_argument("--numerics", choices=list(NUMERICS), default="float32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--tokens-only", action="store_true", help="judge as if the list had no scores"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not all(0 < rate <= 1 for rate in arguments.rates) or arguments.rounds < 1:
        parser.error("rates must be above 0 and at most 1, rounds at least 1")
    models = (find_models() or Path("workers/models")) / "compact"
    found = measure(
        models,
        arguments.numerics,
        arguments.rates,
        arguments.rounds,
        arguments.seed,
        tokens_only=arguments.tokens_only,
    )
    rows = [describe(one, arguments.period) for one in found]
    print_table(rows, arguments.period)
    if arguments.json:
        document = {
            "notice": "emulated devices",
            "numerics": arguments.numerics,
            "tokens_only": arguments.tokens_only,
            "period_s": arguments.period,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
