"""Numerics: what is rounded where, and that a sequence's bits stay its own in all of them."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sluice_worker.arithmetic import ORDERS
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.errors import KnownAnswersError
from sluice_worker.knownanswers import load_known_answers, name_file
from sluice_worker.main import main
from sluice_worker.numerics import FLOAT32, NUMERICS, round_weights
from sluice_worker.record import MARGINS, record_known_answers

from .checkpoints import write_checkpoint

COMPACT = Path(__file__).parents[3] / "workers" / "models" / "compact"
PROMPTS = [list(range(5 + n, 200, 9 - n)) for n in (0, 3, 5)]
named = pytest.mark.parametrize("name", NUMERICS)
narrow = pytest.mark.parametrize("name", [name for name in NUMERICS if name != "float32"])


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(COMPACT)


@pytest.fixture(scope="module")
def decoders(checkpoint):
    return {name: Decoder(checkpoint, one) for name, one in NUMERICS.items()}


def answer_together(decoder, prompts, size):
    """Return each prompt's last logits, all prompts in one batch, `size` tokens a step."""
    caches, last = [KeyValueCache(decoder.config, 64) for _ in prompts], {}
    for start in range(0, max(map(len, prompts)), size):
        parts = {
            number: Chunk(tokens[start : start + size], start, caches[number])
            for number, tokens in enumerate(prompts)
            if len(tokens) > start
        }
        last |= dict(zip(parts, decoder.run(list(parts.values())), strict=True))
    return [last[number] for number in range(len(prompts))]


@named
def test_batch_and_chunking_change_no_bit_in_any_numerics(decoders, name):
    decoder = decoders[name]
    alone = [answer_together(decoder, [tokens], 1)[0] for tokens in PROMPTS]
    for size in (7, 64):
        for found, wanted in zip(answer_together(decoder, PROMPTS, size), alone, strict=True):
            assert found.tobytes() == wanted.tobytes()


@named
def test_a_faulty_neighbour_of_the_batch_does_not_reach_a_sequence(decoders, name):
    """Scales and blocks never span sequences: one with wild values leaves the other alone."""
    decoder, tokens = decoders[name], PROMPTS[0]
    alone = answer_together(decoder, [tokens], 64)[0]

    def spoil_all_but_the_first(rows):
        given = rows.copy()
        given[len(tokens) if len(rows) > 2 else 1 :] *= np.float32(1e4)
        return given

    decoder.disturb = spoil_all_but_the_first
    try:
        found = answer_together(decoder, [tokens, PROMPTS[1]], 64)
    finally:
        decoder.disturb = None
    assert found[0].tobytes() == alone.tobytes()
    assert found[1].tobytes() != answer_together(decoder, [PROMPTS[1]], 64)[0].tobytes()


@named
def test_logits_after_every_token_are_those_of_each_step(decoders, name):
    decoder, tokens = decoders[name], PROMPTS[2]
    cache = KeyValueCache(decoder.config, 64)
    steps = [decoder.run([Chunk([token], n, cache)])[0] for n, token in enumerate(tokens)]
    found = decoder.run_all(Chunk(tokens, 0, KeyValueCache(decoder.config, 64)))
    assert found.tobytes() == np.stack(steps).tobytes()


@narrow
def test_weights_and_cache_hold_what_the_format_holds(checkpoint, decoders, name):
    numerics, decoder = NUMERICS[name], decoders[name]
    weights = round_weights(checkpoint, numerics)
    for before, after in zip(checkpoint.layers, weights.layers, strict=True):
        for field in ("query", "key", "value", "output", "gate", "up", "down"):
            columns = getattr(before, field).T
            for place in (0, len(columns) - 1):  # an output sums over its own inputs
                wanted = numerics.linear.round(columns[place].copy())
                assert np.array_equal(getattr(after, field)[:, place], wanted)
        assert after.input_norm is before.input_norm
    assert weights.embedding is checkpoint.embedding
    cache = KeyValueCache(decoder.config, 64)
    decoder.run([Chunk(PROMPTS[0], 0, cache)])
    for part in cache.read(0, len(PROMPTS[0])):
        assert np.abs(part).max() > 0
        assert numerics.attention.round(part).tobytes() == part.tobytes()


@narrow
def test_all_that_enters_a_product_is_rounded(checkpoint, name):
    """Rounding once more changes nothing. Probabilities stay float32; queries are scaled after."""
    numerics, seen, config = NUMERICS[name], [], checkpoint.config

    def look(left, right):
        if right.ndim == 2:
            form = numerics.head if right.shape[-1] == config.vocab_size else numerics.linear
            assert np.array_equal(form.round(left), left)
            assert np.array_equal(form.round(right.T.copy()), right.T)
        else:  # keys (…, head, positions), or values (…, positions, head)
            keys = left.shape[-1] == config.head_dim
            cached = (right.swapaxes(1, 2) if keys else right).copy()
            assert np.array_equal(numerics.attention.round(cached), cached)
        seen.append(right.ndim)
        return np.matmul(left, right)

    decoder = Decoder(checkpoint, numerics, look)
    decoder.run([Chunk(PROMPTS[0][:12], 0, KeyValueCache(decoder.config, 64))])
    layers = config.num_hidden_layers
    assert (seen.count(2), seen.count(3)) == (layers * 7 + 1, layers * 12 * 2)


@named
def test_widths_that_fill_no_block_do_not_matter_either(tmp_path, name):
    model = load_checkpoint(write_checkpoint(tmp_path / "tiny"))
    decoder = Decoder(model, NUMERICS[name])
    prompts = [[7, 90, 3, 3, 50, 61, 8], [11, 5, 99]]
    alone = [answer_together(decoder, [tokens], 1)[0] for tokens in prompts]
    for found, wanted in zip(answer_together(decoder, prompts, 4), alone, strict=True):
        assert np.isfinite(found).all()
        assert found.tobytes() == wanted.tobytes()


