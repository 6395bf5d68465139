"""Makes the compact model's tokenizer: byte-level BPE, trained on the texts of the tasks.

    python -m models.training.tokenizer DIR      (writes DIR/tokenizer.json)

Each digit is a token of its own, and so is each space before one, so numbers have the same form
wherever they stand. Capitals inside words never follow each other in the texts it is trained on
(`reverse` is left out), so a word in capitals is a row of single letters.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from models.training.layout import SPECIAL, VOCABULARY
from models.training.tasks import TASKS, draw_item

SEED: Final = 1
_TEXTS: Final = {
    "copy": 400,
    "find": 330,
    "json": 600,
    "facts": 720,
    "sort": 200,
    "add": 200,
    "subtract": 200,
    "convert": 1000,
    "date": 1600,
    "story": 600,
}
"""Questions of each task in what the tokenizer is trained on: words of all shall become tokens."""


def draw_texts() -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on; none is held out."""
    rng = random.Random(SEED)
    for task, count in _TEXTS.items():
        for _ in range(count):
            item = draw_item(task, rng, held_out=False)
            yield item.prompt
            yield item.answer


def train_tokenizer() -> dict[str, Any]:
    """Return tokenizer.json."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(draw_texts(), trainer)
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    # In the form that older versions of the library read too; no token has a space in it.
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    return document


def write_tokenizer(out: Path) -> Path:
    """Write tokenizer.json into a directory, which is made if it is not there; return the file."""
    if set(_TEXTS) | {"reverse"} != set(TASKS):
        raise ValueError("the tokenizer's texts are not of the tasks that there are")
    out.mkdir(parents=True, exist_ok=True)
    file = out / "tokenizer.json"
    file.write_text(json.dumps(train_tokenizer(), indent=1, ensure_ascii=False) + "\n")
    return file


if __name__ == "__main__":
    write_tokenizer(Path(sys.argv[1]))
