"""The relays that `cost.py` compares: how each is started, and what its processes used."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from sluice.devcluster.networks import choose_port

HERE = Path(__file__).parent
_FIRST_PORT = 18900
_READY_SECONDS = 120.0
_TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Relay:
    """A program between clients and the backend, and where it serves."""

    name: str
    url: str
    pid: int

    def read_cpu(self) -> float:
        """Return the CPU seconds that it and all its children have used."""
        return sum(read_ticks(pid) for pid in list_tree(self.pid)) / _TICK

    def read_memory(self) -> float:
        """Return the resident memory of all its processes in MB."""
        sizes = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in list_tree(self.pid)]
        return sum(map(int, sizes)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def read_stat(pid: int) -> list[str]:
    """Return the fields of a process's `stat` after its name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def read_ticks(pid: int) -> int:
    """Return what a process, and those of its children that ended, used."""
    return sum(map(int, read_stat(pid)[11:15]))


def list_tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int(read_stat(int(path.name))[1])
            except OSError:  # it has ended meanwhile
                continue
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def plan_gateway(port: int, backend: str) -> Sequence[str]:
    """Return the command of the gateway, with room for every stream of the benchmarks."""
    admin = choose_port("127.0.0.1", port + 1)
    command = [sys.executable, "-m", "sluice_gateway", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--admin-port={admin}", "--slots=4000", "--ttft=60s", "--tpot=2s"]
    return [*command, f"--backend=worker=http://{backend}"]


def plan_litellm(peers: Path, port: int) -> Sequence[str]:
    """Return the command of LiteLLM's proxy."""
    command = [str(peers / "venv/bin/litellm"), f"--config={HERE / 'peers/litellm.yaml'}"]
    return [*command, "--host=127.0.0.1", f"--port={port}", "--num_workers=1"]


def plan_sglang(peers: Path, port: int, backend: str) -> Sequence[str]:
    """Return the command of sglang-router."""
    command = [str(peers / "venv/bin/python"), "-m", "sglang_router.launch_router"]
    command += ["--host=127.0.0.1", f"--port={port}", "--policy=round_robin", "--log-level=error"]
    prometheus = choose_port("127.0.0.1", port + 1)
    return [*command, f"--prometheus-port={prometheus}", f"--worker-urls=http://{backend}"]


def plan_peers(peers: Path, backend: str) -> Mapping[str, tuple[int, Sequence[str]]]:
    """Return port and command of each peer."""
    ports = [choose_port("127.0.0.1", _FIRST_PORT + 20 * number) for number in range(3)]
    haproxy = [str(peers / "root/usr/sbin/haproxy"), "-db", "-f", str(HERE / "peers/haproxy.cfg")]
    return {
        "litellm": (ports[0], plan_litellm(peers, ports[0])),
        "sglang-router": (ports[1], plan_sglang(peers, ports[1], backend)),
        "haproxy": (ports[2], haproxy),
    }


def pin(root: int) -> None:
    """Keep all threads of a process and of its children on the last core."""
    for pid in list_tree(root):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {CORES[-1]})


@asynccontextmanager
async def started(
    name: str, command: Sequence[str], log: Path, environ: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program; end it, and its children with it."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if name == "backend" else file,
            stderr=file,
        )
    try:
        yield process
    finally:
        children = list_tree(process.pid)[1:] if process.returncode is None else []
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def run_backend(directory: Path, *, tokens: int, rate: float) -> AsyncIterator[str]:
    """Run the paced backend on the first core; yield its host and port."""
    command = [sys.executable, str(HERE / "paced.py"), f"--tokens={tokens}", f"--rate={rate}"]
    async with started("backend", command, directory / "backend.log", {}) as process:
        os.sched_setaffinity(process.pid, {CORES[0]})
        assert process.stdout is not None  # noqa: S101 - it was asked for
        yield f"127.0.0.1:{int(await process.stdout.readline())}"


@asynccontextmanager
async def run_relay(
    name: str, port: int, command: Sequence[str], backend: str, directory: Path
) -> AsyncIterator[Relay]:
    """Run a relay on the last core until it has answered a request."""
    libraries = Path(command[0]).parents[1] / "lib/x86_64-linux-gnu"
    environ = {
        "BENCH_PORT": str(port),
        "BENCH_BACKEND": backend,
        "BENCH_API_BASE": f"http://{backend}/v1",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    if libraries.is_dir():
        environ["LD_LIBRARY_PATH"] = str(libraries)
    log = directory / f"{name}.log"
    async with started(name, command, log, environ) as process:
        url = f"http://127.0.0.1:{port}"
        await await_answer(name, url, log, process)
        pin(process.pid)
        yield Relay(name, url, process.pid)


async def await_answer(name: str, url: str, log: Path, process: asyncio.subprocess.Process) -> None:
    """Wait until a relay answers a chat request with 200."""
    body = {"model": "bench", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    said = "nothing"
    loop = asyncio.get_running_loop()
    until = loop.time() + _READY_SECONDS
    async with aiohttp.ClientSession() as http:
        while loop.time() < until and process.returncode is None:
            try:
                async with http.post(f"{url}/v1/chat/completions", json=body) as answer:
                    said = f"{answer.status}: {(await answer.text())[:300]}"
                    if answer.status == 200:  # noqa: PLR2004
                        return
            except aiohttp.ClientError as error:
                said = str(error)
            await asyncio.sleep(0.2)
    raise SystemExit(f"{name} does not serve ({said}); see {log}")


@asynccontextmanager
async def run_gateway(
    logs: str | None, *, tokens: int, rate: float
) -> AsyncIterator[tuple[Relay, str]]:
    """Run a paced backend and a gateway before it; yield the gateway and the backend's URL.

    Whoever measures is pinned to the first core from then on.

    Args:
        logs: Directory of the programs' logs; a temporary one if it is None.
        tokens: Of each stream of the backend.
        rate: Of these in a second.
    """
    async with AsyncExitStack() as stack:
        directory = Path(logs or stack.enter_context(tempfile.TemporaryDirectory()))
        backend = await stack.enter_async_context(run_backend(directory, tokens=tokens, rate=rate))
        port = choose_port("127.0.0.1", 18800)
        relay = await stack.enter_async_context(
            run_relay("gateway", port, plan_gateway(port, backend), backend, directory)
        )
        os.sched_setaffinity(0, {CORES[0]})
        yield relay, backend
