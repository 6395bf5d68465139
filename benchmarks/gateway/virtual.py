"""Routing and admission in virtual time: how many requests are inside their objectives.

    python benchmarks/gateway/virtual.py [--seeds 3] [--seconds 60]

The gateway's own fleet, admission and relay over two workers of Maia 100 and two of H100 that take
as long as `sluice_accel` says, jitter included (`tests/unit/gateway/simworld.py`), without shares.
Prompts and answers are log-normal; the objective is 1 s to the first token and 60 ms a token.
First requests of one class at several loads, beside balancers that predict nothing; then batch work
for twice what the pool can do beside interactive requests for 30 % of it.

The clock is virtual: the same numbers on any machine, however busy. Emulated devices.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.unit.gateway.simworld import draw_requests, find_capacity, find_met, simulate

from sluice.cli.demo.report import NOTICE
from sluice_gateway.goals import Asked, RequestClass

_CLASSES = ("maia", "maia", "gpu", "gpu")
_LOADS = {0.6: 1.0, 0.8: 1.0, 0.95: 1.0, 3.0: 0.5}
"""Of the capacity; with each, what part of the time it is simulated for."""
_COLUMNS: dict[str, dict[str, Any]] = {
    "predicted": {},
    "two gateways": {"gateways": 2},
    "foreign backends": {"foreign": True},
    "round robin": {"policy": "round-robin"},
    "least requests": {"policy": "least-requests"},
    "power of two": {"policy": "power-of-two"},
}
_BATCH, _URGENT = 2.0, 0.3


def print_row(*cells: str) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def measure_loads(capacity: float, seeds: Sequence[int], seconds: float) -> None:
    """Print the table of loads."""
    print_row("load", *_COLUMNS)
    print_row(*["---"] * (len(_COLUMNS) + 1))
    for load, part in _LOADS.items():
        cells = []
        for told in _COLUMNS.values():
            met = [
                find_met(
                    simulate(
                        draw_requests(load * capacity, part * seconds, seed),
                        _CLASSES,
                        seed=seed,
                        **told,
                    )[0]
                )
                for seed in seeds
            ]
            cells.append(f"{100 * sum(met) / len(met):.1f} %")
        print_row(f"{100 * load:.0f} %", *cells)


def measure_room(capacity: float, seeds: Sequence[int], seconds: float) -> None:
    """Print what interactive requests and batch work get of a pool that batch work would fill."""
    met, done = [], []
    for seed in seeds:
        batch, urgent = (
            draw_requests(load * capacity, seconds, seed=seed + more, asked=Asked(kind=kind))
            for load, kind, more in (
                (_BATCH, RequestClass.BATCH, 0),
                (_URGENT, RequestClass.INTERACTIVE, 100),
            )
        )
        asks = sorted([*batch, *urgent], key=lambda ask: ask.at)
        results = simulate(asks, _CLASSES, seed=seed)[0]
        met.append(find_met([one for one in results if one.kind == "interactive"]))
        ended = sum(one.kind == "batch" and one.status == 200 for one in results)  # noqa: PLR2004
        done.append(ended / (capacity * seconds))
    print(
        f"batch work for {100 * _BATCH:.0f} % of the pool, interactive requests for"
        f" {100 * _URGENT:.0f} %: of these {100 * sum(met) / len(met):.1f} % are inside;"
        f" of batch work {100 * sum(done) / len(done):.0f} % of the pool's capacity is done"
    )


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of virtual time, for each")
    arguments = parser.parse_args()
    seeds = range(1, arguments.seeds + 1)
    capacity = find_capacity(_CLASSES)
    print(f"capacity {capacity:.2f} requests/s ({NOTICE})")
    measure_loads(capacity, seeds, arguments.seconds)
    measure_room(capacity, seeds, arguments.seconds)


if __name__ == "__main__":
    main()
