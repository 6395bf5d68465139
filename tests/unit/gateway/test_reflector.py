"""List and watch against an API server that fails in the ways API servers do."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
import structlog

from sluice_gateway.kubeaccess import KubeAccess
from sluice_gateway.kubeapi import KubeApi
from sluice_gateway.reflector import Reflector
from sluice_gateway.settings import Watching

from . import objects
from .fakekube import PODS, FakeKube
from .polling import until

FAST = Watching(watch_seconds=5, silence_grace=0.1, backoff_first=0.01, backoff_most=0.05, page=2)


class Sink:
    def __init__(self):
        self.names = set()
        self.lists = 0

    def put(self, raw):
        self.names.add(raw["metadata"]["name"])

    def remove(self, raw):
        self.names.discard(raw["metadata"]["name"])

    def replace_all(self, raws):
        self.lists += 1
        self.names = {raw["metadata"]["name"] for raw in raws}


@asynccontextmanager
async def mirror(kube, *, watching=FAST, access=None):
    """Run a reflector on the pods of a fake API server."""
    sink = Sink()
    capture = structlog.testing.LogCapture()
    async with aiohttp.ClientSession() as session:
        reflector = Reflector(
            KubeApi(access or KubeAccess(kube.url, None), session, watching),
            sink,
            kind="workers",
            path=PODS,
            selector={"labelSelector": "a=b"},
            watching=watching,
            random=lambda: 0.5,
            clock=asyncio.get_running_loop().time,
            log=structlog.wrap_logger(None, processors=[capture]),
        )
        task = asyncio.create_task(reflector.run())
        sink.reflector, sink.lines, sink.task = reflector, capture.entries, task
        try:
            yield sink
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def kube():
    kube = FakeKube()
    await kube.start()
    yield kube
    await kube.close()


async def put(kube, *names):
    for name in names:
        await kube.put(PODS, objects.worker(name))


async def test_lists_page_by_page_and_follows(kube):
    await put(kube, "a", "b", "c", "d", "e")
    async with mirror(kube) as sink:
        await until(lambda: sink.names == set("abcde"))
        assert sink.reflector.synced
        await put(kube, "f")
        await kube.delete(PODS, objects.worker("a"))
        await until(lambda: sink.names == set("bcdef"))
        assert sink.lists == 1
    queries = [query for _, query in kube.asked]
    assert [query.get("continue") for query in queries] == [None, "2", "4", None]
    assert all(query["labelSelector"] == "a=b" for query in queries)
    assert queries[-1]["timeoutSeconds"] == "5"


async def test_a_watch_that_ends_goes_on_where_it_was(kube):
    async with mirror(kube, watching=replace(FAST, watch_seconds=0)) as sink:
        await put(kube, "a")
        await until(lambda: sink.names == {"a"} and len(kube.asked) > 4)
        assert sink.lists == 1


async def test_an_expired_version_lists_again(kube):
    await put(kube, "a")
    async with mirror(kube) as sink:
        await until(lambda: sink.names == {"a"})
        kube.forget_history()
        del kube.objects[PODS]["default/a"]
        await put(kube, "b")
        await until(lambda: sink.names == {"b"})
        assert sink.lists == 2


async def test_a_deletion_during_an_outage_is_found_by_listing(kube):
    await put(kube, "a", "b")
    async with mirror(kube) as sink:
        await until(lambda: len(sink.names) == 2)
        await kube.stop()
        await until(lambda: not sink.reflector.connected)
        assert sink.names == {"a", "b"}
        del kube.objects[PODS]["default/a"]
        await kube.start()
        await until(lambda: sink.names == {"b"} and sink.reflector.connected)
        away = [line for line in sink.lines if line["event"] == "Kubernetes API away"]
        assert len(away) == 1
        assert away[0]["state"] == "routing on what is known"


async def test_a_silent_watch_is_given_up(kube):
    async with mirror(kube, watching=replace(FAST, watch_seconds=0)) as sink:
        await until(lambda: sink.reflector.synced)
        kube.silent = True
        await until(lambda: any("silent for" in line.get("reason", "") for line in sink.lines))


async def test_without_an_api_server_it_waits_and_says_so(kube):
    await kube.stop()
    async with mirror(kube) as sink:
        await until(lambda: sink.lines)
        assert sink.lines[0]["state"] == "not ready until it answers"
        assert not sink.reflector.synced
        await kube.start()
        await until(lambda: sink.reflector.synced)


@pytest.mark.parametrize(
    ("status", "hint"), [(403, "role needs list and watch"), (404, "definitions installed?")]
)
async def test_refusals_come_with_a_hint(kube, status, hint):
    kube.fail_status = status
    async with mirror(kube) as sink:
        await until(lambda: sink.lines)
        assert f"answered {status}" in sink.lines[0]["reason"]
        assert hint in sink.lines[0]["reason"]
        kube.fail_status = 0
        await until(lambda: sink.reflector.synced)


async def test_a_renewed_token_is_read(kube, tmp_path):
    token = tmp_path / "token"
    token.write_text("old\n")
    kube.token = "old"
    access = KubeAccess(kube.url, None, token_file=token)
    async with mirror(kube, access=access, watching=replace(FAST, watch_seconds=0)) as sink:
        await until(lambda: sink.reflector.synced)
        kube.token = "new"
        await until(lambda: not sink.reflector.connected)
        token.write_text("new\n")
        await until(lambda: sink.reflector.connected)
        token.unlink()
        await until(lambda: any("cannot read the token" in str(line) for line in sink.lines))


async def test_the_pause_between_tries_grows_but_stays_bounded(kube):
    await kube.stop()
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with mirror(kube) as sink:
        await until(lambda: sink.reflector._failures >= 8)
        assert not sink.task.done()
    assert loop.time() - started > 0.2  # 0.0075 + 0.015 + 0.03 + 4 times 0.0375
