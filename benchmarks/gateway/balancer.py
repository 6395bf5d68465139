"""A load balancer that predicts nothing: round robin, least requests, power of two choices.

    python benchmarks/gateway/balancer.py POLICY URL [URL …]

A relay as small as one can be: it copies bytes, sends a request on at once, and knows of a server
only how many of its own requests run there. It prints its port, and ends with standard input.
"""

import asyncio
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import aiohttp
import uvloop
from aiohttp import web


@dataclass(slots=True)
class Server:
    """A server, and how many requests run there."""

    url: str
    running: int = 0


Choose = Callable[[], Server]


def choose_by_turns(servers: Sequence[Server], _: Random) -> Choose:
    turns = itertools.cycle(servers)
    return lambda: next(turns)


def choose_least(servers: Sequence[Server], random: Random) -> Choose:
    """Take who has least; of equals any."""
    return lambda: min(servers, key=lambda server: (server.running, random.random()))


def choose_of_two(servers: Sequence[Server], random: Random) -> Choose:
    """Take who has less of two drawn at random."""

    def choose() -> Server:
        two = random.sample(servers, min(2, len(servers)))
        return min(two, key=lambda server: server.running)

    return choose


POLICIES = {
    "round robin": choose_by_turns,
    "least requests": choose_least,
    "power of two": choose_of_two,
}


async def relay(
    request: web.BaseRequest, url: str, http: aiohttp.ClientSession
) -> web.StreamResponse:
    """Pass a request on, and its answer back as it comes."""
    body = await request.read()
    headers = {"Content-Type": "application/json"}
    async with http.post(url + request.path, data=body, headers=headers) as answer:
        response = web.StreamResponse(
            status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
        )
        await response.prepare(request)
        while data := await answer.content.readany():
            await response.write(data)
        await response.write_eof()
    return response


async def serve(policy: str, urls: Sequence[str]) -> None:
    """Serve until standard input ends."""
    choose = POLICIES[policy]([Server(url) for url in urls], Random(1))
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            server = choose()
            server.running += 1
            try:
                return await relay(request, server.url, http)
            finally:
                server.running -= 1

        runner = web.ServerRunner(web.Server(handle, handler_cancellation=True, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2:]))
