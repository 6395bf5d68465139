"""Forecasts: what a request would meet on a worker, and what they learn from being wrong."""

import dataclasses
from dataclasses import dataclass, replace

import pytest

from sluice_gateway.engines import (
    BelievedSteps,
    Engine,
    LearntSteps,
    parse_emulation,
    parse_engine,
)
from sluice_gateway.forecast import IDLE, Correction, Forecast, Load, Need, predict, weigh_load
from sluice_gateway.goals import Goal, RequestClass
from sluice_gateway.pace import Phase

from .simworld import ENGINES, list_arguments

GOAL = Goal(RequestClass.STANDARD, ttft=1.0, tpot=0.06)
NEED = Need(prompt=64, output=32, goal=GOAL, ttft=1.0, output_most=100)
STEPS = LearntSteps(slots=4, chunk=16, token=0.02, prompt=0.002)
MAIA = BelievedSteps(ENGINES["maia"])


@dataclass(eq=False)
class Run:
    dispatched: float = 0.0
    phase: Phase = Phase.FIRST
    streaming: bool = True
    size: int = 400
    need: Need | None = NEED
    bid: Forecast | None = None
    given: int = 0

    def count_tokens(self):
        return 0, self.given


def weigh(*running, now=0.0, steps=STEPS, first_at=-1.0):
    return weigh_load(running, steps, first_at=first_at, now=now)


def test_an_idle_worker_takes_as_long_as_its_steps():
    found = predict(IDLE, NEED, STEPS)
    assert found.ttft == pytest.approx(4 * 16 * 0.002)
    assert found.work == found.ttft


def test_prompts_that_are_not_computed_yet_come_first():
    alone = predict(IDLE, NEED, MAIA)
    behind = predict(weigh(Run(), Run(), steps=MAIA), NEED, MAIA)
    assert 2.9 * alone.ttft < behind.ttft < 3.6 * alone.ttft


class Untold:
    """Lengths of answers that nobody may ask for."""

    def list_left(self, *_):
        raise AssertionError("asked how long an answer will be")

    expect_left = list_left


def test_while_a_slot_is_free_nobody_reckons_when_one_will_be():
    need = dataclasses.replace(NEED, answers=Untold())
    runs = [Run(need=need, phase=Phase.NEXT, given=5) for _ in range(2)] + [Run(need=need)]
    assert weigh(*runs).place == (0.0, 0.0, 0.0)
    with pytest.raises(AssertionError, match="asked how long"):
        weigh(*runs, Run(need=need))


def test_what_was_computed_of_a_prompt_counts_as_done():
    half = weigh(Run(), now=0.064, steps=STEPS)
    assert half.pending[-1] == pytest.approx(32)
    assert weigh(Run(), now=60.0).pending[-1] >= 1


def test_who_finds_no_place_waits_for_the_next_to_end():
    def begin(given):
        full = weigh(*(Run(phase=Phase.NEXT, given=one) for one in given))
        return predict(full, NEED, STEPS).ttft

    assert begin([5, 5, 5]) < begin([5, 5, 5, 25]) < begin([5, 5, 5, 5])


def test_who_queues_takes_the_places_that_become_free_first():
    running = [Run(phase=Phase.NEXT, given=30) for _ in range(4)]
    queued = [Run(dispatched=float(n)) for n in range(4)]
    one, all_of_them = weigh(*running, queued[0]), weigh(*running, *queued)
    assert weigh(*running).place == one.place
    assert all_of_them.place[-1] > one.place[-1] + NEED.output


def test_the_urgent_do_not_wait_for_what_is_less_so():
    batch = replace(NEED, goal=replace(GOAL, kind=RequestClass.BATCH))
    queued = weigh(*(Run(need=batch) for _ in range(6)), steps=MAIA)
    urgent = replace(NEED, goal=replace(GOAL, kind=RequestClass.INTERACTIVE))
    assert predict(queued, urgent, MAIA).ttft < 0.4 * predict(queued, batch, MAIA).ttft


def test_an_answer_in_one_piece_is_thought_to_get_on():
    bid = Forecast(ttft=0.2, itl=0.02)
    whole = Run(streaming=False, bid=bid)
    assert weigh(whole, now=0.1).decoding == 0
    assert weigh(whole, now=0.4).context == pytest.approx(64 + 10)


def test_tokens_come_further_apart_the_more_prompts_interfere():
    few, many = Load(1, 1, 70.0), Load(7, 7, 490.0)
    assert predict(few, NEED, MAIA).itl < predict(many, NEED, MAIA).itl
    short = replace(NEED, prompt=4)
    assert predict(many, short, MAIA).itl < predict(many, NEED, MAIA).itl


def test_what_a_worker_need_not_compute_again_is_saved():
    whole, rest = predict(IDLE, NEED, MAIA), predict(IDLE, NEED, MAIA, cached=48)
    assert rest.ttft == pytest.approx(whole.ttft / 4)


