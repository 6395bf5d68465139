"""The committed model: what its files say, and that the worker makes it answer."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.engine import Engine, Limits
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams
from sluice_worker.tokens import Vocabulary

MODELS = Path(__file__).parents[3] / "workers" / "models"
COMPACT = MODELS / "compact"
LIMITS = Limits(sequences=8, batched_tokens=64, waiting=300)
GREEDY = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=64)


def load_program(name):
    """Return a program of workers/models, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"models_{name}", MODELS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tasks, layout = load_program("tasks"), load_program("layout")
HELD_OUT = [json.loads(line) for line in (COMPACT / "heldout.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(COMPACT)


@pytest.fixture(scope="module")
def vocabulary(checkpoint):
    return Vocabulary(checkpoint.tokenizer)


def test_files_are_what_their_program_writes():
    for name, document in layout.describe_files().items():
        assert json.loads((COMPACT / name).read_text()) == document, f"run layout.py: {name}"


def test_files_are_small_enough_to_be_committed():
    assert (COMPACT / "model.safetensors").stat().st_size <= 4 << 20
    assert (COMPACT / "heldout.jsonl").stat().st_size <= 60_000


def test_the_tokenizer_has_a_token_a_byte_and_gives_texts_back(vocabulary):
    text = "copy: aé€ \n\t<s> 😀"
    tokens = vocabulary.encode_text(text)
    assert tokens == [layout.BEGIN, *layout.encode(text)]
    assert vocabulary.decode(tokens) == text


def test_a_chat_is_framed_as_training_framed_it(vocabulary):
    found = vocabulary.encode_chat([{"role": "user", "content": "sort: 2 1"}])
    asked = layout.encode("sort: 2 1")
    assert found == [layout.BEGIN, layout.USER, *asked, layout.ASSISTANT]


def test_nobody_ends_a_turn_by_writing_the_end_token(vocabulary):
    found = vocabulary.encode_chat([{"role": "user", "content": "a</s><|assistant|>"}])
    assert found.count(layout.END) == 0
    assert found.count(layout.ASSISTANT) == 1


def test_held_out_questions_are_held_out_and_rightly_answered():
    assert {entry["task"] for entry in HELD_OUT} == set(tasks.TASKS)
    for entry in HELD_OUT:
        assert tasks.is_held_out(entry["prompt"].rsplit("\n", 1)[-1])
        assert tasks.solve(entry["prompt"]) == entry["answer"]
    lengths = [len(entry["prompt"].encode()) + 3 for entry in HELD_OUT]
    assert max(len(entry["answer"]) for entry in HELD_OUT) <= 64
    # Long prompts are there in steps that a trace of 20 to 200 tokens can be matched with.
    counts, _ = np.histogram(lengths, bins=range(0, 240, 40))
    assert min(counts) >= 6


@pytest.mark.parametrize("task", sorted(tasks.TASKS))
def test_training_never_draws_what_is_held_out(task):
    drawn = tasks.draw_items(task, random.Random(1), held_out=False, length=lambda: 120)
    for _, item in zip(range(50), drawn, strict=False):
        assert not any(tasks.is_held_out(q) for q in (item.question, *dict(item.earlier)))
        assert tasks.solve(item.prompt) == item.answer
        assert len(item.prompt) <= max(120, len(item.question))


def test_a_prompt_of_no_task_is_named():
    with pytest.raises(ValueError, match="'hello' is no question"):
        tasks.solve("hello")


def test_it_answers_most_held_out_questions_rightly(checkpoint, vocabulary):
    asked = HELD_OUT[::6]
    engine = Engine(Decoder(checkpoint), LIMITS, Pacer(None), Metrics("m"), lambda _: None)
    sequences = [
        engine.submit(vocabulary.encode_chat([{"role": "user", "content": e["prompt"]}]), GREEDY)
        for e in asked
    ]
    while engine.step():
        pass
    right = [
        vocabulary.decode(one.output) == e["answer"]
        for one, e in zip(sequences, asked, strict=True)
    ]
    assert sum(right) / len(right) >= 0.7


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


def test_batch_and_chunking_change_no_bit_of_it_either(checkpoint, vocabulary):
    decoder = Decoder(checkpoint)
    prompts = [vocabulary.encode_text(e["prompt"])[:60] for e in HELD_OUT[:: len(HELD_OUT) // 8]]
    alone = [read_last_rows(decoder, [tokens], 1)[0] for tokens in prompts]
    for size in (7, 16, 60):
        for found, wanted in zip(read_last_rows(decoder, prompts, size), alone, strict=True):
            assert found.tobytes() == wanted.tobytes()
