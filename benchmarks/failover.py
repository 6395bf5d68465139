"""How fast a pool leaves hardware that fails, and how it comes back: harms under load.

    python benchmarks/failover.py --times 20 --harm kill --harm off-bus
    python benchmarks/failover.py --times 20      # all harms, two to three minutes each time

    kill, freeze  a Maia node loses its power, or hangs
    off-bus       its devices fall off the bus; the node stays Ready
    hang          steps on its devices never end; nothing is logged
    corruption    a share --rate of what its devices compute is wrong, and looks plausible
    throttle      its devices are --slowdown times as slow
    all-kill      all Maia nodes lose their power at once

Starts a cluster of its own, keeps a steady load of real requests, and does each harm so many times:
it waits until the pool is well again, heals the node (and releases it by hand where it is latched),
and waits for the gated return; the next harm begins when all is quiet on the preferred class.
Prints one line a harm, then worst and median of each number. Emulated devices: it measures Sluice,
not hardware.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counting import (
    HUNG_SECONDS,
    OBJECTIVE,
    count_misses,
    count_requests,
    list_attempts,
    measure_share_inside,
)
from harms import (
    PATIENCE_SECONDS,
    Harm,
    Seen,
    do_harm,
    is_whole,
    list_harms,
    read_attainment,
    release,
    wait_for_ends,
)
from running import Running, send_load, start_sluice, write_json

from sluice.cli.demo.fleet import View
from sluice.cli.demo.report import NOTICE
from sluice.cli.demo.story import PREFERRED, SPARE
from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cluster import Cluster
from sluice_accel.faults import DEFAULT_RATE, DEFAULT_SLOWDOWN

RATE = 3.5
WORKERS = 3
SETTLE_SECONDS = 240.0
WINDOWS = (
    '{"spec": {"autoscaling": {"stableWindow": "10s"},'
    ' "shift": {"holdDown": "5s", "ramp": {"steps": ["30%"], "dwell": "3s"}}}}'
)
RETURN = '{"spec": {"health": {"returnAfter": "5s"}}}'
"""Shorter windows than the samples', so that many harms fit an hour; they bind no fallback."""

KNOWN_ANSWERS_SECONDS = 10.0
STARTUP_SECONDS = 6.0
"""What the sample's classes say: the period of known answers, and an emulated start."""
GOALS = {
    "last_request_s": 3.0,
    "spare_wanted_s": 5.0,
    "lost_before_first_token": 0.0,
    "hung": 0.0,
    "client_back_s": STARTUP_SECONDS + 60,
    "answered_back_s": STARTUP_SECONDS + 60,
    "pool_back_s": STARTUP_SECONDS + 60,
}
"""Worst that is allowed; None: no goal."""
OTHER_GOALS: dict[str, dict[str, float | None]] = {
    "corruption": {"last_request_s": KNOWN_ANSWERS_SECONDS, "spare_wanted_s": None},
    "throttle": {"last_request_s": None, "spare_wanted_s": None},
    # The spare class carries less than what comes: the rest is refused, and counts as missed.
    "all-kill": {"client_back_s": None, "pool_back_s": None},
}


