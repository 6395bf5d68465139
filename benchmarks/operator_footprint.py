"""What the operator costs: writes at idle and under constant load, memory, start to first plan.

    python benchmarks/operator_footprint.py --minutes 3

Starts a cluster of its own whose API server keeps an audit log, and counts in it what the
operator's account wrote. The start is from a replica's process start to the first object it makes
for a pool that was applied while no operator ran.
"""

import argparse
import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from running import Running, send_load, start_sluice

from sluice.cli.demo.load import Load
from sluice.cli.demo.prompts import Request
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster

RATE = 2.0
OUTPUT_TOKENS = 32
SETTLE_SECONDS = 120.0
CALM_SECONDS = 90.0
"""Longer than the windows of signals and of scaling down, so that what came before is over."""
START_SECONDS = 60.0
OPERATOR = "system:serviceaccount:sluice-system:sluice-operator"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def read_writes(cluster: Cluster) -> Iterator[tuple[float, str]]:
    """Yield the time and the target of each write by the operator, its Lease's included."""
    for line in cluster.state.audit_log.read_text().splitlines():
        event = json.loads(line)
        ref = event.get("objectRef") or {}
        if event["user"].get("username") != OPERATOR or event["verb"] not in WRITES:
            continue
        target = "/".join(filter(None, (ref.get("resource"), ref.get("subresource"))))
        at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
        yield at, f"{event['verb']} {target}"


def list_processes() -> dict[int, float]:
    """Return the operator's processes: pid to the time they started, seconds since the epoch."""
    ticks = os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/sluice-operator") for word in words[:2]):
                started = float((entry / "stat").read_text().rsplit(")", 1)[1].split()[19])
                found[int(entry.name)] = time.time() - uptime + started / ticks
        except OSError:
            continue
    return found


def read_rss(pid: int) -> float:
    """Return a process's resident memory in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


async def count_writes(running: Running, minutes: float) -> dict[str, Any]:
    """Let some minutes pass and return what was written in them, by target."""
    await running.story.until(lambda v: v.conditions.get("Progressing") == "False", SETTLE_SECONDS)
    await asyncio.sleep(CALM_SECONDS)
    since = time.time()
    await asyncio.sleep(60 * minutes)
    wrote = Counter(what for at, what in read_writes(running.cluster) if at >= since)
    lease = sum(count for what, count in wrote.items() if what.endswith(" leases"))
    return {
        "minutes": minutes,
        "a_minute_without_lease": round((wrote.total() - lease) / minutes, 2),
        "lease_a_minute": round(lease / minutes, 2),
        "what": dict(wrote),
    }


def steady(load: Load) -> None:
    """Make the load constant: one request like the other, at equal distances."""
    question = load.questions[len(load.questions) // 2]
    load.requests = itertools.repeat(Request(question, OUTPUT_TOKENS))
    load.gaps = [1.0]
    load.rate = RATE


def time_start(running: Running, strangers: set[int]) -> float | None:
    """Apply a pool while no operator runs, start one, return seconds to the first thing made."""
    scale = ("-n", "sluice-system", "scale", "deploy/sluice-operator")
    running.kubectl(*scale, "--replicas=0")
    _until(lambda: not set(list_processes()) - strangers)
    running.kubectl("delete", "deploy,svc,pdb", "-l", "sluice.dev/pool=chat")
    since = time.time()
    running.kubectl(*scale, "--replicas=1")
    _until(lambda: set(list_processes()) - strangers)
    (started,) = (at for pid, at in list_processes().items() if pid not in strangers)

    def find_first() -> list[float]:
        made = ("deployments", "services")
        writes = read_writes(running.cluster)
        return [at for at, what in writes if at >= since and what.endswith(made)][:1]

    _until(find_first)
    first = find_first()
    return round(first[0] - started, 2) if first else None


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)


async def measure(
    cluster: Cluster, programs: Binaries, minutes: float, strangers: set[int]
) -> dict[str, Any]:
    """Return all numbers."""
    async with send_load(cluster, programs) as running:
        idle = await count_writes(running, minutes)
        steady(running.load)
        loaded = await count_writes(running, minutes)
        memory = [read_rss(pid) for pid in list_processes() if pid not in strangers]
        running.load.rate = 0
        start = await asyncio.to_thread(time_start, running, strangers)
    return {"idle": idle, "load": loaded, "rss_mb": memory, "start_to_first_plan_s": start}


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=3)
    arguments = parser.parse_args()
    strangers = set(list_processes())
    with start_sluice("footprint", audit_log=True) as (cluster, programs):
        found = asyncio.run(measure(cluster, programs, arguments.minutes, strangers))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
