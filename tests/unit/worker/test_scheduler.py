"""Who runs, who waits and who gives way; and that none of it shows in anybody's answer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Chunk, Decoder, KeyValueCache
from sluice_worker.engine import Engine, GenerationRequest, Limits, describe_work
from sluice_worker.kernelload import load_kernels
from sluice_worker.metrics import Metrics
from sluice_worker.numerics import NUMERICS
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams
from sluice_worker.steplayout import BLOCK

from .checkpoints import write_checkpoint

PARAMS = SamplingParams(temperature=0.8, top_p=0.95, seed=1, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def decoders(checkpoint):
    return {
        name: Decoder(checkpoint, numerics, kernels=load_kernels())
        for name, numerics in NUMERICS.items()
    }


@pytest.fixture
def metrics():
    return Metrics("m")


@pytest.fixture
def start(decoders, metrics):
    """Return a function that makes an engine with a KV cache of so many blocks."""

    def make(blocks=4, over_metrics=metrics, **over):
        limits = {"sequences": 4, "batched_tokens": 16, "waiting": 50} | over
        limits = Limits(**limits, cache_tokens=blocks * BLOCK)
        return Engine(decoders["float32"], limits, Pacer(None), over_metrics, lambda _: None)

    return make


def read(metrics, name):
    return metrics.registry.get_sample_value(f"vllm:{name}", {"model_name": "m"})


def run(engine, limit=5000):
    for _ in range(limit):
        if not engine.step():
            return
    pytest.fail("the engine never came to rest")


def answer_alone(start, prompt, params=PARAMS):
    engine = start(blocks=16, over_metrics=Metrics("m"), prefix_cache=False)
    sequence = engine.submit(prompt, params)
    run(engine)
    return sequence.output


PREFIX = [7, 8] * BLOCK
prompts = st.tuples(st.integers(0, 70), st.lists(st.integers(2, 99), min_size=1, max_size=12)).map(
    lambda one: [*PREFIX[: one[0]], *one[1]]
)


@pytest.mark.parametrize("name", NUMERICS)
@settings(max_examples=8, deadline=None)
@given(
    asked=st.lists(
        st.tuples(prompts, st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=7
    ),
    budget=st.integers(1, 40),
    blocks=st.integers(4, 9),
    arrivals=st.lists(st.integers(0, 12), min_size=7, max_size=7),
    cancelled=st.sets(st.integers(0, 6), max_size=2),
)
def test_no_batch_chunking_preemption_or_prefix_hit_changes_a_bit(
    decoders, name, asked, budget, blocks, arrivals, cancelled
):
    """Every logit that the engine ever saw is that of the tokens alone, in one piece."""
    decoder, seen = decoders[name], []
    limits = Limits(3, budget, 50, cache_tokens=blocks * BLOCK)
    engine = Engine(decoder, limits, Pacer(None), Metrics("m"), lambda _: None)
    schedule, compute = engine._scheduler.schedule, decoder.run

    def watch(chunks):
        rows = compute(chunks)
        seen.extend(zip(scheduled, rows.copy(), strict=True))
        return rows

    def note():
        scheduled[:] = schedule()
        return scheduled

    scheduled, sequences = [], []
    engine._scheduler.schedule, decoder.run = note, watch
    try:
        for number, ((prompt, tokens, priority), pause) in enumerate(
            zip(asked, arrivals, strict=False)
        ):
            params = replace(PARAMS, seed=number, max_tokens=tokens)
            sequences.append(engine.submit(prompt, params, priority))
            for _ in range(pause):
                engine.step()
            if number in cancelled:
                engine.cancel(sequences[-1])
        engine.submit_probe([5, 6, 7], 4)
        run(engine)
    finally:
        del decoder.run
    compare_with_one_piece(decoder, seen)
    ended = [one for number, one in enumerate(sequences) if number not in cancelled]
    assert [len(one.output) for one in ended] == [one.params.max_tokens for one in ended]
    assert engine._scheduler.store.free == engine._scheduler.store.size


def compare_with_one_piece(decoder, seen):
    """Hold logits that an engine saw to those of the same tokens, alone and in one chunk."""
    for sequence in {one for (one, _), _ in seen}:
        tokens = [*sequence.prompt, *sequence.output]
        wanted = decoder.run_all(Chunk(tokens, 0, KeyValueCache(decoder.config, len(tokens))))
        for (one, chunk), row in seen:
            if one is sequence:
                last = chunk.start + len(chunk.tokens) - 1
                assert row.tobytes() == wanted[last].tobytes()


def test_who_gave_way_goes_on_from_where_it_was(start, metrics):
    asked = [[9 + n] * 20 for n in range(4)]
    alone = [answer_alone(start, prompt) for prompt in asked]
    engine = start(blocks=4)
    together = [engine.submit(prompt, PARAMS) for prompt in asked]
    run(engine)
    assert read(metrics, "num_preemptions_total") == sum(one.preemptions for one in together) > 0
    assert [one.output for one in together] == alone
    assert together[0].preemptions == 0  # the oldest never has to


def test_output_that_is_computed_anew_takes_the_device_as_long_as_a_prompt():
    sequence = GenerationRequest([5] * 3, PARAMS, 0.0, output=[6] * 9)
    chunks = [(0, 3), (3, 5), (8, 1)]
    works = [describe_work(sequence, Chunk([5] * size, at, None)) for at, size in chunks]
    assert works == [(3, 0, True), (5, 3, True), (1, 8, False)]


def test_the_least_important_gives_way_first_and_then_the_youngest(start, monkeypatch):
    engine = start(blocks=5)
    give_back, gave = engine._scheduler._give_back, []

    def note(sequence):
        gave.append(sequence)
        give_back(sequence)

    monkeypatch.setattr(engine._scheduler, "_give_back", note)
    long = replace(PARAMS, max_tokens=70)
    order = (("old", 1), ("unimportant", 2), ("young", 1), ("important", 0))
    asked = {name: engine.submit([9, 9], long, priority) for name, priority in order}
    while not gave:
        engine.step()
    assert gave == [asked["unimportant"], asked["young"]]
    run(engine)
    assert asked["important"].preemptions == 0
    assert {len(one.output) for one in asked.values()} == {70}


def test_lower_priorities_run_first_and_within_one_who_came_first(start):
    engine = start(sequences=1)
    ended = []
    engine._emit = lambda all_: ended.extend(one.sequence for one in all_ if one.finish)
    short = replace(PARAMS, max_tokens=2)
    first = engine.submit([5], short, 5)
    engine.step()
    rest = [engine.submit([5], short, priority) for priority in (3, 0, 3, -1)]
    run(engine)
    assert ended == [first, rest[3], rest[1], rest[0], rest[2]]


def test_a_prompt_that_was_there_before_is_not_computed_again(start, metrics):
    engine = start(blocks=8)
    prompt = [*range(2, 80)]
    first = engine.submit(prompt, PARAMS)
    run(engine)
    computed = read(metrics, "prompt_tokens_total")
    second = engine.submit(prompt, PARAMS)
    run(engine)
    assert second.output == first.output
    assert read(metrics, "prompt_tokens_total") - computed == 78 - 2 * BLOCK
    assert read(metrics, "prefix_cache_queries_total") == 2 * 78
    assert read(metrics, "prefix_cache_hits_total") == 2 * BLOCK


def test_no_prefix_is_looked_for_if_that_is_not_wanted(start, metrics):
    engine = start(blocks=8, prefix_cache=False)
    for _ in range(2):
        engine.submit([*range(2, 80)], PARAMS)
        run(engine)
    assert read(metrics, "prompt_tokens_total") == 2 * 78
    assert read(metrics, "prefix_cache_queries_total") == 0


def test_a_running_request_that_is_cancelled_frees_its_blocks_at_once(start, metrics):
    engine = start()
    sequence = engine.submit([5] * 50, PARAMS)
    for _ in range(4):
        engine.step()
    assert read(metrics, "kv_cache_usage_perc") == 0.5
    engine.cancel(sequence)
    assert read(metrics, "kv_cache_usage_perc") == 0
    assert (engine.load(), read(metrics, "num_requests_running")) == (0, 0)
    assert not engine.step()


def test_one_that_is_cancelled_while_it_is_computed_leaves_with_the_computation(
    start, metrics, monkeypatch
):
    engine = start()
    sequence = engine.submit([5, 6], PARAMS)
    compute, used = engine._decoder.run_asked, []

    def run_and_cancel(chunks):
        engine.cancel(sequence)
        used.append(read(metrics, "kv_cache_usage_perc"))
        return compute(chunks)

    def look(_):
        used.append(read(metrics, "kv_cache_usage_perc"))

    monkeypatch.setattr(engine._decoder, "run_asked", run_and_cancel)
    monkeypatch.setattr(engine._pacer, "finish", look)  # before the device's time is over
    engine.step()
    assert used == [0.25, 0]
    assert sequence.output == []


def test_a_cache_smaller_than_one_context_is_one_context(start, metrics):
    engine = start(blocks=1)
    sequence = engine.submit([5] * 80, replace(PARAMS, max_tokens=48))
    run(engine)
    assert len(sequence.output) == 48
    labels = {"model_name": "m", "block_size": str(BLOCK), "num_gpu_blocks": "4"}
    assert metrics.registry.get_sample_value("vllm:cache_config_info", labels) == 1


def test_a_known_prompt_needs_no_block_of_anybody(start, metrics):
    engine = start(blocks=4)
    engine.submit([5] * 88, PARAMS)
    for _ in range(20):
        engine.step()
    probe = engine.submit_probe([5, 6], 3)
    for _ in range(3):
        engine.step()
    assert len(probe.output) == 3
    assert read(metrics, "num_preemptions_total") == 0


def test_nobody_is_given_the_blocks_of_a_known_prompt(start, metrics):
    engine = start(blocks=8)
    prompt = [*range(2, 80)]
    engine.submit_probe(prompt, 3)
    run(engine)
    sequence = engine.submit(prompt, PARAMS)
    run(engine)
    assert read(metrics, "prefix_cache_hits_total") == 0
    assert sequence.output == answer_alone(start, prompt)


def test_a_long_run_leaves_no_memory_behind(start):
    """Steps of a full engine, round after round: blocks, hashes and lists end as they began."""
    engine = start(blocks=6)
    sizes = []
    for round_ in range(6):
        for number in range(8):
            prompt = list(np.random.default_rng(8 * round_ + number).integers(2, 99, 40))
            engine.submit([int(one) for one in prompt], PARAMS)
        run(engine)
        store = engine._scheduler.store
        sizes.append((store.free, len(store._hashes) <= store.size, engine.load()))
    assert set(sizes) == {(6, True, 0)}