async def harm_again_and_again(
    running: Running, harms: Mapping[str, Harm], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row a harm; they are written to `options.json` as they come."""
    running.kubectl("patch", "ipool", "chat", "--type", "merge", "-p", WINDOWS)
    running.kubectl("patch", "accel", PREFERRED, "--type", "merge", "-p", RETURN)
    running.load.rate = options.load
    rows: list[dict[str, Any]] = []
    for name, harm in harms.items():
        for number in range(options.times):
            if not await running.story.until(
                lambda view: is_settled(running, view), SETTLE_SECONDS
            ):
                print(f"not settled after {SETTLE_SECONDS:.0f} s: {describe_state(running)}")
            seen = await do_harm(running, name, harm, options.patience)
            await wait_for_ends(running, seen.healed_at, HUNG_SECONDS)
            rows.append(describe(running, seen, name))
            # So many harms of one node would latch it: each begins with what nobody remembers.
            for node in seen.nodes:
                release(running, node)
            print(f"{number + 1:3} {rows[-1]}", flush=True)
            write_json(options.json, {"notice": NOTICE, "rows": rows})
    return rows


def describe(running: Running, seen: Seen, name: str) -> dict[str, Any]:
    """Return the row of one harm; seconds since it, None for what was not seen."""
    since = f"--since={time.time() - seen.at + 120:.0f}s"
    log = running.kubectl("-n", "sluice-system", "logs", "deploy/sluice-gateway", since)
    # A worker that is thawed or healed may rightly get requests again.
    sent = [
        float(attempt["dispatched_at"]) - seen.at
        for attempt in list_attempts(log.splitlines())
        if attempt["pod"] in seen.workers and attempt["dispatched_at"] < seen.healed_at
    ]
    caught_at = seen.at + seen.detection_s if seen.detection_s is not None else seen.healed_at
    wrong = [one.sent <= caught_at for one in running.load.outcomes if _is_wrong_since(one, seen)]
    return {
        "harm": name,
        "workers": len(seen.workers),
        "last_request_s": round(max([0.0, *sent]), 2),
        "requests_to_harmed": sum(at > 0 for at in sent),
        "detection_s": _round(seen.detection_s),
        "spare_wanted_s": _round(seen.wanted_s),
        "spare_bound_s": _round(seen.bound_s),
        "spare_serving_s": _round(seen.serving_s),
        "client_back_s": _round(seen.client_back_s),
        "answered_back_s": _round(seen.answered_back_s),
        "pool_back_s": _round(seen.pool_back_s),
        "healed_s": _round(seen.healed_at - seen.at),
        "returned_s": _round(seen.returned_s),
        "return_after_heal_s": _round(
            None if seen.returned_s is None else seen.returned_s - (seen.healed_at - seen.at)
        ),
        "wrong_before_catch": sum(wrong),
        "wrong_after_catch": len(wrong) - sum(wrong),
        **count_requests(running.load.outcomes, seen.at, time.time()),
        "missed_until_healed": count_misses(running.load.outcomes, seen.at, seen.healed_at),
        "causes": seen.causes,
    }


def _is_wrong_since(one: Any, seen: Seen) -> bool:
    return bool(one.wrong) and (one.ended or 0.0) >= seen.at


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def is_settled(running: Running, view: View) -> bool:
    """Tell whether all traffic is on the preferred class, well, with nothing on its way."""
    client = measure_share_inside(running.load.outcomes, time.time())
    return (
        view.conditions.get("Progressing") == "False"
        and view.wanted(SPARE) == 0
        and view.serving(PREFERRED) >= WORKERS
        and is_whole(running, view)
        and all(share is None or share >= OBJECTIVE for share in (client, read_attainment(view)))
    )


def describe_state(running: Running) -> str:
    """Return in one line what keeps the pool from being settled."""
    view = running.fleet.view
    share = measure_share_inside(running.load.outcomes, time.time())
    return (
        f"{view.placement}; {view.reason}: {view.message}; ramp {view.ramp(PREFERRED) or 'none'};"
        f" nodes {running.fleet.marks}; client inside SLO {share}"
    )


async def measure(
    cluster: Cluster, programs: Binaries, harms: Mapping[str, Harm], options: argparse.Namespace
) -> dict[str, Any]:
    """Run the bench; return its rows, and what it cost in overruns."""
    async with send_load(cluster, programs) as running:
        rows = await harm_again_and_again(running, harms, options)
    return {
        "notice": NOTICE,
        "numerics": running.numerics,
        "rows": rows,
        "overrun_share": round(running.fleet.overrun_share(), 4),
        "requests": len(running.load.outcomes),
        "wrong_answers": sum(one.wrong for one in running.load.outcomes),
    }


def print_worst(rows: list[dict[str, Any]]) -> None:
    """Print worst and median of each number for each harm, against its goal."""
    print(f"\nworst and median of each ({NOTICE})")
    for harm in dict.fromkeys(row["harm"] for row in rows):
        mine = [row for row in rows if row["harm"] == harm]
        print(f"{harm}, {len(mine)} times")
        for key in [key for key, value in mine[0].items() if not isinstance(value, (str, dict))]:
            values = sorted(row[key] for row in mine if row[key] is not None)
            goal = {**GOALS, **OTHER_GOALS.get(harm, {})}.get(key)
            print(f"  {key:24} {_word_numbers(values, len(mine), goal)}")


def _word_numbers(values: list[float], times: int, goal: float | None) -> str:
    worst = f"{values[-1]:.2f}" if values else "-"
    middle = f"{values[len(values) // 2]:.2f}" if values else "-"
    text = f"worst {worst:>8}   median {middle:>8}   seen in {len(values)} of {times}"
    if goal is None:
        return text
    missed = len(values) < times or values[-1] > goal
    return f"{text}   goal {goal:g}{': MISSED' if missed else ''}"


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--times", type=int, default=20)
    names = list(list_harms(DEFAULT_RATE, DEFAULT_SLOWDOWN))
    parser.add_argument("--harm", action="append", choices=names, help="again for more; else all")
    parser.add_argument("--rate", type=float, default=DEFAULT_RATE, help="of wrong values")
    parser.add_argument("--slowdown", type=float, default=DEFAULT_SLOWDOWN)
    parser.add_argument("--load", type=float, default=RATE, help="requests/s")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="longest that a harm lasts while the pool is not well, in seconds",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    known = list_harms(options.rate, options.slowdown)
    harms = {name: known[name] for name in options.harm or names}
    with start_sluice("failover") as (cluster, programs):
        found = asyncio.run(measure(cluster, programs, harms, options))
    print_worst(found["rows"])
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}))
    write_json(options.json, found)


if __name__ == "__main__":
    main()
