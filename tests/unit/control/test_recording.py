"""What the admin port gives of the recording: the last passes, or all since a time."""

# ruff: noqa: TID252 - the world lives with the planner's tests; tests are no installed package

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sluice.control import recording
from sluice.control.admin import make_app
from sluice.control.passfiles import PassFiles, list_files, read_lines
from sluice.control.recording import Recorder
from sluice.control.settings import Settings
from sluice.control.telemetry import Telemetry
from sluice.model.recording import find_time, read_record

from ..decide.samples import pool_spec
from ..decide.world import World

SECRET = "canary-51c8"


class FakeLoop:
    passed = None


def record(world, recorder, passes):
    for _ in range(passes):
        world.step()
        recorder.note(world.seen, world.before, world.plan)


def make_world():
    template = {"env": [{"name": "TOKEN", "value": SECRET}]}
    variants = [v.model_dump(mode="json", by_alias=True) for v in pool_spec().variants]
    variants[0]["template"] = template
    return World(specs={"chat": pool_spec(variants=variants)})


async def get(recorder, now, query=""):
    app = make_app(FakeLoop(), None, Telemetry(), Settings(), lambda: now, recorder)
    async with TestClient(TestServer(app)) as client:
        response = await client.get(f"/recording{query}")
        return response.status, await response.read()


def numbers(body):
    return [read_record(line, "it").number for line in body.splitlines()]


async def test_passes_older_than_what_memory_keeps_come_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "PASSES_KEPT", 5)
    world, files = make_world(), PassFiles(tmp_path, 86400.0, 1 << 26)
    recorder = Recorder("me", files)
    record(world, recorder, 40)
    await asyncio.to_thread(files.close, 30)
    status, body = await get(recorder, world.now)
    assert (status, numbers(body)) == (200, [36, 37, 38, 39, 40])
    status, body = await get(recorder, world.now, f"?since={int(world.tick * 20)}s")
    assert (status, numbers(body)) == (200, list(range(20, 41)))


async def test_what_the_disk_lacks_comes_from_memory(tmp_path):
    world, files = make_world(), PassFiles(tmp_path, 86400.0, 1 << 26)
    recorder = Recorder("me", files)
    record(world, recorder, 10)
    await asyncio.to_thread(files.close, 30)
    record(world, recorder, 10)  # as if the disk were full by now
    _, body = await get(recorder, world.now, "?since=1h")
    assert numbers(body) == list(range(1, 21))


@pytest.mark.parametrize("query", ["", "?since=1h"])
async def test_without_a_directory_memory_is_all_there_is(query):
    world, recorder = make_world(), Recorder("me")
    record(world, recorder, 10)
    assert numbers((await get(recorder, world.now, query))[1]) == list(range(1, 11))


async def test_a_time_that_is_none_is_refused(tmp_path):
    status, body = await get(Recorder("me"), 0.0, "?since=soon")
    assert status == 400
    assert b"since 'soon' must be a duration" in body


async def test_a_disk_that_cannot_be_read_is_a_sentence(tmp_path):
    files = PassFiles(tmp_path, 86400.0, 1 << 26)
    recorder = Recorder("me", files)
    (tmp_path / "passes-20260101T000000Z-0001.jsonl.gz").mkdir()
    status, body = await get(recorder, 0.0, "?since=1h")
    assert status == 503
    assert b"cannot be read: Is a directory" in body


def test_no_secret_reaches_the_disk(tmp_path):
    world, files = make_world(), PassFiles(tmp_path, 86400.0, 1 << 26)
    record(world, Recorder("me", files), 10)
    files.close(30)
    lines = [line for path in list_files(tmp_path) for line, _ in read_lines(path)]
    assert len(lines) == 10
    assert not any(SECRET.encode() in line for line in lines)


def test_the_time_of_a_pass_is_found_without_reading_it():
    world, recorder = make_world(), Recorder('a "name"')
    record(world, recorder, 3)
    for line in recorder.lines():
        assert find_time(line) == read_record(line, "it").snapshot.at
    assert find_time(b"nonsense") == float("-inf")
    assert find_time(b'{"snapshot": 1}') == float("-inf")
