"""Recorded passes: the same plans again, and what missing evidence would have changed."""

import json
import subprocess
import sys

import pytest

from sluice.control.recording import Recorder
from sluice.decide import limits
from sluice.decide.planner import plan
from sluice.decide.replay import Evidence, replay, replay_without
from sluice.model.recording import RecordingError, read_record, write_record

from .world import World, pool_spec

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
    assert list(replay_without(read(lines), Evidence.GATEWAY)) == []


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


def test_the_command_replays_in_a_process_of_its_own(lines, tmp_path):
    file = tmp_path / "passes.jsonl"
    file.write_bytes(b"".join(lines))
    command = [sys.executable, "-c", "from sluice.cli.main import main; main()", "replay"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(lines)} passes: every plan" in done.stdout
    file.write_bytes(lines[0][:-40])
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "line 1 is no record" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_last_passes_are_kept():
    world = World()
    world.run(10)
    recorder = Recorder("operator-1")
    for _ in range(250):
        recorder.note(world.snapshot(), world.memory, plan(world.snapshot(), world.memory)[0])
    kept = read(list(recorder.lines()))
    assert [record.number for record in kept] == list(range(51, 251))
