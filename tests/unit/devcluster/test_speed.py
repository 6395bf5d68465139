"""What a machine can carry of what emulated devices promise."""

import os
from pathlib import Path

import pytest

from sluice.devcluster.shape import ClusterShape
from sluice.devcluster.speed import (
    SHARE,
    Emulation,
    SpeedProbe,
    find_emulation,
    list_numerics,
    list_promises,
)

NUMERICS = ("fp8-block", "fp8-row")
SHAPE = ClusterShape(maia=2, gpu=2, system=1)


def make_emulation(step: float, processors: int, row: float | None = None) -> Emulation:
    """Return a machine whose steps take so long in both numerics, or in fp8-row `row`."""
    steps = dict(zip(NUMERICS, (step, row or step), strict=True))
    return Emulation(steps, processors, list_promises(SHAPE))


def test_each_kind_of_device_is_held_against_steps_in_its_own_numerics():
    even, uneven = make_emulation(0.004, 2), make_emulation(0.004, 2, row=0.006)
    maia, gpu = uneven.promises
    assert uneven.carries(maia) == even.carries(maia)
    assert uneven.carries(gpu) < even.carries(gpu)
    assert uneven.rate == pytest.approx(8 * SHARE * 2 / 0.006)
    assert "computes in 4.0 ms in fp8-block, 6.0 ms in fp8-row" in uneven.describe()


def test_a_cluster_promises_what_its_profiles_say():
    maia, gpu = list_promises(SHAPE)
    assert (maia.profile, maia.devices, maia.workers) == ("maia-200", 1, 4)
    assert tuple(list_numerics(SHAPE)) == (maia.numerics, gpu.numerics) == NUMERICS
    assert (gpu.profile, gpu.devices, gpu.workers) == ("h100", 2, 2)
    assert maia.rate == pytest.approx(8 / maia.step)
    assert 0.018 < maia.step < 0.03
    assert list_promises(ClusterShape(maia=0, gpu=0, system=3)) == []


def test_twice_the_machine_carries_twice_the_workers():
    promises = list_promises(SHAPE)
    small, large = (make_emulation(0.004, count) for count in (2, 4))
    assert large.rate == 2 * small.rate == pytest.approx(2 * 8 * SHARE * 2 / 0.004)
    for promise in promises:
        assert large.carries(promise) >= 2 * small.carries(promise) > 0
        # So many fit, and one more does not.
        assert small.carries(promise) * promise.rate <= small.rate
        assert (small.carries(promise) + 1) * promise.rate > small.rate


def test_a_machine_whose_steps_are_longer_than_the_device_s_carries_none():
    promises = list_promises(SHAPE)
    slow = make_emulation(max(promise.step for promise in promises) * 1.01, 64)
    assert [slow.carries(promise) for promise in promises] == [0, 0]


def test_it_is_said_in_sentences_and_to_programs():
    enough, short = (make_emulation(step, 2) for step in (0.002, 0.01))
    assert "This machine can emulate 6,400 tokens/s" in enough.describe()
    assert "4 workers of 1 maia-200 promise" in enough.describe()
    assert "overrun:" not in enough.describe()
    assert "All at full batch together" in short.describe()
    told = short.to_dict()
    assert told["tokensPerSecond"] == 1280
    assert [entry["has"] for entry in told["workers"]] == [4, 2]


def test_what_was_not_measured_is_not_said(tmp_path: Path):
    for models in (None, tmp_path):  # no source tree; a model that is none
        with SpeedProbe(models, NUMERICS) as probe:
            assert find_emulation(probe.finish(), SHAPE) is None


def test_the_processors_are_those_that_this_process_may_use():
    found = find_emulation({"fp8-block": 0.004, "fp8-row": 0.004}, SHAPE)
    assert found is not None
    assert found.processors == len(os.sched_getaffinity(0))
