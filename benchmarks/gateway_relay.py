"""What the gateway adds to a request: latency against direct, and CPU.

    python benchmarks/gateway_relay.py [--requests 2000] [--rate 200] [--streams 100]

One gateway process, one fake worker and one fake API server on loopback; the worker answers at
once, or streams 64 tokens at 30 a second. A bare aiohttp relay, which only copies bytes, is the
floor. Direct, bare and gateway requests alternate, so that whatever else runs on the machine meets
all three. The relays are pinned to the last core, the rest to the others where there is more than
one.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

import aiohttp
import uvloop
from aiohttp import web

TOKENS = 64
TOKENS_PER_SECOND = 30.0
UID = "worker-1"
BODY = {"model": "bench", "prompt": "x " * 100, "max_tokens": TOKENS, "seed": 1}
ANSWER = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "bench",
    "choices": [{"index": 0, "text": "word " * TOKENS, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": TOKENS, "total_tokens": 100 + TOKENS},
}
POOL = {
    "metadata": {
        "name": "bench",
        "namespace": "default",
        "creationTimestamp": "2025-01-01T00:00:00Z",
    },
    "spec": {
        "model": {"name": "bench"},
        "slo": {"ttft": "2s", "tpot": "200ms"},
        "variants": [{"acceleratorClass": "fake"}],
    },
}


def describe_pod(port: int) -> dict[str, object]:
    """Return the worker's pod as the API server would list it."""
    labels = {"sluice.dev/pool": "bench", "sluice.dev/accelerator-class": "fake"}
    metadata = {"name": "w", "namespace": "default", "uid": UID, "labels": labels}
    ready = {"type": "ContainersReady", "status": "True"}
    ports = [{"name": "http", "containerPort": port}]
    return {
        "metadata": metadata,
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": "127.0.0.1", "conditions": [ready]},
    }


