"""How long a worker may say nothing, from what its requests have shown."""

from dataclasses import dataclass, replace

import pytest

from sluice_gateway.pace import Mean, Outlook, Pace, Phase, find_outlook, find_silence
from sluice_gateway.settings import Patience

PATIENCE = Patience()
BRISK = Outlook(token=0.04, first=0.0, prefill=0.002)


@dataclass
class Run:
    phase: Phase = Phase.FIRST
    dispatched: float = 0.0
    waiting_since: float = 0.0
    size: int = 100
    streaming: bool = True
    tokens_most: int | None = None
    work: float = 0.0


def silence(runs, *, outlook=BRISK, pace=None, now=10.0):
    return find_silence(pace or Pace(), runs, outlook, PATIENCE, now)


def learnt(value, count=9):
    return Pace(token=Mean(value, count), first=Mean(value, count), prefill=Mean(value, count))


def test_the_own_pace_comes_first_then_the_siblings_then_the_objective():
    told = {"tpot": 0.2, "chunk": 16}
    own = find_outlook(learnt(0.05), [learnt(0.5)], **told)
    assert own == Outlook(token=0.05, first=0.05, prefill=0.05)
    new = find_outlook(learnt(9.0, count=2), [learnt(0.2), learnt(0.4), Pace()], **told)
    assert new.token == pytest.approx(0.3)
    assert find_outlook(Pace(), [], **told) == Outlook(token=0.2, first=0.0, prefill=0.2 / 16)


def test_a_mean_follows_what_changes():
    mean = Mean()
    for value in [1.0] * 20 + [3.0] * 60:
        mean.add(value)
    assert 2.9 < mean.value < 3.0
    first = Mean()
    first.add(4.0)
    assert first.value == 4.0


def test_a_decoding_worker_may_be_silent_for_twenty_tokens_and_at_least_a_second():
    decoding = [Run(Phase.NEXT, waiting_since=8.0), Run(dispatched=1.0)]
    assert silence(decoding).patience == 1.0
    assert silence(decoding).seconds == 2.0
    slow = replace(BRISK, token=0.2)
    assert silence(decoding, outlook=slow).patience == 4.0


def test_any_token_ends_the_silence():
    pace = Pace(progressed_at=9.9)
    stalled = [Run(Phase.NEXT, waiting_since=2.0)]
    assert silence(stalled, pace=pace).seconds == pytest.approx(0.1)


def test_what_we_slept_is_not_the_worker_s_silence():
    pace = Pace(progressed_at=6.0, excused=3.0)
    assert silence([Run(Phase.NEXT)], pace=pace).seconds == 1.0
    pace.note_progress(9.0)
    assert silence([Run(Phase.NEXT)], pace=pace).seconds == 1.0


def test_a_long_prompt_gets_the_time_it_takes():
    assert silence([Run()]).patience == 2.0
    assert silence([Run(size=2000)]).patience == pytest.approx(3 * 4.0)
    both = [Run(size=1000, streaming=False), Run(dispatched=1.0, size=1000)]
    assert silence(both).patience == pytest.approx(3 * 4.0)  # one prompt after the other


def test_where_first_tokens_take_long_nobody_is_hurried():
    assert silence([Run()], outlook=replace(BRISK, first=3.0)).patience == 9.0


def test_a_whole_answer_shows_nothing_before_its_end():
    whole = Run(size=100, streaming=False, tokens_most=100)
    assert silence([whole]).patience == pytest.approx(3 * (0.2 + 100 * 0.04))
    assert silence([replace(whole, tokens_most=None)]) is None


def test_requests_beyond_the_slots_only_queue():
    wholes = [Run(dispatched=n, streaming=False) for n in range(8)]
    assert silence([*wholes, Run(dispatched=8.0)]) is None
    assert silence([*wholes[1:], Run(dispatched=8.0)]) is not None


def test_a_worker_whose_clients_are_slow_owes_nothing():
    assert silence([Run(Phase.CLIENT)]) is None
    assert silence([]) is None


def test_a_prompt_that_is_foreseen_to_take_long_may_take_it():
    """A stream goes on with few bytes that are many tokens."""
    assert silence([Run()]).patience == PATIENCE.first_least
    assert silence([Run(work=4.0)]).patience == PATIENCE.margin * 4.0
    assert silence([Run(work=4.0), Run(work=9.0)]).patience == PATIENCE.margin * 4.0
