"""Continuous batching: everybody gets their own answer, and nobody more than their share."""

import threading
import time

import pytest

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Decoder, KeyValueCache
from sluice_worker.device import Effects
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import RequestError
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import EmulatedDevice, Pacer
from sluice_worker.sampling import Drawn, Sampler, SamplingParams

from .checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


def make_engine(checkpoint, **over):
    limits = Limits(**({"sequences": 4, "batched_tokens": 8, "waiting": 16} | over))
    seen = []
    engine = Engine(Decoder(checkpoint), limits, Pacer(None), Metrics("m"), seen.extend)
    return engine, seen


def params(**over):
    return SamplingParams(
        **(
            {"temperature": 0.7, "top_p": 0.9, "seed": 1, "max_tokens": 12, "ignore_eos": True}
            | over
        )
    )


def run(engine, limit=2000):
    for _ in range(limit):
        if not engine.step():
            return
    pytest.fail("the engine never came to rest")


def generate(checkpoint, prompt, **over):
    engine, _ = make_engine(checkpoint)
    sequence = engine.submit(prompt, params(**over))
    run(engine)
    return sequence.output


def test_company_changes_nobodys_answer(checkpoint):
    prompts = [[5 + i, 9, 20 + i, 7] * (i + 1) for i in range(7)]
    wanted = [generate(checkpoint, prompt, seed=i) for i, prompt in enumerate(prompts)]
    engine, _ = make_engine(checkpoint)
    together = [engine.submit(prompt, params(seed=i)) for i, prompt in enumerate(prompts)]
    run(engine)
    assert [sequence.output for sequence in together] == wanted


def test_the_seed_decides(checkpoint):
    one, two = (generate(checkpoint, [5, 6, 7], seed=s, temperature=1.5) for s in (1, 2))
    assert one == generate(checkpoint, [5, 6, 7], seed=1, temperature=1.5)
    assert one != two


def test_a_cancelled_sequence_frees_its_slot(checkpoint):
    engine, _ = make_engine(checkpoint, sequences=1)
    first = engine.submit([5, 6], params(max_tokens=100))
    second = engine.submit([7, 8], params())
    engine.step()
    engine.cancel(first)
    run(engine)
    assert len(first.output) < 100
    assert len(second.output) == 12


def test_a_full_queue_is_refused_with_a_time_to_come_back(checkpoint):
    engine, _ = make_engine(checkpoint, waiting=1)
    engine.submit([5], params())
    with pytest.raises(RequestError) as refused:
        engine.submit([5], params())
    assert (refused.value.status, refused.value.retry_after) == (429, 1)


def test_a_cancelled_request_leaves_the_queue_at_once(checkpoint):
    engine, _ = make_engine(checkpoint, sequences=1, waiting=1)
    engine.submit([5], params())
    engine.step()
    waiting = engine.submit([6], params())
    engine.cancel(waiting)
    assert engine.load() == 1
    engine.submit([7], params())


@pytest.mark.parametrize("token", [-1, 100])
def test_a_token_outside_the_vocabulary_is_refused(checkpoint, token):
    engine, _ = make_engine(checkpoint)
    with pytest.raises(RequestError, match=f"the token {token}; the vocabulary ends at 99"):
        engine.submit([5, token], params())


def test_prompts_take_no_more_of_a_step_than_they_may(checkpoint):
    engine, seen = make_engine(checkpoint, batched_tokens=8)
    engine.submit([5] * 20, params(max_tokens=2))
    engine.submit([6] * 4, params(max_tokens=2))
    tokens = [0]
    for _ in range(3):
        engine.step()
        tokens.append(engine._metrics.prompt_tokens._value.get())
    assert tokens == [0, 8, 16, 24]
    assert {one.sequence.prompt[0] for one in seen} == {5, 6}


def test_a_decoder_that_fails_ends_every_request_and_the_engine(checkpoint):
    class Broken(Decoder):
        def run_asked(self, chunks):
            raise MemoryError("no more")

    seen = []
    limits = Limits(sequences=1, batched_tokens=8, waiting=4)
    engine = Engine(Broken(checkpoint), limits, Pacer(None), Metrics("m"), seen.extend)
    asked = [engine.submit([5], params()) for _ in range(3)]
    engine.start()
    engine._thread.join(30)
    assert not engine.is_alive()
    assert [(one.sequence, one.finish) for one in seen] == [(one, "error") for one in asked]


def test_a_token_that_cannot_be_drawn_leaves_nobody_without_an_end(checkpoint, monkeypatch):
    def draw(sampler, logits):
        if sampler._params.seed == 2:
            raise FloatingPointError("no such number")
        return Drawn(5, None)

    monkeypatch.setattr(Sampler, "draw", draw)
    engine, seen = make_engine(checkpoint)
    ended, broken = (engine.submit([5], params(seed=s, max_tokens=1)) for s in (1, 2))
    engine.start()
    engine._thread.join(30)
    assert {one.sequence: one.finish for one in seen} == {ended: "error", broken: "error"}


