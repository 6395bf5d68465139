"""How fast a pool leaves a dead Maia node: kills and freezes under load, from the gateway's log.

    python benchmarks/failover.py --times 20 --harm kill --harm freeze

Starts a cluster of its own, keeps a steady load of real requests, and does each harm so many times:
the node is healed in between, and the next harm waits until traffic is back and the GPU workers are
gone. Prints one line a harm, then the worst of each number. Emulated devices: it measures Sluice,
not hardware.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from running import Running, send_load, start_sluice

from sluice.cli.demo.fleet import View
from sluice.cli.demo.report import find_last_request
from sluice.cli.demo.story import PREFERRED, SPARE, Kill
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster

RATE = 3.5
WORKERS = 3
SETTLE_SECONDS = 240.0
WINDOWS = '{"spec": {"autoscaling": {"stableWindow": "10s"}, "shift": {"holdDown": "5s"}}}'
RETURN = '{"spec": {"health": {"returnAfter": "5s"}}}'
"""Shorter windows than the samples', so that forty harms fit an hour; they bind no fallback."""


async def harm_again_and_again(running: Running, harms: list[str], times: int) -> list[Any]:
    """Return a row a harm."""
    running.kubectl("patch", "ipool", "chat", "--type", "merge", "-p", WINDOWS)
    running.kubectl("patch", "accel", PREFERRED, "--type", "merge", "-p", RETURN)
    running.load.rate = RATE
    rows = []
    for harm in harms:
        for number in range(times):
            if not await running.story.until(is_settled, SETTLE_SECONDS):
                print(f"not settled after {SETTLE_SECONDS:.0f} s: {running.fleet.view.placement}")
            kill = await running.story.kill_and_return(harm)
            # So many harms of one node would latch it: each begins with what nobody remembers.
            running.kubectl("annotate", "node", kill.node, "sluice.dev/release=yes")
            rows.append(describe(running, kill, harm))
            print(f"{number + 1:3} {rows[-1]}", flush=True)
    return rows


def describe(running: Running, kill: Kill, harm: str) -> dict[str, Any]:
    """Return the row of one harm; seconds since it, None for what was not seen."""
    log = running.kubectl("-n", "sluice-system", "logs", "deploy/sluice-gateway", "--since=300s")
    failed = [one for one in running.load.outcomes if one.error and (one.ended or 0) >= kill.at]
    return {
        "harm": harm,
        "workers": len(kill.workers),
        "last_request_s": find_last_request(log.splitlines(), kill),
        "detection_s": kill.detection_s,
        "replacement_wanted_s": kill.replacement_wanted_s,
        "replacement_bound_s": kill.replacement_bound_s,
        "replacement_ready_s": kill.replacement_ready_s,
        "returned_s": kill.returned_s,
        "lost_before_first_token": sum(not one.text for one in failed),
        "streams_cut": sum(bool(one.text) for one in failed),
    }


def is_settled(view: View) -> bool:
    """Tell whether all traffic is on the preferred class, with nothing on its way."""
    return (
        view.conditions.get("Progressing") == "False"
        and view.wanted(SPARE) == 0
        and view.serving(PREFERRED) >= WORKERS
    )


async def measure(
    cluster: Cluster, programs: Binaries, harms: list[str], times: int
) -> list[dict[str, Any]]:
    """Run the bench, and add a row with what it cost in overruns."""
    async with send_load(cluster, programs) as running:
        rows = await harm_again_and_again(running, harms, times)
    share = round(running.fleet.overrun_share(), 4)
    wrong = sum(one.wrong for one in running.load.outcomes)
    sent = len(running.load.outcomes)
    return [*rows, {"overrun_share": share, "requests": sent, "wrong_answers": wrong}]


def print_worst(rows: list[dict[str, Any]], harms: list[str]) -> None:
    """Print the worst of each number for each harm."""
    print("\nworst of each (emulated devices)")
    for harm in harms:
        mine = [row for row in rows if row.get("harm") == harm]
        for key in list(mine[0])[1:]:
            seen = sorted(row[key] for row in mine if row[key] is not None)
            worst = f"{seen[-1]:.2f}" if seen else "-"
            middle = f"{seen[len(seen) // 2]:.2f}" if seen else "-"
            told = f"worst {worst:>8}   median {middle:>8}   seen in {len(seen)} of {len(mine)}"
            print(f"  {harm:7} {key:26} {told}")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--harm", action="append", choices=["kill", "freeze"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    harms = arguments.harm or ["kill", "freeze"]
    with start_sluice("failover") as (cluster, programs):
        rows = asyncio.run(measure(cluster, programs, harms, arguments.times))
    print_worst(rows, harms)
    print(json.dumps(rows[-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
