"""Lists come again: after their time, sooner when asked for, and soon after a failure."""

import asyncio
import contextlib

from sluice.kube.errors import UnreachableError
from sluice.observe import resync
from sluice.observe.resync import repeat


@contextlib.asynccontextmanager
async def repeated(work, sooner, every=3600.0):
    task = asyncio.create_task(repeat("list", every, work, sooner))
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_comes_sooner_when_asked_also_while_it_runs():
    runs, sooner, gate = [], asyncio.Event(), asyncio.Event()

    async def work():
        runs.append(1)
        await gate.wait()

    async with repeated(work, sooner):
        await asyncio.sleep(0.01)
        sooner.set()
        gate.set()
        await asyncio.sleep(0.01)
        assert len(runs) == 2
        sooner.set()
        await asyncio.sleep(0.01)
        assert len(runs) == 3


async def test_a_failure_does_not_wait_for_the_next_turn(monkeypatch):
    monkeypatch.setattr(resync, "RETRY", 0.001)
    runs, enough = [], asyncio.Event()

    async def work():
        runs.append(1)
        if len(runs) < 3:
            raise UnreachableError(0, "Unreachable", "nobody answers")
        enough.set()

    async with asyncio.timeout(30), repeated(work, asyncio.Event()):
        await enough.wait()
    assert len(runs) == 3
