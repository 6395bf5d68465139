"""Correct workers with three times the load that they carry: does anybody take them for broken?

    python benchmarks/overload.py --minutes 10

Starts a cluster of its own, clips the pool at `--workers` Maia workers so that it cannot scale, and
sends `--factor` times what they are reckoned to carry within the SLO. Counts whatever would be done
to something broken (nodes tainted or marked, workers quarantined, restarted or deleted): all of it
would be false. And tells how fast what is too much was refused. Emulated devices.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counting import HUNG_SECONDS, count_requests, find_quantile, is_inside
from harms import wait_for_ends
from running import Running, send_load, start_sluice, write_json

from sluice.cli.demo.fleet import View
from sluice.cli.demo.load import Outcome
from sluice.cli.demo.report import NOTICE, OVERRUN_LIMIT
from sluice.cli.demo.story import PREFERRED
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster
from sluice.kube.errors import KubeError
from sluice.kube.paths import PODS, POOLS
from sluice.model.names import LABEL_NAME, WORKER

WARM_RATE = 1.0
WARM_SECONDS = 30.0
"""In which the pool learns what requests are like, and so what its workers carry."""
SETTLE_SECONDS = 120.0
LOOK_EVERY = 0.5
QUICK_SECONDS = 2.0
"""A refusal has to come within the time in which a first token should have (assumed)."""


@dataclass(slots=True)
class FalseAlarms:
    """All that was done to workers and nodes, and none of it should have been.

    Attributes:
        told: each alarm, as it was first seen.
        pods: restarts of each worker by uid, as last seen.
    """

    began: float
    told: list[str] = field(default_factory=list)
    pods: dict[str, tuple[str, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _now: set[str] = field(default_factory=set)

    def tell(self, kind: str, what: str) -> None:
        """Count an alarm."""
        self.counts[kind] += 1
        self.told.append(f"{time.time() - self.began:.1f} s: {kind}: {what}")
        print(self.told[-1], flush=True)

    def compare(self, standing: set[tuple[str, str]]) -> None:
        """Take the alarms that stand now, and tell those that are new."""
        for kind, what in sorted(standing):
            if f"{kind} {what}" not in self._now:
                self.tell(kind, what)
        self._now = {f"{kind} {what}" for kind, what in standing}

    def compare_pods(self, now: dict[str, tuple[str, int]]) -> None:
        """Take the workers that there are now, and tell what became of those before."""
        for uid, (name, restarts) in self.pods.items():
            if uid not in now:
                self.tell("deleted", name)
            elif now[uid][1] > restarts:
                self.tell("restarted", name)
        self.pods = now


async def watch(running: Running, alarms: FalseAlarms) -> None:
    """Look for false alarms until cancelled."""
    while True:
        try:
            status = (await running.fleet.client.get(POOLS, "default", "chat")).get("status", {})
            pods = await list_workers(running)
        except KubeError:
            await asyncio.sleep(LOOK_EVERY)
            continue
        await running.fleet.look()
        standing = {
            ("quarantined", pod)
            for variant in status.get("variants", ())
            for pod in variant.get("quarantined", ())
        }
        standing |= {("tainted", node) for node in running.fleet.tainted}
        standing |= {
            ("marked", f"{node} {state}: {reason}")
            for node, (state, reason) in running.fleet.marks.items()
            if state != "Healthy"
        }
        alarms.compare(standing)
        alarms.compare_pods(pods)
        await asyncio.sleep(LOOK_EVERY)


async def list_workers(running: Running) -> dict[str, tuple[str, int]]:
    """Return name and restarts of the workers that are not being deleted, by uid."""
    selector = f"{LABEL_NAME}={WORKER}"
    found = {}
    async for pod in running.fleet.client.list_pages(PODS, "default", selector):
        if "deletionTimestamp" not in pod["metadata"]:
            statuses = pod.get("status", {}).get("containerStatuses", ())
            restarts = sum(int(one.get("restartCount", 0)) for one in statuses)
            found[pod["metadata"]["uid"]] = (pod["metadata"]["name"], restarts)
    return found


async def clip(running: Running, workers: int) -> float:
    """Hold the pool at so many workers, and return the requests/s that they are to carry."""
    variants = [
        {"acceleratorClass": PREFERRED, "min": workers, "max": workers},
        {"acceleratorClass": "h100", "min": 0, "max": 0},
    ]
    patch = json.dumps({"spec": {"variants": variants}})
    running.kubectl("patch", "ipool", "chat", "--type", "merge", "-p", patch)
    running.load.rate = WARM_RATE

    def is_clipped(view: View) -> bool:
        quiet = view.conditions.get("Progressing") == "False"
        return quiet and view.wanted(PREFERRED) == view.serving(PREFERRED) == workers

    await running.story.until(is_clipped, SETTLE_SECONDS)
    await asyncio.sleep(WARM_SECONDS)
    status = (await running.fleet.client.get(POOLS, "default", "chat")).get("status", {})
    reckoned = next(
        (v.get("capacity") for v in status["variants"] if v["acceleratorClass"] == PREFERRED), None
    )
    if reckoned is None:
        raise SystemExit("The pool does not say what a worker carries: status has no capacity.")
    return workers * float(reckoned)


def describe_requests(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Return what became of the overload's requests; times in seconds."""
    answered = [one for one in outcomes if one.ended is not None and not one.error]
    refused = [one for one in outcomes if one.ended is not None and _is_refused(one)]
    shed = sorted((one.ended or 0.0) - one.sent for one in refused if one.shed)
    other = sorted((one.ended or 0.0) - one.sent for one in refused if not one.shed)
    ttfts = sorted(one.ttft for one in answered if one.ttft is not None)
    return {
        "sent_a_second": round(len(outcomes) / seconds, 2),
        "answered_a_second": round(len(answered) / seconds, 2),
        "answered_inside_slo": sum(is_inside(one) for one in answered),
        "ttft_p50_s": _round(find_quantile(ttfts, 0.5)),
        "ttft_p95_s": _round(find_quantile(ttfts, 0.95)),
        "time_to_429_p50_s": _round(find_quantile(shed, 0.5)),
        "time_to_429_p95_s": _round(find_quantile(shed, 0.95)),
        "refused_otherwise": len(other),
        "time_to_other_refusal_p95_s": _round(find_quantile(other, 0.95)),
        "wrong_answers": sum(one.wrong for one in outcomes),
    }


