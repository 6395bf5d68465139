"""The slot for known answers: free whatever the load, and nobody else's."""

from dataclasses import replace

import numpy as np
import pytest

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import DeviceError, RequestError
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import Pacer
from sluice_worker.record import score_prompts
from sluice_worker.sampling import SamplingParams
from sluice_worker.scores import LEAST

from .checkpoints import write_checkpoint

PARAMS = SamplingParams(
    temperature=0.7, top_p=0.9, seed=1, max_tokens=100, stop=(), ignore_eos=True
)
KNOWN = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def metrics():
    return Metrics("m")


@pytest.fixture
def seen():
    return []


@pytest.fixture
def engine(checkpoint, metrics, seen):
    limits = Limits(sequences=2, batched_tokens=8, waiting=8)
    return Engine(Decoder(checkpoint), limits, Pacer(None), metrics, seen.extend)


def read(metrics, name):
    return metrics.registry.get_sample_value(name, {"model_name": "m"})


def run(engine):
    while engine.step():
        pass


def test_a_known_prompt_is_answered_while_batch_and_queue_are_full(engine):
    for _ in range(8):
        engine.submit([9] * 20, PARAMS)
    with pytest.raises(RequestError, match="8 requests wait already"):
        engine.submit([9], PARAMS)
    probe = engine.submit_probe(KNOWN, 3)
    for _ in range(3):  # its prompt goes first, so that a token comes with every step
        engine.step()
    assert len(probe.output) == 3
    assert engine.load() == 8


def test_company_changes_no_known_answer(engine):
    alone = engine.submit_probe(KNOWN, 8)
    run(engine)
    for _ in range(4):
        engine.submit([9, 10] * 10, PARAMS)
    together = engine.submit_probe(KNOWN, 8)
    run(engine)
    assert together.output == alone.output


def read_scores(sequence):
    return [one.logprob for one in sequence.prompt_scores[1:]]


def test_a_known_prompt_is_scored_whatever_the_company_and_in_as_many_steps(engine, checkpoint):
    prompt = [*KNOWN, *range(20, 40)]  # more than fits a step: it comes in three parts
    alone = engine.submit_probe(prompt, 2)
    steps = 0
    while engine.step():
        steps += 1
    assert steps == 4
    for _ in range(4):
        engine.submit([9, 10] * 10, PARAMS)
    together = engine.submit_probe(prompt, 2)
    run(engine)
    (wanted,) = score_prompts(Decoder(checkpoint), [prompt])
    assert read_scores(alone) == read_scores(together) == wanted


def test_scores_of_a_device_that_hands_on_no_numbers_are_numbers(engine, monkeypatch):
    monkeypatch.setattr(engine._pacer.devices, "disturb", lambda rows: rows * np.float32("nan"))
    probe = engine.submit_probe(KNOWN, 1)
    engine.step()
    assert read_scores(probe) == [LEAST] * 3


def test_no_other_request_takes_the_slot(engine, metrics):
    for _ in range(4):
        engine.submit([9], PARAMS)
    engine.step()
    assert read(metrics, "vllm:num_requests_running") == 2
    engine.submit_probe(KNOWN, 3)
    run_steps = [engine.step() for _ in range(4)]
    assert all(run_steps)
    assert read(metrics, "vllm:num_requests_running") == 2
    assert read(metrics, "vllm:num_requests_waiting") == 2


def test_known_prompts_are_answered_one_at_a_time(engine):
    first = engine.submit_probe(KNOWN, 3)
    with pytest.raises(RequestError, match="one at a time") as refused:
        engine.submit_probe(KNOWN, 3)
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    engine.cancel(first)
    engine.step()
    assert len(engine.submit_probe(KNOWN, 3).prompt) == 4


def test_known_answers_are_no_requests_in_the_metrics(engine, metrics):
    engine.submit_probe(KNOWN, 3)
    engine.step()
    assert read(metrics, "vllm:num_requests_running") == 0
    run(engine)
    for name in (
        "prompt_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds_count",
    ):
        assert read(metrics, f"vllm:{name}") == 0
    assert read(metrics, "vllm:kv_cache_usage_perc") == 0


def test_what_does_not_fit_the_slot_is_refused(tmp_path):
    long = load_checkpoint(write_checkpoint(tmp_path, max_position_embeddings=256))
    limits = Limits(sequences=2, batched_tokens=8, waiting=8)
    engine = Engine(Decoder(long), limits, Pacer(None), Metrics("m"), lambda _: None)
    with pytest.raises(RequestError, match="context of 128"):
        engine.submit_probe([5] * 100, 29)
    assert engine.submit([5] * 100, PARAMS)


def test_a_device_that_fails_ends_known_prompts_too(engine, seen, monkeypatch):
    def fail(chunks):
        raise DeviceError("Xid 79: gone")

    monkeypatch.setattr(engine._pacer, "finish", fail)
    # The step that fails would have been the last of both: nobody is left without an end.
    last = replace(PARAMS, max_tokens=1)
    asked = [engine.submit([5], last), engine.submit_probe(KNOWN, 1)]
    engine.start()
    engine._thread.join(30)
    assert {one.sequence: one.finish for one in seen} == dict.fromkeys(asked, "error")
    assert engine.device_error == "Xid 79: gone"
    with pytest.raises(RequestError, match="has ended"):
        engine.submit_probe(KNOWN, 3)
