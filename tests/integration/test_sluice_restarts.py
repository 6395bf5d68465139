"""Operator and gateway killed at seeded random moments of a failover change nothing in the end."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from .story import Load, ask, make_pool, wait_until

KILLS = 4


def find_processes(program):
    """Return the pids of a program's processes in the clusters of these tests."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(part.endswith(f"/{program}".encode()) for part in command[:2]):
                found.append((int(entry.name), command))
    return found


def kill_one(sluice, program, rng):
    """End one process of a program at once, as a crash would; only those of our cluster."""
    root = str(sluice.cluster.state.root)
    # Both carry their pod's directory in the environment.
    mine = [
        pid
        for pid, _ in find_processes(program)
        if root in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    ]
    if mine:
        os.kill(rng.choice(mine), signal.SIGKILL)
    return bool(mine)


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2])
def test_crashes_during_a_failover_change_nothing_in_the_end(sluice, seed):
    rng = random.Random(seed)
    sluice.create(make_pool("chat"))
    wait_until(lambda: sluice.serving("chat", "maia-200") >= 1, "a worker serves")
    wait_until(lambda: ask(sluice.gateway(), "chat")[0] == 200, "the gateway serves it")
    done, killed = threading.Event(), []

    def crash():
        for number in range(KILLS):
            if done.wait(rng.uniform(4, 12)):
                return
            program = "sluice-gateway" if number == 1 else "sluice-operator"
            killed.append(kill_one(sluice, program, rng))

    chaos = threading.Thread(target=crash)
    try:
        with Load(sluice.gateway(), "chat", rate=3.0):
            wait_until(lambda: sluice.serving("chat", "maia-200") >= 2, "Maia scales")
            nodes = [w["spec"]["nodeName"] for w in sluice.workers("chat")]
            node = max(nodes, key=nodes.count)
            chaos.start()
            sluice.cluster.act_on_node(node, "kill")
            wait_until(lambda: node in sluice.tainted(), "the node is quarantined")
            wait_until(lambda: sluice.serving("chat", "h100") >= 1, "GPU serves")
            sluice.cluster.act_on_node(node, "start")
            time.sleep(KILLS * 3)
        wait_until(lambda: not sluice.tainted(), "the node returns", seconds=180)
        sluice.release(node)
        wait_until(
            lambda: (sluice.wanted("chat", "maia-200"), sluice.wanted("chat", "h100")) == (1, 0),
            "the pool is small again",
            seconds=300,
        )
        assert sluice.condition("chat", "FallbackActive") == "False"
        assert ask(sluice.gateway(), "chat")[0] == 200
        owned = sluice.get("deployment", "-l", "sluice.dev/pool=chat")["items"]
        assert {d["metadata"]["name"] for d in owned} == {"chat-maia-200", "chat-h100"}
        assert any(killed)
    finally:
        done.set()
        if chaos.ident:
            chaos.join()
        sluice.delete_pool("chat")
