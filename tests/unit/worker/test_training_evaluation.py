"""How the compact model is measured, and the held-out questions that go with it."""

import json
import random
import sys
from collections import Counter

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from models.training import evaluate, heldout, layout, tasks, train
from models.training.tokenizer import write_tokenizer
from sluice_worker.tokens import Vocabulary

SHAPE = layout.Shape(width=16, layers=1, heads=2, kv_heads=1, head_width=8, hidden=16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model of random weights with the real tokenizer."""
    path = tmp_path_factory.mktemp("checkpoint")
    write_tokenizer(path)
    layout.write_files(path, SHAPE)
    rng = np.random.default_rng(1)
    shapes = layout.list_shapes(SHAPE)
    save_file({n: rng.normal(size=s).astype(bfloat16) for n, s in shapes.items()},
              path / "model.safetensors")  # fmt: skip
    return path


@pytest.mark.parametrize("chat", [False, True])
def test_only_right_answers_count(checkpoint, chat, monkeypatch):
    part = evaluate.Part(checkpoint, "float32", "sort", chat, first=10, count=4)
    assert evaluate.count_right(part) == 0
    asked = []

    def answer_all(_decoder, vocabulary, prompts):
        asked.extend(prompts)
        questions = [vocabulary.decode(prompt) for prompt in prompts]
        answers = [tasks.solve(q[q.rindex("Sort ") :]) for q in questions]
        return [*answers[:3], answers[3] + " "]

    monkeypatch.setattr(evaluate, "answer_all", answer_all)
    assert evaluate.count_right(part) == 3
    assert (min(map(len, asked)) > 100) is chat


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--per-task", "0"], "--per-task: '0' is no whole number of at least 1"),
        (["--in-chat", "-5"], "--in-chat: '-5' is no whole number"),
        (["--processes", "many"], "--processes: 'many' is no whole number"),
        (["--numerics", "int4"], "invalid choice: 'int4'"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(given, said, capsys):
    with pytest.raises(SystemExit):
        evaluate.read_arguments(["DIR", *given])
    assert said in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"cannot measure .* lacks config\.json"):
        evaluate.main()


def test_more_questions_than_a_task_has_are_an_error_and_no_wait(monkeypatch):
    few = tasks.base.Task("Say ", lambda rng, _: f"Say {rng.randrange(64)}", str.upper, str)
    monkeypatch.setitem(tasks.TASKS, "add", few)
    with pytest.raises(ValueError, match=r"add has hardly more than .* and 100 are asked"):
        list(tasks.draw_items("add", random.Random(1), 100))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--minutes", "nan"], "--minutes: 'nan' is no finite number of at least 0"),
        (["--decay-tokens=-1"], "--decay-tokens: '-1' is no finite number"),
        (["--decay-tokens", "inf"], "--decay-tokens: 'inf' is no finite number"),
        (["--threads", "0"], "--threads: '0' is no whole number of at least 1"),
    ],
)
def test_a_training_that_cannot_be_is_refused_by_name(given, said, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--checkpoints", "DIR", *given])
    assert said in capsys.readouterr().err


def test_every_question_is_in_one_part(tmp_path):
    counts = {"float32": 120, "fp4": 60, "in a chat": 30}
    alone = {name: counts[name] for name in ("float32", "fp4")}
    parts = evaluate.list_parts(tmp_path, ["add", "find"], alone, 30)
    asked = Counter((part.task, column) for column, part in parts for _ in range(part.count))
    assert asked == {(t, c): count for t in ("add", "find") for c, count in counts.items()}
    assert {part.first for _, part in parts} == {0, 50, 100}


def test_the_table_is_in_per_cent():
    right = {("add", "float32"): 999, ("add", "in a chat"): 190}
    table = evaluate.render_table(right, {("add", "float32"): 1000, ("add", "in a chat"): 200})
    assert table.splitlines() == [
        "| task | float32 | in a chat |",
        "|---|---|---|",
        "| add | 99.9 % | 95.0 % |",
    ]


def test_a_chat_before_a_question_keeps_to_its_room(checkpoint):
    vocabulary = Vocabulary(checkpoint / "tokenizer.json")
    messages = evaluate.draw_chat(vocabulary, evaluate.random.Random(1), 300)
    assert 100 < len(vocabulary.encode_chat(messages)) <= 301
    assert [message["role"] for message in messages[:2]] == ["user", "assistant"]
    assert tasks.solve(messages[0]["content"]) == messages[1]["content"]


def test_held_out_questions_have_all_lengths(checkpoint):
    heldout.write_held_out(checkpoint)
    lines = [json.loads(line) for line in (checkpoint / "heldout.jsonl").read_text().splitlines()]
    vocabulary = Vocabulary(checkpoint / "tokenizer.json")
    assert Counter(line["task"] for line in lines) == dict.fromkeys(tasks.TASKS, 20)
    for line in lines:
        assert tasks.is_held_out(line["prompt"])
        assert tasks.solve(line["prompt"]) == line["answer"]
        asked = vocabulary.encode_chat([{"role": "user", "content": line["prompt"]}])
        assert line["tokens"] == len(asked)
        assert line["answerTokens"] == len(vocabulary.encode_text(line["answer"]))
    lengths = [line["tokens"] for line in lines]
    assert min(lengths) < 20
    counts, _ = np.histogram(lengths, bins=[0, 40, 80, 160, 320, 640])
    assert min(counts) >= 3
