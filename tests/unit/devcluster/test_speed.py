"""What a machine can carry of what emulated devices promise."""

import os
from pathlib import Path

import pytest

from sluice.devcluster.shape import ClusterShape
from sluice.devcluster.speed import SHARE, Emulation, SpeedProbe, find_emulation, list_promises

SHAPE = ClusterShape(maia=2, gpu=2, system=1)


def test_a_cluster_promises_what_its_profiles_say():
    maia, gpu = list_promises(SHAPE)
    assert (maia.profile, maia.devices, maia.workers) == ("maia-200", 1, 4)
    assert (gpu.profile, gpu.devices, gpu.workers) == ("h100", 2, 2)
    assert maia.rate == pytest.approx(8 / maia.step)
    assert 0.018 < maia.step < 0.03
    assert list_promises(ClusterShape(maia=0, gpu=0, system=3)) == []


def test_twice_the_machine_carries_twice_the_workers():
    promises = list_promises(SHAPE)
    small, large = (Emulation(0.004, count, promises) for count in (2, 4))
    assert large.rate == 2 * small.rate == pytest.approx(2 * 8 * SHARE * 2 / 0.004)
    for promise in promises:
        assert large.carries(promise) >= 2 * small.carries(promise) > 0
        # So many fit, and one more does not.
        assert small.carries(promise) * promise.rate <= small.rate
        assert (small.carries(promise) + 1) * promise.rate > small.rate


def test_a_machine_whose_steps_are_longer_than_the_device_s_carries_none():
    promises = list_promises(SHAPE)
    slow = Emulation(max(promise.step for promise in promises) * 1.01, 64, promises)
    assert [slow.carries(promise) for promise in promises] == [0, 0]


def test_it_is_said_in_sentences_and_to_programs():
    enough, short = (Emulation(step, 2, list_promises(SHAPE)) for step in (0.002, 0.01))
    assert "This machine can emulate 6,400 tokens/s" in enough.describe()
    assert "4 workers of 1 maia-200 promise" in enough.describe()
    assert "overrun:" not in enough.describe()
    assert "All at full batch together" in short.describe()
    told = short.to_dict()
    assert told["tokensPerSecond"] == 1280
    assert [entry["has"] for entry in told["workers"]] == [4, 2]


def test_what_was_not_measured_is_not_said(tmp_path: Path):
    for models in (None, tmp_path):  # no source tree; a model that is none
        with SpeedProbe(models) as probe:
            assert find_emulation(probe.finish(), SHAPE) is None


def test_the_processors_are_those_that_this_process_may_use():
    found = find_emulation(0.004, SHAPE)
    assert found is not None
    assert found.processors == len(os.sched_getaffinity(0))
