"""Workers and gateways without a cluster: processes on loopback, ended and started again."""

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from killstreams import MODEL

from sluice.devcluster.images import find_models
from sluice.devcluster.networks import choose_port

READY_SECONDS = 60.0
STOP_SECONDS = 60.0
FIRST_PORT = 18400
DEVICES = {"maia-200": 1, "h100": 2}
"""Of a worker of each class: what 70 billion parameters need (see the samples' classes)."""
OWN_NUMERICS = {"maia-200": "fp8-block", "h100": "fp8-row"}


@dataclass
class Running:
    """A process that serves on a port; a worker has a class and a new uid each time it starts.

    Attributes:
        starts: How often it was started.
    """

    name: str
    port: int
    command: list[str]
    variant: str = ""
    process: asyncio.subprocess.Process | None = None
    log: Path = field(default=Path(os.devnull))
    starts: int = 0

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it; what it logs is added to its file."""
        environment = {**os.environ, "POD_UID": str(uuid.uuid4())}
        environment.pop("KUBECONFIG", None)
        self.starts += 1
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def send(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def stop(self) -> None:
        """End it, patiently at first."""
        if self.process is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await self.process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.process.wait()


def plan_worker(number: int, variant: str, numerics: str, scale: int, directory: Path) -> Running:
    """Return a worker at the pace of an emulated device; it is not started."""
    models = find_models() or Path("workers/models")
    port = choose_port("127.0.0.1", FIRST_PORT + 10 * number)
    command = ["sluice_worker", f"--model={models / MODEL}", f"--served-model-name={MODEL}"]
    command += [f"--port={port}", f"--numerics={numerics}", f"--profile={variant}"]
    command += ["--nominal=llama-3.3-70b", f"--devices={DEVICES[variant]}"]
    command += [f"--token-scale={scale}", "--startup-seconds=1"]
    name = f"{variant}-{number}"
    return Running(name, port, command, variant, log=directory / f"{name}.log")


def plan_gateway(number: int, workers: Sequence[Running], directory: Path) -> Running:
    """Return a gateway over the workers; it is not started.

    Its objective is a patient one: what is measured is what becomes of streams, not who is let in.
    """
    port = choose_port("127.0.0.1", FIRST_PORT + 300 + 10 * number)
    admin = choose_port("127.0.0.1", port + 1)
    command = ["sluice_gateway", "--host=127.0.0.1", f"--port={port}", f"--admin-port={admin}"]
    command += ["--ttft=30s", "--tpot=1s", "--name-workers"]
    command += [f"--backend={one.name}={one.url},class={one.variant}" for one in workers]
    return Running(f"gateway-{number}", port, command, log=directory / f"gateway-{number}.log")


async def await_models(session: aiohttp.ClientSession, running: Running) -> None:
    """Wait until a process serves.

    Raises:
        RuntimeError: It has ended, or does not serve in time.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if running.process is not None and running.process.returncode is not None:
            break
        if await is_serving(session, running):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{running.name} does not serve; see {running.log}")


async def is_serving(session: aiohttp.ClientSession, running: Running) -> bool:
    """Return whether a process is ready to serve."""
    path = "/readyz" if running.variant else "/v1/models"
    try:
        async with session.get(f"{running.url}{path}") as response:
            body = await response.read()
            return response.status == 200 and (bool(running.variant) or MODEL.encode() in body)  # noqa: PLR2004
    except (aiohttp.ClientError, TimeoutError):
        return False


def read_requests(logs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the lines of requests in what gateways have logged, by request id."""
    found = {}
    for line in (line for log in logs for line in log.splitlines()):
        if line.startswith("{") and '"request_id"' in line:
            entry = json.loads(line)
            if entry.get("event") == "request":
                found[entry["request_id"]] = entry
    return found
