"""What a user notices of failing workers, through a real gateway: as little as can be."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio

import openai
import pytest

from sluice_gateway.prober import Prober

from ..unit.gateway.gatewayworld import GatewayWorld, expected_text, join_text, settings, usable
from ..unit.gateway.polling import until


@pytest.mark.parametrize("act", ["503", "429", "500", "502", "404", "421", "reset", "html"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_failed_attempt_is_made_up_for_elsewhere(world, act, stream):
    one, two = await usable(world, "w1", "w2")
    script = one.script = two.script = [act]
    if stream:
        assert join_text(await world.stream()) == expected_text()
    else:
        status, headers, body = await world.ask()
        assert (status, body["choices"][0]["text"]) == (200, expected_text())
        assert headers["x-sluice-attempts"] == "2"
    assert script == []
    assert (len(one.got), len(two.got)) == (1, 1)


@pytest.mark.parametrize("act", ["truncate", "error", "impostor", "error200"])
async def test_nonsense_before_the_first_token_is_made_up_for_elsewhere(world, act):
    one, two = await usable(world, "w1", "w2")
    one.script = two.script = [act]
    events = await world.stream(path="/v1/chat/completions", messages=[{"content": "x"}])
    assert events[-1] == "[DONE]"
    assert len(world.request_lines()[-1]["attempts"]) == 2


async def test_every_attempt_has_the_same_seed(world):
    one, two = await usable(world, "w1", "w2")
    one.script = two.script = ["503"]
    await world.ask(seed=None)
    seeds = [body["seed"] for worker in (one, two) for body in worker.got]
    assert len(seeds) == 2
    assert seeds[0] == seeds[1]
    assert isinstance(seeds[0], int)


async def test_a_lone_worker_that_refuses_is_asked_again(world):
    (worker,) = await usable(world, "w1")
    worker.script = ["503", "reset"]
    status, headers, _ = await world.ask()
    assert (status, headers["x-sluice-attempts"]) == (200, "3")


async def test_a_lone_worker_s_error_is_passed_on(world):
    (worker,) = await usable(world, "w1")
    worker.script = ["500"]
    status, _, body = await world.ask()
    assert (status, body["error"]["message"]) == (500, "fake 500")
    assert (await world.signals())["pools"]["default/chat"]["failed"] == 1


async def test_error_answers_are_retried_a_bounded_number_of_times(world):
    workers = await usable(world, "w1", "w2", "w3", "w4", "w5")
    for worker in workers:
        worker.script = ["500"] * 9
    status, headers, _ = await world.ask()
    assert (status, headers["x-sluice-attempts"]) == (500, "3")


async def test_a_request_that_ends_its_workers_does_not_end_all_of_them(world):
    workers = await usable(world, "w1", "w2", "w3", "w4", "w5")
    for worker in workers:
        worker.script = ["reset"] * 9
    status, _, body = await world.ask()
    assert (status, body["error"]["code"]) == (502, "workers_lost")
    assert "3 times a worker was lost" in body["error"]["message"]
    assert [len(worker.got) for worker in workers].count(1) == 3
    assert world.request_lines()[-1]["outcome"] == "broke_workers"


async def test_a_request_on_two_workers_lost_at_once_is_answered_by_a_third(world):
    workers = await usable(world, "w1", "w2", "w3")
    script = ["reset"] * 2
    for worker in workers:
        worker.script = script
    status, headers, _ = await world.ask()
    assert (status, headers["x-sluice-attempts"]) == (200, "3")


async def test_there_is_no_retry_storm(world):
    await world.add_pool(ttft="30s")  # so that nobody is turned away for having waited
    workers = await usable(world, "w1", "w2", "w3", "w4")
    for worker in workers:
        worker.script = ["500"] * 1000
    answers = await asyncio.gather(*(world.ask() for _ in range(100)))
    assert {status for status, _, _ in answers} == {500}
    attempts = sum(len(worker.got) for worker in workers)
    assert 100 < attempts <= 100 + 0.2 * 100 + 6
    async with world.http.get(f"{world.admin}/metrics") as response:
        assert "sluice_gateway_retries_denied_total" in await response.text()


async def test_error_answers_of_suspect_workers_are_not_retried_for_free():
    async with GatewayWorld(settings(probing={"period": 60.0})) as world:
        await world.add_pool()
        await world.start_gateway()
        workers = await usable(world, "w1", "w2", "w3", "w4")
        for worker in workers:
            worker.script = ["fail"] * 1000
            worker.step = 0.5
        asked = [asyncio.create_task(world.ask()) for _ in range(60)]
        await until(lambda: sum(len(worker.got) for worker in workers) >= 60)
        for worker in workers[:2]:  # as a probe missed on a busy machine does
            world.gateway.fleet.workers[worker.uid].health.note_missed_probe(started=float("inf"))
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {500}
        assert 60 < sum(len(worker.got) for worker in workers) <= 60 + 0.2 * 60 + 6


async def test_a_worker_that_is_going_away_refuses_at_no_cost():
    """More refusals at once than the budget for retries would bear."""
    async with GatewayWorld(settings(relaying={"inflight_most": 16})) as world:
        await world.add_pool()
        await world.start_gateway()
        leaving, _ = await usable(world, "w1", "w2")
        leaving.script = ["refuse"] * 100
        leaving.step = 0.3
        asked = [asyncio.create_task(world.ask()) for _ in range(32)]
        await until(lambda: len(leaving.got) >= 12)
        await world.publish(leaving, deleting=True)
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}


async def test_a_killed_worker_costs_nothing_that_had_not_begun(world):
    workers = await usable(world, "w1", "w2=gpu")
    for worker in workers:
        worker.step = 0.05
    asked = [asyncio.create_task(world.ask()) for _ in range(20)]
    await until(lambda: sum(len(worker.got) for worker in workers) == 20)
    await workers[0].kill()
    answers = await asyncio.gather(*asked)
    assert {status for status, _, _ in answers} == {200}
    assert {body["choices"][0]["text"] for _, _, body in answers} == {expected_text()}


async def test_a_begun_stream_of_a_killed_worker_ends_with_an_error_event(world, client):
    (worker,) = await usable(world, "w1")
    worker.script = ["reset:2"]
    worker.step = 0.02
    stream = await client.completions.create(model="compact", prompt="x", stream=True, seed=1)
    await anext(stream)
    await anext(stream)
    with pytest.raises(openai.APIError, match="the worker was lost"):
        await anext(stream)
    line = world.request_lines()[-1]
    assert (line["outcome"], line["attempts"][0]["outcome"]) == ("broken", "reset")
    assert (await world.signals())["pools"]["default/chat"]["failed"] == 1


async def test_an_error_in_a_begun_stream_reaches_the_client_once_and_after_its_tokens(world):
    (worker,) = await usable(world, "w1")
    worker.script = ["burst_error:1"]
    worker.step = 0.02
    events = await world.stream()
    messages = [event.get("error", {}).get("message") for event in events]
    assert messages == [None, None, None, "out of memory"]


async def test_a_frozen_worker_gets_no_new_requests_and_loses_its_running_ones(world):
    frozen, other = await usable(world, "w1", "w2")
    frozen.script = ["stall"]
    other.script = ["stall"]
    asked = asyncio.create_task(world.ask())
    await until(lambda: frozen.got or other.got)
    if other.got:
        frozen, other = other, frozen
    other.script = []
    frozen.frozen = True
    await until(lambda: any(line.get("after") == "suspect" for line in world.lines))
    told = (await world.signals())["pools"]["default/chat"]["workers"]
    assert told[frozen.uid]["suspect"]
    assert (await world.ask())[1]["x-sluice-worker"] == other.name
    status, headers, _ = await asked  # moved when three probes were missed
    assert (status, headers["x-sluice-worker"]) == (200, other.name)
    assert [a["outcome"] for a in world.request_lines()[-1]["attempts"]] == ["probes_failed", "ok"]
    frozen.frozen = False
    await world.until_usable("w1", "w2")


async def test_a_frozen_worker_s_begun_stream_is_cut(world):
    worker, _ = await usable(world, "w1", "w2")
    worker.script = ["hang:2"]
    world.workers["w2"].script = ["hang:2"]
    asked = asyncio.create_task(world.stream())
    await until(lambda: worker.got or world.workers["w2"].got)
    (worker if worker.got else world.workers["w2"]).frozen = True
    events = await asked
    # Whichever is sooner on a busy machine: its probes, or that nothing of it gets on.
    told = events[-1]["error"]["message"]
    assert "missed 3 probes" in told or "nothing came of the worker" in told


async def test_probes_go_on_after_a_mistake_of_ours(world, monkeypatch):
    await usable(world, "w1", "w2")
    asked = []

    def fail(_self, worker, **_):
        asked.append(worker)
        return {}["bug"]

    monkeypatch.setattr(Prober, "_ask", fail)
    await until(lambda: len({worker.uid for worker in asked}) == 2)
    monkeypatch.undo()
    assert any(line["event"] == "probe failed" for line in world.lines)
    assert (await world.ask())[0] == 200
    world.workers["w1"].frozen = True
    await world.until_usable("w2")


async def test_a_worker_whose_probe_finds_another_pod_is_not_used(world):
    one, _two = await usable(world, "w1", "w2")
    one.uid = "uid-somebody-else"
    await world.until_usable("w2")
    one.uid = "uid-w1"
    await world.until_usable("w1", "w2")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("act", ["nested", "nested:500", "late"])
async def test_nonsense_of_one_worker_is_made_up_for_by_another(world, act, stream):
    odd, other = await usable(world, "w1", "w2")
    odd.script = [act]
    while not odd.got:
        async with world.post(stream=stream) as response:
            assert response.status == 200
            assert response.headers["x-sluice-worker"] == other.name
    assert not any(line["event"] == "request failed" for line in world.lines)


async def test_a_time_to_retry_that_is_none_reaches_no_client(world):
    (worker,) = await usable(world, "w1")
    worker.script = ["late"] * 20
    status, headers, _ = await world.ask()
    assert (status, int(headers["Retry-After"]) <= 3600) == (503, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_counts_that_no_answer_has_are_not_believed(world, stream):
    (worker,) = await usable(world, "w1")
    worker.script = ["usage"]
    async with world.post(stream=stream) as response:
        assert response.status == 200
        await response.read()
    line = world.request_lines()[-1]
    assert line["outcome"] == "ok"
    assert line["prompt_tokens"] == 0
    assert line["output_tokens"] == (2 if stream else 0)
    assert (await world.signals())["pools"]["default/chat"]["finished"] == 1
