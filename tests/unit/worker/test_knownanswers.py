"""probes.json: what is in it, who makes it, and how firmly it can be believed."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from sluice_worker import record as recording
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.knownanswers import FILE, compute_digest, load_known_answers
from sluice_worker.record import main as record
from sluice_worker.record import record_known_answers

from .checkpoints import write_checkpoint

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"


@pytest.fixture(scope="module")
def decoder():
    return Decoder(load_checkpoint(COMPACT))


@pytest.fixture(scope="module")
def committed():
    return json.loads((COMPACT / FILE).read_text())


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_MADE", 12)  # a random model is unsure of few: these will do
    return write_checkpoint(tmp_path / "tiny")


def load(path):
    return load_known_answers(path, vocabulary=100, context=128)


def enlarge(path, factor):
    """Make weights so large that products of what they make are beyond float32."""
    tensors = load_file(path / "model.safetensors")
    for name in tensors:
        if ".mlp." in name:
            tensors[name] = tensors[name].astype(np.float32) * np.float32(factor)
    save_file(tensors, path / "model.safetensors")


def answer(decoder, prompt, count):
    """Return greedy tokens and how far each led; prompts in chunks, as an engine runs them."""
    cache = KeyValueCache(decoder.config, 128)
    tokens, place, output, leads = prompt, 0, [], []
    while len(output) < count:
        for start in range(0, len(tokens), 16):
            chunk = tokens[start : start + 16]
            row = decoder.run([Chunk(chunk, place, cache)])[0]
            place += len(chunk)
        second, first = np.partition(row, -2)[-2:]
        leads.append(first - second)
        output.append(int(np.argmax(row)))
        tokens = output[-1:]
    return output, leads


def test_the_committed_answers_are_this_models_and_clear(decoder, committed):
    config = decoder.config
    known = load_known_answers(COMPACT, config.vocab_size, config.max_position_embeddings)
    assert known.unavailable == ""
    assert known.digest == committed["modelDigest"]
    assert len(known.answers) == 4
    for one in known.answers:
        output, leads = answer(decoder, list(one.prompt), len(one.output))
        assert tuple(output) == one.output
        assert min(leads) >= committed["minimumMargin"]


def test_the_committed_answers_are_what_record_makes(committed, monkeypatch):
    monkeypatch.setattr(recording, "_ROUNDS", 1)  # in float32 none moves further than the least
    assert committed["tolerance"] == recording.LEAST_TOLERANCES["float32"]
    made = record_known_answers(COMPACT, 4)
    for own, one in zip(made["answers"], committed["answers"], strict=True):
        # Their last digits are the machine's.
        assert own.pop("margin") == pytest.approx(one["margin"], abs=0.01)
        assert own.pop("logprobs") == pytest.approx(one["logprobs"], abs=committed["tolerance"])
    strip = ("margin", "logprobs")
    listed = [{k: v for k, v in o.items() if k not in strip} for o in committed["answers"]]
    assert made == committed | {"answers": listed}


def test_the_digest_is_what_sha256sum_says(model):
    names = "config.json model.safetensors tokenizer.json"
    command = ["sh", "-c", f"sha256sum {names} | sha256sum"]
    told = subprocess.run(command, cwd=model, capture_output=True, check=True)
    assert compute_digest(model) == "sha256:" + told.stdout.decode().split()[0]


def test_without_a_file_there_are_no_answers_and_a_way_to_get_them(model):
    known = load(model)
    assert known.answers == ()
    assert (
        known.unavailable == f"there is no {model / FILE}: 'sluice model record {model}' makes it"
    )


def change_answer(**changes):
    return lambda d: d | {"answers": [d["answers"][0] | changes]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d | {"modelDigest": "sha256:0"}, "is of modelDigest 'sha256:0'; this worker is"),
        (lambda d: d | {"numerics": "bfloat16"}, "is of numerics 'bfloat16'; this worker is"),
        (lambda d: d | {"answers": []}, "has no list of 1 to 64 answers"),
        (lambda d: d | {"answers": [{"prompt": [1]}]}, r"has no tokens in answers\[0\].output"),
        (lambda d: d | {"answers": [7]}, r"has no tokens in answers\[0\].prompt"),
        (
            lambda d: d | {"answers": [{"prompt": [True], "output": [1]}]},
            r"has True in answers\[0\].prompt; tokens of this model are 0 to 99",
        ),
        (
            lambda d: d | {"answers": [{"prompt": [1], "output": [100]}]},
            r"has 100 in answers\[0\].output",
        ),
        (
            lambda d: d | {"answers": [{"prompt": [1] * 100, "output": [1] * 29}]},
            r"has 129 tokens in answers\[0\]; 128 fit",
        ),
        (lambda d: [d], "is no JSON object"),
        (
            lambda d: {k: v for k, v in d.items() if k != "tolerance"},
            "has the tolerance None; it must be a number above 0",
        ),
        (lambda d: d | {"tolerance": 0}, "has the tolerance 0; it must be"),
        (lambda d: d | {"tolerance": True}, "has the tolerance True; it must be"),
        (lambda d: d | {"tolerance": float("inf")}, "has the tolerance inf; it must be"),
        (lambda d: d | {"tolerance": float("nan")}, "has the tolerance nan; it must be"),
        (lambda d: d | {"tolerance": 10**400}, "has the tolerance 1000.*0; it must be"),
        (change_answer(logprobs=None), r"has no list of 1 numbers in answers\[0\].logprobs"),
        (change_answer(logprobs=[-1, -1]), r"has no list of 1 numbers in answers\[0\].logprobs"),
        (change_answer(logprobs=[0.1]), r"has 0.1 in answers\[0\].logprobs; log-probabilities"),
        (change_answer(logprobs=["-1"]), r"has -1 in answers\[0\].logprobs; log-probabilities"),
        (change_answer(logprobs=[float("nan")]), r"has nan in answers\[0\].logprobs"),
        (change_answer(logprobs=[-(10**400)]), r"has -1000.*0 in answers\[0\].logprobs"),
    ],
)
def test_a_file_that_says_something_else_is_told_and_not_used(model, change, said):
    document = {
        "modelDigest": compute_digest(model),
        "numerics": "float32",
        "tolerance": 0.5,
        "answers": [{"prompt": [1, 2], "output": [3], "logprobs": [-1]}],
    }
    (model / FILE).write_text(json.dumps(document))
    assert load(model).unavailable == ""
    (model / FILE).write_text(json.dumps(change(document)))
    known = load(model)
    assert known.answers == ()
    assert re.search(said, known.unavailable)
    assert known.unavailable.endswith("makes it anew")


def test_other_weights_have_other_answers(model):
    (model / FILE).write_text(json.dumps(record_known_answers(model, 2)))
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert "is of modelDigest" in load(model).unavailable


def test_record_writes_the_file_and_says_what_it_has(model):
    ended = CliRunner().invoke(record, [f"--model={model}", "--count=2"])
    assert ended.exit_code == 0
    assert "has 2 known answers (drawn)" in ended.stdout
    assert f"may be off by {load(model).tolerance:g} on average" in ended.stdout
    assert len(load(model).answers) == 2
    assert sorted(one.name for one in model.iterdir() if one.name.startswith((".", FILE))) == [FILE]


def test_record_keeps_how_likely_the_tokens_of_the_prompts_are(model):
    decoder = Decoder(load_checkpoint(model))
    for one in record_known_answers(model, 2)["answers"]:
        prompt = one["prompt"]
        cache = KeyValueCache(decoder.config, len(prompt))
        rows = decoder.run_all(Chunk(prompt, 0, cache))[:-1].astype(float)
        shares = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
        wanted = np.log(shares[np.arange(len(rows)), prompt[1:]])
        assert one["logprobs"] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_the_tolerance_is_wider_than_other_orders_of_summation_move_a_round(model, monkeypatch):
    """And never nothing, where no order moves anything."""
    monkeypatch.setattr(recording, "ORDERS", {"same": np.matmul})
    assert record_known_answers(model, 2)["tolerance"] == recording.LEAST_TOLERANCES["float32"]
    # Such a processor makes products a little larger, which changes no token here.
    other = {"more": lambda a, b: np.matmul(a, b) * np.float32(1.02)}
    monkeypatch.setattr(recording, "ORDERS", other)
    made = record_known_answers(model, 2)
    decoder = Decoder(load_checkpoint(model), product=other["more"])
    prompts = [one["prompt"] for one in made["answers"]]
    known = [score for one in made["answers"] for score in one["logprobs"]]
    found = [score for each in recording.score_prompts(decoder, prompts) for score in each]
    moved = np.abs(np.subtract(known, found)).mean()
    assert moved > recording.LEAST_TOLERANCES["float32"]
    assert made["tolerance"] >= 0.99 * recording.SAFETY * moved


@pytest.mark.parametrize(
    ("noise", "tolerance"),
    [
        ((0.026121493, 0.0), 0.053),  # twice that is 0.05224
        ((0.0, 0.0521), 0.053),
        ((0.01, 0.0), 0.02),
        ((0.0, 0.07), 0.07),
        ((1.1, 9.91), 10.0),
        ((0.0, 0.0), recording.LEAST_TOLERANCES["float32"]),
    ],
)
def test_no_tolerance_is_smaller_than_what_was_measured(model, monkeypatch, noise, tolerance):
    monkeypatch.setattr(recording, "measure_noise", lambda *_: noise)
    assert record_known_answers(model, 2)["tolerance"] == tolerance


def test_record_takes_held_out_prompts_of_several_tasks(model):
    lines = [{"task": t, "prompt": f"{t}: {n}"} for t in ("add", "sort") for n in range(20)]
    (model / "heldout.jsonl").write_text("\n".join(json.dumps(one) for one in lines))
    tasks = [one["task"] for one in record_known_answers(model, 12)["answers"]]
    # The model is random, so that few of its answers are clear; drawn prompts fill up.
    held_out = [task for task in tasks if task]
    assert set(held_out[:2]) == {"add", "sort"}
    assert tasks == held_out + [""] * (len(tasks) - len(held_out))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m: (m / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda m: (m / "heldout.jsonl").write_text("{}"), "a line without a task and a prompt"),
        (lambda m: (m / FILE).mkdir(), "cannot write"),
        (lambda m: enlarge(m, 1e30), "the logits are not finite: this model cannot be computed"),
    ],
)
def test_record_refuses_by_a_sentence_what_it_cannot_do(model, spoil, said):
    spoil(model)
    ended = CliRunner().invoke(record, [f"--model={model}"])
    assert ended.exit_code == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
