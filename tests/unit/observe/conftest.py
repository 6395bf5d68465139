"""A worker to ask for known answers, and who asks."""

import itertools

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sluice.observe.answers import AnswerProber
from sluice.observe.asking import PATH

from .fakeworker import FakeWorker


@pytest.fixture
async def start():
    """Return what starts a fake worker."""
    servers = []

    async def begin():
        fake = FakeWorker()
        app = web.Application()
        app.router.add_get(PATH, fake.list)
        app.router.add_post(PATH, fake.answer)
        server = TestServer(app)
        await server.start_server()
        servers.append((server, fake))
        fake.url = str(server.make_url("")).rstrip("/")
        return fake

    yield begin
    for server, fake in servers:
        fake.heard.set()
        await server.close()


@pytest.fixture
async def worker(start):
    return await start()


@pytest.fixture
async def prober():
    ticks = itertools.count(1)
    async with aiohttp.ClientSession() as session:
        made = AnswerProber(session, lambda: float(next(ticks)), lambda: None, per_second=1000)
        yield made
        made.stop()
