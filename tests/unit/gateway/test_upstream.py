"""One attempt on a worker, without a gateway around it."""

import asyncio
import time

import pytest

from sluice_gateway.attempts import Attempt
from sluice_gateway.calls import parse_call
from sluice_gateway.health import WorkerHealth
from sluice_gateway.keptconnections import KeptConnections
from sluice_gateway.members import Worker
from sluice_gateway.objects import WorkerPod
from sluice_gateway.settings import Relaying
from sluice_gateway.upstream import ClientLostError, Upstream

from .fakeworker import FakeWorker


class StuckClient:
    """Takes every token, and then nothing more."""

    can_write = False

    def __init__(self):
        self.ending = asyncio.Event()

    async def send(self, data):
        pass

    async def end(self):
        self.ending.set()
        await asyncio.sleep(3600)


async def test_a_client_that_is_slow_at_the_end_is_not_blamed_on_the_worker():
    fake = FakeWorker("w1")
    await fake.start()
    pod = WorkerPod(
        uid=fake.uid,
        name="w1",
        pool="default/chat",
        variant="maia",
        host=fake.host,
        port=fake.port,
        ready=True,
    )
    now = time.monotonic()
    attempt = Attempt(
        worker=Worker(pod, WorkerHealth(now)),
        reason="",
        dispatched=now,
        dispatched_at=now,
        pending_since=now,
    )
    call = parse_call("/v1/completions", b'{"model": "m", "prompt": "x", "stream": true}', seed=1)
    client = StuckClient()
    kept = KeptConnections(connect_seconds=1, idle_seconds=15, clock=time.monotonic)
    upstream = Upstream(kept, relaying=Relaying(), slow_reader_seconds=30.0, clock=time.monotonic)
    carrying = asyncio.create_task(upstream.carry(attempt, call, "r", client, lambda _fresh: None))
    async with asyncio.timeout(30):
        await client.ending.wait()
    attempt.expire()
    with pytest.raises(ClientLostError, match="slow_reader"):
        await carrying
    kept.close()
    await fake.close()
