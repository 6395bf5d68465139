"""Routing quality: the share of a real trace's requests that are inside their objectives.

    python benchmarks/gateway/quality.py --traces DIR [--trace azure2023_conv.csv]
        [--loads 0.6,0.8,0.95] [--policies predicted,"round robin",…] [--seed 1] [--minutes 1]

Two workers with an emulated Maia 200 and one with two emulated H100, and before them in turn the
gateway (`python -m sluice_gateway --backend …`) and a relay that balances by round robin, least
requests and power of two choices (`balancer.py`): the same workers, the same requests at the same
times, the relay under test on the last core. Workers are idle when a policy's turn begins. The
first requests of each turn warm it up and are not counted.

Load is a share of what the fleet carries: the requests a second that workers end which are never
idle, by the emulation's own model and for just these requests (`workload.measure_capacity`). A 429
is a miss. How long an answer will be nobody is told: `max_tokens` is that of the longest, and the
end token comes where the trace's answer ended. Emulated devices.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop
from balancer import POLICIES
from figures import HEADER, NOTICE, Figures, Objective, Outcome, count_outcomes, render
from workload import (
    CHUNK,
    SLOTS,
    Ask,
    Row,
    Scale,
    draw_stretch,
    fit_stretch,
    measure_capacity,
    read_trace,
)

from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_worker.pacing import EmulatedDevice
from sluice_worker.tokens import Vocabulary

MODEL = Path(__file__).resolve().parents[2] / "workers/models/compact"
NOMINAL = "llama-3.3-70b"
FLEET = (("maia-200", 1), ("maia-200", 1), ("h100", 2))
"""Profile and devices of each worker."""
JITTER = 0.05
OURS = "predicted"
WARM_SECONDS = 15.0
REQUEST_SECONDS = 120.0
CONTEXT = 768
ANSWERS = 4
END_TOKEN = 1
"""Of the compact model."""
FOR_CHATS = 32, Objective(ttft=1.0, tpot=0.05)
"""Token scale and objectives: twice an idle device's step, a few times a long prompt (assumed)."""
FOR_LONG_PROMPTS = 96, Objective(ttft=5.0, tpot=0.1)
"""Likewise for the project's own slice, whose prompts are twelve times as long."""
_OK = 200


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process."""

    url: str
    variant: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one policy is asked: all requests, of which those before `counted_from` (s) warm up."""

    policy: str
    load: float
    seed: int
    asks: Sequence[Ask]
    counted_from: float
    objective: Objective


