"""API keys: who comes in, what each may use and how much, and what is told and counted of it."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import openai
import pytest

from ..unit.gateway.gatewayworld import SETTINGS, GatewayWorld
from ..unit.gateway.polling import until, until_async
from ..unit.gateway.secrets import MountedFiles, entry_of
from .test_gateway_process import started

ONE = "sk-one-4f1a"


@asynccontextmanager
async def guarded(directory, **entries):
    """A world whose gateway asks for keys; yields it with the mounted Secret."""
    files = MountedFiles(directory / "keys", **entries)
    told = replace(SETTINGS, api_keys_dir=files.path, mount_period=0.02)
    async with GatewayWorld(told) as world:
        await world.add_pool()
        await world.start_gateway()
        await world.add_worker("w1")
        await world.until_usable("w1")
        yield world, files


async def ask(world, key=ONE, *, authorization=None, **document):
    """Return status, headers and body of a request with a key."""
    authorization = authorization if authorization is not None else f"Bearer {key}"
    headers = {"Authorization": authorization} if authorization else {}
    async with world.post(headers=headers, **document) as response:
        return response.status, response.headers, await response.json()


async def models(world, key):
    async with world.http.get(
        f"{world.url}/v1/models", headers={"Authorization": f"Bearer {key}"}
    ) as response:
        body = await response.json()
        return [entry["id"] for entry in body.get("data", ())] or body["error"]["code"]


async def metrics(world, name):
    async with world.http.get(f"{world.admin}/metrics") as response:
        lines = (await response.text()).splitlines()
    return [line for line in lines if line.startswith(name)]


def client_for(world, key):
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize(
    ("authorization", "said"),
    [
        ("", "no API key"),
        (ONE, "no API key"),
        (f"Basic {ONE}", "no API key"),
        ("Bearer ", "no API key"),
        ("Bearer sk-other", "the API key is not known here"),
        (f"Bearer {ONE} x", "the API key is not known here"),
        (f"Bearer {entry_of(ONE)}", "the API key is not known here"),
    ],
)
async def test_strangers_get_openai_s_401(tmp_path, authorization, said):
    async with guarded(tmp_path, one=entry_of(ONE)) as (world, _):
        status, headers, body = await ask(world, authorization=authorization)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert body["error"]["code"] == "invalid_api_key"
        assert body["error"]["type"] == "invalid_request_error"
        assert said in body["error"]["message"]
        assert world.workers["w1"].got == []
        assert (await ask(world, authorization=f"bearer {ONE}"))[0] == 200


async def test_only_health_is_open(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE)) as (world, _):
        for path, status in (("/health", 200), ("/v1/models", 401), ("/v1/models/compact", 401)):
            async with world.http.get(f"{world.url}{path}") as response:
                assert response.status == status
        async with world.http.get(f"{world.admin}/metrics") as response:
            assert response.status == 200


async def test_the_openai_client_knows_the_errors(tmp_path):
    limits = '{"requestsPerMinute": 1, "models": ["compact"]}'
    async with guarded(tmp_path, one=entry_of(ONE, limits)) as (world, _):
        async with client_for(world, "sk-other") as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()
        async with client_for(world, ONE) as client:
            assert [model.id async for model in client.models.list()] == ["compact"]
            await client.completions.create(model="compact", prompt="x")
            with pytest.raises(openai.RateLimitError) as limited:
                await client.completions.create(model="compact", prompt="x")
        assert limited.value.code == "rate_limit_exceeded"
        assert limited.value.type == "requests"
        assert int(limited.value.response.headers["retry-after"]) <= 60


async def test_keys_come_and_go_without_a_restart_and_a_broken_one_harms_nobody(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE)) as (world, files):
        stream = asyncio.create_task(read_stream(world, ONE, max_tokens=20))
        world.workers["w1"].step = 0.05
        await until(lambda: world.workers["w1"].got)
        files.put(two=entry_of("sk-two"), three="sk-three-in-the-clear")
        await until_async(lambda: is_served(world, "sk-two"))
        assert (await ask(world, ONE))[0] == 401
        assert (await ask(world, "sk-three-in-the-clear"))[0] == 401
        assert (await stream).endswith(b"data: [DONE]\n\n")
        (line,) = [line for line in world.lines if line["event"] == "API key ignored"]
        assert line["key"] == "three"
        assert "is not sha256:HEX" in line["reason"]
        said = str(world.lines)
        assert not any(key in said for key in (ONE, "sk-two", "sk-three-in-the-clear"))
        assert entry_of(ONE) not in said


async def read_stream(world, key, **document):
    headers = {"Authorization": f"Bearer {key}"}
    async with world.post(headers=headers, stream=True, **document) as response:
        return await response.read()


async def test_the_keys_stay_when_the_directory_goes(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE)) as (world, files):
        files.path.rename(tmp_path / "gone")
        await until(lambda: any(line["event"] == "API keys not reloaded" for line in world.lines))
        assert (await ask(world))[0] == 200


async def test_a_key_sees_and_uses_its_models_only(tmp_path):
    async with guarded(
        tmp_path,
        one=entry_of(ONE),
        narrow=entry_of("sk-narrow", '{"pools": ["default/second"]}'),
    ) as (world, _):
        await world.add_pool("second", model="other")
        await world.add_worker("w2", pool="second")
        await world.until_usable("w1", "w2")
        assert await models(world, ONE) == ["compact", "other"]
        assert await models(world, "sk-narrow") == ["other"]
        assert (await ask(world, "sk-narrow", model="other"))[0] == 200
        status, _, body = await ask(world, "sk-narrow")
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        assert body["error"]["message"].endswith("served: other")
        status, _, unknown = await ask(world, "sk-narrow", model="nobody's")
        assert (status, unknown["error"]["message"][-13:]) == (404, "served: other")
        assert world.request_lines()[-1]["key"] == "narrow"


async def test_requests_at_a_time_are_limited(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"concurrency": 1}')) as (world, _):
        worker = world.workers["w1"]
        worker.mute = True
        first = asyncio.create_task(ask(world))
        await until(lambda: worker.got)
        status, headers, body = await ask(world)
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert headers["Retry-After"] == "1"
        worker.mute = False
        assert (await first)[0] == 200
        assert (await ask(world))[0] == 200


async def test_a_client_that_leaves_gives_its_place_back(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"concurrency": 1}')) as (world, _):
        worker = world.workers["w1"]
        worker.step = 0.1
        left = asyncio.create_task(ask(world, max_tokens=100))
        await until(lambda: worker.got)
        left.cancel()
        await until(lambda: worker.ended)
        worker.step = 0
        await until(world.request_lines)
        assert (await ask(world))[0] == 200


async def test_tokens_are_reserved_before_and_counted_after(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"tokensPerMinute": 600}')) as (world, _):
        status, headers, _ = await ask(world, max_tokens=500)
        assert (status, headers["x-ratelimit-limit-tokens"]) == (200, "600")
        assert int(headers["x-ratelimit-remaining-tokens"]) in {98, 99}  # 2 for the prompt
        # 503 were used: 3 of the prompt, by the worker's own count.
        status, headers, body = await ask(world, max_tokens=500)
        assert (status, body["error"]["type"]) == (429, "tokens")
        assert body["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(headers["Retry-After"]) <= 41
        assert (await ask(world, max_tokens=5))[0] == 200


async def test_tokens_are_reserved_for_each_choice_of_each_prompt(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"tokensPerMinute": 600}')) as (world, _):
        for n, prompts in ((1, 4), (2, 2), (4, 1)):
            asked = {"n": n, "prompt": ["abcd"] * prompts, "stream": False}
            status, _, body = await ask(world, max_tokens=160, **asked)
            assert status == 429
            assert f"may use {4 * 160 + prompts}" in body["error"]["message"]
            status, headers, _ = await ask(world, max_tokens=10, **asked)
            assert status == 200
            assert int(headers["x-ratelimit-remaining-tokens"]) <= 600 - 4 * 10 - prompts + 1


async def test_what_is_not_used_of_max_tokens_is_given_back(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"tokensPerMinute": 600}')) as (world, _):
        world.workers["w1"].script = ["usage", 400, 500]
        for _ in range(3):  # one with a usage that is none, one refused, one failed: all free
            await ask(world, max_tokens=500, stream=False)
        assert (await ask(world, max_tokens=500))[0] == 200


async def test_more_than_a_minute_s_tokens_is_never_served(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"tokensPerMinute": 100}')) as (world, _):
        status, _, body = await ask(world, max_tokens=101)
        assert status == 429
        assert "more than ever: lower max_tokens" in body["error"]["message"]
        assert (await ask(world, max_tokens=50))[0] == 200


async def test_a_stream_that_its_client_leaves_counts_what_came(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE, '{"tokensPerMinute": 1000}')) as (world, _):
        world.workers["w1"].step = 0.02
        headers = {"Authorization": f"Bearer {ONE}"}
        async with world.post(headers=headers, stream=True, max_tokens=500) as response:
            await response.content.readany()
            response.close()
        await until(world.request_lines)
        lines = await metrics(world, 'sluice_gateway_key_tokens_total{accelerator_class="maia"')
        found = {("output" in line): float(line.split()[-1]) for line in lines}
        assert found[False] == 2  # the prompt, estimated
        assert 1 <= found[True] < 500
        status, headers, _ = await ask(world, max_tokens=1)
        assert status == 200
        assert int(headers["x-ratelimit-remaining-tokens"]) > 500


async def test_usage_is_counted_by_key_model_and_class(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE), two=entry_of("sk-two")) as (world, _):
        for key in (ONE, ONE, "sk-two"):
            await ask(world, key, max_tokens=4)
        labels = 'accelerator_class="maia",key="one",'
        (line,) = await metrics(world, f"sluice_gateway_key_requests_total{{{labels}")
        assert 'model="compact",pool="default/chat"' in line
        assert line.endswith(" 2.0")
        await world.gateway.__aexit__(None, None, None)
        (line,) = [line for line in world.lines if line["event"] == "usage"]
        assert line["keys"] == [
            {
                "key": key,
                "model": "compact",
                "accelerator_class": "maia",
                "requests": requests,
                "prompt_tokens": 3 * requests,
                "output_tokens": 4 * requests,
            }
            for key, requests in (("one", 2), ("two", 1))
        ]


async def test_a_key_that_is_gone_leaves_the_metrics(tmp_path):
    async with guarded(tmp_path, one=entry_of(ONE), two=entry_of("sk-two")) as (world, files):
        await ask(world)
        assert not await is_forgotten(world)
        files.put(two=entry_of("sk-two"))
        await until_async(lambda: is_forgotten(world))


async def is_served(world, key):
    return (await ask(world, key, max_tokens=1))[0] == 200


async def is_forgotten(world):
    return not await metrics(world, "sluice_gateway_key_requests_total")


async def test_the_program_says_what_is_wrong_with_the_directory(tmp_path):
    arguments = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
    nowhere = str(tmp_path / "none")
    async with started(
        *arguments, "--backend", "a=http://127.0.0.1:1", "--api-keys-dir", nowhere
    ) as program:
        assert await program.process.wait() == 2
    reason = program.find("cannot start")["reason"]
    assert f"--api-keys-dir: cannot read the directory {nowhere}" in reason


async def test_without_keys_nothing_is_asked():
    async with GatewayWorld() as world:
        await world.add_pool()
        await world.start_gateway()
        await world.add_worker("w1")
        await world.until_usable("w1")
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"{world.url}/v1/completions", json={"model": "compact", "prompt": "x"}
            ) as response,
        ):
            assert response.status == 200
            assert not any(name.startswith("x-ratelimit") for name in response.headers)
        assert world.request_lines()[-1]["key"] is None
