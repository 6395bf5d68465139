"""What is left of a cluster whose supervisor was killed."""

import subprocess
from pathlib import Path

import pytest

from sluice.devcluster import cluster
from sluice.devcluster.cluster import stop_cluster
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import ClusterError
from sluice.devcluster.locks import is_locked
from sluice.devcluster.processes import identify_process


def test_down_ends_what_a_pod_has_left_and_nothing_of_another_cluster(tmp_path: Path) -> None:
    left = {}
    for name in ("one", "one-more"):
        state = StateDirectory.of(name, tmp_path)
        state.prepare()
        home = state.nodes / "maia-0" / "pods" / "uid" / "containers" / "c" / "home"
        left[name] = subprocess.Popen(["sleep", "600"], env={"HOME": str(home)})
    try:
        assert stop_cluster("one", home=tmp_path)
        left["one"].wait(10)
        assert identify_process(left["one-more"].pid) is not None
    finally:
        for process in left.values():
            process.kill()
            process.wait()


def test_a_stop_that_failed_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory.of("one", tmp_path)
    state.prepare()

    def fail(_: StateDirectory) -> None:
        raise ClusterError("one would not die")

    monkeypatch.setattr(cluster, "end_leftovers", fail)
    with pytest.raises(ClusterError, match="would not die"):
        stop_cluster("one", home=tmp_path)
    assert not is_locked(state.lock)
    monkeypatch.undo()
    assert stop_cluster("one", home=tmp_path)