async def serve_world() -> None:
    """Run worker and API server; print their port; end with standard input."""
    port = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"X-Sluice-Worker-Uid": UID}
        if request.path == "/healthz":
            return web.Response(headers=headers)
        if request.method == "GET":
            if "watch" in request.query:
                await asyncio.sleep(float(request.query["timeoutSeconds"]))
                return web.Response()
            items = [describe_pod(port)] if "pods" in request.path else [POOL]
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})
        if not json.loads(await request.read()).get("stream"):
            return web.json_response(ANSWER, headers=headers)
        return await stream(request, headers)

    runner = web.ServerRunner(web.Server(answer, handler_cancellation=True, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


async def stream(request: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
    """Send tokens on an absolute schedule."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for place in range(TOKENS):
        await asyncio.sleep(max(0.0, start + place / TOKENS_PER_SECOND - loop.time()))
        choice = {"index": 0, "text": f"word{place} ", "finish_reason": None}
        chunk = {**ANSWER, "choices": [choice], "usage": None}
        await response.write(b"data: %s\n\n" % json.dumps(chunk).encode())
    usage = json.dumps({**ANSWER, "choices": []}).encode()
    await response.write(b"data: %s\n\ndata: [DONE]\n\n" % usage)
    return response


async def serve_bare(worker: str) -> None:
    """Relay to a worker by copying bytes; print the port."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def relay(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read()
            async with http.post(worker + request.path, data=body) as answer:
                if answer.content_type != "text/event-stream":
                    return web.Response(body=await answer.read(), content_type=answer.content_type)
                response = web.StreamResponse(headers={"Content-Type": answer.content_type})
                await response.prepare(request)
                while data := await answer.content.readany():
                    await response.write(data)
                return response

        runner = web.ServerRunner(web.Server(relay, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await runner.cleanup()


@asynccontextmanager
async def started(*command: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program of this benchmark; kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def read_line(process: asyncio.subprocess.Process) -> bytes:
    """Return a program's next line."""
    assert process.stdout is not None  # noqa: S101 - it was asked for above
    return await process.stdout.readline()


async def drain_lines(process: asyncio.subprocess.Process) -> None:
    """Keep reading a program's lines, as a container runtime would."""
    while await read_line(process):
        pass


def read_cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_rss(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def ask(http: aiohttp.ClientSession, url: str, *, streaming: bool = False) -> float:
    """Send one request; return its seconds."""
    started_at = time.perf_counter()
    headers = {"X-Sluice-Worker-Uid": UID}
    body = {**BODY, "stream": streaming}
    async with http.post(f"{url}/v1/completions", json=body, headers=headers) as response:
        if response.status != 200:  # noqa: PLR2004
            raise SystemExit(f"{url} answered {response.status}: {await response.text()}")
        while await response.content.readany():
            pass
    return time.perf_counter() - started_at


async def measure_whole(
    http: aiohttp.ClientSession, urls: dict[str, str], count: int, rate: float
) -> dict[str, list[float]]:
    """Ask directly and through the gateway in turn, at a fixed rate each."""
    seconds: dict[str, list[float]] = {name: [] for name in urls}
    pending: set[asyncio.Task[None]] = set()

    async def one(name: str) -> None:
        seconds[name].append(await ask(http, urls[name]))

    begin = time.perf_counter()
    for number in range(count):
        for shift, name in enumerate(urls):
            due = begin + (number + shift / len(urls)) / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(one(name))
            pending.add(task)
            task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    return seconds


def print_whole(seconds: dict[str, list[float]], cpu: dict[str, float]) -> None:
    """Print latencies, their ratios, and CPU per request."""
    cuts = {name: statistics.quantiles(rows, n=100) for name, rows in seconds.items()}
    direct = cuts["direct"][49]
    for name, cut in cuts.items():
        line = f"  {name:8} p50 {cut[49] * 1e3:5.2f} ms   p99 {cut[98] * 1e3:5.2f} ms"
        if name in cpu:
            used = cpu[name] / len(seconds[name]) * 1e6
            ratio = f"{cut[49] / direct:.2f} x direct"
            line += f"   added {(cut[49] - direct) * 1e3:.2f} ms ({ratio})   CPU {used:.0f} us"
        print(line)
    print(
        f"  CPU of the gateway: {cpu['gateway'] / cpu['bare']:.2f} x bare, log and probes included"
    )


async def measure(
    arguments: argparse.Namespace, urls: dict[str, str], pids: dict[str, int]
) -> None:
    """Measure whole answers, then streams; print."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await measure_whole(http, urls, 200, arguments.rate)  # warm up
        before = {name: read_cpu(pid) for name, pid in pids.items()}
        seconds = await measure_whole(http, urls, arguments.requests, arguments.rate)
        cpu = {name: read_cpu(pid) - before[name] for name, pid in pids.items()}
        print(f"{arguments.requests} whole answers each, at {arguments.rate:g}/s:")
        print_whole(seconds, cpu)
        print(f"{arguments.streams} streams of {TOKENS} tokens, {TOKENS_PER_SECOND:g}/s each:")
        for name, pid in pids.items():
            idle = read_cpu(pid)
            streams = (ask(http, urls[name], streaming=True) for _ in range(arguments.streams))
            await asyncio.gather(*streams)
            used = (read_cpu(pid) - idle) / (arguments.streams * TOKENS)
            print(f"  {name:8} CPU {used * 1e6:.0f} us a chunk   RSS {read_rss(pid):.0f} MB")


async def start_gateway(process: asyncio.subprocess.Process) -> str:
    """Return the gateway's URL as soon as it is ready."""
    found: dict[str, object] = {}
    while found.get("event") != "listening":
        found = json.loads(await read_line(process))
    async with aiohttp.ClientSession() as http:
        await wait_until_ready(http, f"http://127.0.0.1:{found['admin_port']}/readyz")
    return f"http://127.0.0.1:{found['port']}"


async def wait_until_ready(http: aiohttp.ClientSession, url: str) -> None:
    """Return when the gateway says that it is ready."""
    async with asyncio.timeout(30):
        while True:
            async with http.get(url) as response:
                if response.status == 200:  # noqa: PLR2004
                    return
            await asyncio.sleep(0.05)


def write_kubeconfig(file: IO[str], server: str) -> str:
    """Write a kubeconfig for the fake API server; return its path."""
    context = {"name": "c", "context": {"cluster": "k", "user": "u"}}
    config = {
        "current-context": "c",
        "contexts": [context],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
    }
    json.dump(config, file)
    file.flush()
    return file.name


async def run(arguments: argparse.Namespace) -> None:
    """Start everything, and measure."""
    cores = sorted(os.sched_getaffinity(0))
    command = ("-m", "sluice_gateway", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(started(__file__, "--world"))
            worker = f"http://127.0.0.1:{int(await read_line(world))}"
            bare = await stack.enter_async_context(started(__file__, "--bare", worker))
            environ = {"KUBECONFIG": write_kubeconfig(file, worker)}
            gateway = await stack.enter_async_context(started(*command, **environ))
            urls = {
                "direct": worker,
                "bare": f"http://127.0.0.1:{int(await read_line(bare))}",
                "gateway": await start_gateway(gateway),
            }
            if len(cores) > 1:
                for process in (bare, gateway):
                    os.sched_setaffinity(process.pid, {cores[-1]})
                for pid in (world.pid, os.getpid()):
                    os.sched_setaffinity(pid, set(cores[:-1]))
            draining = asyncio.create_task(drain_lines(gateway))
            await measure(arguments, urls, {"bare": bare.pid, "gateway": gateway.pid})
            draining.cancel()


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--world", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.world:
            runner.run(serve_world())
        elif arguments.bare:
            runner.run(serve_bare(arguments.bare))
        else:
            runner.run(run(arguments))


if __name__ == "__main__":
    main()
