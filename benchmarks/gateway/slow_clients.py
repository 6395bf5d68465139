"""What slow clients take from the others: goodput beside a thousand of each kind.

    python benchmarks/gateway/slow_clients.py [--clients 1000] [--seconds 10]

Slow heads and slow bodies come a byte a second; slow readers ask for a stream and take nothing of
it, with the smallest receive buffer there is. Whom the gateway closes comes again at once. Beside
them others send plain requests at a fixed rate; how many are answered within a second is compared
with the same without slow clients, just before.
"""

import argparse
import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import uvloop
from cost import parse
from relays import Relay, run_gateway
from wire import ask_paced, encode_request

GOOD_SECONDS = 1.0
"""A plain request of the others that takes longer is lost to them: the backend answers at once."""
_SETTLE_SECONDS = 3.0
_STREAM_RATE = 2.0
"""Chunks a second of a slow reader's stream: what is measured is waiting, not relaying."""
_HEAD, _BODY = encode_request(stream=False).split(b"\r\n\r\n")
Slow = Callable[[int], Coroutine[Any, Any, None]]


async def trickle(port: int, opening: bytes, rest: bytes) -> None:
    """Send an opening at once, the rest a byte a second, until closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(opening)
        for byte in rest:
            writer.write(bytes([byte]))
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    if not await reader.read(4096):
                        return
    finally:
        writer.close()


async def trickle_head(port: int) -> None:
    """Send a request's head slowly."""
    await trickle(port, _HEAD[:20], _HEAD[20:])


async def trickle_body(port: int) -> None:
    """Send a request's body slowly."""
    await trickle(port, _HEAD + b"\r\n\r\n" + _BODY[:5], _BODY[5:])


async def read_nothing(port: int) -> None:
    """Ask for a stream, and leave it in the socket."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.setblocking(False)  # noqa: FBT003 - the socket's own
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, encode_request(stream=True))
        await asyncio.sleep(60)


async def repeat(slow: Slow, port: int, wait: float) -> None:
    """Be a slow client again and again."""
    await asyncio.sleep(wait)
    while True:
        with suppress(OSError):
            await slow(port)
        await asyncio.sleep(0.1)


async def count_good(relay: Relay, rate: float, seconds: float) -> float:
    """Send plain requests at a fixed rate; return how many a second were answered in time."""
    took = await ask_paced(relay.url, round(rate * seconds), rate)
    return sum(one <= GOOD_SECONDS for one in took) / seconds


async def measure(relay: Relay, arguments: argparse.Namespace) -> None:
    """Measure alone and beside each kind; print."""
    port = urlsplit(relay.url).port or 0
    kinds: dict[str, Slow] = {
        "slow heads": trickle_head,
        "slow bodies": trickle_body,
        "slow readers": read_nothing,
    }
    await count_good(relay, arguments.rate, 2)
    for kind, slow in kinds.items():
        alone = await count_good(relay, arguments.rate, arguments.seconds)
        tasks = [
            asyncio.create_task(repeat(slow, port, _SETTLE_SECONDS * n / arguments.clients))
            for n in range(arguments.clients)
        ]
        await asyncio.sleep(_SETTLE_SECONDS)
        before = relay.read_cpu()
        beside = await count_good(relay, arguments.rate, arguments.seconds)
        used = relay.read_cpu() - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(1)
        print(
            f"{arguments.clients} {kind}: the others get {beside:.1f} answers/s in time, alone "
            f"{alone:.1f}: {100 * beside / alone:.0f} %   (gateway "
            f"{100 * used / arguments.seconds:.0f} % of a core, {relay.read_memory():.0f} MB)"
        )


async def run(arguments: argparse.Namespace) -> None:
    """Start everything, and measure."""
    running = run_gateway(arguments.logs, tokens=arguments.tokens, rate=_STREAM_RATE)
    async with running as (relay, _):
        await measure(relay, arguments)


def describe(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--logs", help="directory for the programs' logs (a temporary one)")
    parser.description = (__doc__ or "").partition("\n")[0]
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0, help="of the others' requests")
    parser.add_argument("--tokens", type=int, default=200, help="of a slow reader's stream")


def main() -> None:
    """Read the arguments and run."""
    arguments = parse(describe)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments))


if __name__ == "__main__":
    main()
