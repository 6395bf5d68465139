"""Stock clients at a gateway behind TLS and API keys in the embedded cluster."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai
import pytest
from tests.integration.story import make_pool, wait_until

from .openaichecks import CHAT, CHECKS, STORY, Asker, Target, check_names
from .securedgateway import (
    NAMESPACE,
    SecuredGateway,
    Streams,
    read_events,
    run_curl,
    start_curl,
)

POOL, ASLEEP = "secured", "asleep"
ONE_WORKER = [{"acceleratorClass": "maia-200", "min": 1, "max": 1}]
LONG = 200
"""Tokens of a stream that lasts for seconds."""


@dataclass(frozen=True)
class SecuredTarget(Target):
    """A server behind TLS that wants a key."""

    gateway: SecuredGateway

    def connect(self, make=openai.OpenAI, key=None, **more):
        http = (
            openai.DefaultHttpxClient if make is openai.OpenAI else openai.DefaultAsyncHttpxClient
        )
        return super().connect(
            make,
            key=key or self.gateway.keys["team"],
            http_client=http(verify=self.gateway.trust()),
            **more,
        )


@pytest.fixture(scope="module")
def target(sluice, tmp_path_factory):
    """A pool of one worker, asked through a gateway with certificate and keys."""
    gateway = SecuredGateway(sluice, tmp_path_factory.mktemp("secured"))
    try:
        gateway.install()
        sluice.create(make_pool(POOL, variants=ONE_WORKER))
        wait_until(lambda: sluice.serving(POOL, "maia-200") == 1, "its worker serves")
        (worker,) = sluice.workers(POOL)
        target = SecuredTarget(
            gateway.url, POOL, f"http://{worker['status']['podIP']}:8000", gateway
        )
        wait_until(lambda: POOL in list_models(target), "the gateway serves it")
        yield target
    finally:
        sluice.delete_pool(POOL)
        gateway.remove()


def list_models(target):
    with target.connect() as client:
        return [model.id for model in client.models.list()]


def answer(client, target, tokens=8):
    """Ask for a whole chat; return its text."""
    whole = client.chat.completions.create(
        model=target.model, messages=CHAT, max_completion_tokens=tokens, temperature=0
    )
    return whole.choices[0].message.content


@pytest.mark.parametrize("check", CHECKS, ids=check_names)
def test_the_openai_sdk_works_unchanged_with_a_key(target, check):
    with target.connect() as client:
        check(Asker(target, client))


async def test_the_asynchronous_sdk_works_whole_and_streaming(target):
    seeded = {"model": POOL, "seed": 5, "temperature": 1.5}
    asked = seeded | {"max_tokens": 24, "extra_body": {"ignore_eos": True}}
    async with target.connect(openai.AsyncOpenAI) as client:
        complete, chat = client.completions.create, client.chat.completions.create
        whole = (await complete(prompt=STORY, **asked)).choices[0].text
        stream = await complete(prompt=STORY, **asked, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == whole
        said = (await chat(messages=CHAT, **asked)).choices[0].message.content
        stream = await chat(messages=CHAT, **asked, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == said
        assert whole
        assert said


def test_curl_works_with_a_certificate_and_a_key(target):
    gateway, chat = target.gateway, {"model": POOL, "messages": CHAT, "max_tokens": 24}
    path, key = "/v1/chat/completions", gateway.keys["team"]
    code, said = run_curl(gateway.curl(path, chat | {"temperature": 0}, key=key))
    assert code == 0
    whole = json.loads(said)["choices"][0]["message"]["content"]
    assert whole
    code, said = run_curl(gateway.curl(path, chat | {"temperature": 0, "stream": True}, key=key))
    assert code == 0
    events, _, ends = read_events(said.splitlines())
    told = [choice["delta"].get("content", "") for one in events for choice in one["choices"]]
    assert (ends, "".join(told)) == (1, whole)
    # 60: the certificate is of nobody whom the system trusts. And nothing is served without TLS.
    assert run_curl(gateway.curl("/v1/models", key=key, more=()))[0] == 60
    plain = gateway.curl("/v1/models", key=key)
    plain[-1] = plain[-1].replace("https:", "http:")
    code, said = run_curl(plain)
    assert (code != 0, said) == (True, "")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("key", [None, "sk-nobody-has-this"], ids=["missing", "wrong"])
def test_without_a_known_key_nothing_is_served(target, path, key):
    document = None if path == "/v1/models" else {"model": POOL, "messages": CHAT, "prompt": "a"}
    command = target.gateway.curl(path, document, key=key)
    code, said = run_curl([*command, "-w", "\n%{http_code}"])
    body, status = said.rsplit("\n", 1)
    assert (code, status) == (0, "401")
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_api_key"
    assert "nobody-has-this" not in body


def test_the_sdk_knows_that_its_key_is_wrong(target):
    with (
        target.connect(key="sk-other") as client,
        pytest.raises(openai.AuthenticationError, match="not known here"),
    ):
        answer(client, target)


def test_limits_are_each_key_s_own(target):
    keys = target.gateway.keys
    with target.connect(key=keys["single"]) as single, target.connect() as team:
        with single.completions.create(
            model=POOL, prompt=STORY, max_tokens=LONG, stream=True, extra_body={"ignore_eos": True}
        ) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError, match="single: 1 requests at a time") as full:
                answer(single, target)
            assert answer(team, target)
        assert full.value.code == "rate_limit_exceeded"
        assert int(full.value.response.headers["retry-after"]) >= 1
        wait_until(lambda: is_let_in(single, target), "its place is free again")
    with target.connect(key=keys["rare"]) as rare:
        assert [is_let_in(rare, target) for _ in range(3)] == [True, True, False]


def is_let_in(client, target):
    try:
        answer(client, target)
    except openai.RateLimitError:
        return False
    return True


def test_keys_come_and_go_without_a_restart(target):
    gateway = target.gateway
    before = gateway.describe_process()
    assert gateway.is_known(gateway.keys["leaving"])
    late = gateway.change_keys(add="late", remove="leaving")
    assert not gateway.is_known(late)
    wait_until(lambda: gateway.is_known(late), "the new key is known")
    assert not gateway.is_known(gateway.keys["leaving"])
    assert gateway.is_known(gateway.keys["team"])
    assert gateway.describe_process() == before


def test_a_new_certificate_drops_no_stream(target):
    gateway = target.gateway
    before = gateway.describe_process()
    with target.connect() as client:

        def tell():
            chunks = client.completions.create(
                model=POOL,
                prompt=STORY,
                max_tokens=LONG,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            *said, last = chunks
            assert last.usage.completion_tokens == LONG
            return "".join(chunk.choices[0].text for chunk in said)

        with Streams(tell) as streams:
            assert gateway.find_subject() == "first"
            gateway.issue_certificate("second")
            shown = wait_for_subject(gateway, "second")
    assert streams.failures == []
    # One has begun under the old certificate and ended under the new one.
    assert any(begun < shown[0] and ended > shown[1] for begun, ended, _ in streams.ended)
    assert len({text for *_, text in streams.ended}) == 1
    assert gateway.describe_process() == before


def wait_for_subject(gateway, name):
    """Return when the old certificate was shown last, and the new one first."""
    old = time.monotonic()

    def is_shown():
        nonlocal old
        asked = time.monotonic()
        if gateway.find_subject() == name:
            return True
        old = asked
        return False

    wait_until(is_shown, f"connections are shown the certificate {name}")
    return old, time.monotonic()


def test_a_request_to_a_pool_without_workers_waits_with_comments(sluice, target):
    """The SDK leaves the comments out, and both clients are served once a worker is there."""
    pool = make_pool(ASLEEP, variants=[{"acceleratorClass": "maia-200", "min": 0, "max": 1}])
    pool["spec"]["autoscaling"]["mode"] = "Paused"  # nobody wakes it but this test
    gateway = target.gateway
    document = {"model": ASLEEP, "prompt": STORY, "max_tokens": 24, "temperature": 0}
    try:
        sluice.create(pool)
        wait_until(lambda: ASLEEP in list_models(target), "the gateway knows it")
        with ThreadPoolExecutor(1) as beside, target.connect() as client:
            asked = beside.submit(lambda: list(client.completions.create(**document, stream=True)))
            command = gateway.curl(
                "/v1/completions", document | {"stream": True}, key=gateway.keys["team"]
            )
            with start_curl(command) as process:
                first = process.stdout.readline()
                assert first.startswith(": waiting for a worker")
                assert not sluice.workers(ASLEEP)
                assert not asked.done()
                pool["spec"]["variants"] = ONE_WORKER
                pool["spec"]["autoscaling"]["mode"] = "Automatic"
                sluice.create(pool)
                rest, _ = process.communicate(timeout=90)
            chunks = asked.result(timeout=90)
        events, _, ends = read_events([first, *rest.splitlines()])
        text = "".join(choice["text"] for one in events for choice in one["choices"])
        assert (process.returncode, ends) == (0, 1)
        assert text
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
    finally:
        sluice.delete_pool(ASLEEP)


def test_neither_keys_nor_texts_are_in_the_log(sluice, target):
    log = sluice.run(*NAMESPACE, "logs", "deployment/sluice-gateway", "--tail=-1")
    assert '"key": "team"' in log
    assert [name for name, key in target.gateway.keys.items() if key in log] == []
    assert STORY not in log
    assert sluice.status(POOL)["endpoint"] == f"{target.url}/v1"
