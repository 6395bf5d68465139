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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from killreport import has_failed, summarise
from killstreams import Streams, write_told
from processes import (
    OWN_NUMERICS,
    await_models,
    is_serving,
    plan_gateway,
    plan_worker,
    read_requests,
)
from reference import TOKENS, Reference, load_reference
from striking import Striker

from sluice.cli.demo.report import NOTICE

WORKERS = ("maia-200", "maia-200", "maia-200", "h100")


class Processes:
    """The processes of one run."""

    def __init__(
        self, options: argparse.Namespace, session: aiohttp.ClientSession, directory: Path
    ) -> None:
        self._options = options
        self._session = session
        self.workers = {
            worker.name: worker
            for number, variant in enumerate(WORKERS)
            for worker in [
                plan_worker(
                    number,
                    variant,
                    find_numerics(options)[variant],
                    options.token_scale,
                    directory,
                )
            ]
        }
        self.gateways = [
            plan_gateway(number, list(self.workers.values()), directory)
            for number in range(options.gateways)
        ]

    async def start(self) -> None:
        """Start all processes, and wait until each serves."""
        for group in (list(self.workers.values()), self.gateways):
            for one in group:
                await one.start()
            for one in group:
                await await_models(self._session, one)

    async def stop(self) -> None:
        """End all processes."""
        await asyncio.gather(*(one.stop() for one in (*self.gateways, *self.workers.values())))

    async def is_whole(self) -> bool:
        """Return whether all workers serve."""
        return all([await is_serving(self._session, one) for one in self.workers.values()])

    async def find_struck(self, worker: str) -> frozenset[str]:
        """Return the worker itself."""
        return frozenset({worker})

    async def strike(self, worker: str) -> None:
        """End, stop or drain a worker, and have it serve again."""
        struck = self.workers[worker]
        if self._options.fault == "hang":
            struck.send(signal.SIGSTOP)
            await asyncio.sleep(self._options.hang_seconds)
            struck.send(signal.SIGCONT)
            return
        struck.send(signal.SIGKILL if self._options.fault == "kill" else signal.SIGTERM)
        if struck.process is not None:
            await struck.process.wait()
        await struck.start()

    def list_workers(self) -> dict[str, str]:
        """Return the URLs of the workers; each start is another process."""
        return {f"{one.name}/{one.starts}": one.url for one in self.workers.values()}


def find_numerics(options: argparse.Namespace) -> dict[str, str]:
    """Return what each class computes in."""
    own = options.numerics == "own"
    return OWN_NUMERICS if own else dict.fromkeys(OWN_NUMERICS, options.numerics)


async def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run the bench once; return its row."""
    references = load_references(options, find_numerics(options))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        world = Processes(options, session, directory)
        streams = begin_streams(options, [one.url for one in world.gateways])
        striker = Striker(world, streams, session, every=options.every)
        began = time.monotonic()
        try:
            await world.start()
            await striker.run()
        finally:
            await world.stop()
    requests = read_requests([one.log.read_text() for one in world.gateways])
    return conclude(options, references, streams, striker, requests, time.monotonic() - began)


def load_references(
    options: argparse.Namespace, numerics: Mapping[str, str]
) -> dict[str, Reference]:
    """Return the undisturbed streams by class."""
    count, tokens = options.streams, options.tokens
    return {
        variant: load_reference(options.reference, own, count, tokens)
        for variant, own in numerics.items()
    }


def begin_streams(options: argparse.Namespace, urls: Sequence[str]) -> Streams:
    """Return the streams that the command line asks for."""
    return Streams(urls, count=options.streams, at_once=options.at_once, tokens=options.tokens)


def conclude(
    options: argparse.Namespace,
    references: Mapping[str, Reference],
    streams: Streams,
    striker: Striker,
    requests: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return the row of a run; write all that was seen, if it is wanted."""
    row = summarise(streams.told, references, striker.strikes, requests)
    row |= {"steps overrun, %": striker.find_overrun(), "seconds": round(seconds, 1)}
    if options.json:
        told = {number: write_told(one) for number, one in streams.told.items()}
        strikes = [{"at": one.at, "workers": sorted(one.workers)} for one in striker.strikes]
        found = {"row": row, "strikes": strikes, "told": told, "requests": requests}
        options.json.write_text(json.dumps(found))
    return row


def parse(about: str | None, faults: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    parser.add_argument("--fault", choices=faults, default=faults[0])
    parser.add_argument("--numerics", default="fp8-block", help="of all workers; or `own`")
    parser.add_argument("--gateways", type=int, choices=(1, 2), default=1)
    parser.add_argument("--every", type=float, default=2.0, help="seconds from return to strike")
    parser.add_argument("--hang-seconds", type=float, default=4.0)
    parser.add_argument("--token-scale", type=int, default=16)
    parser.add_argument("--reference", type=Path, required=True, help="directory of references")
    parser.add_argument("--json", type=Path, help="also write all streams and requests there")
    return parser.parse_args()


def report(row: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what was found, a number a line; end the process if streams were lost or wrong."""
    print(f"{options.fault}, numerics {options.numerics}, {options.gateways} gateway(s) ({NOTICE})")
    for name, value in row.items():
        print(f"  {name:45} {value}")
    if has_failed(row):
        sys.exit("A stream was lost or wrong, or too few strikes hit one: see above.")


def main() -> None:
    """Measure as the command line says."""
    options = parse(__doc__, ("kill", "hang", "drain"))
    with tempfile.TemporaryDirectory(prefix="sluice-kills-") as directory:
        row = asyncio.run(measure(options, Path(directory)))
    report(row, options)


if __name__ == "__main__":
    main()
