"""A thousand paced streams through one gateway process: CPU of a chunk, gaps, memory.

    python benchmarks/gateway/streams.py [--streams 1000] [--tokens 300] [--rounds 3]

The same streams go to the paced backend directly and through the gateway, by turns. The gap of a
stream is the time between two of its chunks; each stream's 99th percentile through the gateway is
compared with the direct one: of all streams together, and of its worst.
"""

import argparse
import asyncio
import statistics
from collections.abc import Sequence

import uvloop
from cost import RATE, parse
from relays import Relay, run_gateway
from wire import Line, stream_all

_NAME = "gateway"


def find_gaps(lines: Sequence[Line]) -> list[list[float]]:
    """Return the seconds between chunks of each stream."""
    return [
        [later - earlier for earlier, later in zip(line.times, line.times[1:], strict=False)]
        for line in lines
    ]


def find_p99(gaps: Sequence[float]) -> float:
    """Return the 99th percentile in ms."""
    return 1e3 * statistics.quantiles(gaps, n=100)[98]


def describe_gaps(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the 99th percentile of all gaps, and the worst stream's, in ms."""
    gaps = find_gaps(lines)
    return find_p99([gap for row in gaps for gap in row]), max(map(find_p99, gaps))


async def measure(relay: Relay, backend: str, arguments: argparse.Namespace) -> None:
    """Measure by turns; print a line for each round."""
    count, over = arguments.streams, 2.0
    await stream_all(relay.url, count // 10, over=over)
    for number in range(1, arguments.rounds + 1):
        all_direct, worst_direct = describe_gaps(
            await stream_all(f"http://{backend}", count, over=over)
        )
        before = relay.read_cpu()
        began = asyncio.get_running_loop().time()
        lines = await stream_all(relay.url, count, over=over)
        seconds = asyncio.get_running_loop().time() - began
        used = relay.read_cpu() - before
        chunks = sum(len(line.times) for line in lines)
        every, worst = describe_gaps(lines)
        print(
            f"round {number}: {chunks} chunks, {1e6 * used / chunks:.1f} us of CPU each, "
            f"{100 * used / seconds:.0f} % of a core; gap p99 {every:.1f} ms "
            f"(direct {all_direct:.1f}: {every / all_direct:.2f} x), worst stream's {worst:.1f} "
            f"(direct {worst_direct:.1f}; {worst / all_direct:.2f} x direct p99, "
            f"{worst / worst_direct:.2f} x direct worst); RSS {relay.read_memory():.0f} MB"
        )


async def run(arguments: argparse.Namespace) -> None:
    """Start everything, and measure."""
    running = run_gateway(arguments.logs, tokens=arguments.tokens, rate=RATE)
    async with running as (relay, backend):
        await measure(relay, backend, arguments)


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--logs", help="directory for the programs' logs (a temporary one)")
    parser.description = (__doc__ or "").partition("\n")[0]
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)


def main() -> None:
    """Read the arguments and run."""
    arguments = parse(describe)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments))


if __name__ == "__main__":
    main()
