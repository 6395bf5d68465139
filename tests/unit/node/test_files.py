"""Logs and volume contents on disk."""

from pathlib import Path

import pytest

from sluice_node import logs
from sluice_node.contents import VolumeError, choose_items, write_content
from sluice_node.logs import LogFile, prune_runs


def make_log(tmp_path: Path, data: bytes) -> LogFile:
    path = tmp_path / "0.log"
    path.write_bytes(data)
    return LogFile(path)


@pytest.mark.parametrize(
    ("data", "lines", "tail"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 5, b"a\nb\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (b"\n\n\n", 2, b"\n\n"),
    ],
)
def test_the_tail_is_whole_lines(tmp_path: Path, data: bytes, lines: int, tail: bytes):
    log = make_log(tmp_path, data)
    assert log.read(log.find_tail(lines)) == tail


def test_the_tail_is_found_across_blocks(tmp_path: Path):
    line = b"x" * 999 + b"\n"
    log = make_log(tmp_path, line * 300)
    assert log.measure() - log.find_tail(250) == 250_000


def test_the_index_finds_what_came_since(tmp_path: Path):
    log = make_log(tmp_path, b"one\n")
    log.sample(10)
    with log.path.open("ab") as file:
        file.write(b"two\n")
    log.sample(20)
    log.sample(30)  # nothing new
    assert log.read(log.find_since(5)) == b"one\ntwo\n"
    assert log.read(log.find_since(11)) == b"two\n"
    assert log.read(log.find_since(21)) == b""
    assert [log.find_time(offset) for offset in (0, 4, 8)] == [10, 20, None]


def test_a_log_that_became_too_long_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "LARGEST_FILE", 10)
    log = make_log(tmp_path, b"x" * 11)
    log.sample(1)
    assert log.measure() == 0


def test_only_the_newest_runs_are_kept(tmp_path: Path):
    for number in (8, 9, 10):
        (tmp_path / f"{number}.log").touch()
    prune_runs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.log", "9.log"]


def read_all(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}


def test_content_is_replaced_as_a_whole(tmp_path: Path):
    assert write_content(tmp_path, {"a": b"1", "b": b"2"})
    held = (tmp_path / "a").open("rb")
    assert write_content(tmp_path, {"a": b"3", "c": b"4"})
    assert read_all(tmp_path) == {"a": b"3", "c": b"4"}
    with held:
        assert held.read() == b"1"


def test_nothing_is_written_where_nothing_changed(tmp_path: Path):
    write_content(tmp_path, {"a": b"1", "d/e": b"2"})
    inode = (tmp_path / "a").stat().st_ino
    assert not write_content(tmp_path, {"a": b"1", "d/e": b"2"})
    assert (tmp_path / "a").stat().st_ino == inode
    assert (tmp_path / "d" / "e").read_bytes() == b"2"


def test_leftovers_of_a_killed_agent_do_not_disturb(tmp_path: Path):
    write_content(tmp_path, {"a": b"1"})
    (tmp_path / "..2").mkdir()
    (tmp_path / "..data_tmp").symlink_to("..2")
    assert write_content(tmp_path, {"a": b"2"})
    assert read_all(tmp_path) == {"a": b"2"}


def test_items_choose_keys_and_places():
    files = {"a": b"1", "b": b"2"}
    assert choose_items(files, {}) == files
    assert choose_items(files, {"items": [{"key": "a", "path": "x/y"}]}) == {"x/y": b"1"}
    missing = {"items": [{"key": "z", "path": "z"}]}
    assert choose_items(files, {**missing, "optional": True}) == {}
    with pytest.raises(VolumeError, match="non-existent config key: z"):
        choose_items(files, missing)
