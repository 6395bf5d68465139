"""Makes `probes.json`: `python -m sluice_worker.record --model DIR`, or `sluice model record DIR`.

It answers short prompts on this machine, greedily, and keeps a few whose answers nothing but a
fault could change: at every token the likeliest leads by the numerics' margin at least, and sums in
other orders give the same tokens. Of those it takes the ones that lead by least, as they are the
first to change when values are wrong. With each it keeps how likely the prompt's own tokens were,
and with all of them how far another order of summation may move that. They are held-out prompts of
the model; where it has too few, tokens drawn by chance take their place: the model is unsure about
those, so that other orders move their scores several times as far, and faults no further. Run it on
a machine that is known to be good: a fault of this one would be recorded as right.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

# As for a worker: another number of BLAS threads would sum in another order.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click
import numpy as np

from sluice_worker.arithmetic import ORDERS
from sluice_worker.checkpoint import Array
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import CheckpointError, KnownAnswersError, RequestError
from sluice_worker.heldout import FILE as HELD_OUT
from sluice_worker.heldout import read_questions
from sluice_worker.knownanswers import MOST, compute_digest, name_file
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.numerics import FLOAT32, NUMERICS
from sluice_worker.scores import score_tokens
from sluice_worker.tokens import Vocabulary

MARGINS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "float32": 0.05,
        "bfloat16": 0.4,
        "mx9": 0.8,
        "fp8-row": 4.5,
        "fp8-block": 4.5,
        "mx6": 7.5,
        "fp4": 10.5,
    }
)
"""Least lead of each output token over the next likely one, in logits, by numerics.

Other CPUs and BLAS kernels sum in another order. Measured on the compact model, over its short
held-out prompts and a hundred drawn ones in each of `ORDERS` (`benchmarks/worker/numerics.py
orders`), that moved a lead by 0.00006 at most in float32, and because sums fall on other sides of
rounding edges by 0.15 in bfloat16, 0.35 in mx9, 1.9 in fp8-row, 1.5 in fp8-block, 3.2 in mx6 and
5.5 in fp4. A margin is about twice that and more; in float32 it is hundreds of times as much.
"""
LONGEST_PROMPT: Final = 24
SHORTEST_OUTPUT: Final = 4
LONGEST_OUTPUT: Final = 8
"""Tokens: a round has to be cheap for the serving batch that it runs beside."""
COUNT: Final = 4
DIGITS: Final = 4
"""Of a log-probability in the file."""
SAFETY: Final = 2.0
"""How many times the largest mean difference that an order of summation made to any round a healthy
device may show; or as much as the largest that one made to a single prompt, if that is more.

