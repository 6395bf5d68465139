"""What the gateway costs beside its peers: CPU of a request and of a chunk, added latency.

    benchmarks/gateway/peers.sh DIR
    python benchmarks/gateway/cost.py [--peers DIR] [--rounds 3]

One paced backend and the clients on the first core, the relays by turns on the last one, each
working alone while the others idle. CPU seconds are those of a relay's whole process tree. Peers:
LiteLLM's proxy, sglang-router and HAProxy, in the configurations beside this file.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from relays import CORES, Relay, plan_gateway, plan_peers, run_backend, run_relay
from wire import ask_closely, ask_paced, stream_all

from sluice.devcluster.networks import choose_port

TOKENS = 150
RATE = 30.0
STREAMS = 40
SLOW = {"litellm"}
"""Too slow for 200 requests/s on one core, and asked less often."""
FAST = {"sglang-router", "haproxy"}
"""Asked more often: the kernel counts processor time in hundredths of a second."""
Figures = dict[str, list[float]]


async def measure_requests(relay: Relay, requests: int) -> float:
    """Return the CPU microseconds of a plain request, eight at a time."""
    total = requests // 10 if relay.name in SLOW else requests
    total *= 5 if relay.name in FAST else 1
    await ask_closely(relay.url, total // 10, 8)
    before = relay.read_cpu()
    await ask_closely(relay.url, total, 8)
    return 1e6 * (relay.read_cpu() - before) / total


async def measure_chunks(relay: Relay) -> float:
    """Return the CPU microseconds of a streamed chunk, the request's own share included."""
    before = relay.read_cpu()
    lines = await stream_all(relay.url, STREAMS, over=1.0)
    used = relay.read_cpu() - before
    seen = sum(len(line.times) for line in lines)
    if seen < STREAMS * TOKENS:
        raise SystemExit(f"{relay.name} passed on {seen} chunks of {STREAMS * TOKENS}")
    return 1e6 * used / (STREAMS * TOKENS)


async def measure_latency(urls: dict[str, str], rate: float, seconds: float) -> dict[str, Figures]:
    """Return the 50th and 99th percentile in ms of each, by turns of a second at a fixed rate."""
    rows: Figures = defaultdict(list)
    for _ in range(round(seconds)):
        for name, url in urls.items():
            rows[name] += await ask_paced(url, round(rate), rate)
    cuts = {name: statistics.quantiles(row, n=100) for name, row in rows.items()}
    return {name: {"p50": [1e3 * cut[49]], "p99": [1e3 * cut[98]]} for name, cut in cuts.items()}


def print_cost(title: str, figures: Figures) -> None:
    """Print medians, their spread, and the gateway's ratio to each peer."""
    print(title)
    ours = statistics.median(figures["gateway"])
    for name, row in figures.items():
        middle = statistics.median(row)
        ratio = "" if name == "gateway" else f"   gateway is {ours / max(middle, 0.1):.3f} x it"
        ratio += f" (1/{middle / ours:.1f})" if middle > ours else ""
        turns = ", ".join(f"{value:.1f}" for value in row)
        print(f"  {name:14} {middle:9.1f} us   [{turns}]{ratio}")


def print_latency(rate: float, found: dict[str, Figures]) -> None:
    """Print percentiles, and what was added to the direct way."""
    print(f"latency at {rate:g} requests/s:")
    direct = found["direct"]
    for name, row in found.items():
        said = "".join(
            f"   {which} {row[which][0]:6.2f} ms (added {row[which][0] - direct[which][0]:.2f})"
            for which in ("p50", "p99")
        )
        print(f"  {name:14}{said}")


async def run(arguments: argparse.Namespace) -> None:
    """Start everything, measure by turns, print."""
    async with AsyncExitStack() as stack:
        directory = Path(arguments.logs or stack.enter_context(tempfile.TemporaryDirectory()))
        backend = await stack.enter_async_context(run_backend(directory, tokens=TOKENS, rate=RATE))
        port = choose_port("127.0.0.1", 18800)
        plans = {"gateway": (port, plan_gateway(port, backend))}
        if arguments.peers is not None:
            plans |= plan_peers(arguments.peers, backend)
        relays = [
            await stack.enter_async_context(run_relay(name, *plan, backend, directory))
            for name, plan in plans.items()
        ]
        os.sched_setaffinity(0, {CORES[0]})
        await measure(relays, backend, arguments)


async def measure(relays: Sequence[Relay], backend: str, arguments: argparse.Namespace) -> None:
    """Measure by turns; print."""
    requests: Figures = defaultdict(list)
    chunks: Figures = defaultdict(list)
    for _ in range(arguments.rounds):
        for relay in relays:
            requests[relay.name].append(await measure_requests(relay, arguments.requests))
        for relay in relays:
            chunks[relay.name].append(await measure_chunks(relay))
    print_cost("CPU of a plain request:", requests)
    print_cost(f"CPU of a chunk, {STREAMS} streams of {TOKENS} at {RATE:g}/s:", chunks)
    urls = {"direct": f"http://{backend}"}
    urls |= {relay.name: relay.url for relay in relays if relay.name not in SLOW}
    await measure_latency(urls, arguments.rate, 1)
    print_latency(arguments.rate, await measure_latency(urls, arguments.rate, arguments.seconds))
    print("memory: " + ", ".join(f"{one.name} {one.read_memory():.0f} MB" for one in relays))


def parse(describe: Callable[[argparse.ArgumentParser], object]) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    describe(parser)
    return parser.parse_args()


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--peers", type=Path, help="what peers.sh has made; without, ours alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3000, help="plain ones a round")
    parser.add_argument("--rate", type=float, default=200.0, help="of the latency's requests")
    parser.add_argument("--seconds", type=float, default=10.0, help="of latency for each relay")
    parser.add_argument("--logs", help="directory for the programs' logs (a temporary one)")


def main() -> None:
    """Read the arguments and run."""
    arguments = parse(describe)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments))


if __name__ == "__main__":
    main()
