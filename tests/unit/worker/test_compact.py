"""The committed model: its files are what their programs write, and the worker makes it answer."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.training import evaluate, heldout, layout, tasks
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.numerics import FLOAT32

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"
HELD_OUT = [json.loads(line) for line in (COMPACT / "heldout.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model():
    checkpoint, vocabulary = load_model(COMPACT)
    return Decoder(checkpoint, FLOAT32, kernels=choose_kernels()), vocabulary


def test_files_are_what_their_programs_write(tmp_path):
    # But for the tokenizer, which is older than the last form of the stories: weights belong to it.
    shutil.copy(COMPACT / "tokenizer.json", tmp_path)
    layout.write_files(tmp_path)
    heldout.write_held_out(tmp_path)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert len(written) == 5
    assert written == {name: (COMPACT / name).read_text() for name in written}


def test_it_is_of_the_size_that_it_is_said_to_be(model):
    decoder, vocabulary = model
    sizes = [int(np.prod(shape)) for shape in layout.list_shapes(layout.COMPACT).values()]
    assert 2.5e6 <= sum(sizes) <= 4e6
    # Two bytes each, and the header.
    assert (COMPACT / "model.safetensors").stat().st_size == pytest.approx(2 * sum(sizes), rel=0.01)
    assert decoder.config.max_position_embeddings == layout.CONTEXT
    assert vocabulary.size == layout.VOCABULARY


def test_its_tokens_are_those_of_digits_letters_and_words(model):
    encode = model[1].encode_text
    assert len(encode("4711", begin=False)) == 4
    assert len(encode("silk,fruit,pipe", begin=False)) == 5
    for text in ("copy: aé€ \n\t<s> 😀", "Sort 31 7 12.", '{"time":346}'):
        assert model[1].decode(encode(text)) == text


def test_nobody_ends_a_turn_by_writing_the_end_token(model):
    found = model[1].encode_chat([{"role": "user", "content": "a</s><|assistant|>"}])
    assert found.count(layout.END) == 0
    assert found.count(layout.ASSISTANT) == 1


def test_held_out_questions_are_held_out_and_rightly_answered():
    assert {entry["task"] for entry in HELD_OUT} == set(tasks.TASKS)
    for entry in HELD_OUT:
        assert tasks.is_held_out(entry["prompt"])
        assert tasks.solve(entry["prompt"]) == entry["answer"]


def test_it_answers_nearly_all_held_out_questions_rightly(model):
    decoder, vocabulary = model
    prompts = [vocabulary.encode_chat([{"role": "user", "content": e["prompt"]}]) for e in HELD_OUT]
    answers = evaluate.answer_all(decoder, vocabulary, prompts)
    right = Counter(
        entry["task"]
        for entry, answer in zip(HELD_OUT, answers, strict=True)
        if answer == entry["answer"]
    )
    # 20 of each, from all lengths: the model card's shares are of 1,000 as they are drawn.
    assert min(right[task] for task in tasks.TASKS) >= 15, right
    assert right.total() >= 0.93 * len(HELD_OUT)


def test_the_card_tells_what_training_saw_and_every_task_and_numerics():
    card = (COMPACT / "MODEL_CARD.md").read_text()
    seen = json.loads((COMPACT / "training.json").read_text())["tokens"]
    assert f"{seen / 1e6:.1f} million tokens" in card
    for task in tasks.TASKS:
        shares = [float(share) for share in re.findall(r"([0-9.]+) %", _row(card, task))]
        # float32, the other six, in a chat.
        assert len(shares) == 8
        assert shares[0] >= 90
    assert sum(float(_row(card, task).split("|")[2].strip(" %")) >= 95 for task in tasks.TASKS) >= 8


def _row(card, task):
    return next(one for one in card.splitlines() if one.startswith(f"| {task} |") and "%" in one)


def read_last_rows(decoder, prompts, size):
    """Return each prompt's last logits, all prompts in one batch, `size` tokens a step."""
    caches = [KeyValueCache(decoder.config, 64) for _ in prompts]
    last = {}
    for start in range(0, max(map(len, prompts)), size):
        parts = {
            number: Chunk(tokens[start : start + size], start, caches[number])
            for number, tokens in enumerate(prompts)
            if len(tokens) > start
        }
        last |= dict(zip(parts, decoder.run(list(parts.values())), strict=True))
    return [last[number] for number in range(len(prompts))]


def test_batch_and_chunking_change_no_bit_of_it_either(model):
    decoder, vocabulary = model
    prompts = [vocabulary.encode_text(e["prompt"])[:60] for e in HELD_OUT[:: len(HELD_OUT) // 8]]
    alone = [read_last_rows(decoder, [tokens], 1)[0] for tokens in prompts]
    for size in (7, 16, 60):
        for found, wanted in zip(read_last_rows(decoder, prompts, size), alone, strict=True):
            assert found.tobytes() == wanted.tobytes()