def test_a_request_whose_cache_has_no_memory_gets_its_end(checkpoint, monkeypatch):
    def refuse(config, positions, pool):
        raise MemoryError

    engine, seen = make_engine(checkpoint)
    monkeypatch.setattr("sluice_worker.scheduler.KeyValueCache", refuse)
    sequence = engine.submit([5], params())
    engine.start()
    engine._thread.join(30)
    assert [(one.sequence, one.finish) for one in seen] == [(sequence, "error")]


def test_an_engine_that_has_failed_takes_nothing_more(checkpoint):
    engine, _ = make_engine(checkpoint)
    engine._fail_all()  # its thread still lives for a moment
    with pytest.raises(RequestError, match="has ended") as refused:
        engine.submit([5], params())
    assert (refused.value.status, refused.value.retry_after) == (503, 1)


def test_a_request_that_is_just_let_in_counts_as_load(checkpoint, monkeypatch):
    loads, readers = [], []

    def watch(config, positions, pool):
        reader = threading.Thread(target=lambda: loads.append(engine.load()))
        reader.start()
        reader.join(0.2)  # it may have to wait until the request is in
        readers.append(reader)
        return KeyValueCache(config, positions, pool)

    engine, _ = make_engine(checkpoint)
    monkeypatch.setattr("sluice_worker.scheduler.KeyValueCache", watch)
    engine.submit([5], params())
    engine.step()
    readers[0].join(30)
    assert loads == [1]


def test_what_does_not_fit_the_context_is_refused(checkpoint):
    engine, _ = make_engine(checkpoint)
    with pytest.raises(RequestError, match="context of 128"):
        engine.submit([5] * 120, params(max_tokens=9))


def test_emits_a_token_at_a_time_and_the_end_once(checkpoint):
    engine, seen = make_engine(checkpoint)
    sequence = engine.submit([5, 6, 7], params(max_tokens=3))
    run(engine)
    assert [one.token for one in seen] == sequence.output
    assert [one.finish for one in seen] == [None, None, "length"]


@pytest.fixture
def paced():
    """A pacer whose clock stands still but for its own sleep, which wakes 1 ms late."""
    now = [100.0]

    def sleep(seconds):
        now[0] += seconds + 0.001

    device = EmulatedDevice(PROFILES["maia-200"], NOMINAL_MODELS["llama-3.3-70b"], 1, 96)
    return Pacer(device, lambda: now[0], sleep), now, device.run_step([(1, 100, False)]).seconds


def pace(pacer, now, seconds):
    """Run a step that computes so long; return whether it overran."""
    pacer.begin()
    now[0] += seconds
    pacer.finish([(1, 100, False)])
    return pacer.overran


def test_waking_late_does_not_add_up(paced):
    pacer, now, step = paced
    assert not any(pace(pacer, now, 0.004) for _ in range(10))
    assert now[0] - 100.0 == pytest.approx(10 * step, abs=0.0015)
    assert pacer.late == pytest.approx(0.001)


def test_a_step_that_computes_too_long_is_an_overrun_and_not_caught_up(paced):
    pacer, now, step = paced
    assert pace(pacer, now, 2 * step)
    assert pacer.late == pytest.approx(step)
    assert not pace(pacer, now, 0.004)
    assert now[0] - 100.0 == pytest.approx(3 * step, abs=0.0015)


def test_steps_of_a_device_with_jitter_differ_and_repeat():
    profile, model = PROFILES["maia-200"], NOMINAL_MODELS["llama-3.3-70b"]

    def list_steps(jitter, seed):
        ends, now = [], [100.0]

        def sleep(seconds):
            now[0] += seconds
            ends.append(round(seconds, 9))

        pacer = Pacer(EmulatedDevice(profile, model, 1, 96, jitter, seed), lambda: now[0], sleep)
        for _ in range(20):
            pace(pacer, now, 0.0)
        return ends

    assert len(set(list_steps(0.0, 1))) == 1
    assert len(set(list_steps(0.05, 1))) == 20
    assert list_steps(0.05, 1) == list_steps(0.05, 1) != list_steps(0.05, 2)


def test_tells_the_energy_of_a_step(paced):
    pacer, now, step = paced
    pace(pacer, now, 0.004)
    # Between idle and design power of one Maia 200.
    assert 112.5 < pacer.energy / step < 750
    without = Pacer(None)
    without.begin()
    without.finish([(1, 100, False)])
    assert without.energy == 0


def test_a_throttled_device_idles_longer_and_computes_no_less(paced):
    pacer, now, step = paced
    pace(pacer, now, 0.004)
    usual = pacer.energy
    pacer.devices.effects = Effects(slowdown=3)
    pace(pacer, now, 0.004)
    assert pacer.energy == pytest.approx(usual + 2 * step * 112.5)  # W of an idle Maia 200


def test_a_rest_begins_the_schedule_anew(paced):
    pacer, now, step = paced
    pace(pacer, now, 0.004)
    pacer.rest()
    now[0] += 5.0
    assert not pace(pacer, now, 0.004)
    assert now[0] - 105.0 == pytest.approx(2 * step, abs=0.0025)


def test_the_thread_runs_what_is_submitted(checkpoint):
    engine, seen = make_engine(checkpoint)
    engine.start()
    engine.submit([5, 6, 7], params(max_tokens=4))
    deadline = time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.stop()
    assert len(seen) == 4
    assert not engine.is_alive()
