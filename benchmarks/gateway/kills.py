"""Streams whose workers are ended, stopped or drained under them: what becomes of each, by token.

    python benchmarks/gateway/kills.py --streams 800 --reference DIR
    python benchmarks/gateway/kills.py --streams 800 --numerics own --reference DIR
    python benchmarks/gateway/kills.py --streams 200 --fault hang --gateways 2 --reference DIR

    kill    SIGKILL to the worker that has most streams; it is started again at once
    hang    SIGSTOP to it, SIGCONT after --hang-seconds
    drain   SIGTERM to it; it is started again when it has ended

Worker processes of both classes and gateways with a fixed list of them, without a cluster
(`cluster_kills.py` has one). Every second stream is drawn at a temperature of 1. Each is compared,
token by token, with what a worker in a process of its own says undisturbed (`reference.py`).
Strikes wait until every worker serves, and until the one struck has streams of ten tokens. With
`--numerics own` a stream that goes on in the other class's numerics has to say so.

Ends with status 1 if a stream is lost, or differs and did not say so. Emulated devices: it measures
Sluice, not hardware.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
from killreport import ENOUGH_TOKENS, Strike, has_failed, summarise
from killstreams import Streams, write_told
from processes import (
    OWN_NUMERICS,
    Running,
    await_models,
    count_steps,
    is_serving,
    plan_gateway,
    plan_worker,
    read_requests,
)
from reference import TOKENS, load_reference

from sluice.cli.demo.report import NOTICE

LOOK_EVERY = 0.05
WORKERS = ("maia-200", "maia-200", "maia-200", "h100")


class Bench:
    """The processes of one run, the streams over them, and the strikes."""

    def __init__(
        self, options: argparse.Namespace, session: aiohttp.ClientSession, directory: Path
    ) -> None:
        self.strikes: list[Strike] = []
        self.steps: dict[str, tuple[float, float]] = {}
        self._options = options
        self._session = session
        own = options.numerics == "own"
        self.workers = [
            plan_worker(
                number,
                variant,
                OWN_NUMERICS[variant] if own else options.numerics,
                options.token_scale,
                directory,
            )
            for number, variant in enumerate(WORKERS)
        ]
        self.gateways = [
            plan_gateway(number, self.workers, directory) for number in range(options.gateways)
        ]
        self.streams = Streams(
            [one.url for one in self.gateways],
            count=options.streams,
            at_once=options.at_once,
            tokens=options.tokens,
        )

    async def start(self) -> None:
        """Start all processes, and wait until each serves."""
        for group in (self.workers, self.gateways):
            for one in group:
                await one.start()
            for one in group:
                await await_models(self._session, one)

    async def stop(self) -> None:
        """End all processes."""
        await asyncio.gather(*(one.stop() for one in (*self.gateways, *self.workers)))

    async def run(self) -> None:
        """Run the streams to their ends, and strike meanwhile."""
        tasks = [asyncio.create_task(self._strike_on()), asyncio.create_task(self._count_on())]
        try:
            await self.streams.run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _strike_on(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._options.every)
                worker = await self._find_victim()
                await self._strike(worker)
        except Exception as error:  # noqa: BLE001 - a bench without strikes would say that all is well
            print(f"no more strikes: {error!r}", file=sys.stderr)

    async def _find_victim(self) -> Running:
        """Wait until all workers serve; return the one that has most streams with tokens enough."""
        while True:
            serving = [await is_serving(self._session, one) for one in self.workers]
            struck = {strike.worker: strike.at for strike in self.strikes}
            counts = Counter(
                told.worker
                for told in self.streams.list_running().values()
                if len(told.tokens) >= ENOUGH_TOKENS and told.began > struck.get(told.worker, 0.0)
            )
            if all(serving) and counts:
                name = counts.most_common(1)[0][0]
                return next(one for one in self.workers if one.name == name)
            await asyncio.sleep(LOOK_EVERY)

    async def _strike(self, worker: Running) -> None:
        await self._count(worker)
        self.strikes.append(Strike(time.time(), worker.name))
        if self._options.fault == "hang":
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(self._options.hang_seconds)
            worker.send(signal.SIGCONT)
            return
        worker.send(signal.SIGKILL if self._options.fault == "kill" else signal.SIGTERM)
        if worker.process is not None:
            await worker.process.wait()
        await worker.start()

    async def _count_on(self) -> None:
        while True:
            for worker in self.workers:
                await self._count(worker)
            await asyncio.sleep(1)

    async def _count(self, worker: Running) -> None:
        """Note the steps of a worker's process, as it will take its counts with it."""
        steps = await count_steps(self._session, worker)
        if steps[0]:
            self.steps[f"{worker.name}/{worker.starts}"] = steps


async def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run the bench once; return its row."""
    own = options.numerics == "own"
    classes = dict.fromkeys(WORKERS)
    references = {
        name: load_reference(
            options.reference,
            OWN_NUMERICS[name] if own else options.numerics,
            options.streams,
            options.tokens,
        )
        for name in classes
    }
    began = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        bench = Bench(options, session, directory)
        try:
            await bench.start()
            await bench.run()
        finally:
            await bench.stop()
    requests = read_requests([one.log for one in bench.gateways])
    told = bench.streams.told
    row = summarise(told, references, bench.strikes, requests)
    steps = [sum(pair) for pair in zip(*bench.steps.values(), strict=True)]
    row["steps overrun, %"] = round(100 * steps[1] / steps[0], 2) if steps else None
    row["seconds"] = round(time.monotonic() - began, 1)
    if options.json:
        row_file = {"row": row, "told": {n: write_told(one) for n, one in told.items()}}
        options.json.write_text(json.dumps({**row_file, "requests": requests}))
    return row


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    parser.add_argument("--fault", choices=("kill", "hang", "drain"), default="kill")
    parser.add_argument("--numerics", default="fp8-block", help="of all workers; or `own`")
    parser.add_argument("--gateways", type=int, choices=(1, 2), default=1)
    parser.add_argument("--every", type=float, default=2.0, help="seconds from return to strike")
    parser.add_argument("--hang-seconds", type=float, default=4.0)
    parser.add_argument("--token-scale", type=int, default=16)
    parser.add_argument("--reference", type=Path, required=True, help="directory of references")
    parser.add_argument("--json", type=Path, help="also write all streams and requests there")
    return parser.parse_args(arguments)


def print_row(row: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what was found, a number a line."""
    print(f"{options.fault}, numerics {options.numerics}, {options.gateways} gateway(s) ({NOTICE})")
    for name, value in row.items():
        print(f"  {name:45} {value}")


def main() -> None:
    """Measure as the command line says."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="sluice-kills-") as directory:
        row = asyncio.run(measure(options, Path(directory)))
    print_row(row, options)
    if has_failed(row):
        sys.exit("A stream was lost or wrong, or too few strikes hit one: see above.")


if __name__ == "__main__":
    main()
