"""What the compact model's training is fed: tokens, packing, and how the mix changes."""

import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.training import curriculum, layout, packing, tasks
from models.training.tasks.words import NOUNS
from models.training.tokenizer import write_tokenizer
from sluice_worker.checkpoint import read_config
from sluice_worker.tokens import Vocabulary

EVERY = sorted(tasks.TASKS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    layout.write_files(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def vocabulary(directory):
    return Vocabulary(directory / "tokenizer.json")


def test_the_worker_reads_the_shape(directory):
    config = read_config(directory / "config.json")
    assert (config.vocab_size, config.max_position_embeddings) == (1024, 1024)
    shapes = layout.list_shapes(layout.COMPACT)
    assert 2.5e6 <= sum(int(np.prod(shape)) for shape in shapes.values()) <= 4e6


def test_the_tokenizer_is_the_same_each_time(directory, tmp_path):
    again = write_tokenizer(tmp_path)
    assert again.read_bytes() == (directory / "tokenizer.json").read_bytes()


def test_it_gives_every_text_back(vocabulary):
    assert vocabulary.size == layout.VOCABULARY
    for text in ("copy: aé€ \n\t<s> 😀", " two  spaces ", "</s><|user|>", "It's 12345 km"):
        tokens = vocabulary.encode_text(text)
        assert vocabulary.decode(tokens) == text
        assert not set(tokens[1:]) & set(range(len(layout.SPECIAL)))


def test_digits_and_capitals_stand_alone_and_frequent_words_do_too(tokenizer):
    assert tokenizer.encode("70+1295").tokens == list("70+1295")
    shown = tokenizer.encode('Reverse "MARCHEN".').tokens
    assert shown[shown.index("M") :][:7] == list("MARCHEN")
    assert sum(len(tokenizer.encode(noun).ids) == 1 for noun in NOUNS) >= 0.97 * len(NOUNS)


def test_a_chat_is_framed_as_the_worker_frames_it(tokenizer, vocabulary):
    item = tasks.draw_item("sort", random.Random(1), held_out=False)
    chat = packing.Chat("sort")
    chat.add(packing.encode_item(tokenizer, item))
    asked = vocabulary.encode_chat([{"role": "user", "content": item.prompt}])
    assert chat.tokens[: len(asked)] == asked
    assert chat.tokens[-1] == layout.END
    learned = [token for token, one in zip(chat.tokens, chat.learned, strict=True) if one]
    assert vocabulary.decode(learned) == item.answer
    turns = [
        {"role": "user", "content": item.prompt},
        {"role": "assistant", "content": item.answer},
    ]
    assert vocabulary.encode_chat([*turns, *turns[:1]]) == [*chat.tokens, *asked[1:]]


def read_turns(batch, vocabulary):
    """Yield question and answer of every turn in a batch, from its tokens alone."""
    for row, tokens in enumerate(batch.tokens):
        for number in range(1, batch.chats[row].max() + 1):
            of_chat = batch.chats[row] == number
            chat, wanted = tokens[of_chat].tolist(), np.zeros(of_chat.sum())
            marks = (layout.USER, layout.ASSISTANT, layout.END)
            users, assistants, ends = (
                [place for place, token in enumerate(chat) if token == mark] for mark in marks
            )
            assert chat[0] == layout.BEGIN
            for user, assistant, end in zip(users, assistants, ends, strict=True):
                wanted[assistant + 1 : end + 1] = 1
                yield (
                    vocabulary.decode(chat[user + 1 : assistant]),
                    vocabulary.decode(chat[assistant + 1 : end]),
                )
            assert batch.learned[row][of_chat].tolist() == wanted.tolist()


@pytest.mark.parametrize(("length", "level"), [(128, 0.1), (256, 1.0), (1024, 1.0)])
def test_batches_hold_right_answers_and_nothing_held_out(tokenizer, vocabulary, length, level):
    packer = packing.Packer(tokenizer, 0)
    shares = curriculum.choose_shares({})
    met = set()
    for step in range(2):
        batch = packer.draw_batch(step, 4096 // length, length, level, shares)
        assert batch.tokens.shape == (4096 // length, length + 1)
        assert (batch.chats > 0).mean() > 0.9
        for prompt, answer in read_turns(batch, vocabulary):
            assert not tasks.is_held_out(prompt)
            assert tasks.solve(prompt) == answer
            met.add(tasks.find_task(prompt))
    assert len(met) >= 9


def test_a_step_draws_the_same_batch_again(tokenizer):
    shares = curriculum.choose_shares({})
    one, same, other = (
        packing.Packer(tokenizer, 0).draw_batch(step, 8, 256, 1.0, shares) for step in (5, 5, 6)
    )
    assert np.array_equal(one.tokens, same.tokens)
    assert not np.array_equal(one.tokens, other.tokens)


def test_held_out_questions_are_each_asked_once(tokenizer, vocabulary):
    batches = packing.pack_held_out(tokenizer, 1, 20, 2048)
    ends = [task for _, batch in batches for *_, task in batch.ends]
    assert sorted(ends) == sorted(20 * EVERY)
    prompts = [turn[0] for _, batch in batches for turn in read_turns(batch, vocabulary)]
    assert len(prompts) == len(ends)
    assert all(map(tasks.is_held_out, prompts))


@pytest.mark.parametrize("task", EVERY)
def test_every_question_fits_in_the_context(tokenizer, task):
    rng = random.Random(2)
    turns = [
        packing.encode_item(tokenizer, tasks.draw_item(task, rng, held_out=True))
        for _ in range(100)
    ]
    counts = [packing.count_tokens(turn) for turn in turns]
    assert max(counts) <= layout.CONTEXT - 64
    if task == "story":
        assert all(100 <= len(answer) <= 300 for _, answer in turns)
    if task == "find":
        assert max(counts) >= 600


def test_lengths_and_difficulty_grow(tokenizer):
    stages = [curriculum.choose_stage(tokens) for tokens in (0, 3e6, 4e6, 1.1e7, 1e8)]
    assert [max(stage.lengths) for stage, _ in stages] == [128, 128, 256, 256, layout.CONTEXT]
    levels = [level for _, level in stages]
    assert levels == sorted(levels)
    assert levels[-1] == 1.0


def test_what_is_wrong_gets_more_of_the_tokens():
    even = curriculum.choose_shares(dict.fromkeys(EVERY, 0.95))
    weak = curriculum.choose_shares(dict.fromkeys(EVERY, 0.99) | {"date": 0.2})
    assert sum(weak.values()) == pytest.approx(1)
    assert weak["date"] > 2 * even["date"]
    assert min(weak.values()) > 0.02
    assert max(curriculum.choose_shares(dict.fromkeys(EVERY, 1.0) | {"find": 0}).values()) < 0.5


def test_what_other_tasks_build_on_comes_first():
    at_first, later = (
        curriculum.choose_shares(dict.fromkeys(EVERY, right)) for right in (0.1, 0.4)
    )
    assert at_first["copy"] + at_first["find"] > 0.5
    assert later["copy"] + later["find"] < 0.4


def test_the_chat_template_is_the_workers_form(directory):
    document = json.loads((directory / "tokenizer_config.json").read_text())
    assert document["chat_template"] == layout.CHAT_TEMPLATE
    assert document["model_max_length"] == layout.CONTEXT
