"""Trace context through the gateway, and its spans at a collector."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from sluice_gateway import otlp
from sluice_gateway.otelsettings import read_export

from ..unit.gateway.gatewayworld import SETTINGS, GatewayWorld, usable
from ..unit.gateway.polling import until, until_async

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


class Collector:
    """Takes spans, after the statuses of its script."""

    def __init__(self):
        self.script = []
        self.spans = []
        self.resources = []
        self.headers = []
        self.url = ""

    async def answer(self, request):
        document = await request.json()
        self.headers.append(request.headers)
        if self.script:
            return web.Response(status=self.script.pop(0))
        for resource in document["resourceSpans"]:
            self.resources.append(read(resource["resource"]))
            for scope in resource["scopeSpans"]:
                self.spans += scope["spans"]
        return web.json_response({})


def read(described):
    """Return OTLP's attributes as a dictionary."""
    values = {entry["key"]: entry["value"] for entry in described["attributes"]}
    return {key: next(iter(value.values())) for key, value in values.items()}


@pytest.fixture
async def collector():
    collector = Collector()
    runner = web.ServerRunner(web.Server(collector.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


@pytest.fixture
def hurry(monkeypatch):
    monkeypatch.setattr(otlp, "_PERIOD", 0.05)
    monkeypatch.setattr(otlp, "_BACKOFF_FIRST", 0.01)


@asynccontextmanager
async def exporting(url, **environ):
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **environ}
    export = read_export(told, uid="gateway-1") if url else None
    async with GatewayWorld(replace(SETTINGS, export=export)) as world:
        await world.add_pool()
        await world.start_gateway()
        yield world


async def ask(world, headers=PARENT, **document):
    async with world.post(headers=headers, **document) as response:
        await response.read()
        return response.status


async def test_a_trace_goes_through_to_the_worker_and_into_the_log():
    async with exporting("") as world:
        (worker,) = await usable(world, "w1")
        assert await ask(world) == 200
        version, trace, span, flags = worker.headers[0]["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01")
        assert worker.headers[0]["tracestate"] == "vendor=1"
        (line,) = world.request_lines()
        assert line["trace_id"] == TRACE
        assert len({line["span_id"], span, SPAN}) == 3
        assert await ask(world, {"traceparent": "nonsense"}) == 200
        assert worker.headers[1]["traceparent"].split("-")[1] != TRACE


async def test_spans_tell_of_the_request_and_its_attempts_and_nothing_of_its_text(collector, hurry):
    async with exporting(collector.url, OTEL_EXPORTER_OTLP_HEADERS="x-token=t") as world:
        one, two = await usable(world, "w1", "w2")
        one.script = [500]
        while not one.got:
            assert await ask(world, prompt="secret words", max_tokens=4, stream=True) == 200
        await until(lambda: list_retried(world))
        (retried,) = list_retried(world)
        await until(lambda: is_told(collector, retried["span_id"]))
        own = next(span for span in collector.spans if span["spanId"] == retried["span_id"])
        assert (own["traceId"], own["parentSpanId"]) == (TRACE, SPAN)
        assert (own["name"], own["kind"], own["status"]) == ("text_completion compact", 2, {})
        said = read(own)
        assert said["gen_ai.operation.name"] == "text_completion"
        assert said["gen_ai.request.model"] == "compact"
        assert said["gen_ai.request.max_tokens"] == "4"
        assert said["gen_ai.usage.input_tokens"] == "3"
        assert said["gen_ai.usage.output_tokens"] == "4"
        assert said["http.response.status_code"] == "200"
        assert int(own["startTimeUnixNano"]) <= int(own["endTimeUnixNano"])
        children = [s for s in collector.spans if s.get("parentSpanId") == own["spanId"]]
        assert [child["kind"] for child in children] == [3, 3]
        assert [child["status"] for child in children] == [{"code": 2}, {}]
        assert read(children[0])["error.type"] == "status"
        assert read(children[0])["sluice.worker"] == "w1"
        assert children[1]["spanId"] in two.headers[-1]["traceparent"]
        assert "secret words" not in json.dumps(collector.spans)
        assert collector.headers[0]["x-token"] == "t"
        assert collector.resources[0]["service.name"] == "sluice-gateway"
        assert collector.resources[0]["service.instance.id"] == "gateway-1"


def list_retried(world):
    return [line for line in world.request_lines() if len(line["attempts"]) == 2]


def is_told(collector, span_id):
    return any(span["spanId"] == span_id for span in collector.spans)


async def test_what_the_client_does_not_sample_is_not_exported(collector, hurry):
    async with exporting(collector.url) as world:
        await usable(world, "w1")
        await ask(world, {"traceparent": f"00-{TRACE}-{SPAN}-00"})
        await ask(world, {})
        await until(lambda: len(collector.spans) == 2)
        assert TRACE not in {span["traceId"] for span in collector.spans}


async def test_a_collector_that_is_away_costs_nobody_anything(collector, hurry):
    collector.script = [503, 429, 400]
    async with exporting(collector.url) as world:
        await usable(world, "w1")
        assert await ask(world) == 200
        await until_async(lambda: has_metric(world, 'spans_total{outcome="failed"} 2.0'))
        assert await ask(world) == 200
        await until_async(lambda: has_metric(world, 'spans_total{outcome="exported"} 2.0'))
        said = [line["event"] for line in world.lines if "spans" in line["event"]]
        assert said == ["spans not exported", "spans exported again"]


async def has_metric(world, text):
    async with world.http.get(f"{world.admin}/metrics") as response:
        return text in await response.text()


async def test_the_queue_is_bounded(collector, monkeypatch):
    monkeypatch.setattr(otlp, "_QUEUE_MOST", 3)
    async with exporting(collector.url) as world:
        await usable(world, "w1")
        await asyncio.gather(*(ask(world) for _ in range(4)))
        assert await has_metric(world, 'spans_total{outcome="dropped"} 5.0')
        await world.gateway.__aexit__(None, None, None)
        assert len(collector.spans) == 3  # what was left is sent at the end
