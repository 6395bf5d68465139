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
import time
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from sluice.cli.demo.command import install, kubectl
from sluice.cli.demo.fleet import Fleet, View
from sluice.cli.demo.load import Load
from sluice.cli.demo.prompts import draw_requests, list_gaps, load_questions, load_trace
from sluice.cli.demo.report import find_last_request
from sluice.cli.demo.story import PREFERRED, SPARE, Kill, Story
from sluice.cli.gateway import choose_address
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.binaries.resolution import resolve_binaries
from sluice.devcluster.cluster import Cluster, start_cluster
from sluice.devcluster.images import find_models
from sluice.devcluster.shape import ClusterShape
from sluice.kube.client import KubeClient

RATE = 3.5
WORKERS = 3
READY_SECONDS = 90.0
SETTLE_SECONDS = 240.0


class Bench:
    """One cluster under steady load, harmed again and again."""

    def __init__(self, cluster: Cluster, programs: Binaries, fleet: Fleet, load: Load) -> None:
        self._cluster = cluster
        self._programs = programs
        self._fleet = fleet
        self._load = load
        self._story = Story(fleet, load, cluster.act_on_node, lambda text: print(f"— {text}"))

    async def run(self, harms: list[str], times: int) -> list[dict[str, Any]]:
        """Return a row a harm."""
        await self._story.until(lambda v: v.conditions.get("Ready") == "True", READY_SECONDS)
        found = json.loads(self._kubectl("get", "pods", "-o", "json"))["items"]
        gateways = [pod for pod in found if pod["metadata"]["name"].startswith("sluice-gateway")]
        url = f"{choose_address(gateways)}/v1"
        self._load.client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        self._load.rate = RATE
        sending = asyncio.create_task(self._load.run())
        rows = []
        for harm in harms:
            for number in range(times):
                await self._story.until(is_settled, SETTLE_SECONDS)
                rows.append(self._describe(await self._story.kill_and_return(harm), harm))
                print(f"{number + 1:3} {rows[-1]}", flush=True)
        self._load.rate = 0
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await self._load.client.close()
        return rows

    def _kubectl(self, *arguments: str) -> str:
        return kubectl(self._cluster, self._programs, "-n", "sluice-system", *arguments)

    def _describe(self, kill: Kill, harm: str) -> dict[str, Any]:
        log = self._kubectl("logs", "deploy/sluice-gateway", "--since=300s").splitlines()
        lost = [
            one
            for one in self._load.outcomes
            if one.error and not one.text and one.sent > kill.at - 5
        ]
        return {
            "harm": harm,
            "last_request_s": find_last_request(log, kill),
            "detection_s": kill.detection_s,
            "replacement_wanted_s": kill.replacement_wanted_s,
            "replacement_bound_s": kill.replacement_bound_s,
            "replacement_ready_s": kill.replacement_ready_s,
            "returned_s": kill.returned_s,
            "lost_before_first_token": len(lost),
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
    client = KubeClient(str(cluster.kubeconfig))
    models = find_models() or Path("workers/models")
    trace = load_trace()
    load = Load(
        None, "compact", draw_requests(trace, load_questions(models, 24), 96), list_gaps(trace)
    )
    async with aiohttp.ClientSession() as session:
        fleet = Fleet(client, session, "default", "chat")
        rows = await Bench(cluster, programs, fleet, load).run(harms, times)
    await client.close()
    share = round(fleet.overrun_share(), 4)
    return [*rows, {"overrun_share": share, "requests": len(load.outcomes)}]


def print_worst(rows: list[dict[str, Any]], harms: list[str]) -> None:
    """Print the worst of each number for each harm."""
    print("\nworst of each (emulated devices)")
    for harm in harms:
        mine = [row for row in rows if row.get("harm") == harm]
        for key in list(mine[0])[1:]:
            seen = [row[key] for row in mine if row[key] is not None]
            worst = f"{max(seen):.2f}" if seen else "-"
            print(f"  {harm:7} {key:26} {worst:>8}   seen in {len(seen)} of {len(mine)}")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--harm", action="append", choices=["kill", "freeze"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    harms = arguments.harm or ["kill", "freeze"]
    programs = resolve_binaries()
    shape = ClusterShape(maia=2, gpu=2, system=1)
    cluster = start_cluster("failover", shape=shape, binaries=programs)
    try:
        install(cluster, programs, time.monotonic() + READY_SECONDS)
        rows = asyncio.run(measure(cluster, programs, harms, arguments.times))
    finally:
        cluster.stop()
    print_worst(rows, harms)
    print(json.dumps(rows[-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