The latter is for jumps: in the formats of 4 to 9 bits a sum falls on the other side of an edge now
and then, and few rounds are no measure of that; hence `LEAST_TOLERANCES` too.
"""
LEAST_TOLERANCES: Final[Mapping[str, float]] = MappingProxyType(
    {
        "float32": 0.001,
        "bfloat16": 0.015,
        "mx9": 0.03,
        "fp8-row": 0.1,
        "fp8-block": 0.05,
        "mx6": 0.4,
        "fp4": 0.3,
    }
)
"""Least tolerance by numerics: 1.7 to 2.8 times the most that kernels for other processors made of
rounds of four of 146 held-out prompts of the compact model (Haswell and Nehalem against SkylakeX:
0.006 in bfloat16, which is 2.5 times; 0.013 in mx9, 2.3; 0.056 in fp8-row, 1.8; 0.018 in fp8-block,
2.8; 0.24 in mx6, 1.7). In fp4 they made 0.03, and orders that no kernel has 0.3: that much is the
least there, with nothing on top. In float32, where orders move a score by a hundred-thousandth, 20
times what the file rounds off."""
_MADE: Final = 100
"""Prompts drawn by chance, to choose from."""
_ROUNDS: Final = 50
"""Rounds of other prompts that tell how far orders of summation move scores: a round is few."""


@dataclass(slots=True)
class Candidate:
    """A prompt with its greedy answer.

    Attributes:
        task: what it asks for, "" if it was drawn by chance.
        margin: least lead of an output token over the next likely one, in logits.
    """

    task: str
    prompt: list[int]
    output: list[int]
    margin: float


def record_known_answers(path: Path, count: int, numerics: str = FLOAT32.name) -> dict[str, Any]:
    """Return what the file of a model's known answers in these numerics should say.

    Raises:
        CheckpointError: there is no model, or none that this decoder runs.
        KnownAnswersError: no prompt has an answer that is clear enough, or the held-out ones cannot
            be read.
    """
    checkpoint, vocabulary = load_model(path)
    decoder = Decoder(checkpoint, NUMERICS[numerics], kernels=choose_kernels())
    # The first is what a worker without kernels has.
    orders: list[Any] = [np.matmul, *ORDERS.values()]
    others = [Decoder(checkpoint, NUMERICS[numerics], order) for order in orders]
    longest = max(1, min(LONGEST_PROMPT, decoder.config.max_position_embeddings // 2))
    prompts = {
        "drawn": draw_prompts(decoder.config.vocab_size, longest),
        "held out": read_held_out(path, vocabulary, longest),
    }
    found = {
        kind: _find_clear(decoder, each, MARGINS[numerics], others)
        for kind, each in prompts.items()
    }
    held_out = list(islice(found["held out"], count))
    chosen = [*held_out, *islice(found["drawn"], count - len(held_out))]
    if not chosen:
        raise KnownAnswersError(
            f"no answer of {path} to a short prompt has {SHORTEST_OUTPUT} tokens that lead by"
            f" {MARGINS[numerics]} logits each: there is nothing to know this model by"
        )
    scores = score_prompts(decoder, [one.prompt for one in chosen])
    answers = [
        {
            "prompt": one.prompt,
            "output": one.output,
            # A rounded -0.0 and 0.0 are 0.0 together.
            "logprobs": [round(score, DIGITS) + 0.0 for score in own],
            "task": one.task,
            "margin": round(one.margin, 3),
        }
        for one, own in zip(chosen, scores, strict=True)
    ]
    rounds = _make_rounds(chosen, *prompts.values())
    round_off, prompt_off = measure_noise(decoder, others, rounds)
    tolerance = max(LEAST_TOLERANCES[numerics], SAFETY * round_off, prompt_off)
    return {
        "modelDigest": compute_digest(path),
        "numerics": numerics,
        "minimumMargin": MARGINS[numerics],
        "tolerance": _round_up(tolerance),
        "answers": answers,
    }


def read_held_out(path: Path, vocabulary: Vocabulary, longest: int) -> list[tuple[str, list[int]]]:
    """Return task and tokens of the model's held-out prompts that are short enough.

    Raises:
        CheckpointError: they cannot be read.
        KnownAnswersError: one is no text.
    """
    try:
        prompts = [
            (one.task, vocabulary.encode_chat([{"role": "user", "content": one.prompt}]))
            for one in read_questions(path)
        ]
    except RequestError as error:
        raise KnownAnswersError(f"{path / HELD_OUT} has a prompt that is no text") from error
    return [(task, tokens) for task, tokens in prompts if len(tokens) <= longest]


def draw_prompts(vocabulary: int, length: int) -> list[tuple[str, list[int]]]:
    """Return prompts of tokens drawn by chance, always the same; their task is ""."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, vocabulary, (_MADE, length))
    return [("", [int(token) for token in prompt]) for prompt in drawn]


def answer_prompts(decoder: Decoder, prompts: list[tuple[str, list[int]]]) -> list[Candidate]:
    """Answer prompts greedily, side by side: it takes less time and changes no bit of an answer.

    Raises:
        KnownAnswersError: there is an infinity or no number among the logits.
    """
    context = decoder.config.max_position_embeddings
    positions = min(context, LONGEST_PROMPT + LONGEST_OUTPUT)
    answers = [Candidate(task, prompt, [], float("inf")) for task, prompt in prompts]
    caches = [KeyValueCache(decoder.config, positions) for _ in prompts]
    chunks = {
        number: Chunk(prompt, 0, caches[number]) for number, (_, prompt) in enumerate(prompts)
    }
    while chunks:
        rows = decoder.run(list(chunks.values()))
        if not np.isfinite(rows).all():
            raise KnownAnswersError(
                "the logits are not finite: this model cannot be computed in these numerics"
            )
        following = {}
        for number, row in zip(chunks, rows, strict=True):
            token = _take(answers[number], row, decoder.config.eos_token_id)
            place = len(answers[number].prompt) + len(answers[number].output)
            if token is not None and place < context:
                following[number] = Chunk([token], place - 1, caches[number])
        chunks = following
    return answers


def score_prompts(decoder: Decoder, prompts: Sequence[list[int]]) -> list[list[float]]:
    """Return the natural log-probabilities of each prompt's tokens after its first."""
    chunks = [
        Chunk(prompt, 0, KeyValueCache(decoder.config, len(prompt)), every=True)
        for prompt in prompts
    ]
    rows = zip(decoder.run_asked(chunks), prompts, strict=True)
    return [[one.logprob for one in score_tokens(r[:-1], p[1:], 0)] for r, p in rows]


