"""Known answers: we compare, and a worker can neither judge itself nor lower the bar."""

import itertools

import aiohttp
import pytest

from sluice.decide.limits import PROOF_ROUNDS
from sluice.model.snapshot import KnownAnswers
from sluice.observe.answers import AnswerProber

from .fakeworker import find, target, until


async def test_right_rounds_are_counted_in_a_row(prober, worker):
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 2)
    found = find(prober)
    assert (found.wrong, found.detail, found.unavailable) == (0, "", "")
    assert found.at >= 2.0
    assert worker.limits[:2] == [2, 3]  # as many tokens as are known


async def test_a_wrong_token_is_told_with_its_prompt(prober, worker):
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 2)
    worker.outputs[9,] = [4, 99, 9]
    await until(lambda: find(prober).wrong >= 1)
    assert find(prober).right == 0
    assert find(prober).detail == "prompt 2: expected 4 17 9, got 4 99 9"


@pytest.mark.parametrize(
    ("output", "shown"), [([], "got nothing"), ([4], "got 4"), ([4, 17, 9, 9], "got 4 17 9 9")]
)
async def test_too_few_and_too_many_tokens_are_wrong(prober, worker, output, shown):
    worker.outputs[9,] = output
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).wrong >= 1)
    assert find(prober).detail.endswith(shown)


async def test_a_long_wrong_answer_is_shown_where_it_parts(prober, worker):
    right = list(range(100, 200))
    worker.answers = [{"prompt": [9], "output": right}]
    worker.outputs[9,] = [*right[:50], 7, *right[51:]]
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).wrong >= 1)
    detail = find(prober).detail
    assert "expected … 148 149 150 151" in detail
    assert "got … 148 149 7 151" in detail
    assert len(detail) < 200


async def test_a_worker_that_answers_wrongly_and_then_hangs_was_wrong(prober, worker):
    worker.outputs[1, 2, 3] = [4, 6]
    prober.set_targets([target(worker, timeout=0.3, period=60)])
    await until(lambda: find(prober).wrong == 1)
    assert worker.asked == 1  # one wrong answer is enough


async def test_a_worker_that_hangs_is_neither_right_nor_wrong(prober, worker):
    prober.set_targets([target(worker, timeout=0.1)])
    await until(lambda: find(prober).right >= 1)
    worker.heard.clear()
    before = prober.unanswered
    await until(lambda: prober.unanswered > before + 1)
    found = find(prober)
    assert found.right >= 1
    assert (found.wrong, found.unavailable) == (0, "")
    assert found.silent >= 2
    worker.heard.set()
    await until(lambda: find(prober).silent == 0)


async def test_a_hung_worker_that_is_busy_with_an_earlier_round_is_silent_all_the_same(
    prober, worker
):
    prober.set_targets([target(worker, timeout=0.1)])
    worker.heard.clear()
    await until(lambda: find(prober).silent == 1)
    worker.heard.set()
    worker.refusal = 429
    before = prober.unanswered
    await until(lambda: prober.unanswered >= before + 2)
    assert find(prober).silent >= 1


@pytest.mark.parametrize("status", [408, 421, 429, 500, 503])
async def test_a_busy_or_broken_worker_is_neither_right_nor_wrong(prober, worker, status):
    worker.refusal = status
    prober.set_targets([target(worker)])
    await until(lambda: prober.unanswered >= 2)
    assert find(prober) == KnownAnswers()


async def test_the_answer_of_another_pod_at_the_address_does_not_count(prober, worker):
    worker.uid = "another"
    prober.set_targets([target(worker)])
    await until(lambda: prober.unanswered >= 2)
    assert find(prober) == KnownAnswers()


async def test_nobody_at_the_address_is_no_verdict(prober, worker):
    worker.url = "http://127.0.0.1:1"
    prober.set_targets([target(worker)])
    await until(lambda: prober.unanswered >= 2)
    assert find(prober) == KnownAnswers()


async def test_a_worker_without_answers_says_why(prober, worker):
    worker.refusal = 404
    worker.said = {"error": {"message": "no probes.json\nbeside the weights \x1b[31m" + "x" * 999}}
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    said = find(prober).unavailable
    assert said.startswith("no probes.json beside the weights [31m")
    assert said.isprintable()
    assert len(said) <= 200
    worker.refusal = None
    await until(lambda: find(prober).right >= 1)
    assert find(prober).unavailable == ""


async def test_a_refusal_without_a_reason_and_a_redirect_are_told(prober, worker):
    worker.refusal = 302
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "answers 302" in find(prober).unavailable


async def test_rounds_in_a_row_end_when_nothing_can_be_judged_any_more(prober, worker):
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right >= 2)
    worker.refusal, worker.said = 404, {"error": {"message": "gone"}}
    await until(lambda: find(prober).unavailable)
    assert find(prober).right == 0


