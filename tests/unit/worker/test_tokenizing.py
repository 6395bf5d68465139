"""/tokenize and /detokenize: texts far longer than any prompt, and nobody waits for them."""

import asyncio
import threading

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sluice_worker import tokenizing
from sluice_worker.knownanswers import KnownAnswers
from sluice_worker.metrics import Metrics
from sluice_worker.server import Identity, Server
from sluice_worker.tokens import Vocabulary

from .checkpoints import write_checkpoint


class IdleEngine:
    """Has nothing to do, and is well."""

    context = 128
    call = None

    def is_alive(self):
        return True


@pytest.fixture
def vocabulary(tmp_path):
    return Vocabulary(write_checkpoint(tmp_path) / "tokenizer.json")


@pytest.fixture
async def client(vocabulary, monkeypatch):
    server = Server(Identity("m"), vocabulary, Metrics("m"), KnownAnswers("sha256:0", "float32"))
    monkeypatch.setattr(server, "find_fault", lambda: "")
    server.attach(IdleEngine())
    server.not_ready = ""
    async with TestClient(TestServer(server.make_app())) as client:
        yield client


async def ask(client, path):
    async with client.get(path) as answer:
        return answer.status, await answer.text()


async def post(client, **body):
    async with client.post("/tokenize", json=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    "body", [{"prompt": "a b"}, {"messages": [{"role": "user", "content": "a b"}]}]
)
async def test_a_text_that_takes_long_to_be_tokens_holds_nobody_up(client, monkeypatch, body):
    begun, seen = threading.Event(), threading.Event()

    def encode(*_, **__):
        begun.set()
        return [1, 2] if seen.wait(30) else []

    monkeypatch.setattr(Vocabulary, "encode_text", encode)
    monkeypatch.setattr(Vocabulary, "encode_chat", encode)
    asked = asyncio.create_task(client.post("/tokenize", json=body))
    assert await asyncio.to_thread(begun.wait, 30)
    assert await ask(client, "/healthz") == (200, "ok")
    seen.set()
    async with await asked as answer:
        assert (await answer.json())["tokens"] == [1, 2]


async def test_a_long_list_of_tokens_holds_nobody_up(client, monkeypatch):
    begun, seen = threading.Event(), threading.Event()

    def decode(*_):
        begun.set()
        return "text" if seen.wait(30) else ""

    monkeypatch.setattr(Vocabulary, "decode", decode)
    asked = asyncio.create_task(client.post("/detokenize", json={"tokens": [40]}))
    assert await asyncio.to_thread(begun.wait, 30)
    assert await ask(client, "/healthz") == (200, "ok")
    seen.set()
    async with await asked as answer:
        assert await answer.json() == {"prompt": "text"}


async def test_other_threads_run_while_a_long_text_becomes_tokens(client, monkeypatch):
    begun, encode = threading.Event(), Vocabulary.encode_text

    def note(*args, **kwargs):
        begun.set()
        return encode(*args, **kwargs)

    monkeypatch.setattr(Vocabulary, "encode_text", note)
    asked = asyncio.create_task(post(client, prompt="a b " * 60_000))
    assert await asyncio.to_thread(begun.wait, 30)
    for _ in range(5):
        assert await ask(client, "/healthz") == (200, "ok")
    assert not asked.done()
    assert (await asked)[1]["count"] == 240_001


async def test_texts_beyond_so_many_are_told_to_come_later(client, monkeypatch):
    monkeypatch.setattr(tokenizing, "MOST_WAITING", 2)
    seen = threading.Event()
    monkeypatch.setattr(Vocabulary, "encode_text", lambda *_, **__: [1] if seen.wait(30) else [])
    asked = [asyncio.create_task(post(client, prompt="a")) for _ in range(3)]
    [refused], taken = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    status, told = refused.result()
    assert status == 429
    assert told["error"]["message"].startswith("2 texts and lists of tokens wait already")
    seen.set()
    assert [(await one)[1]["tokens"] for one in taken] == [[1], [1]]
    assert (await post(client, prompt="a"))[0] == 200


async def test_long_lists_are_whole(client, vocabulary):
    text = "ab " * 5_000
    status, told = await post(client, prompt=text, return_token_strs=True)
    assert status == 200
    assert told == {
        "count": len(text) + 1,
        "max_model_len": 128,
        "tokens": vocabulary.encode_text(text),
        "token_strs": ["<s>", *text],
    }
    assert (await post(client, prompt="", add_special_tokens=False))[1]["tokens"] == []
