"""Recorded passes: the same plans again, and what missing evidence would have changed."""

import gzip
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from sluice.cli.errors import CommandError
from sluice.cli.main import sluice
from sluice.control.recording import Recorder
from sluice.decide import limits
from sluice.decide.planner import plan
from sluice.decide.replay import Evidence, _leave_out, replay, replay_without
from sluice.model.recording import RecordingError, read_record, write_record
from sluice.model.snapshot import KnownAnswers, NodeCondition, ProbationPod

from .samples import pool_spec
from .world import World

SECRET = "canary-7f3a"


@pytest.fixture(scope="module")
def lines():
    """Return the recording of a failover and a return."""
    spec = pool_spec()
    template = {"env": [{"name": "TOKEN", "value": SECRET}]}
    variants = [variant.model_dump(mode="json", by_alias=True) for variant in spec.variants]
    variants[0]["template"] = template
    world = World(specs={"chat": pool_spec(variants=variants)})
    world.rate["chat"] = 4.0
    recorder = Recorder("operator-1")

    def run(seconds):
        end = world.now + seconds
        while world.now < end:
            world.step()
            recorder.note(world.seen, world.before, world.plan)

    run(80)
    world.dead = {"maia-0"}
    run(20)
    world.dead = set()
    run(80)
    return list(recorder.lines())


def read(lines):
    return [read_record(line, f"line {n}") for n, line in enumerate(lines)]


def test_a_failover_and_a_return_are_planned_again_bit_for_bit(lines):
    found = list(replay(read(lines)))
    assert len(found) == len(lines) > 80
    assert [difference for _, difference in found if difference] == []
    told = {d.action for r, _ in found for p in r.planned.pools.values() for d in p.decisions}
    assert {"CapacityLost", "ScaleUp"} <= told


def test_a_changed_threshold_is_found(lines, monkeypatch):
    monkeypatch.setattr(limits, "DOWN_UTILISATION", 0.05)
    monkeypatch.setattr(limits, "BACKLOG_DRAIN", 1.0)
    monkeypatch.setattr(limits, "UTILISATION_CEILING", 0.41)
    differing = [difference for _, difference in replay(read(lines)) if difference]
    assert differing
    assert differing[0].recorded != differing[0].replayed


def test_a_memory_that_does_not_follow_is_found(lines):
    document = json.loads(lines[40])
    document["memory"]["pools"]["default/chat"]["rate"] = 99.0
    changed = [*lines[:40], json.dumps(document).encode(), *lines[41:]]
    assert any(d and d.what in ("memory", "plan") for _, d in replay(read(changed)))


def test_without_the_misses_nothing_would_have_failed(lines):
    turns = list(replay_without(read(lines), Evidence.LIVENESS))
    assert any("QuarantineNode" in one for turn in turns for one in turn.decided)
    assert not any("QuarantineNode" in one for turn in turns for one in turn.instead)


def test_evidence_that_did_not_count_changes_nothing(lines):
    # What gateways measured of each worker gates the way back, so only that takes another course.
    turns = list(replay_without(read(lines), Evidence.GATEWAY))
    told = [one for turn in turns for one in (*turn.decided, *turn.instead)]
    assert not any(word in one for one in told for word in ("Quarantine", "Lost", "FallBack"))


def test_several_kinds_of_evidence_can_be_left_out_at_once(lines):
    turns = list(replay_without(read(lines), Evidence.LIVENESS, Evidence.GATEWAY))
    assert any("QuarantineNode" in one for turn in turns for one in turn.decided)
    assert not any("QuarantineNode" in one for turn in turns for one in turn.instead)
    assert list(replay_without(read(lines))) == []


def test_a_record_is_the_same_after_reading_and_writing(lines):
    for line in lines:
        assert write_record(read_record(line, "it")) + b"\n" == line


def test_no_secret_of_a_template_is_recorded(lines):
    assert not any(SECRET.encode() in line for line in lines)


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b"\xff", b'{"version": 1}'])
def test_what_is_no_record_is_named(line):
    with pytest.raises(RecordingError, match="f line 3 is no record"):
        read_record(line, "f line 3")


def test_another_version_is_named(lines):
    document = json.loads(lines[0]) | {"version": 9}
    with pytest.raises(RecordingError, match="version 9"):
        read_record(json.dumps(document).encode(), "f")


