"""Known answers: prompts whose greedy answers and scores are known, in a file beside the weights.

`record` makes the file; the server hands it out, and answers its prompts through the slot that the
engine keeps free for them. Whoever asks compares: a worker never judges itself.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from sluice_worker.errors import CheckpointError, KnownAnswersError
from sluice_worker.numerics import FLOAT32
from sluice_worker.weightfiles import list_weight_files

FILE: Final = "probes.json"
"""Of answers in the reference numerics; others have files of their own, see `name_file`."""
POSITIONS: Final = 128
"""Most tokens of a known prompt with its answer: what the slot that is kept for them can hold."""
MOST: Final = 64
"""Most known answers of a model: each costs the serving batch a slot's worth of time a round."""
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """What a healthy worker makes of a prompt.

    Attributes:
        prompt: its tokens.
        output: tokens of its greedy answer.
        logprobs: natural log-probabilities of the prompt's tokens after the first, each given those
            before it.
    """

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """The known answers of one model, or why there are none.

    Attributes:
        digest: of the model that is served, see `compute_digest`.
        numerics: name of what it is computed in; answers in other numerics may rightly differ.
        unavailable: a sentence if there are no answers, else "".
        tolerance: how far a healthy worker's log-probabilities may be off, as a mean over those of
            all answers.
    """

    digest: str
    numerics: str
    answers: tuple[KnownAnswer, ...] = ()
    unavailable: str = ""
    tolerance: float = 0.0


def name_file(numerics: str) -> str:
    """Return the name of the file with the answers in these numerics."""
    return FILE if numerics == FLOAT32.name else f"probes.{numerics}.json"


def compute_digest(path: Path) -> str:
    """Return the digest of the model in a directory.

    It is what `sha256sum config.json model.safetensors tokenizer.json | sha256sum` prints there,
    after `sha256:`: everything that an answer depends on but for the arithmetic. In place of
    model.safetensors, a checkpoint in shards has its index and then the shards as they come there.

    Raises:
        KnownAnswersError: a file is missing or cannot be read.
    """
    listing = hashlib.sha256()
    try:
        weights = list_weight_files(path)
    except CheckpointError as error:
        raise KnownAnswersError(str(error)) from error
    for name in ("config.json", *weights, "tokenizer.json"):
        one = hashlib.sha256()
        try:
            with (path / name).open("rb") as file:
                while block := file.read(_BLOCK):
                    one.update(block)
        except OSError as error:
            raise KnownAnswersError(f"cannot read {path / name}: {error.strerror}") from error
        listing.update(f"{one.hexdigest()}  {name}\n".encode())
    return f"sha256:{listing.hexdigest()}"


def load_known_answers(
    path: Path, vocabulary: int, context: int, numerics: str = FLOAT32.name
) -> KnownAnswers:
    """Read the known answers beside the weights; what is wrong with them is told, and stops nobody.

    Args:
        path: directory of the model.
        vocabulary: tokens of the model; an answer with others is none of its answers.
        context: positions of the model; a prompt and its answer have to fit.
        numerics: name of what the worker computes in.

    Raises:
        KnownAnswersError: the model itself cannot be read.
    """
    digest = compute_digest(path)
    file = path / name_file(numerics)
    command = f"sluice model record {path}"
    if numerics != FLOAT32.name:
        command += f" --numerics {numerics}"
    wanted = {"modelDigest": digest, "numerics": numerics}
    try:
        answers, tolerance = _parse(file.read_bytes(), wanted, vocabulary, min(context, POSITIONS))
    except FileNotFoundError:
        why = f"there is no {file}: '{command}' makes it"
    except OSError as error:
        why = f"cannot read {file}: {error.strerror}"
    except KnownAnswersError as error:
        why = f"{file} {error}: '{command}' makes it anew"
    else:
        return KnownAnswers(digest, numerics, answers, tolerance=tolerance)
    return KnownAnswers(digest, numerics, unavailable=why)


def _parse(
    content: bytes, wanted: dict[str, str], vocabulary: int, most: int
) -> tuple[tuple[KnownAnswer, ...], float]:
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise KnownAnswersError("is not JSON") from error
    if not isinstance(document, dict):
        raise KnownAnswersError("is no JSON object")
    for name, own in wanted.items():
        found = document.get(name)
        if found != own:
            raise KnownAnswersError(f"is of {name} {str(found)[:80]!r}; this worker is {own!r}")
    listed = document.get("answers")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST:
        raise KnownAnswersError(f"has no list of 1 to {MOST} answers")
    answers = tuple(_parse_answer(n, one, vocabulary, most) for n, one in enumerate(listed))
    tolerance = document.get("tolerance")
    if not _is_finite(tolerance) or tolerance <= 0:
        raise KnownAnswersError(
            f"has the tolerance {str(tolerance)[:40]}; it must be a number above 0"
        )
    return answers, float(tolerance)


def _parse_answer(number: int, raw: Any, vocabulary: int, most: int) -> KnownAnswer:
    parts = []
    for name in ("prompt", "output"):
        tokens = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(tokens, list) or not tokens:
            raise KnownAnswersError(f"has no tokens in answers[{number}].{name}")
        odd = [one for one in tokens if type(one) is not int or not 0 <= one < vocabulary]
        if odd:
            raise KnownAnswersError(
                f"has {str(odd[0])[:40]} in answers[{number}].{name}; tokens of this model are"
                f" 0 to {vocabulary - 1}"
            )
        parts.append(tuple(tokens))
    prompt, output = parts
    if len(prompt) + len(output) > most:
        raise KnownAnswersError(
            f"has {len(prompt) + len(output)} tokens in answers[{number}]; {most} fit"
        )
    scores = raw.get("logprobs")
    if not isinstance(scores, list) or len(scores) != len(prompt) - 1:
        raise KnownAnswersError(
            f"has no list of {len(prompt) - 1} numbers in answers[{number}].logprobs"
        )
    wrong = [one for one in scores if not _is_finite(one) or one > 0]
    if wrong:
        raise KnownAnswersError(
            f"has {str(wrong[0])[:40]} in answers[{number}].logprobs; log-probabilities are finite"
            " and at most 0"
        )
    return KnownAnswer(prompt, output, tuple(float(one) for one in scores))


def _is_finite(value: Any) -> TypeGuard[float]:
    # JSON's integers have no end; those beyond a float's are no float.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
