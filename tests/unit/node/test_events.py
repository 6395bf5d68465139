import asyncio

from sluice_node.events import EventRecorder

from .nodeworld import FakeApi, make_pod, until


async def send_all(recorder: EventRecorder, api: FakeApi, count: int) -> None:
    sending = asyncio.create_task(recorder.run())
    try:
        await until(lambda: len(api.requests) >= count)
    finally:
        sending.cancel()


async def test_an_event_names_pod_and_container():
    api = FakeApi()
    recorder = EventRecorder(api, "maia-0")
    recorder.emit(make_pod("true"), "Started", "it runs", container="c")
    await send_all(recorder, api, 1)
    [event] = api.list_requests("POST", "/api/v1/namespaces/default/events")
    assert event["involvedObject"]["fieldPath"] == "spec.containers{c}"
    assert event["involvedObject"]["uid"] == "uid-1"
    assert (event["reason"], event["type"], event["count"]) == ("Started", "Normal", 1)


async def test_a_repeated_event_is_not_sent_each_time():
    api = FakeApi()
    recorder = EventRecorder(api, "maia-0")
    for _ in range(50):
        recorder.emit(make_pod("true"), "Unhealthy", "no", warning=True)
    recorder.emit(make_pod("true"), "Killing", "enough")
    await send_all(recorder, api, 2)
    assert len(api.requests) == 2


async def test_a_flood_is_cut_off():
    api = FakeApi()
    recorder = EventRecorder(api, "maia-0")
    for number in range(100):
        recorder.emit(make_pod("true"), "Failed", f"reason {number}")
    await send_all(recorder, api, 25)
    assert len(api.requests) < 40


async def test_an_api_server_that_is_away_loses_events_only():
    api = FakeApi()
    recorder = EventRecorder(api, "maia-0")
    api.away = True
    recorder.emit(make_pod("true"), "Started", "lost")
    sending = asyncio.create_task(recorder.run())
    await until(recorder._queue.empty)
    api.away = False
    recorder.emit(make_pod("true"), "Started", "kept")
    await until(lambda: len(api.requests) == 1)
    sending.cancel()
    assert api.list_requests("POST")[0]["message"] == "kept"
