"""How soon a worker is ready without emulated load time, and how much memory it takes.

    python benchmarks/worker/startup.py [--numerics NAME …] [--times 5]

Starts a real worker process by the documented command, waits until /readyz says so, then has it
answer as many requests at once as it runs, so that its buffers and cache are in use, and reads its
resident memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from overhead import COMPACT, find_port, is_ready, read_cpu

from sluice_worker.numerics import FLOAT32, NUMERICS

REQUESTS = 32
READY_MOST = 120.0
"""Seconds after which a start has failed."""


def ask(port: int, number: int) -> None:
    """Have one request answered."""
    body = {"model": "compact", "prompt": [number + 5] * 400, "max_tokens": 64, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body | {"seed": number}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=READY_MOST) as answer:  # noqa: S310 - http above
        answer.read()


def read_resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kilobytes) * 1024 / 1e6


def measure_start(numerics: str) -> dict[str, float]:
    """Start a worker once, and use it."""
    port = find_port()
    command = [sys.executable, "-m", "sluice_worker", f"--model={COMPACT}", f"--port={port}"]
    command += [f"--numerics={numerics}"]
    begun = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not is_ready(port):
                if process.poll() is not None or time.monotonic() > begun + READY_MOST:
                    raise SystemExit(f"the worker did not become ready: {' '.join(command)}")
                time.sleep(0.01)
            result = {
                "ready": time.monotonic() - begun,
                "processor": read_cpu(process.pid),
                "fresh": read_resident(process.pid),
            }
            with ThreadPoolExecutor(REQUESTS) as pool:
                list(pool.map(ask, [port] * REQUESTS, range(REQUESTS)))
            return result | {"used": read_resident(process.pid)}
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--numerics", nargs="+", default=[FLOAT32.name], choices=list(NUMERICS))
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    for name in given.numerics:
        rounds = [measure_start(name) for _ in range(given.times)]
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(
            f"{name:<10} ready after {middle['ready']:.2f} s (slowest"
            f" {max(one['ready'] for one in rounds):.2f}), {middle['processor']:.2f} s of it"
            f" processor time; {middle['fresh']:.0f} MB when ready, {middle['used']:.0f} MB after"
            f" {REQUESTS} requests at once (most {max(one['used'] for one in rounds):.0f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