def _make_rounds(
    chosen: list[Candidate],
    drawn: list[tuple[str, list[int]]],
    held_out: list[tuple[str, list[int]]],
) -> list[list[list[int]]]:
    """Return the chosen prompts, and rounds of others, each with as many of either kind."""
    size = sum(not one.task for one in chosen)
    pools = [(each, n) for each, n in ((drawn, size), (held_out, len(chosen) - size)) if n]
    count = min(_ROUNDS, *(len(pool) // n for pool, n in pools))
    rounds = [[one.prompt for one in chosen]]
    for number in range(count):
        # In strides, for held-out prompts of a task stand together.
        parts = [pool[number::count][:n] for pool, n in pools]
        rounds.append([prompt for part in parts for _, prompt in part])
    return rounds


def measure_noise(
    decoder: Decoder, others: Sequence[Decoder], rounds: Sequence[list[list[int]]]
) -> tuple[float, float]:
    """Return the largest mean difference that other decoders make to a round, and to a prompt."""
    round_off = prompt_off = 0.0
    for prompts in rounds:
        own = score_prompts(decoder, prompts)
        for other in others:
            pairs = zip(own, score_prompts(other, prompts), strict=True)
            off = [np.abs(np.subtract(*pair)) for pair in pairs if pair[0]]
            if off:
                round_off = max(round_off, float(np.concatenate(off).mean()))
                prompt_off = max(prompt_off, *(float(each.mean()) for each in off))
    return round_off, prompt_off


def _round_up(tolerance: float) -> float:
    """Return it in two digits, and never less than was measured."""
    # By its shortest decimals: 0.001 has more than that in binary, and would become 0.0011.
    context = Context(prec=2, rounding=ROUND_CEILING)
    return float(context.plus(Decimal(str(tolerance))))


def _take(answer: Candidate, row: Array, end: int) -> int | None:
    """Add the likeliest token; None if the answer ends here. The end token is not part of it."""
    second, first = np.partition(row, -2)[-2:]
    token = int(np.argmax(row))
    if token == end:
        return None
    answer.margin = min(answer.margin, float(first - second))
    answer.output.append(token)
    return token if len(answer.output) < LONGEST_OUTPUT else None


def _find_clear(
    decoder: Decoder,
    prompts: list[tuple[str, list[int]]],
    margin: float,
    others: list[Decoder],
) -> Iterator[Candidate]:
    """Yield the clear answers, in turn of each task the one first that a fault changes first."""
    answers = answer_prompts(decoder, prompts)
    clear = [a for a in answers if a.margin >= margin and len(a.output) >= SHORTEST_OUTPUT]
    turns: dict[str, int] = {}
    ranked = []
    for one in sorted(clear, key=lambda each: each.margin):
        turns[one.task] = turns.get(one.task, 0) + 1
        ranked.append((turns[one.task], one.margin, one))
    for *_, one in sorted(ranked, key=lambda entry: entry[:2]):
        if all(_agrees(other, one) for other in others):
            yield one


def _agrees(decoder: Decoder, answer: Candidate) -> bool:
    """Tell whether another decoder answers the same."""
    tokens = [*answer.prompt, *answer.output[:-1]]
    cache = KeyValueCache(decoder.config, len(tokens))
    logits = decoder.run_all(Chunk(tokens, 0, cache))
    return [int(token) for token in logits[-len(answer.output) :].argmax(-1)] == answer.output


def write_document(document: dict[str, Any], file: Path) -> None:
    """Write JSON, a line an answer, so that no reader ever sees half of it.

    Raises:
        KnownAnswersError: the directory does not take it.
    """
    lines = ",\n".join(f"  {json.dumps(one)}" for one in document["answers"])
    head = "".join(f' "{k}": {json.dumps(v)},\n' for k, v in document.items() if k != "answers")
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(f'{{\n{head} "answers": [\n{lines}\n ]\n}}\n')
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise KnownAnswersError(f"cannot write {file}: {error.strerror}") from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Its directory.")
@click.option(
    "--count",
    default=COUNT,
    show_default=True,
    type=click.IntRange(min=1, max=MOST),
    help="Known answers, at most.",
)
@click.option(
    "--numerics",
    default=FLOAT32.name,
    show_default=True,
    type=click.Choice(list(NUMERICS)),
    help="What workers compute in that are asked for these answers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the file's content.")
def main(*, model: Path, count: int, numerics: str, as_json: bool) -> None:
    """Record what a model answers to a few short prompts, on this machine."""
    try:
        document = record_known_answers(model, count, numerics)
        write_document(document, model / name_file(numerics))
    except (CheckpointError, KnownAnswersError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    answers = document["answers"]
    tasks = ", ".join(sorted({one["task"] or "drawn" for one in answers}))
    click.echo(
        f"{model / name_file(numerics)} has {len(answers)} known answers ({tasks}) of model"
        f" {document['modelDigest'][:19]}… in {numerics}; every token leads by"
        f" {min(one['margin'] for one in answers):g} logits or more, and scores of the prompts may"
        f" be off by {document['tolerance']:g} on average."
    )


if __name__ == "__main__":
    main()
