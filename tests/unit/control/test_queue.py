"""Jobs by key: serial within one, the newest wins, failures are tried again."""

import asyncio

from sluice.act.writer import NotLeaderError
from sluice.control import queue as module
from sluice.control.queue import KeyedQueue
from sluice.kube.errors import KubeError


async def test_the_newest_job_replaces_the_one_that_waits():
    queue, ran, gate = KeyedQueue(), [], asyncio.Event()

    async def first():
        await gate.wait()
        ran.append("first")

    def note(name):
        async def job():
            ran.append(name)

        return job

    queue.submit("a", first)
    await asyncio.sleep(0)
    queue.submit("a", note("second"))
    queue.submit("a", note("third"))
    queue.submit("b", note("other"))
    await asyncio.sleep(0)
    assert ran == ["other"]
    gate.set()
    await queue.drain()
    assert ran == ["other", "first", "third"]


async def test_a_failure_is_tried_again(monkeypatch):
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)
    queue, tries = KeyedQueue(), []

    async def job():
        tries.append(1)
        if len(tries) < 3:
            raise KubeError(500, "InternalError", "try later")

    queue.submit("a", job)
    await queue.drain()
    assert len(tries) == 3


async def test_who_does_not_lead_drops_the_job():
    queue, tries = KeyedQueue(), []

    async def job():
        tries.append(1)
        raise NotLeaderError("not leading")

    queue.submit("a", job)
    await queue.drain()
    assert len(tries) == 1


async def test_a_mistake_in_a_job_is_told_and_backs_off_and_others_run(monkeypatch, capsys):
    monkeypatch.setattr(module, "FIRST_DELAY", 0.05)
    queue, tries = KeyedQueue(), []

    async def broken():
        tries.append(asyncio.get_running_loop().time())
        raise ZeroDivisionError("no capacity")

    for _ in range(5):
        queue.submit("a", broken)
        await asyncio.sleep(0.002)
    assert len(tries) == 1
    await queue.drain()
    assert len(tries) == 2
    assert "no capacity" in capsys.readouterr().out


async def test_nothing_runs_any_more_once_it_has_stopped():
    queue, ended = KeyedQueue(), []

    async def job():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append(1)

    queue.submit("a", job)
    await asyncio.sleep(0)
    await queue.stop()
    assert ended == [1]


async def test_what_waits_for_another_try_is_dropped_when_leadership_is_lost(monkeypatch):
    monkeypatch.setattr(module, "FIRST_DELAY", 0.05)
    queue, tries = KeyedQueue(), []

    async def job():
        tries.append(1)
        raise KubeError(500, "InternalError", "try later")

    queue.submit("a", job)
    await asyncio.sleep(0.005)
    queue.clear()
    await queue.drain()
    assert len(tries) == 1