async def test_a_wrong_answer_that_was_made_good_is_not_held_against_anybody_again(prober, worker):
    worker.outputs[9,] = [0]
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).wrong)
    worker.outputs[9,] = [4, 17, 9]
    await until(lambda: find(prober).right >= PROOF_ROUNDS)
    assert len(find(prober).right_at) == PROOF_ROUNDS
    worker.refusal, worker.said = 404, {"error": {"message": "gone"}}
    await until(lambda: find(prober).unavailable)
    assert (find(prober).wrong, find(prober).right_at) == (0, ())


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"modelDigest": "d", "numerics": "n", "answers": 1}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [], "output": [1]}]}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [1], "output": []}]}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [true], "output": [1]}]}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [-1], "output": [1]}]}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [1.5], "output": [1]}]}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [1e999], "output": [1]}]}',
        b'{"modelDigest": "a b", "numerics": "n", "answers": [{"prompt": [1], "output": [1]}]}',
        b'{"modelDigest": "d", "numerics": "n", "answers": [{"prompt": [9'
        + b"9" * 5000
        + b'], "output": [1]}]}',
    ],
)
async def test_a_list_of_nonsense_is_no_list(prober, worker, given):
    worker.given = given
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "list of known answers cannot be read" in find(prober).unavailable
    assert len(find(prober).unavailable) < 300


async def test_an_empty_list_is_no_list(prober, worker):
    worker.answers = []
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "is empty" in find(prober).unavailable


async def test_an_answer_of_another_model_than_the_list_is_not_judged(prober, worker):
    worker.spoken_digest = "sha256:cd"
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).unavailable)
    assert "sha256:cd" in find(prober).unavailable
    assert "sha256:ab" in find(prober).unavailable


async def test_rounds_of_another_model_do_not_count_for_this_one(prober, worker):
    prober.set_targets([target(worker, timeout=0.3)])
    await until(lambda: find(prober).right >= 1)
    worker.heard.clear()
    worker.digest = "sha256:cd"
    await until(lambda: find(prober).right == 0)
    assert find(prober).wrong == 0


async def test_who_is_no_target_any_more_has_no_result(prober, worker):
    prober.set_targets([target(worker)])
    await until(lambda: find(prober).right)
    prober.set_targets([])
    assert prober.results() == {}


async def test_slots_of_a_probation_pod_are_told_apart(prober, start):
    good, bad = await start(), await start()
    bad.outputs[9,] = [1]
    prober.set_targets([target(good, "p/slot-0"), target(bad, "p/slot-1")])
    await until(lambda: find(prober, "p/slot-0").right and find(prober, "p/slot-1").wrong)
    assert find(prober, "p/slot-0").wrong == 0
    assert find(prober, "p/slot-1").right == 0


async def test_rounds_of_one_target_are_a_period_apart(prober, worker):
    prober.set_targets([target(worker, period=0.05)])
    await until(lambda: worker.listed >= 4)
    gaps = [b - a for a, b in itertools.pairwise(worker.times)]
    assert sum(gaps) >= 0.05 * len(gaps) * 0.9


async def test_the_rate_holds_over_all_targets_and_new_ones_begin_one_after_the_other(start):
    workers = [await start() for _ in range(6)]
    async with aiohttp.ClientSession() as session:
        prober = AnswerProber(session, lambda: 1.0, lambda: None, per_second=20)
        prober.set_targets([target(w, f"w{i}") for i, w in enumerate(workers)])
        await until(lambda: all(w.listed for w in workers))
        prober.stop()
    first = sorted(w.times[0] for w in workers)
    assert first[-1] - first[0] >= 5 / 20 * 0.8


async def test_who_has_to_prove_itself_does_not_stand_in_the_line_of_a_large_fleet(start):
    fleet, proving = [await start() for _ in range(4)], await start()
    async with aiohttp.ClientSession() as session:
        prober = AnswerProber(session, lambda: 1.0, lambda: None, per_second=10)
        targets = [target(w, f"w{i}") for i, w in enumerate(fleet)]
        prober.set_targets([*targets, target(proving, "p/slot-0", proving=True)])
        await until(lambda: sum(w.listed for w in fleet) >= 8)
        prober.stop()
    # Turn about gives it about eight, where one line for all would give it two.
    assert proving.listed > 4
    assert all(w.listed for w in fleet)


async def test_a_pass_is_asked_for_when_something_changed_and_else_not(worker):
    calls = []
    async with aiohttp.ClientSession() as session:
        prober = AnswerProber(session, lambda: 1.0, lambda: calls.append(1), per_second=1000)
        prober.set_targets([target(worker)])
        await until(lambda: find(prober).right >= 3)
        assert len(calls) == 1
        worker.outputs[9,] = [1]
        await until(lambda: find(prober).wrong)
        assert len(calls) >= 2
        prober.stop()
