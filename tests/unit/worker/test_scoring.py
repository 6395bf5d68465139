"""The scores of a prompt's tokens are the same however the prompt is computed."""

import pytest

from sluice_worker.checkpoint import load_checkpoint
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams

from .checkpoints import write_checkpoint

PROMPT = [5 + number % 90 for number in range(0, 560, 7)]
SCORED = SamplingParams(0, 1, 0, 4, prompt_logprobs=2, ignore_eos=True)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return Decoder(load_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")))


def make_engine(decoder, **over):
    limits = Limits(**({"sequences": 4, "batched_tokens": 128, "waiting": 16} | over))
    return Engine(decoder, limits, Pacer(None), Metrics("m"), lambda _: None)


def run(engine):
    while engine.step():
        pass


@pytest.fixture(scope="module")
def alone(decoder):
    engine = make_engine(decoder)
    sequence = engine.submit(PROMPT, SCORED)
    run(engine)
    return sequence


def test_every_token_but_the_first_has_a_score(alone):
    first, *rest = alone.prompt_scores
    assert first is None
    assert [score.token for score in rest] == PROMPT[1:]


def test_chunks_and_company_change_no_score(decoder, alone):
    engine = make_engine(decoder, batched_tokens=9)
    others = [engine.submit([9] * 20, SCORED) for _ in range(2)]
    sequence = engine.submit(PROMPT, SCORED)
    run(engine)
    assert sequence.prompt_scores == alone.prompt_scores
    assert all(len(one.prompt_scores) == 20 for one in others)


def test_a_prompt_that_is_in_the_cache_is_scored_all_the_same(decoder, alone):
    engine = make_engine(decoder)
    engine.submit(PROMPT, SamplingParams(0, 1, 0, 4))
    run(engine)
    sequence = engine.submit(PROMPT, SCORED)
    run(engine)
    assert sequence.prompt_scores == alone.prompt_scores


def test_a_score_survives_that_its_sequence_gave_way(decoder, alone):
    engine = make_engine(decoder, cache_tokens=128)
    sequence = engine.submit(PROMPT, SCORED, priority=1)
    engine.step()
    run_first = engine.submit([9] * 60, SamplingParams(0, 1, 0, 60, ignore_eos=True), priority=0)
    run(engine)
    assert sequence.output == alone.output
    assert sequence.prompt_scores == alone.prompt_scores
    assert len(run_first.output) == 60