@asynccontextmanager
async def started(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program of Python's; end it at the end."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": ""},
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def read_line(process: asyncio.subprocess.Process) -> bytes:
    """Return a program's next line.

    Raises:
        SystemExit: it has ended.
    """
    line = await process.stdout.readline() if process.stdout else b""
    if not line:
        raise SystemExit("a program of this benchmark ended before it served")
    return line


async def drain_lines(process: asyncio.subprocess.Process) -> None:
    """Keep reading a program's lines, as a container runtime would."""
    while process.stdout and await process.stdout.readline():
        pass


async def get_metrics(http: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Return a worker's counters and gauges, summed over labels."""
    found: dict[str, float] = {}
    async with http.get(f"{url}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
    return found


async def count_steps(
    http: aiohttp.ClientSession, workers: Sequence[Worker]
) -> tuple[float, float]:
    """Return all steps that workers have run, and those that overran."""
    each = [await get_metrics(http, worker.url) for worker in workers]
    return (
        sum(one["sluice_worker_steps_total"] for one in each),
        sum(one["sluice_worker_steps_overrun_total"] for one in each),
    )


async def wait_until_idle(http: aiohttp.ClientSession, workers: Sequence[Worker]) -> None:
    """Return when no worker has anything to do."""
    async with asyncio.timeout(REQUEST_SECONDS):
        for worker in workers:
            while True:
                seen = await get_metrics(http, worker.url)
                if not seen["vllm:num_requests_running"] + seen["vllm:num_requests_waiting"]:
                    break
                await asyncio.sleep(0.2)


async def wait_until_ready(http: aiohttp.ClientSession, url: str) -> None:
    """Return when a server says that it is ready."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.get(f"{url}/readyz") as answer:
                    if answer.status == _OK:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


def find_devices(scale: int) -> Iterator[EmulatedDevice]:
    """Yield what the workers emulate, without jitter."""
    for profile, devices in FLEET:
        yield EmulatedDevice(PROFILES[profile], NOMINAL_MODELS[NOMINAL], devices, scale)


async def start_workers(
    stack: AsyncExitStack, http: aiohttp.ClientSession, scale: int, seed: int
) -> list[Worker]:
    """Start the fleet, and wait for it."""
    workers = []
    for number, (profile, devices) in enumerate(FLEET):
        port = find_port()
        command = (
            *("-m", "sluice_worker", f"--model={MODEL}", f"--port={port}", f"--profile={profile}"),
            *(f"--nominal={NOMINAL}", f"--devices={devices}", f"--token-scale={scale}"),
            *(f"--jitter={JITTER}", f"--seed={seed + number}", "--startup-seconds=0"),
            *(f"--max-num-seqs={SLOTS}", f"--max-num-batched-tokens={CHUNK}"),
            f"--max-model-len={CONTEXT}",
        )
        await stack.enter_async_context(started(*command))
        workers.append(Worker(f"http://127.0.0.1:{port}", profile))
    for worker in workers:
        await wait_until_ready(http, worker.url)
    return workers


def find_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def start_relay(
    stack: AsyncExitStack, http: aiohttp.ClientSession, turn: Turn, workers: Sequence[Worker]
) -> str:
    """Start what a policy needs on the last core; return its URL."""
    if turn.policy != OURS:
        urls = [worker.url for worker in workers]
        command = (str(Path(__file__).with_name("balancer.py")), turn.policy, *urls)
        process = await stack.enter_async_context(started(*command))
        url = f"http://127.0.0.1:{int(await read_line(process))}"
    else:
        backends = [
            f"--backend=w{number}={worker.url},class={worker.variant}"
            for number, worker in enumerate(workers)
        ]
        objective = turn.objective
        objectives = (f"--ttft={objective.ttft:g}s", f"--tpot={1e3 * objective.tpot:g}ms")
        ports = ("--host=127.0.0.1", "--port=0", "--admin-port=0")
        command = ("-m", "sluice_gateway", *ports, *objectives, *backends)
        process = await stack.enter_async_context(started(*command))
        said: dict[str, object] = {}
        while said.get("event") != "listening":
            said = json.loads(await read_line(process))
        draining = asyncio.create_task(drain_lines(process))
        stack.callback(draining.cancel)
        await wait_until_ready(http, f"http://127.0.0.1:{said['admin_port']}")
        url = f"http://127.0.0.1:{said['port']}"
    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
    return url


async def send(http: aiohttp.ClientSession, url: str, ask: Ask, longest: int) -> Outcome:
    """Send a request; return what became of it."""
    body = {
        "model": "compact",
        "prompt": ask.text,
        "stream": True,
        "temperature": 0,
        "max_tokens": longest,
        # The answer ends where the trace's did, and nobody knows before.
        "min_tokens": ask.answer,
        "logit_bias": {str(END_TOKEN): 100},
    }
    begin, status, first, ended = time.perf_counter(), 0, None, None
    try:
        async with asyncio.timeout(REQUEST_SECONDS), http.post(url, json=body) as answer:
            status = answer.status
            async for line in answer.content:
                if status == _OK and line.startswith(b"data: {"):
                    now = time.perf_counter()
                    first = first or now
                    if b'"finish_reason":"stop"' in line.replace(b'": "', b'":"'):
                        ended = now
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass
    return Outcome(
        status,
        None if first is None else first - begin,
        None if first is None or ended is None else (ended - first) / ask.answer,
    )


async def take_turn(http: aiohttp.ClientSession, workers: Sequence[Worker], turn: Turn) -> Figures:
    """Send the requests by a policy; return its row."""
    longest = max(ask.answer for ask in turn.asks) + 1
    await wait_until_idle(http, workers)
    async with AsyncExitStack() as stack:
        url = await start_relay(stack, http, turn, workers) + "/v1/completions"
        steps, overrun = await count_steps(http, workers)
        begin = time.perf_counter()
        sending = []
        for ask in turn.asks:
            await asyncio.sleep(max(0.0, begin + ask.at - time.perf_counter()))
            sending.append(asyncio.create_task(send(http, url, ask, longest)))
        outcomes = await asyncio.gather(*sending)
        steps_after, overrun_after = await count_steps(http, workers)
    counted = [
        outcome
        for ask, outcome in zip(turn.asks, outcomes, strict=True)
        if ask.at >= turn.counted_from
    ]
    return count_outcomes(
        counted,
        turn.objective,
        policy=turn.policy,
        load=turn.load,
        seed=turn.seed,
        overrun=(overrun_after - overrun) / max(1.0, steps_after - steps),
    )


def plan_asks(
    rows: Sequence[Row], load: float, scale: Scale, seconds: float, seed: int
) -> tuple[list[Ask], float]:
    """Return the requests of all turns at a load, and what the fleet carries of them (requests/s).

    The stretch is as long as the fleet's capacity for the whole trace says; what it carries of this
    stretch decides how fast it comes.
    """
    devices = list(find_devices(scale.tokens))

    def measure(some: Sequence[Row]) -> float:
        return sum(measure_capacity(device, [scale.fit(row) for row in some]) for device in devices)

    count = round(load * measure(rows[:1000]) * seconds)
    stretch = draw_stretch(rows, count, seed)
    capacity = measure(stretch)
    vocabulary = Vocabulary(MODEL / "tokenizer.json")
    return fit_stretch(stretch, load * capacity, scale, vocabulary, seed), capacity


async def run(options: argparse.Namespace) -> list[Figures]:
    """Let every policy have its turn at every load; print rows as they come."""
    path = options.traces / options.trace if options.traces else None
    rows = read_trace(path)
    token_scale, objective = FOR_CHATS if path else FOR_LONG_PROMPTS
    scale = Scale(options.token_scale or token_scale, ANSWERS)
    seconds = 60 * options.minutes + WARM_SECONDS
    figures = []
    connector = aiohttp.TCPConnector(limit=0)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, read_bufsize=2**20)
        )
        workers = await start_workers(stack, http, scale.tokens, options.seed)
        for load in options.loads:
            asks, capacity = plan_asks(rows, load, scale, seconds, options.seed)
            print(f"# {len(asks)} requests at {load:.0%} of {capacity:.2f}/s", file=sys.stderr)
            shift = options.seed % len(options.policies)  # nobody is always the first
            for policy in (*options.policies[shift:], *options.policies[:shift]):
                turn = Turn(policy, load, options.seed, asks, WARM_SECONDS, objective)
                row = await take_turn(http, workers, turn)
                print(render(row), flush=True)
                figures.append(row)
    return figures


def read_loads(text: str) -> list[float]:
    """Return the loads that an argument names.

    Raises:
        ArgumentTypeError: one is none.
    """
    try:
        loads = [float(one) for one in text.split(",")]
    except ValueError:
        loads = [0.0]
    if not all(0 < load <= 5 for load in loads):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} are no loads: write shares such as 0.6,0.95")
    return loads


def read_policies(text: str) -> list[str]:
    """Return the policies that an argument names.

    Raises:
        ArgumentTypeError: one is not known.
    """
    policies = text.split(",")
    if unknown := set(policies) - {OURS, *POLICIES}:
        known = ", ".join((OURS, *POLICIES))
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is no policy: {known} are")
    return policies


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--traces", type=Path, help="directory with traces; else our own slice")
    parser.add_argument("--trace", default="azure2023_conv.csv", help="file there (%(default)s)")
    parser.add_argument("--loads", type=read_loads, default=[0.6, 0.8, 0.95])
    parser.add_argument("--policies", type=read_policies, default=[OURS, *POLICIES])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0, help="counted, of each turn")
    parser.add_argument("--token-scale", type=int, help="nominal tokens for each of a prompt")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    print(f"{NOTICE}\n\n{HEADER}", flush=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(run(options))
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if options.json:
        options.json.write_text(json.dumps([row.as_json() for row in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
