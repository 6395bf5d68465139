"""Liveness probes: misses in a row, whose answer it is, and no last word of a probe that ended."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sluice.observe.probes import UID_HEADER, Prober, Target


class FakeWorker:
    """Answers probes as told; `uid` is whom it says it is."""

    def __init__(self):
        self.status, self.uid, self.silent, self.asked = 200, None, asyncio.Event(), 0
        self.silent.set()
        self.nameless = False

    async def answer(self, request):
        self.asked += 1
        await self.silent.wait()
        uid = self.uid or request.headers[UID_HEADER]
        named = {} if self.nameless else {UID_HEADER: uid}
        return web.Response(status=self.status, headers=named)


@pytest.fixture
async def worker():
    fake = FakeWorker()
    app = web.Application()
    app.router.add_get("/healthz", fake.answer)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("/healthz"))
        yield fake
        fake.silent.set()


@pytest.fixture
async def prober():
    async with aiohttp.ClientSession() as session:
        made = Prober(session, lambda: 7.0, lambda: None)
        yield made
        made.stop()


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def find(prober, uid="w"):
    return prober.results().get(uid)


async def test_counts_misses_in_a_row_and_forgets_them_with_an_answer(prober, worker):
    prober.set_targets([Target("w", worker.url, 0.01, 5.0)])
    await until(lambda: find(prober) and find(prober).answered > 1)
    assert find(prober).up_since == 7.0
    worker.status = 503
    await until(lambda: find(prober).misses >= 3)
    assert find(prober).up_since is None
    worker.status = 200
    await until(lambda: find(prober).misses == 0)


async def test_the_answer_of_another_pod_at_the_address_is_a_miss(prober, worker):
    worker.uid = "another"
    prober.set_targets([Target("w", worker.url, 0.01, 5.0)])
    await until(lambda: find(prober) and find(prober).misses > 1)
    assert find(prober).answered == 0


async def test_silence_is_a_miss(prober, worker):
    worker.silent.clear()
    prober.set_targets([Target("w", worker.url, 0.01, 0.2)])
    await until(lambda: find(prober) and find(prober).misses >= 1)


async def test_who_is_no_target_any_more_has_no_result(prober, worker):
    prober.set_targets([Target("w", worker.url, 0.01, 5.0)])
    await until(lambda: find(prober))
    prober.set_targets([])
    assert find(prober) is None


async def test_a_probe_that_ended_by_a_mistake_is_begun_again(prober, worker, monkeypatch):
    asked = []

    async def ask(target):
        asked.append(target)
        if len(asked) == 1:
            raise RuntimeError("a mistake")

    monkeypatch.setattr(prober, "_ask", ask)
    target = Target("w", worker.url, 0.01, 5.0)
    prober.set_targets([target])
    await until(lambda: asked)
    await asyncio.sleep(0)
    prober.set_targets([target])
    await until(lambda: find(prober))


async def test_a_miss_says_what_it_was_in_the_worker_s_own_words(worker, prober):
    worker.status = 503
    prober.set_targets([Target("u", worker.url, 0.01, 5.0)])
    await until(lambda: prober.results().get("u") and prober.results()["u"].misses > 1)
    assert prober.results()["u"].why.startswith("503: ")
    worker.status, worker.uid = 200, "another"
    await until(lambda: "another" in prober.results()["u"].why)
    worker.uid = None
    await until(lambda: prober.results()["u"].misses == 0)
    assert prober.results()["u"].why == ""


async def test_a_worker_sends_us_nowhere(prober):
    visited = []

    async def answer(request):
        visited.append(request.path)
        if request.path == "/elsewhere":
            return web.Response()
        raise web.HTTPFound("/elsewhere")

    app = web.Application()
    app.router.add_get("/{path}", answer)
    async with TestServer(app) as server:
        prober.set_targets([Target("u", str(server.make_url("/healthz")), 0.01, 5.0)])
        await until(lambda: find(prober, "u"))
    assert find(prober, "u").misses
    assert "/elsewhere" not in visited


async def test_only_the_worker_itself_can_say_that_it_is_stuck(prober, worker):
    worker.status, worker.nameless = 503, True
    prober.set_targets([Target("w", worker.url, 0.01, 5.0)])
    await until(lambda: find(prober) and find(prober).misses > 2)
    assert find(prober).stuck == 0
    worker.status, worker.nameless = 500, False
    seen = find(prober).misses
    await until(lambda: find(prober).misses > seen + 2)
    assert find(prober).stuck == 0
    worker.status = 503
    await until(lambda: find(prober).stuck > 1)
    assert find(prober).stuck < find(prober).misses
    worker.status = 200
    await until(lambda: find(prober).misses == 0)
    assert find(prober).stuck == 0