def _is_refused(one: Outcome) -> bool:
    return one.shed or "Error code: 503" in one.error


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


async def measure(
    cluster: Cluster, programs: Binaries, options: argparse.Namespace
) -> dict[str, Any]:
    """Overload the pool, and return what was seen."""
    async with send_load(cluster, programs) as running:
        carried = await clip(running, options.workers)
        rate = carried * options.factor
        print(f"— {options.workers} workers are to carry {carried:.2f}/s; sending {rate:.2f}/s")
        began = time.time()
        alarms = FalseAlarms(began, pods=await list_workers(running))
        watching = asyncio.create_task(watch(running, alarms))
        try:
            running.load.rate = rate
            await asyncio.sleep(60 * options.minutes)
            seconds = time.time() - began
            running.load.rate = 0.0
            await wait_for_ends(running, time.time(), HUNG_SECONDS + 1)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        mine = [one for one in running.load.outcomes if one.sent >= began]
        counted = count_requests(mine, began, time.time())
        overrun = running.fleet.overrun_share()
    kinds = ("quarantined", "tainted", "marked", "restarted", "deleted")
    return {
        "notice": NOTICE,
        "numerics": running.numerics,
        "workers": options.workers,
        "reckoned_capacity": round(carried, 2),
        **describe_requests(mine, seconds),
        **counted,
        **{f"false_{kind}": alarms.counts[kind] for kind in kinds},
        "alarms": alarms.told,
        "overrun_share": round(overrun, 4),
        "valid": overrun <= OVERRUN_LIMIT,
    }


def judge(found: dict[str, Any]) -> dict[str, bool]:
    """Tell which goals were kept."""
    quick = found["time_to_429_p95_s"]
    return {
        "no false failures": not found["alarms"],
        "something was refused": found["shed_429"] + found["refused_otherwise"] > 0,
        "refused with 429 only": not found["refused_otherwise"],
        f"95 % of refusals within {QUICK_SECONDS:g} s": quick is not None
        and quick <= QUICK_SECONDS,
        "nothing hung": not found["hung"],
        "nothing lost or cut": found["lost_before_first_token"] == found["refused_otherwise"]
        and not found["streams_cut"],
        "no wrong answers": not found["wrong_answers"],
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with start_sluice("overload") as (cluster, programs):
        found = asyncio.run(measure(cluster, programs, options))
    found["goals"] = judge(found)
    print(f"\n{NOTICE}")
    for key, value in found.items():
        if key not in {"notice", "goals"}:
            print(f"  {key:28} {value}")
    for goal, kept in found["goals"].items():
        print(f"  goal: {goal}: {'kept' if kept else 'MISSED'}")
    write_json(options.json, found)


if __name__ == "__main__":
    main()
