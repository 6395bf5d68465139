"""What is left of a cluster whose supervisor was killed."""

import subprocess
from pathlib import Path

from sluice.devcluster.cluster import stop_cluster
from sluice.devcluster.directories import StateDirectory
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
