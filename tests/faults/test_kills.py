"""The operator, killed at every write of a fallback and of the return from it.

It dies before the write reaches the API server, after its commit, and after its response, and is
started again. What it ends in, and what it does on the way, is what a run without kills shows.
"""

import itertools
from collections import Counter

import pytest

from .writes import CLIMBING, KNOWN, Moment, Phase, Write

LAST_OF_STORM = 5


def list_points(phase):
    """Return the writes of a phase that have a kill of their own."""
    return [
        (phase, key, number + 1) for key, times in KNOWN[phase].items() for number in range(times)
    ]


def plan_runs():
    """Return a plan of kills for each run: every point of `KNOWN` at every moment.

    The phases share a run, and so do both halves of the return. Within each there is one kill:
    writes go out side by side, and what an operator dies at in one of them, it may not come to in
    another.
    """
    back = list_points(Phase.RETURN)
    proving = [point for point in back if point[1] not in CLIMBING]
    climbing = [point for point in back if point[1] in CLIMBING]
    parts = [list_points(Phase.MAKE), list_points(Phase.FALL_BACK), proving, climbing]
    together = itertools.zip_longest(*parts)
    return [
        {point: moment for point in points if point is not None}
        for points in together
        for moment in Moment
    ]


def name_plan(plan):
    """Return a test's name: the moment, and the writes."""
    moment = next(iter(plan.values()))
    return f"{moment}: " + ", ".join(f"{phase} {key} {n}" for phase, key, n in plan)


def name_points(kills):
    """Return kills as lines that a person can read."""
    return sorted(f"{moment}: {phase} {key} #{number}" for (phase, key, number), moment in kills)


def check_same(outcome, learned):
    """Compare a run with kills with the one without."""
    assert outcome.problems == [], outcome.story
    assert outcome.final == learned.final, outcome.story
    assert outcome.course == learned.course, outcome.story
    check_all_seen(outcome)


def check_all_seen(outcome):
    """Compare what passed the proxy with the API server's own log."""
    passed = Counter((w.verb, w.resource) for w in outcome.writes if w.code is not None)
    assert passed == outcome.audited, "writes of the operator do not pass the proxy"


def check_known(outcome):
    """Fail for writes that have no kill test."""
    for phase in Phase:
        new = outcome.keys(phase) - set(KNOWN[phase])
        assert not new, (
            f"in the phase {phase!r} the operator writes {sorted(new)}, at which no test kills it:"
            " add them to KNOWN in tests/faults/writes.py, and run `make test-full`\n"
            + outcome.story
        )


@pytest.fixture(scope="module")
def learned(stage):
    """A run in which nobody kills anything."""
    return stage.play({})


def test_an_operator_killed_while_it_falls_back_and_returns_leaves_all_as_it_was(stage):
    plan = {
        (Phase.FALL_BACK, "patch nodes:failed", 1): Moment.COMMITTED,
        (Phase.RETURN, "patch nodes:healthy", 1): Moment.COMMITTED,
    }
    outcome = stage.play(plan)
    check_known(outcome)
    check_all_seen(outcome)
    assert name_points(outcome.kills) == name_points(plan.items()), outcome.story
    assert outcome.problems == [], outcome.story
    assert outcome.course["FallbackActive"] == ["False", "True", "False"], outcome.story
    marks = [node.pop("mark") for node in outcome.final["nodes"].values()]
    assert [mark for mark in marks if mark] == [("Healthy", 1)]
    for node in outcome.before["nodes"].values():
        assert node.pop("mark") is None
    assert outcome.final == outcome.before


@pytest.mark.full
def test_every_write_of_the_story_is_known_and_every_known_write_is_made(learned):
    assert learned.problems == [], learned.story
    assert learned.kills == []
    check_known(learned)
    for phase in Phase:
        gone = set(KNOWN[phase]) - learned.keys(phase)
        assert not gone, (
            f"in the phase {phase!r} the operator no longer writes {sorted(gone)}: take them out of"
            " KNOWN in tests/faults/writes.py, if that is meant"
        )
    check_all_seen(learned)


@pytest.mark.full
@pytest.mark.parametrize("plan", plan_runs(), ids=name_plan)
def test_killed_at_a_write_it_ends_in_the_same_state(stage, learned, plan):
    outcome = stage.play(plan)
    assert name_points(outcome.kills) == name_points(plan.items()), outcome.story
    check_known(outcome)
    check_same(outcome, learned)


@pytest.mark.full
@pytest.mark.parametrize("moment", Moment)
def test_killed_at_one_write_after_the_other_it_ends_in_the_same_state(stage, learned, moment):
    """Every other time that a write comes, the operator dies at it; the retry goes through."""

    def storm(write: Write, now: Moment) -> bool:
        return now is moment and write.occurrence in range(1, LAST_OF_STORM + 1, 2)

    outcome = stage.play(storm)
    # At which writes it dies is chance, since some go out side by side; that it dies often is not.
    died = Counter(phase for (phase, _, _), _ in outcome.kills)
    assert all(died[phase] >= 2 for phase in Phase), outcome.story
    check_known(outcome)
    check_same(outcome, learned)
