"""The openai client, and users' expectations, through a real gateway against fake workers."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
from collections import Counter
from dataclasses import replace

import openai
import pytest

from ..unit.gateway.fakekube import PODS, POOLS
from ..unit.gateway.fakeworker import make_words
from ..unit.gateway.gatewayworld import SETTINGS, GatewayWorld, expected_text, settings, usable
from ..unit.gateway.polling import until


async def test_completions_and_chat_with_and_without_streaming(world, client):
    await usable(world, "w1")
    whole = await client.completions.create(model="compact", prompt="hello", seed=1)
    assert whole.choices[0].text == expected_text()
    assert whole.usage.completion_tokens == 5
    stream = await client.completions.create(
        model="compact", prompt="hello", seed=1, stream=True, max_tokens=8
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected_text(tokens=8)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    messages = [{"role": "user", "content": "hello"}]
    chat = await client.chat.completions.create(model="compact", messages=messages, seed=1)
    stream = await client.chat.completions.create(
        model="compact",
        messages=messages,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == chat.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 5


async def test_models_of_all_pools_are_listed(world, client):
    await world.add_pool("more", model="large", namespace="other")
    await until(lambda: len(world.gateway.fleet.pools) == 2)
    models = await client.models.list()
    assert [model.id for model in models.data] == ["compact", "large"]
    assert (await client.models.retrieve("large")).owned_by == "sluice"
    with pytest.raises(openai.NotFoundError, match="served: compact, large"):
        await client.models.retrieve("huge")


async def test_a_load_generator_finds_it_healthy_before_it_begins():
    async with GatewayWorld() as world:
        await world.kube.stop()
        await world.start_gateway(wait=False)
        async with world.http.get(f"{world.url}/health") as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
        await world.kube.start()
        await until(lambda: not world.gateway.explain_unready())
        async with world.http.get(f"{world.url}/health") as response:
            assert response.status == 200
        async with world.http.post(f"{world.url}/health") as response:
            assert (await response.json())["error"]["message"] == "/health takes GET, not POST"


async def test_requests_go_to_their_pool(world, client):
    await world.add_pool("more", model="large")
    await usable(world, "w1")
    big = await world.add_worker("big", pool="more")
    await world.until_usable("w1", "big")
    await client.completions.create(model="large", prompt="x")
    assert [body["model"] for body in big.got] == ["large"]
    assert world.workers["w1"].got == []


async def test_unknown_models_and_bad_bodies_get_openai_errors(world, client):
    await usable(world, "w1")
    with pytest.raises(openai.NotFoundError) as missing:
        await client.completions.create(model="gpt-9", prompt="x")
    assert missing.value.code == "model_not_found"
    assert "served: compact" in missing.value.message
    for body in (b"{", b"[]", b"{}", b""):
        async with world.http.post(f"{world.url}/v1/completions", data=body) as response:
            answer = await response.json()
            assert (response.status, answer["error"]["type"]) == (400, "invalid_request_error")
    async with world.http.get(f"{world.url}/v1/completions") as response:
        assert response.status == 405
    async with world.http.get(f"{world.url}/v2/other") as response:
        assert (await response.json())["error"]["code"] == "unknown_url"
    assert world.workers["w1"].got == []


async def test_answers_name_request_worker_class_and_attempts(world):
    await usable(world, "w1")
    status, headers, _ = await world.ask(headers={"X-Request-Id": "mine-1"})
    assert (status, headers["x-request-id"]) == (200, "mine-1")
    assert headers["x-sluice-worker"] == "w1"
    assert headers["x-sluice-class"] == "maia"
    assert headers["x-sluice-attempts"] == "1"
    assert world.workers["w1"].headers[0]["x-request-id"] == "mine-1"
    _, headers, _ = await world.ask(model="none", headers={"X-Request-Id": "bad id\t"})
    assert headers["x-request-id"].startswith("req-")


async def test_strangers_are_told_no_names_of_pods():
    async with GatewayWorld(replace(SETTINGS, names_workers=False)) as world:
        await world.add_pool()
        await world.start_gateway()
        await usable(world, "w1")
        for stream in (False, True):
            async with world.post(stream=stream, headers={"X-Request-Id": "mine-1"}) as response:
                assert (response.status, response.headers["x-request-id"]) == (200, "mine-1")
                told = {name.lower() for name in response.headers}
                assert not told & {"x-sluice-worker", "x-sluice-class", "x-sluice-attempts"}
                assert b"w1" not in await response.read()


async def test_a_worker_refusing_a_request_as_wrong_is_believed(world):
    one, two = await usable(world, "w1", "w2")
    one.script = two.script = ["400"]
    status, headers, body = await world.ask()
    assert (status, body["error"]["message"]) == (400, "fake 400")
    assert headers["x-sluice-attempts"] == "1"
    assert world.request_lines()[-1]["outcome"] == "client_error"


async def test_a_client_that_leaves_ends_the_work_at_once(world):
    (worker,) = await usable(world, "w1")
    for stream in (False, True):
        worker.script = ["stall"]
        asked = asyncio.create_task(world.ask(stream=stream))
        await until(lambda: worker.got)
        asked.cancel()
        ended = worker.ended
        await until(lambda ended=ended: worker.ended == ended + 1)
        worker.got.clear()
    await until(lambda: len(world.request_lines()) == 2)
    assert [line["outcome"] for line in world.request_lines()] == ["cancelled"] * 2
    assert (await world.signals())["pools"]["default/chat"]["variants"]["maia"]["inflight"] == 0


async def test_shares_are_kept(world):
    await usable(world, "m1", "m2", "g1=gpu")
    await world.add_pool(shares={"maia": "30%", "gpu": "70%"})
    await until(lambda: world.gateway.fleet.pools["default/chat"].decision.shares)
    for _ in range(40):
        await world.ask()
    sent = {name: len(worker.got) for name, worker in world.workers.items()}
    assert (sent["m1"] + sent["m2"], sent["g1"]) == (12, 28)


async def test_quarantined_workers_get_nothing(world):
    await usable(world, "w1", "w2")
    await world.add_pool(shares={"maia": "100%"}, quarantined=["w1"])
    await world.until_usable("w2")
    for _ in range(6):
        await world.ask()
    assert len(world.workers["w2"].got) == 6


async def test_a_terminating_worker_finishes_but_gets_nothing_new(world):
    one, two = await usable(world, "w1", "w2")
    one.step = two.step = 0.1
    asked = asyncio.create_task(world.ask())
    await until(lambda: one.got or two.got)
    busy, other = (one, two) if one.got else (two, one)
    await world.publish(busy, deleting=True)
    await world.until_usable(other.name)
    assert (await world.ask())[1]["x-sluice-worker"] == other.name
    assert (await asked)[1]["x-sluice-worker"] == busy.name


async def test_a_request_waits_until_a_worker_comes(world):
    asked = asyncio.create_task(world.ask())
    await until(lambda: world.gateway.fleet.pools["default/chat"].waiting)
    assert (await world.signals())["pools"]["default/chat"]["waiting"] == 1
    await world.add_worker("w1")
    assert (await asked)[0] == 200
    assert world.request_lines()[-1]["waited"] > 0


async def test_serving_goes_on_without_the_api_server(world):
    one, two = await usable(world, "w1", "w2")
    await world.kube.stop()
    await until(lambda: any(line["event"] == "Kubernetes API away" for line in world.lines))
    await one.kill()
    for _ in range(10):
        assert (await world.ask())[0] == 200
    assert len(two.got) >= 9
    async with world.http.get(f"{world.admin}/readyz") as response:
        assert response.status == 200
    del world.kube.objects[PODS]["default/w1"]
    await world.kube.start()
    await until(lambda: list(world.gateway.fleet.workers) == ["uid-w2"])


async def test_objects_of_another_shape_are_ignored_with_a_sentence(world):
    await usable(world, "w1")
    strange = {"metadata": {"name": "odd", "namespace": "default"}, "spec": "v2"}
    await world.kube.put(POOLS, strange)
    await until(lambda: any(line["event"] == "object ignored" for line in world.lines))
    line = next(line for line in world.lines if line["event"] == "object ignored")
    assert (line["object"], line["kind"]) == ("default/odd", "InferencePool")
    assert (await world.ask())[0] == 200


async def test_no_text_of_users_is_logged(world):
    one, _two = await usable(world, "w1", "w2")
    one.script = ["500"]
    secret = "canary-3141"
    await world.ask(prompt=secret)
    await world.stream(prompt=secret)
    await world.ask(prompt=secret, model="unknown")
    words = [word.strip() for word in make_words({"prompt": secret, "seed": 1})]
    logged = json.dumps(world.lines, default=str)
    assert len(world.request_lines()) == 3
    assert not any(text in logged for text in (secret, *words))


async def test_the_line_of_a_request_tells_its_story(world):
    one, two = await usable(world, "w1", "w2")
    one.script = two.script = ["503"]
    await world.stream(max_tokens=4)
    line = world.request_lines()[-1]
    assert (line["status"], line["outcome"], line["stream"]) == (200, "ok", True)
    assert (line["pool"], line["model"]) == ("default/chat", "compact")
    assert (line["prompt_tokens"], line["output_tokens"]) == (3, 4)
    assert 0 < line["ttft"] <= line["duration"]
    assert line["tpot"] > 0
    first, second = line["attempts"]
    assert (first["outcome"], second["outcome"]) == ("refused_503", "ok")
    assert {first["pod"], second["pod"]} == {"w1", "w2"}
    assert {first["uid"], second["uid"]} == {"uid-w1", "uid-w2"}
    assert line["arrived_at"] <= first["dispatched_at"] <= second["dispatched_at"]
    assert "share" in second["reason"]


async def test_without_the_api_server_at_start_it_is_not_ready_and_says_so():
    async with GatewayWorld() as world:
        await world.kube.stop()
        await world.start_gateway(wait=False)
        async with world.http.get(f"{world.admin}/readyz") as response:
            assert response.status == 503
            assert "no list of pools and workers from http" in await response.text()
        status, headers, body = await world.ask()
        assert (status, body["error"]["code"]) == (503, "not_ready")
        assert headers["Retry-After"]
        await world.kube.start()
        await world.add_pool()
        await until(lambda: not world.gateway.explain_unready())
        await world.add_worker("w1")
        assert (await world.ask())[0] == 200


async def test_too_many_waiting_are_turned_away_and_too_long_too():
    told = settings(relaying={"waiting_most": 2, "wait_for_worker": 0.4})
    async with GatewayWorld(told) as world:
        await world.add_pool()
        await world.start_gateway()
        answers = await asyncio.gather(*(world.ask() for _ in range(5)))
        codes = sorted((status, body["error"]["code"]) for status, _, body in answers)
        assert codes == [(429, "queue_full")] * 3 + [(503, "no_worker")] * 2
        assert all(headers["Retry-After"] for _, headers, _ in answers)
        assert (await world.signals())["pools"]["default/chat"]["rejected"] == 5


async def test_what_cannot_be_served_soon_is_shed_and_nothing_hangs():
    relaying = {
        "inflight_most": 2,
        "waiting_least": 1,
        "waiting_per_worker": 4,
        "wait_while_busy": 0.5,
    }
    async with GatewayWorld(settings(relaying=relaying)) as world:
        await world.add_pool()
        await world.start_gateway()
        (worker,) = await usable(world, "w1")
        worker.step = 0.2
        answers = await asyncio.gather(*(world.ask() for _ in range(12)))
        codes = Counter(body.get("error", {}).get("code") for _, _, body in answers)
        assert codes == {None: 2, "too_busy": 4, "queue_full": 6}
        shed = [(status, headers) for status, headers, body in answers if "error" in body]
        assert all(status == 429 and headers["Retry-After"] for status, headers in shed)
        pool = (await world.signals())["pools"]["default/chat"]
        assert (pool["rejected"], pool["failed"], pool["waiting"]) == (10, 0, 0)
        assert len(worker.got) == 2


@pytest.mark.parametrize(
    ("relaying", "act", "outcome"),
    [
        ({"first_token_seconds": 0.3}, "hang", "late"),
        ({"idle_stream_seconds": 0.3}, "hang:2", "stream_idle"),
    ],
)
async def test_a_worker_that_says_nothing_is_late(relaying, act, outcome):
    async with GatewayWorld(settings(relaying=relaying)) as world:
        await world.add_pool()
        await world.start_gateway()
        worker = await world.add_worker("w1")
        await world.until_usable("w1")
        worker.script = [act]
        async with world.post(stream=True) as response:
            assert outcome.encode() in await response.read()
        assert world.request_lines()[-1]["attempts"][0]["outcome"] == outcome
        told = (await world.signals())["pools"]["default/chat"]["workers"]["uid-w1"]
        assert (told["timeouts"], told["suspect"]) == (1, True)


async def test_a_bug_of_ours_is_a_500_and_a_line(world, monkeypatch):
    await usable(world, "w1")
    monkeypatch.setattr(world.gateway.fleet, "choose_worker", None)
    status, _, body = await world.ask()
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert world.request_lines()[-1]["outcome"] == "internal_error"
    assert (await world.signals())["pools"]["default/chat"]["failed"] == 1
    monkeypatch.undo()
    assert (await world.ask())[0] == 200


async def test_the_pace_of_several_prompts_is_that_of_each(world):
    [worker] = await usable(world, "w1")
    worker.step, worker.script = 0.03, ["pair", "serve"]
    for prompt in (["one", "two"], "one"):
        await world.stream(prompt=prompt, max_tokens=10)
    pair, single = (line["tpot"] for line in world.request_lines())
    assert pair > 0.7 * single
