"""The time line tells causes before decisions, each thing once, with its numbers."""

from dataclasses import replace

import pytest

from sluice.decide.recall import format_time
from sluice.decide.timeline import (
    Entry,
    choose_node,
    choose_pool,
    describe_entries,
    describe_span,
    find_entered,
    format_moment,
    merge_entries,
    trace_events,
    trace_passes,
    trace_status,
)
from sluice.model.keys import PoolKey
from sluice.model.recording import make_record

from .world import World, record

CHAT = PoolKey("default", "chat")


def run(world, seconds, records):
    """Let a world live for a while, and add what is recorded of it."""
    end = world.now + seconds
    while world.now < end:
        world.step()
        made = make_record("op", len(records) + 1, world.seen, world.before, world.plan)
        records.append(made)


@pytest.fixture(scope="module")
def story():
    """Return the records of a failover and a return, and the world afterwards."""
    world = World(now=1_764_128_400.25)
    world.rate["chat"] = 4.0
    records = []

    run(world, 80, records)
    world.dead = {"maia-0"}
    run(world, 20, records)
    world.dead = set()
    run(world, 80, records)
    return records, world


def tell(entries, subject):
    return [entry.what for entry in entries if entry.subject == subject]


def test_a_worker_is_followed_through_its_states_to_its_deletion(story):
    entries = trace_passes(story[0])
    assert tell(entries, "worker chat-maia-1") == [
        "Starting",
        "Starting → Healthy",
        "Healthy → Suspect",
        "Suspect → Failed",
        "delete",
    ]
    failed = next(e for e in entries if e.what == "Suspect → Failed")
    assert failed.detail == (
        "4 of 3 liveness probes in a row missed, on node maia-0, Suspect for 2.0 s"
    )
    assert (failed.node, failed.pools, failed.warning) == ("maia-0", {CHAT}, True)


def test_a_node_goes_out_and_comes_back_once_each_with_the_reason(story):
    entries = trace_passes(story[0])
    told = ["quarantined", "in probation", "returned", "healthy"]
    assert tell(entries, "node maia-0") == told
    assert "of 20 s needed" in next(e for e in entries if e.what == "in probation").detail
    assert "known answers right" in next(e for e in entries if e.what == "returned").detail


def test_causes_stand_before_what_was_decided_because_of_them(story):
    entries = trace_passes(story[0])
    at = next(e.at for e in entries if e.what == "quarantined")
    kinds = [e.subject.split()[0] for e in entries if e.at == at]
    assert kinds == sorted(kinds, key=["worker", "node", "pool"].index)
    assert set(kinds) == {"worker", "node", "pool"}


def test_what_the_last_pass_made_of_a_worker_is_told_too(story):
    records, _ = story
    at = next(n for n, r in enumerate(records) if r.planned.nodes)
    entries = trace_passes(records[: at + 1])
    assert "Suspect → Failed" in tell(entries, "worker chat-maia-1")


def test_several_operators_and_one_that_begins_anew_do_not_mix(story):
    records, _ = story
    other = [replace(r, instance="op-2", number=n) for n, r in enumerate(records[70:], 1)]
    anew = [replace(r, number=n) for n, r in enumerate(records[50:70], 1)]
    entries = trace_passes([*records[:50], *anew, *other])
    whole = trace_passes(records)
    both = merge_entries(entries)
    assert tell(both, "node maia-0") == tell(whole, "node maia-0")
    assert not any("→ Starting" in entry.what for entry in both)


def test_what_is_planned_again_until_it_is_carried_out_is_told_once(story):
    at = next(n for n, record in enumerate(story[0]) if record.planned.nodes)
    deletes = next(n for n, r in enumerate(story[0]) if r.planned.pools[CHAT].deletes)
    for index in (at, deletes):
        record = story[0][index]
        again = [replace(record, number=n) for n in (1, 2, 3)]
        told = [(e.subject, e.what) for e in trace_passes(again) if e.subject[:4] != "pool"]
        assert len(told) == len(set(told))
        assert {"quarantined", "delete"} & {what for _, what in told}


def test_a_state_that_a_recording_begins_with_is_not_told_beside_its_being_entered():
    entered = Entry(5.25, "worker w", "Healthy → Suspect", "1 of 3 missed")
    begun = Entry(5.25, "worker w", "Suspect", "1 of 3 missed")
    assert merge_entries([begun], [entered]) == [entered]
    assert merge_entries([begun]) == [begun]


def test_a_recording_that_begins_in_probation_tells_since_when_it_lasts(story):
    records, _ = story
    whole = trace_passes(records)
    begin = next(e.at for e in whole if e.what == "in probation")
    late = next(n for n, record in enumerate(records) if record.planned.at > begin) + 1
    told = trace_passes(records[late : late + 1])
    assert [(e.at, e.warning) for e in told if e.what == "in probation"] == [(begin, False)]
    assert find_entered(told, "maia-0", "Probation") == begin
    assert find_entered(whole, "maia-0", "Probation") is None  # it is healthy by now
    assert find_entered(told, "maia-1", "Probation") is None