def call_replay(*arguments):
    """Return exit code, output and the sentences of `sluice replay`."""
    done = CliRunner().invoke(sluice, ["replay", *map(str, arguments)])
    error = done.exception if isinstance(done.exception, CommandError) else None
    return error.code if error else done.exit_code, done.output, str(error or "")


def test_plain_and_compressed_files_and_directories_are_gone_over_as_one(lines, tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:30])))
    (tmp_path / "dir" / "b.jsonl").write_bytes(b"".join(lines[30:50]))
    (tmp_path / "dir" / "notes.txt").write_bytes(b"no recording")
    (tmp_path / "rest").write_bytes(gzip.compress(b"".join(lines[50:])))
    code, output, _ = call_replay(tmp_path / "dir", tmp_path / "rest")
    assert code == 0
    assert f"{len(lines)} passes: every plan" in output
    code, output, _ = call_replay(tmp_path / "dir", tmp_path / "rest", "--without", "liveness")
    assert "passes would have decided otherwise" in output


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_cut_in_the_middle_of_a_pass_is_gone_over_up_to_there(lines, tmp_path, packed):
    file = tmp_path / "cut"
    data = gzip.compress(b"".join(lines[:20]))[:-900] if packed else b"".join(lines[:20])[:-9]
    file.write_bytes(data)
    code, output, _ = call_replay(file)
    assert code == 0
    assert f"{file} ends in the middle of pass" in output
    assert " passes: every plan" in output


def test_what_holds_no_pass_is_a_sentence(lines, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, said = call_replay(tmp_path / "empty")
    assert (code, "holds no recording" in said) == (2, True)
    (tmp_path / "file").write_bytes(b"")
    code, _, said = call_replay(tmp_path / "file")
    assert (code, said) == (2, "No whole pass stands in it.")
    (tmp_path / "file").write_bytes(lines[0][:-9])
    code, output, said = call_replay(tmp_path / "file")
    assert (code, "in the middle of pass 1" in output) == (2, True)


def with_evidence(snapshot):
    """Return a snapshot in which a worker answered wrongly and a node has a bad condition."""
    known = KnownAnswers(0, 2, snapshot.at, "prompt 1: expected 1, got 2")
    (pool,) = snapshot.pools
    first, *others = pool.workers
    pod = ProbationPod("u", "n", "maia-0", "maia", 0.0, ready=True, terminating=False)
    node = snapshot.nodes[0]
    bad = NodeCondition("False", "DeviceOffBus", "gone")
    return replace(
        snapshot,
        pools=(replace(pool, workers=(replace(first, answers=known), *others)),),
        probations=(replace(pod, slots={"slot-0": known, "slot-1": None}),),
        nodes=(replace(node, conditions={"AcceleratorHealthy": bad}), *snapshot.nodes[1:]),
    )


def test_each_evidence_is_left_out_alone(lines):
    snapshot = with_evidence(read(lines)[-1].snapshot)
    blind = _leave_out(snapshot, Evidence.KNOWN_ANSWERS)
    assert blind.pools[0].workers[0].answers == KnownAnswers(0, 0, snapshot.at)
    assert blind.probations[0].slots == {"slot-0": KnownAnswers(0, 0, snapshot.at), "slot-1": None}
    assert blind.nodes == snapshot.nodes
    blind = _leave_out(snapshot, Evidence.CONDITIONS)
    assert all(not node.conditions for node in blind.nodes)
    assert (blind.pools, blind.probations) == (snapshot.pools, snapshot.probations)


@pytest.mark.parametrize("anew", [True, False])
def test_only_a_process_that_begins_anew_is_taken_as_it_was_recorded(lines, monkeypatch, anew):
    memories = []

    def spy(snapshot, memory):
        memories.append(memory)
        return plan(snapshot, memory)

    monkeypatch.setattr("sluice.decide.replay.plan", spy)
    later = json.dumps(json.loads(lines[60]) | ({"number": 1} if anew else {})).encode()
    records = read([lines[0], later])
    list(replay_without(records, Evidence.LIVENESS))
    assert (memories[1] == records[1].memory) is anew


def test_only_the_last_passes_are_kept():
    world = World()
    world.run(10)
    recorder = Recorder("operator-1")
    for _ in range(250):
        recorder.note(world.snapshot(), world.memory, plan(world.snapshot(), world.memory)[0])
    kept = read(list(recorder.lines()))
    assert [record.number for record in kept] == list(range(51, 251))
