"""Clusters come up, go down, and leave nothing behind, whatever is killed and when."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import (
    Cluster,
    find_cluster,
    list_clusters,
    start_cluster,
    stop_cluster,
)
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import (
    ClusterConflictError,
    ClusterNotRunningError,
    ClusterStartError,
    StateFormatError,
)
from sluice.devcluster.locks import is_locked
from sluice.devcluster.shape import ClusterShape

NO_NODES = ClusterShape(maia=0, gpu=0, system=0)
DEADLINE_SECONDS = 30.0
SLUICE = Path(sys.executable).parent / "sluice"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def find_processes(mark: Path) -> list[str]:
    """Return the command lines that name a path below `mark`, or whose directory it is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            here = str((entry / "cwd").readlink())
            if int(entry.name) != os.getpid() and (str(mark) in line or here.startswith(str(mark))):
                found.append(line)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "sluice" / "clusters"
    yield home
    for entry in list_clusters(home=home):
        if entry["phase"] != "unreadable":
            stop_cluster(entry["name"], home=home)
    assert find_processes(tmp_path) == []


def start_command(tmp_path: Path, name: str = "sluice") -> subprocess.Popen[str]:
    """Start `sluice cluster up` as a terminal would, with Ctrl-C able to reach it."""
    # A shell's background jobs ignore Ctrl-C and hand that on; a terminal's do not.
    heed = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    arguments = ["cluster", "up", "--name", name, "--maia=0", "--gpu=0", "--system=0"]
    return subprocess.Popen(
        [sys.executable, "-c", heed, SLUICE, *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


# Seeded moments over the whole start, which takes about four seconds.
MOMENTS = [round(random.Random(7).uniform(0.0, 3.0), 2) for _ in range(6)]


@pytest.mark.parametrize(
    "moment",
    [MOMENTS[0], *(pytest.param(each, marks=pytest.mark.full) for each in MOMENTS[1:])],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_start_leaves_nothing(
    tmp_path: Path, home: Path, number: signal.Signals, moment: float
) -> None:
    command = start_command(tmp_path)
    time.sleep(moment)  # the moment is the case, not a synchronisation
    command.send_signal(number)
    output, _ = command.communicate(timeout=DEADLINE_SECONDS)
    if number == signal.SIGINT and "is ready after" not in output:
        assert command.returncode == 130
        assert "Traceback" not in output
    wait_for(lambda: find_processes(tmp_path) == [])
    wait_for(lambda: not home.exists() or list(home.iterdir()) == [])


def test_a_detached_cluster_outlives_its_starter(tmp_path: Path, home: Path) -> None:
    command = start_command(tmp_path)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert find_cluster("sluice", home=home).read_status()["phase"] == "ready"

    again = start_command(tmp_path)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert "is running already" in output

    assert stop_cluster("sluice", home=home)
    assert find_processes(tmp_path) == []
    assert not (home / "sluice").exists()
    assert not stop_cluster("sluice", home=home)


def test_everything_dies_with_the_supervisor_and_up_starts_anew(
    binaries: Binaries, tmp_path: Path, home: Path
) -> None:
    cluster = start_cluster("one", shape=NO_NODES, binaries=binaries, home=home)
    cluster.detach()
    os.kill(cluster.read_status()["pid"], signal.SIGKILL)
    wait_for(lambda: find_processes(tmp_path) == [])
    assert [entry["phase"] for entry in list_clusters(home=home)] == ["crashed"]
    with pytest.raises(ClusterNotRunningError, match="has crashed"):
        find_cluster("one", home=home)

    started = start_cluster("one", shape=NO_NODES, binaries=binaries, home=home)
    assert started.read_status()["phase"] == "ready"
    started.stop()


def test_down_ends_a_supervisor_that_hangs(binaries: Binaries, tmp_path: Path, home: Path) -> None:
    cluster = start_cluster("one", shape=NO_NODES, binaries=binaries, home=home)
    cluster.detach()
    os.kill(cluster.read_status()["pid"], signal.SIGSTOP)
    assert stop_cluster("one", home=home)
    assert find_processes(tmp_path) == []
    assert not (home / "one").exists()


def test_down_ends_recorded_orphans_and_nobody_else(tmp_path: Path, home: Path) -> None:
    state = StateDirectory.of("one", home)
    state.prepare()
    with (
        subprocess.Popen(["sleep", "600"]) as orphan,
        subprocess.Popen(["sleep", "600"]) as stranger,
    ):
        from sluice.devcluster.processes import identify_process

        known, reused = identify_process(orphan.pid), identify_process(stranger.pid)
        assert known is not None
        assert reused is not None
        entries = [
            {"name": "etcd", **known.to_dict()},
            # Recorded under the same number, but started at another time: a number used again.
            {"name": "kube-apiserver", **reused.to_dict(), "start": reused.start_ticks - 1},
        ]
        state.processes.write_text(json.dumps(entries))
        assert stop_cluster("one", home=home)
        assert orphan.wait(DEADLINE_SECONDS) == -signal.SIGKILL
        assert stranger.poll() is None
        stranger.kill()


def test_two_clusters_run_side_by_side(binaries: Binaries, home: Path) -> None:
    clusters = [
        start_cluster(name, shape=NO_NODES, binaries=binaries, home=home) for name in ("a", "b")
    ]
    statuses = [cluster.read_status() for cluster in clusters]
    assert statuses[0]["network"] != statuses[1]["network"]
    assert statuses[0]["server"] != statuses[1]["server"]
    with pytest.raises(ClusterConflictError, match="'a' is running already"):
        start_cluster("a", shape=NO_NODES, binaries=binaries, home=home)
    for cluster in clusters:
        cluster.stop()


def test_a_program_that_dies_at_start_is_quoted(
    binaries: Binaries, tmp_path: Path, home: Path
) -> None:
    broken = tmp_path / "broken-scheduler"
    broken.write_text("#!/bin/sh\necho 'unknown controller: nonsense' >&2\nexit 3\n")
    broken.chmod(0o755)
    replaced = Binaries.from_dict(binaries.to_dict() | {"kube_scheduler": str(broken)})
    with pytest.raises(ClusterStartError, match="kube-scheduler ended with code 3") as caught:
        start_cluster("one", shape=NO_NODES, binaries=replaced, home=home)
    assert "unknown controller: nonsense" in str(caught.value)
    assert find_processes(tmp_path / "sluice") == []
    assert (home / "one" / "logs" / "kube-scheduler.log").exists()


def test_a_component_that_dies_later_is_reported(binaries: Binaries, home: Path) -> None:
    cluster: Cluster = start_cluster("one", shape=NO_NODES, binaries=binaries, home=home)
    by_name = {entry["name"]: entry for entry in cluster.read_status()["components"]}
    os.kill(by_name["kube-scheduler"]["pid"], signal.SIGKILL)
    wait_for(lambda: cluster.read_status()["phase"] == "degraded")
    cluster.stop()
    assert not is_locked(cluster.state.lock)


@pytest.mark.parametrize("action", ["kill", "freeze"])
def test_an_api_server_that_was_away_comes_back_with_what_it_knew(
    binaries: Binaries, home: Path, action: str
) -> None:
    cluster: Cluster = start_cluster("one", shape=NO_NODES, binaries=binaries, home=home)

    def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [binaries.kubectl, "--kubeconfig", cluster.kubeconfig, "--request-timeout=3s"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    try:
        kubectl("create", "configmap", "kept", "--from-literal=word=yes").check_returncode()
        cluster.act_on_component("kube-apiserver", action)
        assert cluster.read_status()["phase"] == "degraded"
        assert kubectl("get", "configmap", "kept").returncode != 0
        cluster.act_on_component("kube-apiserver", "start")
        wait_for(lambda: kubectl("get", "configmap", "kept").returncode == 0)
        assert cluster.read_status()["phase"] == "ready"
    finally:
        cluster.stop()
    assert not is_locked(cluster.state.lock)


def test_a_state_directory_of_another_version_is_left_alone(binaries: Binaries, home: Path) -> None:
    state = StateDirectory.of("one", home)
    state.prepare()
    state.format.write_text("99\n")
    for act in (
        lambda: start_cluster("one", shape=NO_NODES, binaries=binaries, home=home),
        lambda: stop_cluster("one", home=home),
        lambda: find_cluster("one", home=home),
    ):
        with pytest.raises(StateFormatError, match="format 99, this version writes 1"):
            act()
    assert state.format.read_text() == "99\n"
    assert [entry["phase"] for entry in list_clusters(home=home)] == ["unreadable"]


def test_a_state_directory_that_cannot_be_made_is_named(binaries: Binaries) -> None:
    with pytest.raises(ClusterStartError, match="cannot be started in /proc/clusters/one"):
        start_cluster("one", shape=NO_NODES, binaries=binaries, home=Path("/proc/clusters"))