def test_the_reference_is_the_checkpoint_itself(checkpoint):
    assert round_weights(checkpoint, FLOAT32) is checkpoint


def test_a_narrower_format_is_further_from_the_reference(decoders):
    chunks = [Chunk(tokens, 0, KeyValueCache(decoders["fp4"].config, 64)) for tokens in PROMPTS]
    logits = {name: np.concatenate([d.run_all(c) for c in chunks]) for name, d in decoders.items()}
    off = {name: np.linalg.norm(rows - logits["float32"]) for name, rows in logits.items()}
    order = ["float32", "bfloat16", "mx9", "fp8-row", "mx6", "fp4"]
    assert sorted(order, key=off.get) == order
    assert off["float32"] == 0


@pytest.mark.parametrize("order", ORDERS)
def test_other_orders_multiply_the_same_but_for_the_last_bits(order):
    rng = np.random.default_rng(1)
    for shape in ((3, 1, 128), (2, 2, 5)):
        left = rng.normal(size=shape).astype(np.float32)
        right = rng.normal(size=(shape[-1], 7)).astype(np.float32)
        found, wanted = ORDERS[order](left, right), left.astype(np.float64) @ right
        assert found.dtype == np.float32
        assert np.allclose(found, wanted, rtol=0, atol=1e-4)


@narrow
def test_committed_answers_are_this_models_in_all_numerics(decoders, name):
    document = json.loads((COMPACT / name_file(name)).read_text())
    assert document["minimumMargin"] == MARGINS[name]
    config = decoders[name].config
    known = load_known_answers(COMPACT, config.vocab_size, config.max_position_embeddings, name)
    assert known.unavailable == ""
    assert known.numerics == name
    assert len(known.answers) == 4
    for one in known.answers:
        tokens = [*one.prompt, *one.output[:-1]]
        logits = decoders[name].run_all(Chunk(tokens, 0, KeyValueCache(config, 64)))
        logits = logits[-len(one.output) :]
        assert tuple(logits.argmax(-1)) == one.output
        second, first = np.partition(logits, -2)[:, -2:].T
        # Half of it is for what another processor's order of summation does: this one may be such.
        assert (first - second).min() >= MARGINS[name] / 2


OTHER_PROCESSOR = f"""
import pathlib
from sluice.observe.rounds import Round
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.knownanswers import load_known_answers
from sluice_worker.numerics import NUMERICS
from sluice_worker.scores import score_tokens
compact = pathlib.Path({str(COMPACT)!r})
checkpoint = load_checkpoint(compact)
size, context = checkpoint.config.vocab_size, checkpoint.config.max_position_embeddings
for name, numerics in NUMERICS.items():
    decoder, known = Decoder(checkpoint, numerics), load_known_answers(compact, size, context, name)
    judged = Round(known.answers, known.tolerance)
    assert known.answers, known.unavailable
    for one in known.answers:
        tokens = [*one.prompt, *one.output[:-1]]
        rows = decoder.run_all(Chunk(tokens, 0, KeyValueCache(decoder.config, 64)))
        scores = score_tokens(rows[: len(one.prompt) - 1], one.prompt[1:], 0)
        output = rows[-len(one.output):].argmax(-1).tolist()
        wrong = judged.judge(output, [score.logprob for score in scores])
        assert not wrong, (name, wrong)
        print(name, rows.tobytes().hex()[:4000])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels to choose from are x86's")
def test_committed_answers_are_right_with_the_kernels_of_another_processor():
    """Nehalem has no AVX: sums are in an order of its own, and every x86-64 processor can do it."""
    said = [
        subprocess.run(
            [sys.executable, "-c", OTHER_PROCESSOR],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | kernels,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for kernels in ({}, {"OPENBLAS_CORETYPE": "Nehalem"})
    ]
    assert said[0] != said[1], "this OpenBLAS has but one set of kernels: nothing was tested"


def test_answers_of_other_numerics_are_none_of_ours(tmp_path):
    (tmp_path / "model").mkdir()
    for file in COMPACT.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "model"
    (path / "probes.mx9.json").write_bytes((path / "probes.mx6.json").read_bytes())
    known = load_known_answers(path, 1024, 1024, "mx9")
    assert known.answers == ()
    assert "is of numerics 'mx6'; this worker is 'mx9'" in known.unavailable
    assert known.unavailable.endswith(f"'sluice model record {path} --numerics mx9' makes it anew")
    (path / "probes.mx6.json").unlink()
    told = load_known_answers(path, 1024, 1024, "mx6").unavailable
    assert told == (
        f"there is no {path / 'probes.mx6.json'}:"
        f" 'sluice model record {path} --numerics mx6' makes it"
    )


def test_an_answer_that_another_order_changes_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("sluice_worker.record._MADE", 12)
    model = write_checkpoint(tmp_path / "tiny")
    assert len(record_known_answers(model, 2)["answers"]) == 2
    monkeypatch.setattr("sluice_worker.record.ORDERS", {"wrong": lambda a, b: -np.matmul(a, b)})
    with pytest.raises(KnownAnswersError, match="there is nothing to know this model by"):
        record_known_answers(model, 2)


def test_numerics_that_are_none_are_refused_with_the_list_of_those_there_are(tmp_path):
    ended = CliRunner().invoke(
        main, [f"--model-path={tmp_path}", "--served-model-name=m", "--numerics=fp5"]
    )
    assert ended.exit_code == 2
    assert "'fp5' is not one of 'float32', 'bfloat16', 'fp8-row'" in ended.stderr
