import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sluice.devcluster.processes import (
    ProcessIdentity,
    freeze_tree,
    identify_process,
    is_running,
    kill_processes,
    list_children,
    list_descendants,
    send_signal,
    thaw_tree,
)
from sluice.devcluster.tether import run_tethered

DEADLINE_SECONDS = 10.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def read_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """Start a shell with two children."""
    with subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600 & wait"]) as parent:
        wait_for(lambda: len(list_children(parent.pid)) == 2)
        yield parent
        for pid in [*list_descendants(parent.pid), parent.pid]:
            send_signal(pid, signal.SIGKILL)


def test_a_process_is_known_by_more_than_its_number(family: subprocess.Popen[bytes]) -> None:
    known = identify_process(family.pid)
    assert known is not None
    assert is_running(known)
    assert ProcessIdentity.from_dict(known.to_dict()) == known
    assert not is_running(ProcessIdentity(known.pid, known.start_ticks + 1, known.boot))
    assert not is_running(ProcessIdentity(known.pid, known.start_ticks, "another boot"))


def test_a_zombie_does_not_run() -> None:
    with subprocess.Popen(["true"]) as child:
        wait_for(lambda: read_state(child.pid) == "Z")
        assert identify_process(child.pid) is None
    assert identify_process(child.pid) is None


def test_freezing_stops_everything_below_and_thawing_undoes_it(
    family: subprocess.Popen[bytes],
) -> None:
    everyone = [family.pid, *list_descendants(family.pid)]
    freeze_tree(family.pid)
    wait_for(lambda: [read_state(pid) for pid in everyone] == ["T"] * 3)
    thaw_tree(family.pid)
    wait_for(lambda: "T" not in [read_state(pid) for pid in everyone])


def test_killing_takes_what_is_below_and_spares_a_number_used_again(
    family: subprocess.Popen[bytes],
) -> None:
    known = identify_process(family.pid)
    assert known is not None
    below = list_descendants(family.pid)
    assert kill_processes([ProcessIdentity(known.pid, known.start_ticks - 1, known.boot)])
    assert is_running(known)
    assert kill_processes([known])
    assert family.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    wait_for(lambda: all(identify_process(pid) is None for pid in below))


def test_a_tethered_command_gives_its_output_and_its_code() -> None:
    with run_tethered(["sh", "-c", "echo out; echo err >&2; exit 3"]) as process:
        assert process.stdout is not None
        assert sorted(process.stdout) == ["err\n", "out\n"]
        assert process.wait() == 3


def test_a_command_that_is_not_there_is_said() -> None:
    with run_tethered(["/no/such/program"]) as process:
        assert process.stdout is not None
        assert "No such file or directory" in process.stdout.read()
        assert process.wait() == 127


def test_leaving_the_block_ends_the_command_and_its_children() -> None:
    with run_tethered(["sh", "-c", "sleep 600 & echo $!; wait"]) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert identify_process(child) is not None
    assert identify_process(child) is None


def test_a_killed_caller_takes_the_command_along() -> None:
    code = (
        "from sluice.devcluster.tether import run_tethered\n"
        # setsid and a double fork: nothing but adoption finds this one again.
        "with run_tethered(['sh', '-c', 'setsid sleep 600 & echo $!; wait']) as process:\n"
        "    print(process.stdout.readline(), flush=True)\n"
        "    process.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        grandchild = int(caller.stdout.readline())
        assert identify_process(grandchild) is not None
        os.kill(caller.pid, signal.SIGKILL)
    wait_for(lambda: identify_process(grandchild) is None)
