"""What the worker's server adds to an engine step, and how well 16 streams keep a device's time.

    python benchmarks/worker/overhead.py [--seconds 10] [--json FILE]

First the way of a token from the end of the engine's step to the client's socket: the real engine
and server, a decoder that computes nothing and a device whose steps take 20 ms, so that all that is
left is ours. The client spins on its sockets, so that its own waking up is no part of it; of a step
with 16 streams, the last byte to come counts. Before that the same way in a bare event loop that a
thread wakes, which says how much of it is this machine's. Then a real worker process with the
compact model, paced as an emulated device whose steps take about 20 ms: gaps between tokens,
processor time of the whole process and steps that overran.

Clients run on the last core, the servers on the first, where there is more than one.
"""

import argparse
import asyncio
import itertools
import json
import logging
import multiprocessing
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import structlog
import uvloop
from aiohttp import web

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.engine import Emission, Engine, Limits
from sluice_worker.knownanswers import KnownAnswers
from sluice_worker.loading import load_model
from sluice_worker.metrics import Metrics
from sluice_worker.pacing import EmulatedDevice, Pacer, StepCost
from sluice_worker.server import Identity, Server

COMPACT = Path(__file__).parents[2] / "workers" / "models" / "compact"
STEP = 0.02
STREAMS = 16
LETTER = 70
BARE_EVENT = b'data: {"choices":[{"index":0,"text":"a"}]}'.ljust(220) + b"\n\n"
"""As long as the real ones."""
PROFILE, NOMINAL, SCALE = "maia-200-neutral", "llama-3.3-70b", 8
"""A device whose step with 16 sequences takes about 20 ms."""


class Instant:
    """A decoder that computes nothing: one letter is always the likeliest."""

    disturb = None

    def __init__(self, config: Any) -> None:
        self.config = config
        self._row = np.zeros(config.vocab_size, np.float32)
        self._row[LETTER] = 1

    def run_asked(self, chunks: list[Any]) -> list[Any]:
        """Return the logits of each chunk."""
        return [self._row[None]] * len(chunks)


class Fixed:
    """A device whose steps all take the same time."""

    def run_step(self, *_: Any) -> StepCost:
        """Return what a step takes."""
        return StepCost(STEP)


def serve(pipe: Connection, core: int | None) -> None:
    """Serve in this process; tell the port, when each token was emitted, and the loop's time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.disable()  # clients leave before the last event
    if core is not None:
        os.sched_setaffinity(0, {core})
    checkpoint, vocabulary = load_model(COMPACT)
    metrics = Metrics("m")
    server = Server(Identity("m"), vocabulary, metrics, KnownAnswers("", "float32"))
    emitted: dict[int, list[float]] = {}

    def emit(emissions: Sequence[Emission]) -> None:
        now = time.monotonic()
        for one in emissions:
            emitted.setdefault(one.sequence.prompt[1], []).append(now)
        server.emit(emissions)

    async def run() -> None:
        config = replace(checkpoint.config, max_position_embeddings=4096)
        limits = Limits(STREAMS, 64, 64)
        engine = Engine(Instant(config), limits, Pacer(Fixed()), metrics, emit)
        runner = web.AppRunner(server.make_app(), access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.attach(engine)
        engine.start()
        server.not_ready = ""
        pipe.send(runner.addresses[0][1])
        while await asyncio.to_thread(pipe.recv) != "end":
            pipe.send(time.thread_time())
        pipe.send(emitted)
        await asyncio.to_thread(engine.stop)
        await runner.cleanup()

    uvloop.run(run())


def serve_bare(pipe: Connection, core: int | None, tokens: int) -> None:
    """Serve one connection with nothing but a thread that wakes a loop, which writes."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    emitted: list[float] = []

    async def run() -> None:
        loop, met = asyncio.get_running_loop(), asyncio.Event()
        writers: list[asyncio.StreamWriter] = []

        def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            met.set()

        def step() -> None:
            for _ in range(tokens):
                time.sleep(STEP)
                emitted.append(time.monotonic())
                loop.call_soon_threadsafe(writers[0].write, BARE_EVENT)

        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await met.wait()
        await asyncio.to_thread(step)
        await asyncio.to_thread(pipe.recv)

    uvloop.run(run())
    pipe.send(emitted)