def test_another_sequence_costs_a_busy_device_little():
    busy, idle = Load(3, 3, 200.0), IDLE
    assert predict(busy, NEED, MAIA).added < 0.1 * predict(idle, NEED, MAIA).added


def test_a_deadline_of_a_whole_answer_is_for_its_end():
    need = replace(NEED, finish=True, ttft=0.5)
    found = Forecast(ttft=0.1, itl=0.02)
    assert found.find_due(need) == pytest.approx(0.1 + 31 * 0.02)
    assert not found.holds(need)
    assert found.holds(replace(need, finish=False))


SEVERAL = replace(NEED, prompt=4 * 64, prompts=4, choices=4)


def test_several_prompts_fill_a_worker_as_so_many_requests_do():
    one, four = Run(need=SEVERAL), [Run() for _ in range(4)]
    together, apart = weigh(one), weigh(*four)
    assert (together.sequences, together.pending) == (apart.sequences, apart.pending)
    assert together.place[-1] > 0
    begun = {"phase": Phase.NEXT}
    one, four = Run(need=SEVERAL, given=40, **begun), [Run(given=10, **begun) for _ in range(4)]
    assert weigh(one) == weigh(*four)


def test_a_request_for_more_than_a_worker_s_slots_keeps_others_waiting_for_all_of_it():
    def wait(choices):
        return weigh(Run(need=replace(NEED, choices=choices))).place[-1]

    assert wait(3) == 0
    assert wait(4) < wait(8) < wait(16)
    given = {"phase": Phase.NEXT, "given": 1}
    long = weigh(Run(need=replace(NEED, choices=16), **given)).place[-1]
    assert long > weigh(Run(need=replace(NEED, choices=4), **given)).place[-1]


def test_of_several_prompts_the_first_gives_a_token_before_the_others_are_computed():
    found = predict(IDLE, SEVERAL, MAIA)
    assert found.work < 1.5 * predict(IDLE, NEED, MAIA).work
    assert found.rest > 2 * found.work


def test_a_whole_answer_of_several_prompts_is_due_when_all_have_theirs():
    one, four = replace(NEED, finish=True), replace(SEVERAL, finish=True)
    due = {need: predict(IDLE, need, STEPS).find_due(need) for need in (one, four)}
    assert due[four] >= due[one] + 3 * 64 * STEPS.prompt
    more = replace(one, choices=3 * STEPS.slots)
    assert predict(IDLE, more, STEPS).find_due(more) > 2.5 * due[one]


def test_a_correction_approaches_what_is_seen_is_bounded_and_forgotten():
    seen = Correction(most=4.0)
    for second in range(60):
        seen.learn(1.5 / seen.read(second), second)
    assert seen.read(60) == pytest.approx(1.5, rel=0.1)
    assert seen.read(60 + 600) == pytest.approx(1.0, abs=0.01)
    for second in range(200):
        seen.learn(1e9, second)
    assert seen.read(199) == pytest.approx(4.0)
    seen.learn(float("inf"), 199)
    assert seen.read(199) <= 4.0


def test_the_arguments_that_the_operator_gives_tell_the_engine():
    assert parse_engine(list_arguments(ENGINES["gpu"])) == ENGINES["gpu"]


@pytest.mark.parametrize(
    "wrong",
    ["--profile=abacus", "--nominal=", "--devices=0", "--token-scale=x", "--max-num-seqs=1e9"],
)
def test_arguments_that_are_nonsense_tell_nothing(wrong):
    assert parse_engine([*list_arguments(ENGINES["gpu"]), wrong]) is None
    assert parse_engine(["--profile=none", 7, None, "--port", "8000"]) is None


TOLD = {
    "profile": "h100",
    "numerics": "float32",
    "nominal": "llama-3.3-70b",
    "devices": 2,
    "token_scale": 32,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 16,
}


def test_what_a_worker_tells_of_itself_is_what_its_arguments_would():
    assert parse_emulation(TOLD) == replace(ENGINES["gpu"], numerics="float32")
    assert parse_emulation({**TOLD, "numerics": None, "else": [1]}) == ENGINES["gpu"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "abacus"},
        {"profile": None},
        {"profile": ["h100"]},
        {"nominal": {"a": 1}},
        {"numerics": 8},
        {"numerics": "mx9"},
        {"devices": 0},
        {"devices": True},
        {"token_scale": 1.5},
        {"token_scale": "9" * 5000},
        {"max_num_seqs": 10**9},
        {"max_num_seqs": 257},
        {"max_num_batched_tokens": None},
    ],
)
def test_nonsense_that_a_server_tells_of_itself_tells_nothing(wrong):
    assert parse_emulation({**TOLD, **wrong}) is None


@pytest.mark.parametrize("told", [None, "h100", 3, [], {}, [TOLD]])
def test_what_is_no_emulation_tells_nothing(told):
    assert parse_emulation(told) is None


def test_numerics_that_a_device_has_not_tell_nothing():
    assert parse_engine([*list_arguments(ENGINES["gpu"]), "--numerics=mx9"]) is None
    assert isinstance(ENGINES["gpu"], Engine)
