from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sluice_node.kubeletapi import LogQuery, LogQueryError, read_log
from sluice_node.logs import LogFile


@dataclass
class Writing:
    """As much of a container as logs need."""

    log: LogFile
    running: bool = False
    name: str = "c"
    previous_log: LogFile | None = field(default=None)


@pytest.fixture
def container(tmp_path: Path) -> Writing:
    path = tmp_path / "0.log"
    path.write_bytes(b"one\ntwo\nthree\n")
    return Writing(LogFile(path))


async def read_all(container: Writing, now: float = 100, **query: str) -> bytes:
    chunks = [data async for data in read_log(container, container.log, LogQuery.parse(query, now))]
    return b"".join(chunks)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({}, b"one\ntwo\nthree\n"),
        ({"tailLines": "1"}, b"three\n"),
        ({"tailLines": "0"}, b""),
        ({"limitBytes": "5"}, b"one\nt"),
        ({"tailLines": "2", "limitBytes": "4"}, b"two\n"),
    ],
)
async def test_logs_are_cut_as_asked(container: Writing, query: dict[str, str], text: bytes):
    assert await read_all(container, **query) == text


async def test_since_goes_by_when_it_was_written(container: Writing):
    container.log.sample(50)
    with container.log.path.open("ab") as file:
        file.write(b"four\n")
    container.log.sample(95)
    assert await read_all(container, now=100, sinceSeconds="10") == b"four\n"
    assert await read_all(container, sinceTime="1970-01-01T00:01:30Z") == b"four\n"


async def test_timestamps_stand_before_every_line(container: Writing):
    container.log.sample(50)
    lines = (await read_all(container, timestamps="true")).splitlines()
    assert lines[0] == b"1970-01-01T00:00:50.000000Z one"
    assert [line.split()[1] for line in lines] == [b"one", b"two", b"three"]


async def test_following_ends_with_the_container(container: Writing):
    container.running = True
    got: list[bytes] = []
    query = LogQuery.parse({"follow": "true", "tailLines": "1"}, 0)
    stream = read_log(container, container.log, query)
    got.append(await anext(stream))
    with container.log.path.open("ab") as file:
        file.write(b"four\n")
    got.append(await anext(stream))
    container.running = False
    got += [data async for data in stream]
    assert got == [b"three\n", b"four\n"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"tailLines": "-1"}, "tailLines is '-1'"),
        ({"sinceSeconds": "x"}, "sinceSeconds is 'x'"),
        ({"sinceTime": "noon"}, "sinceTime is 'noon'; it must be RFC 3339"),
    ],
)
def test_a_wrong_parameter_is_said(query: dict[str, str], sentence: str):
    with pytest.raises(LogQueryError, match=sentence):
        LogQuery.parse(query, 0)
