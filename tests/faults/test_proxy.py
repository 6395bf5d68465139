"""The proxy itself: what reaches the API server, and what the client, at each moment of a kill."""

import asyncio
import json
import ssl

import aiohttp
import pytest
from aiohttp import web

from sluice.devcluster.certificates import Subject, create_authority

from .proxy import HOST, FaultProxy
from .writes import Moment, Phase, read_write

NODE = "/api/v1/nodes/maia-0"
EVENTS = "/api/v1/namespaces/default/events"


@pytest.fixture
async def server(tmp_path):
    """A server that takes everything and keeps what it got."""
    got = []

    async def take(request):
        got.append((request.method, request.path, request.headers.get("Authorization")))
        return web.json_response({"kind": "Node"})

    own = create_authority(tmp_path, "ca", "authority")
    pair = own.issue_server("server", Subject("server"), addresses=(HOST,))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=tls).start()
    yield f"https://{HOST}:{runner.addresses[0][1]}", own.files.certificate, got
    await runner.cleanup()


@pytest.fixture
async def proxy(server, tmp_path):
    """A proxy in front of it."""
    made = FaultProxy(server[0], server[1], tmp_path)
    made.start()
    yield made
    await asyncio.to_thread(made.stop)


async def send(proxy, method, path, body=None):
    """Send one request through the proxy; return what came back, None where nothing did."""
    tls = ssl.create_default_context(cafile=str(proxy.authority))
    connector = aiohttp.TCPConnector(ssl=tls, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.request(
                method,
                f"https://{HOST}:{proxy.port}{path}",
                json=body,
                headers={"Authorization": "Bearer t"},
            ) as response:
                return await response.json()
        except aiohttp.ClientError:
            return None
        finally:
            await asyncio.sleep(0.1)  # TLS connections close a moment later


@pytest.mark.parametrize(
    ("moment", "reached", "answered"),
    [(Moment.BEFORE, 0, False), (Moment.COMMITTED, 1, False), (Moment.ANSWERED, 1, True)],
)
async def test_a_kill_comes_before_or_after_the_commit_and_the_answer(
    proxy, server, moment, reached, answered
):
    died = asyncio.Event()
    loop = asyncio.get_running_loop()

    def strike(write, now):
        if now is moment:
            loop.call_soon_threadsafe(died.set)
        return now is moment

    proxy.begin(strike)
    answer = await send(proxy, "PATCH", NODE, [])
    async with asyncio.timeout(10):
        await died.wait()
    assert (answer is not None) is answered
    assert server[2] == [("PATCH", NODE, "Bearer t")] * reached
    assert [write.committed for write in proxy.writes] == [bool(reached)]


async def test_reads_pass_and_are_not_counted(proxy, server):
    proxy.begin(lambda *_: True)
    assert await send(proxy, "GET", NODE) == {"kind": "Node"}
    assert proxy.writes == []


async def test_writes_of_one_name_are_numbered_by_phase(proxy, server):
    proxy.begin(lambda *_: False)
    for phase in (Phase.FALL_BACK, Phase.FALL_BACK, Phase.RETURN):
        proxy.phase = phase
        await send(proxy, "POST", EVENTS, {"reason": "FallBack"})
    assert [(write.key, write.occurrence) for write in proxy.writes] == [
        ("create events:FallBack", 1),
        ("create events:FallBack", 2),
        ("create events:FallBack", 1),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "key"),
    [
        (
            "PATCH",
            "/apis/sluice.dev/v1alpha1/namespaces/default/inferencepools/chat/status",
            {},
            "patch inferencepools/status",
        ),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/chat-h100",
            {},
            "patch deployments:chat-h100",
        ),
        ("DELETE", "/api/v1/namespaces/default/pods/chat-maia-200-1-2", {}, "delete pods:worker"),
        (
            "POST",
            "/api/v1/namespaces/sluice-system/pods",
            {"metadata": {"name": "sluice-probe-maia-0"}},
            "create pods:sluice-probe",
        ),
        (
            "PATCH",
            NODE,
            [
                {
                    "op": "add",
                    "path": "/metadata/annotations/sluice.dev~1health",
                    "value": '{"state": "Failed"}',
                }
            ],
            "patch nodes:failed",
        ),
        (
            "PATCH",
            NODE,
            [{"op": "remove", "path": "/metadata/annotations/sluice.dev~1health"}],
            "patch nodes:unmarked",
        ),
        ("PATCH", "/api/v1/namespaces/default", {}, "patch namespaces:default"),
    ],
)
def test_a_write_is_called_by_what_it_changes(method, path, body, key):
    write = read_write(method, path, json.dumps(body).encode(), Phase.MAKE, 0.0)
    assert write.key == key


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", NODE),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases/sluice-operator"),
    ],
)
def test_reading_and_the_lease_are_no_writes(method, path):
    assert read_write(method, path, b"{}", Phase.MAKE, 0.0) is None