def test_a_release_that_changes_nothing_is_no_part_of_the_story():
    world, records = World(), []

    run(world, 20, records)
    world.release = {"gpu-0"}
    run(world, 4, records)
    assert not world.release  # it was obeyed
    assert tell(trace_passes(records), "node gpu-0") == []
    world.banned = {"gpu-0": "new firmware"}
    run(world, 4, records)
    world.banned, world.release = {}, {"gpu-0"}
    run(world, 4, records)
    assert tell(trace_passes(records), "node gpu-0") == ["latched", "in probation"]


def test_a_warning_stays_one_also_where_the_better_source_does_not_say_so():
    recorded = Entry(5.25, "pool default/chat", "FallBack", "gpu 0 → 1")
    event = replace(recorded, at=5.0, warning=True, exact=False)
    assert merge_entries([recorded], [event]) == [replace(recorded, warning=True)]


def test_status_and_events_add_only_what_the_passes_do_not_tell(story):
    records, world = story
    status = record(world.memory.pools[CHAT])
    entries = trace_passes(records)
    own = trace_status(CHAT, status)
    assert own
    assert len(merge_entries(entries, own)) == len(merge_entries(entries))
    decided = next(e for e in entries if e.what == "FallBack")
    event = {
        "involvedObject": {"kind": "InferencePool", "namespace": "default", "name": "chat"},
        "reason": decided.what,
        "message": decided.detail,
        "type": "Warning",
        "firstTimestamp": format_time(decided.at),
    }
    other = event | {"reason": "Unreadable", "message": "spec.slo is\nodd", "count": 3}
    merged = merge_entries(entries, trace_events([event, other]), own)
    assert len(merged) == len(merge_entries(entries)) + 1
    added = next(e for e in merged if e.what == "Unreadable")
    assert (added.detail, added.exact) == ("spec.slo is odd (3 times)", False)
    assert next(e for e in merged if e.what == "FallBack").exact


def test_without_a_recording_status_and_events_are_one_story():
    status = {
        "decisions": [
            {"time": "2026-01-01T00:00:00Z", "action": "ScaleUp", "reason": "maia 1 → 2"},
            {"time": "soon", "action": "Edited", "reason": "by hand"},
            "nonsense",
        ]
    }
    event = {
        "involvedObject": {"kind": "InferencePool", "namespace": "default", "name": "chat"},
        "reason": "ScaleUp",
        "message": "maia 1 → 2",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    broken = [{}, {"involvedObject": {"name": "x"}}, event | {"lastTimestamp": "never"}]
    (only,) = merge_entries(trace_events([event, *broken]), trace_status(CHAT, status))
    assert (only.subject, only.what) == ("pool default/chat", "ScaleUp")
    assert trace_status(CHAT, {"decisions": 1}) == []


def test_a_pool_has_the_nodes_of_its_classes_and_no_other_pool(story):
    entries = [
        *trace_passes(story[0]),
        Entry(1.0, "pool default/other", "ScaleUp", pools=frozenset([PoolKey("default", "other")])),
    ]
    chosen = choose_pool(entries, CHAT)
    assert {"node maia-0", "pool default/chat"} <= {e.subject for e in chosen}
    assert "pool default/other" not in {e.subject for e in chosen}


def test_a_node_has_its_workers_and_the_decisions_that_name_it(story):
    chosen = choose_node(trace_passes(story[0]), "maia-0")
    subjects = {entry.subject for entry in chosen}
    assert {"node maia-0", "worker chat-maia-1", "pool default/chat"} <= subjects
    assert "worker chat-gpu-5" not in subjects
    told = {e.what for e in merge_entries(chosen) if e.subject.startswith("pool")}
    assert {"CapacityLost", "FallBack", "RampStart", "RampDone"} <= told
    assert not any(what.startswith("Node") for what in told)  # the node's own entries say it


@pytest.mark.parametrize(
    ("detail", "named"), [("on maia-1.", True), ("on maia-10", False), ("on old-maia-1", False)]
)
def test_a_node_is_not_taken_for_one_with_a_longer_name(detail, named):
    entry = Entry(1.0, "pool default/chat", "FallBack", detail)
    assert choose_node([entry], "maia-1") == ([entry] if named else [])


def test_what_is_older_is_left_out(story):
    entries = trace_passes(story[0])
    since = next(e.at for e in entries if e.what == "returned")
    assert min(e.at for e in merge_entries(entries, since=since)) == since


def test_lines_have_time_gap_subject_and_words():
    entries = [
        Entry(1_764_128_400.123, "worker w", "Failed", "3 missed", warning=True),
        Entry(1_764_128_400.13, "node maia-0", "quarantined"),
        Entry(1_764_128_402.0, "pool default/chat", "FallBack", "gpu 0 → 1", exact=False),
    ]
    assert describe_entries(entries) == [
        "2025-11-26T03:40:00.123Z          ! worker w           Failed: 3 missed",
        "2025-11-26T03:40:00.130Z            node maia-0        quarantined",
        "2025-11-26T03:40:02Z      +1.9 s    pool default/chat  FallBack: gpu 0 → 1",
    ]
    assert describe_entries([]) == []


def test_spans_and_moments():
    assert [describe_span(s) for s in (2.06, 192, 7500)] == ["2.1 s", "3 min 12 s", "2 h 5 min"]
    assert format_moment(0.0, exact=False) == "1970-01-01T00:00:00Z"
    assert format_moment(1e300).endswith(" s")