def measure_bare(seconds: float, cores: list[int]) -> dict[str, float]:
    """Return microseconds from a thread's wake-up call to the socket: what no server can undercut.

    Any server whose engine is a thread beside an event loop pays that much on this machine.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    tokens = int(seconds / STEP)
    core = cores[0] if len(cores) > 1 else None
    process = context.Process(target=serve_bare, args=(theirs, core, tokens))
    process.start()
    client = socket.create_connection(("127.0.0.1", ours.recv()))
    client.settimeout(0)
    (came,) = read_streams([client], tokens, spin=True)
    ours.send("end")
    ways = sorted(1e6 * (b - a) for a, b in zip(ours.recv(), came, strict=False))
    process.join()
    return {
        "bare loop, p50 µs": statistics.median(ways),
        "bare loop, p99 µs": ways[int(0.99 * len(ways))],
    }


def ask(port: int, number: int, tokens: int, model: str = "m") -> socket.socket:
    """Send a request for a stream and return its socket."""
    body = {"model": model, "prompt": [0, number + 10], "max_tokens": tokens, "stream": True}
    raw = json.dumps(body | {"temperature": 0, "ignore_eos": True}).encode()
    client = socket.create_connection(("127.0.0.1", port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: {len(raw)}\r\n\r\n"
    client.sendall(head.encode() + raw)
    client.settimeout(0)
    return client


def read_streams(clients: list[socket.socket], tokens: int, *, spin: bool) -> list[list[float]]:
    """Return when each token of each stream came; spinning sees it at once."""
    selector = selectors.DefaultSelector()
    came: list[list[float]] = [[] for _ in clients]
    for number, client in enumerate(clients):
        selector.register(client, selectors.EVENT_READ, number)
    left = set(range(len(clients)))
    while left:
        for key, _ in selector.select(0 if spin else None):
            client = clients[key.data]
            data = client.recv(1 << 16)
            now = time.monotonic()
            came[key.data] += [now] * data.count(b'"choices":[{')
            if not data or len(came[key.data]) >= tokens:
                left.discard(key.data)
                selector.unregister(client)
    for client in clients:
        client.close()
    return came


def measure_way(seconds: float, cores: list[int]) -> dict[str, float]:
    """Return microseconds from the end of a step to the socket, alone and of 16 the last."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, cores[0] if len(cores) > 1 else None))
    process.start()
    port = ours.recv()
    tokens = int(seconds / STEP)
    found: dict[int, list[list[float]]] = {}
    result = {}
    for streams in (1, STREAMS):
        clients = [ask(port, 100 * (streams > 1) + one, tokens) for one in range(streams)]
        used = ask_time(ours)
        found[streams] = read_streams(clients, tokens, spin=True)
        used = 1e6 * (ask_time(ours) - used)
        result[f"loop's processor time a token, {streams} at once, µs"] = used / tokens / streams
    ours.send("end")
    emitted = ours.recv()
    process.join()
    for streams, name in ((1, "one stream"), (STREAMS, "last of 16")):
        came = found[streams]
        sent = [emitted[10 + 100 * (streams > 1) + one] for one in range(streams)]
        # Streams that began a step later stand a token behind: steps are told by their time.
        last: dict[float, float] = {}
        for arrivals, emissions in zip(came, sent, strict=True):
            for arrival, emission in zip(arrivals[5:], emissions[5:], strict=False):
                last[emission] = max(last.get(emission, 0.0), arrival - emission)
        ways = sorted(1e6 * one for one in last.values())
        result[f"{name}, p50 µs"] = statistics.median(ways)
        result[f"{name}, p99 µs"] = ways[int(0.99 * len(ways))]
    return result


def ask_time(pipe: Connection) -> float:
    """Return the processor seconds of the server's event loop so far."""
    pipe.send("time")
    return float(pipe.recv())


def measure_pace(seconds: float, cores: list[int]) -> dict[str, float]:
    """Return how 16 streams of a paced worker kept its device's time."""
    device = EmulatedDevice(PROFILES[PROFILE], NOMINAL_MODELS[NOMINAL], 1, SCALE)
    tokens = int(seconds / STEP)
    tokens = min(tokens, 480)
    step = device.run_step([(1, tokens // 2, False)] * STREAMS).seconds
    port = find_port()
    command = [sys.executable, "-m", "sluice_worker", f"--model={COMPACT}", f"--port={port}"]
    command += [f"--profile={PROFILE}", f"--nominal={NOMINAL}", f"--token-scale={SCALE}"]
    command += [f"--max-num-seqs={STREAMS}", "--max-num-batched-tokens=64"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        if len(cores) > 1:
            os.sched_setaffinity(process.pid, {cores[0]})
        while not is_ready(port):
            time.sleep(0.05)
        clients = [ask(port, one, tokens, "compact") for one in range(STREAMS)]
        begun, used = time.monotonic(), read_cpu(process.pid)
        came = read_streams(clients, tokens, spin=False)
        used, took = read_cpu(process.pid) - used, time.monotonic() - begun
        metrics = read_metrics(port)
        process.terminate()
    gaps = sorted(
        1e3 * (after - before) for one in came for before, after in itertools.pairwise(one[5:])
    )
    steps = metrics["sluice_worker_steps_total"]
    return {
        "device's step, ms": 1e3 * step,
        "gap p50, ms": statistics.median(gaps),
        "gap p50 above the step, %": 100 * (statistics.median(gaps) / (1e3 * step) - 1),
        "gap p99, ms": gaps[int(0.99 * len(gaps))],
        "of one core, %": 100 * used / took,
        "steps overrun, %": 100 * metrics["sluice_worker_steps_overrun_total"] / steps,
    }


def find_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def read_cpu(pid: int) -> float:
    """Return the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line[0] != "#"]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each part")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[-1]})
    result = {
        **measure_bare(arguments.seconds, cores),
        **measure_way(arguments.seconds, cores),
        **measure_pace(arguments.seconds, cores),
    }
    result["load average"] = os.getloadavg()[0]
    for name, value in result.items():
        print(f"{name:48} {value:8.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
