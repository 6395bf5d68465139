"""What parity audits find between two real workers, of healthy devices and of one that errs.

    python benchmarks/parity_gate.py [--answers 60] [--json FILE]

Two workers of the compact model (by default in the numerics of Maia 200 and H100, without a pace)
stand behind a gateway without a cluster, which has every answer scored by both. The questions are
the model's held-out ones; half of the answers are sampled at temperature 1. What the gateway's
`/signals` say then is judged by the operator's own rules, with the API's default bounds: `Agrees`
lets a ramp climb, `Differs` takes its traffic away, `Awaits` holds it. The devices are emulated;
the faults are wrong values that look plausible.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from sluice.api.pool import Parity
from sluice.decide.parity import judge_parity
from sluice.model.snapshot import ParitySignals
from sluice.observe.signals import GatewayReport
from sluice_accel.faults import DeviceState, Fault, FaultKind
from sluice_node.devicesockets import DeviceSockets
from sluice_worker.device import SOCKETS
from sluice_worker.heldout import read_questions

MODEL: Final = Path(__file__).parents[1] / "workers" / "models" / "compact"
DEVICE: Final = ("sluice.dev/maia", 0)
RATES: Final = (0.0, 1e-4, 1e-3, 1e-2)
_READY_SECONDS: Final = 60.0
_AUDIT_SECONDS: Final = 60.0
_AT_ONCE: Final = 4


def find_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def run_program(*arguments: str, **environ: str) -> AsyncIterator[None]:
    """Run a program of ours until the context ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        env=os.environ | environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def wait_ready(http: aiohttp.ClientSession, url: str) -> None:
    """Return when a server says that it is ready."""
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            try:
                async with http.get(url) as response:
                    if response.status == 200:  # noqa: PLR2004
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@asynccontextmanager
async def run_pair(
    numerics: tuple[str, str], rate: float, directory: Path
) -> AsyncIterator[tuple[aiohttp.ClientSession, str, str]]:
    """Run two workers, the first on a device that errs at a rate, and a gateway before them.

    Yields:
        A client, the API's URL and the admin port's.
    """
    faults = (Fault(FaultKind.CORRUPTION, since=1.0, rate=rate),) if rate else ()
    sockets = DeviceSockets(directory, lambda key: DeviceState(*key, faults))
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await sockets.start([DEVICE])
        stack.push_async_callback(sockets.stop)
        backends = []
        for number, name in enumerate(numerics):
            port = find_port()
            environ = {SOCKETS: str(sockets.find(DEVICE))} if number == 0 else {}
            arguments = (f"--model={MODEL}", f"--numerics={name}", f"--port={port}")
            worker = run_program("sluice_worker", *arguments, **environ)
            await stack.enter_async_context(worker)
            backends.append(f"--backend=w{number}=http://127.0.0.1:{port},class=class-{number}")
            await wait_ready(http, f"http://127.0.0.1:{port}/readyz")
        port, admin = find_port(), find_port()
        listening = ("--host=127.0.0.1", f"--port={port}", f"--admin-port={admin}")
        comparing = ("--parity-sample=100%", "--parity-budget=100%")
        gateway = run_program("sluice_gateway", *listening, *comparing, *backends)
        await stack.enter_async_context(gateway)
        await wait_ready(http, f"http://127.0.0.1:{admin}/readyz")
        yield http, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"


async def ask(http: aiohttp.ClientSession, url: str, number: int, prompt: str) -> None:
    """Ask a question in a stream, every second one at temperature 1, and read it to its end."""
    body = {
        "model": "compact",
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": number % 2,
        "seed": number,
        "max_tokens": 64,
    }
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        await response.read()


async def read_found(http: aiohttp.ClientSession, admin: str) -> ParitySignals:
    """Return what was compared so far, of both pairs of classes."""
    async with http.get(f"{admin}/signals?window=300") as response:
        report = GatewayReport.model_validate_json(await response.read())
    total = ParitySignals()
    for pair in report.pools["compact"].parity:
        found = ParitySignals(pair.audits, pair.judged, pair.agreed, pair.divergence)
        total = total.plus(found)
    return total


async def compare(numerics: tuple[str, str], rate: float, answers: int) -> dict[str, Any]:
    """Return what audits of so many answers find."""
    questions = read_questions(MODEL)
    step = max(1, len(questions) // answers)
    asked = [one.prompt for one in questions[::step]][:answers]
    with tempfile.TemporaryDirectory(prefix="sluice-parity-") as directory:
        async with run_pair(numerics, rate, Path(directory)) as (http, url, admin):
            found = ParitySignals()
            for begin in range(0, len(asked), _AT_ONCE):
                some = list(enumerate(asked))[begin : begin + _AT_ONCE]
                await asyncio.gather(*(ask(http, url, *one) for one in some))
                async with asyncio.timeout(_AUDIT_SECONDS):
                    while found.audits < begin + len(some):
                        await asyncio.sleep(0.1)
                        found = await read_found(http, admin)
    return {
        "numerics": numerics,
        "rate": rate,
        "audits": found.audits,
        "judged": found.judged,
        "agreement": found.agreement,
        "kl": found.mean_divergence,
        "verdict": judge_parity(Parity(), found).value,
    }


def show(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    wrong = f"1 in {round(1 / row['rate']):,}" if row["rate"] else "none"
    return (
        f"| {' against '.join(row['numerics'])} | {wrong} | {row['audits']} | {row['judged']} |"
        f" {100 * row['agreement']:.2f} % | {row['kl']:.2g} | {row['verdict']} |"
    )


def main() -> None:
    """Print the table; exit with 1 if the healthy pair is not let through."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=60, help="for each row")
    parser.add_argument("--numerics", nargs=2, default=["fp8-block", "fp8-row"])
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args()
    print("emulated devices; the bounds are the API's defaults")
    print(
        "| numerics | wrong values of the first | answers | judged tokens | same | KL | verdict |"
    )
    print("|---|---|---|---|---|---|---|")
    first, second = arguments.numerics
    rows = []
    for rate in RATES:
        rows.append(asyncio.run(compare((first, second), rate, arguments.answers)))
        print(show(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if rows[0]["verdict"] != "Agrees":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
