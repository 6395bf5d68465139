"""A whole gateway on loopback, with a fake API server and fake workers around it."""

import json
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import structlog

from sluice_gateway.gateway import Gateway
from sluice_gateway.kubeaccess import KubeAccess
from sluice_gateway.settings import Limits, Probing, Relaying, Settings, Watching

from . import objects
from .fakekube import PODS, POOLS, FakeKube
from .fakeworker import FakeWorker, make_words
from .polling import until

SETTINGS = Settings(
    host="127.0.0.1",
    port=0,
    admin_port=0,
    uid="gateway-1",
    drain_delay=0.0,
    drain_seconds=5.0,
    names_workers=True,
    limits=Limits(header_seconds=0.3, body_seconds=0.3, slow_reader_seconds=0.5),
    relaying=Relaying(wait_for_worker=5.0, breath=0.02, refusal_hold_most=0.1),
    probing=Probing(period=0.05, timeout=0.25, failures=3, stall_seconds=0.1),
    watching=Watching(watch_seconds=5, backoff_first=0.02, backoff_most=0.1),
)


def settings(**groups):
    """Return test settings with some changed: `settings(relaying={"waiting_most": 1})`."""
    changed = {name: replace(getattr(SETTINGS, name), **group) for name, group in groups.items()}
    return replace(SETTINGS, **changed)


class GatewayWorld:
    """Context manager around everything; the gateway starts with `start_gateway`."""

    def __init__(self, told=SETTINGS):
        self.settings = told
        self.kube = FakeKube()
        self.workers = {}
        self.gateway = None
        self.http = None
        self.capture = structlog.testing.LogCapture()
        self.lines = self.capture.entries
        self._stack = AsyncExitStack()

    async def __aenter__(self):
        await self.kube.start()
        self._stack.push_async_callback(self.kube.close)
        self.http = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(self, *exc):
        await self._stack.aclose()

    async def start_gateway(self, *, wait=True):
        log = structlog.wrap_logger(None, processors=[self.capture])
        access = KubeAccess(self.kube.url, None)
        self.gateway = await self._stack.enter_async_context(Gateway(self.settings, access, log))
        if wait:
            await until(lambda: not self.gateway.explain_unready())

    async def add_pool(self, name="chat", **more):
        await self.kube.put(POOLS, objects.pool(name, **more))

    async def add_worker(self, name, *, variant="maia", pool="chat", start=True):
        worker = self.workers[name] = FakeWorker(name, variant=variant, pool=pool)
        await worker.start()
        self._stack.push_async_callback(worker.close)
        if start:
            await self.publish(worker)
        return worker

    async def publish(self, worker, **more):
        raw = objects.worker(
            worker.name,
            variant=worker.variant,
            pool=worker.pool,
            host=worker.host,
            port=worker.port,
            uid=worker.uid,
            **more,
        )
        await self.kube.put(PODS, raw)
        return raw

    async def until_usable(self, *names):
        def usable():
            fleet = self.gateway.fleet
            now = fleet._clock()
            return {
                worker.pod.name
                for pool in fleet.pools.values()
                for worker in pool.workers.values()
                if fleet.is_usable(pool, worker, now)
            }

        await until(lambda: usable() == set(names))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.gateway.port}"

    @property
    def admin(self):
        return f"http://127.0.0.1:{self.gateway.admin_port}"

    def post(self, *, path="/v1/completions", headers=None, **document):
        body = {"model": "compact", "prompt": "hello", "seed": 1, **document}
        return self.http.post(f"{self.url}{path}", json=body, headers=headers)

    async def ask(self, **document):
        """Return status, headers and document of a request that does not stream."""
        async with self.post(**document) as response:
            return response.status, response.headers, await response.json()

    async def stream(self, **document):
        """Return the parsed events of a stream; `[DONE]` stays text."""
        async with self.post(stream=True, **document) as response:
            assert response.status == 200, await response.text()
            return parse_events(await response.read())

    async def signals(self, window=30):
        async with self.http.get(f"{self.admin}/signals?window={window}") as response:
            assert response.status == 200
            return await response.json()

    def request_lines(self):
        return [line for line in self.lines if line["event"] == "request"]


def parse_events(raw):
    payloads = [part.removeprefix("data: ") for part in raw.decode().split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in payloads]


def join_text(events):
    return "".join(event["choices"][0]["text"] for event in events if event != "[DONE]")


async def usable(world, *workers):
    """Add workers, given as `name` or `name=variant`, and wait until they serve."""
    names = []
    for worker in workers:
        name, _, variant = worker.partition("=")
        await world.add_worker(name, variant=variant or "maia")
        names.append(name)
    await world.until_usable(*names)
    return [world.workers[name] for name in names]


def expected_text(*, prompt="hello", seed=1, tokens=5):
    return "".join(make_words({"prompt": prompt, "seed": seed, "max_tokens": tokens}))
