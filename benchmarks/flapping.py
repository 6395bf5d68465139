"""A Maia node that comes and goes under load: how often does Sluice let it back?

    python benchmarks/flapping.py --minutes 10
    python benchmarks/flapping.py --minutes 10 --up 60 --return-after 2s   # up for long enough

Starts a cluster of its own. The node is down for `--down` seconds and up for `--up`, over and over.
Up for 10 s is too short to be let back with the sample's `returnAfter`; the second command shows
how a node that is let back, and fails again each time, waits longer, and in the end for a person.
Prints each state as it is entered, then what came of it. Emulated devices.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counting import HUNG_SECONDS, count_requests
from harms import Harm, list_harms, wait_for_ends
from running import Running, send_load, start_sluice, write_json

from sluice.api.quantities import parse_duration
from sluice.cli.demo.fleet import View
from sluice.cli.demo.report import NOTICE
from sluice.cli.demo.story import PREFERRED
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster
from sluice_accel.faults import DEFAULT_RATE, DEFAULT_SLOWDOWN

RATE = 3.5
SETTLE_SECONDS = 120.0
HARMS = ("kill", "freeze", "off-bus")


@dataclass(slots=True)
class TimeLine:
    """States of one node, as they were entered; seconds since the first harm.

    Attributes:
        entered: (when, state of the mark, tainted, reason).
    """

    began: float
    entered: list[tuple[float, str, bool, str]] = field(default_factory=list)

    def note(self, state: str, reason: str, *, tainted: bool) -> None:
        """Take what is seen now, and print it if it is new."""
        last = self.entered[-1] if self.entered else None
        if last is None or last[1:3] != (state, tainted):
            at = time.time() - self.began
            self.entered.append((round(at, 1), state, tainted, reason))
            taint = "tainted" if tainted else "open"
            print(f"{at:7.1f} s  {state:10} {taint:8} {reason}", flush=True)

    def list_returns(self) -> list[float]:
        """Return when the taint went."""
        return self._list_changes(tainted=False)

    def list_outs(self) -> list[float]:
        """Return when the taint came."""
        return self._list_changes(tainted=True)

    def _list_changes(self, *, tainted: bool) -> list[float]:
        pairs = itertools.pairwise(self.entered)
        return [
            after[0] for before, after in pairs if (before[2], after[2]) == (not tainted, tainted)
        ]

    def find_first(self, state: str) -> float | None:
        """Return when a state was first entered."""
        return next((at for at, entered, *_ in self.entered if entered == state), None)


def count_most(times: Sequence[float], seconds: float) -> int:
    """Return how many of the times, at most, lie within so many seconds."""
    return max((sum(0 <= t - first < seconds for t in times) for first in times), default=0)


async def flap(running: Running, node: str, harm: Harm, options: argparse.Namespace) -> int:
    """Harm and heal a node until the minutes are over; return how often. It ends healed."""
    deadline = time.monotonic() + 60 * options.minutes
    flaps = 0
    while time.monotonic() < deadline:
        flaps += 1
        await asyncio.to_thread(running.cluster.act_on_node, node, harm.action, **harm.options)
        await asyncio.sleep(options.down)
        await asyncio.to_thread(running.cluster.act_on_node, node, harm.heal)
        await asyncio.sleep(options.up)
    return flaps


async def watch(running: Running, node: str, line: TimeLine) -> None:
    """Write the time line, until cancelled."""

    def note(_: View) -> bool:
        state, reason = running.fleet.marks.get(node, ("Gone", ""))
        line.note(state, reason, tainted=node in running.fleet.tainted)
        return False

    while True:
        await running.story.until(note, 3600.0)


async def measure(
    cluster: Cluster, programs: Binaries, options: argparse.Namespace
) -> dict[str, Any]:
    """Flap the node with most workers, and return what was seen."""
    harm = list_harms(DEFAULT_RATE, DEFAULT_SLOWDOWN)[options.harm]
    async with send_load(cluster, programs) as running:
        if options.return_after:
            patch = json.dumps({"spec": {"health": {"returnAfter": options.return_after}}})
            running.kubectl("patch", "accel", PREFERRED, "--type", "merge", "-p", patch)
        running.load.rate = RATE
        await running.story.until(
            lambda view: (
                view.conditions.get("Progressing") == "False" and view.serving(PREFERRED) > 1
            ),
            SETTLE_SECONDS,
        )
        workers = running.fleet.workers
        node = max((n for n in workers if n.startswith("maia-")), key=lambda n: len(workers[n]))
        line = TimeLine(time.time())
        watching = asyncio.create_task(watch(running, node, line))
        try:
            flaps = await flap(running, node, harm, options)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await wait_for_ends(running, time.time(), HUNG_SECONDS)
        requests = count_requests(running.load.outcomes, line.began, time.time())
        wrong = sum(one.wrong for one in running.load.outcomes)
        overrun = round(running.fleet.overrun_share(), 4)
        spec = json.loads(running.kubectl("get", "ipool", "chat", "-o", "json"))["spec"]
        health = json.loads(running.kubectl("get", "accel", PREFERRED, "-o", "json"))["spec"]
    return {
        "notice": NOTICE,
        "numerics": running.numerics,
        "node": node,
        "harm": options.harm,
        "flaps": flaps,
        "up_s": options.up,
        "down_s": options.down,
        **judge(line, parse_duration(spec["shift"]["holdDown"]), health["health"]),
        **requests,
        "wrong_answers": wrong,
        "overrun_share": overrun,
        "time_line": line.entered,
    }


def judge(line: TimeLine, hold_down: float, health: dict[str, Any]) -> dict[str, Any]:
    """Return the returns and the latch of a time line, and whether they are as they should be."""
    returns, outs, latched = line.list_returns(), line.list_outs(), line.find_first("Latched")
    most = count_most(returns, hold_down)
    # The first time out is no flap; each later one follows a return.
    must_latch = len(outs) > int(health["latchAfterFlaps"])
    return {
        "hold_down_s": hold_down,
        "return_after": health["returnAfter"],
        "latch_after_flaps": health["latchAfterFlaps"],
        "returns": returns,
        "most_returns_in_a_hold_down": most,
        "outs": outs,
        "latched_s": latched,
        "returns_after_latch": sum(latched is not None and at > latched for at in returns),
        "good": most <= 1
        and (latched is not None or not must_latch)
        and not any(latched is not None and at > latched for at in returns),
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--up", type=float, default=10, help="seconds")
    parser.add_argument("--down", type=float, default=10, help="seconds")
    parser.add_argument("--harm", choices=HARMS, default="kill")
    parser.add_argument("--return-after", help="as in the class; the sample's is 15s")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with start_sluice("flapping") as (cluster, programs):
        found = asyncio.run(measure(cluster, programs, options))
    print(f"\n{NOTICE}")
    for key, value in found.items():
        if key not in {"notice", "time_line"}:
            print(f"  {key:28} {value}")
    print("  goal: at most one return per hold-down, latched when it goes on:", end=" ")
    print("kept" if found["good"] else "MISSED")
    write_json(options.json, found)


if __name__ == "__main__":
    main()
