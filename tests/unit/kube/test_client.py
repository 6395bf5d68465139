"""What the thin client makes of answers that are not what an API server says."""

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sluice.kube import client as module
from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError, NotFoundError
from sluice.kube.paths import PODS
from sluice.observe.resync import relist
from sluice.observe.store import Kind, Store


class FakeServer:
    """Answers everything with one body and status; notes the tokens it was shown."""

    def __init__(self):
        self.body, self.status, self.tokens = "{}", 200, []

    async def answer(self, request):
        self.tokens.append(request.headers.get("Authorization"))
        return web.Response(text=self.body, status=self.status, content_type="application/json")


def write_kubeconfig(path, url, token):
    cluster = {"name": "c", "cluster": {"server": url}}
    user = {"name": "u", "user": {"token": token}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "clusters": [cluster],
                "users": [user],
                "contexts": [context],
            }
        )
    )


@pytest.fixture
async def server():
    fake = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    async with TestServer(app) as running:
        fake.url = str(running.make_url("")).rstrip("/")
        yield fake


@pytest.fixture
async def client(server, tmp_path):
    write_kubeconfig(tmp_path / "config", server.url, "first")
    made = KubeClient(str(tmp_path / "config"))
    yield made
    await made.close()


@pytest.mark.parametrize(
    "body",
    ["", "<html>maintenance</html>", "[]", "{}", '{"kind": "Status", "status": "Success"}'],
    ids=["nothing", "a page", "an array", "no fields", "another kind"],
)
async def test_an_answer_that_is_no_list_deletes_nothing(server, client, body):
    store = Store(lambda _: None)
    store.put(Kind.POOLS, {"metadata": {"namespace": "default", "name": "chat", "uid": "u"}})
    server.body = body
    with pytest.raises(KubeError):
        await relist(client, store, lambda: 1.0)
    assert len(store.list(Kind.POOLS)) == 1
    assert not store.listed


async def test_an_empty_list_is_one(server, client):
    server.body = '{"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": null}'
    assert [item async for item in client.list_pages(PODS)] == []


async def test_a_refusal_keeps_its_sentence_also_when_it_is_no_object(server, client):
    server.status, server.body = 404, '{"reason": "NotFound", "message": "no such pod"}'
    with pytest.raises(NotFoundError, match="no such pod"):
        await client.get(PODS, "default", "w")
    server.status, server.body = 502, "bad gateway"
    with pytest.raises(KubeError, match="bad gateway"):
        await client.get(PODS, "default", "w")


async def test_a_configuration_that_cannot_be_read_again_leaves_the_old_one(
    server, client, tmp_path, monkeypatch
):
    server.body = '{"metadata": {}}'
    await client.get(PODS, "default", "w")
    monkeypatch.setattr(module, "RELOAD_EVERY", 0.0)
    write_kubeconfig(tmp_path / "config", server.url, "second")
    (tmp_path / "config").rename(tmp_path / "away")
    await client.get(PODS, "default", "w")
    write_kubeconfig(tmp_path / "config", server.url, "second")
    await client.get(PODS, "default", "w")
    assert server.tokens == ["Bearer first", "Bearer first", "Bearer second"]
