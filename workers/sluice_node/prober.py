"""Makes the requests of probes and feeds their results to `probes`."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import aiohttp

from sluice_node.probes import ProbeState, ProbeTarget, ProbeTiming


async def check_target(
    session: aiohttp.ClientSession,
    target: ProbeTarget,
    timeout: float,  # noqa: ASYNC109  # a probe's own field
) -> str | None:
    """Ask once; return None if all is well, else what was wrong.

    Like the kubelet: 200 to 399 is well, a redirect is not followed, certificates are not checked.
    """
    if not target.path:
        return await _check_port(target, timeout)
    url = f"{target.scheme}://{target.host}:{target.port}{target.path}"
    try:
        async with session.get(
            url,
            headers=dict(target.headers),
            timeout=aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,
            ssl=False,
        ) as response:
            if HTTPStatus.OK <= response.status < HTTPStatus.BAD_REQUEST:
                return None
            return f"HTTP probe failed with statuscode: {response.status}"
    except TimeoutError:
        return f'Get "{url}": no answer within {timeout:g} s'
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f'Get "{url}": {error or type(error).__name__}'


async def _check_port(target: ProbeTarget, seconds: float) -> str | None:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(target.host, target.port)
    except TimeoutError:
        return f"dial tcp {target.host}:{target.port}: no answer within {seconds:g} s"
    except OSError as error:
        return f"dial tcp {target.host}:{target.port}: {error.strerror or error}"
    writer.close()
    return None


async def run_probe(
    timing: ProbeTiming,
    state: ProbeState,
    check: Callable[[], Awaitable[str | None]],
    on_result: Callable[[str | None, bool], bool],
    gate: asyncio.Event,
) -> None:
    """Probe until told to stop, first after the initial delay; pause while the gate is closed.

    Args:
        timing: When.
        state: Makes verdicts of results.
        check: Asks once; see `check_target`.
        on_result: Called with what was wrong (or None) and whether that made a verdict; returns
            whether to go on.
        gate: Cleared while the agent is silent.
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(timing.initial_delay)
    while True:
        await gate.wait()
        begun = loop.time()
        fault = await check()
        if not on_result(fault, state.observe(success=fault is None)):
            return
        await asyncio.sleep(max(0.0, begun + timing.period - loop.time()))
