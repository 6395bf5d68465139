"""Passes on disk: bounded, readable after any end, and never in the way of a pass."""

import gzip
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import structlog

from sluice.control import passfiles
from sluice.control.passfiles import PassFiles, list_files, read_lines, read_since

DAY = 86400.0
MEBI = 1 << 20


def make_lines(count, size=100, start=0):
    return [
        b'{"at":%d,"x":"%s"}\n' % (n, os.urandom(size // 2).hex().encode())
        for n in range(start, start + count)
    ]


def find_time(line):
    return float(line.split(b",")[0].removeprefix(b'{"at":'))


def write(directory, lines, *, keep=DAY, most=64 * MEBI, **more):
    files = PassFiles(directory, keep, most, **more)
    for line in lines:
        files.put(line)
    files.close(patience=30)
    return files


def read(directory):
    return [
        line + b"\n" for path in list_files(directory) for line, whole in read_lines(path) if whole
    ]


def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_was_written_can_be_read_also_by_other_programs(tmp_path):
    lines = make_lines(50)
    write(tmp_path / "new", lines)
    (path,) = list_files(tmp_path / "new")
    assert read(tmp_path / "new") == lines
    assert gzip.decompress(path.read_bytes()) == b"".join(lines)


def test_passes_that_are_alike_take_little_room(tmp_path):
    line = make_lines(1, size=10_000)[0]
    write(tmp_path, [line] * 200)
    (path,) = list_files(tmp_path)
    assert path.stat().st_size < len(line) * 200 / 20


def test_a_file_is_bounded_and_the_oldest_go_when_all_are_too_large(tmp_path):
    lines = make_lines(400, size=10_000)
    write(tmp_path, lines, most=MEBI)
    sizes = [path.stat().st_size for path in list_files(tmp_path)]
    assert len(sizes) > 3
    assert sum(sizes) <= MEBI
    kept = read(tmp_path)
    assert kept == lines[-len(kept) :]
    assert len(kept) > 50


def test_old_files_go_and_those_of_others_stay(tmp_path):
    write(tmp_path, make_lines(3))
    (old,) = list_files(tmp_path)
    os.utime(old, (time.time() - 2 * DAY, time.time() - 2 * DAY))
    other = tmp_path / "notes.jsonl.gz"
    other.write_bytes(b"mine")
    os.utime(other, (time.time() - 2 * DAY, time.time() - 2 * DAY))
    lines = make_lines(3, start=3)
    write(tmp_path, lines, wall=lambda: time.time() + 5)
    assert read(tmp_path) == lines
    assert other.exists()


def test_a_file_ends_after_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(passfiles, "FILE_AGE", 0.0)
    write(tmp_path, make_lines(4))
    assert len(list_files(tmp_path)) == 4


def test_two_processes_with_one_directory_write_files_of_their_own(tmp_path):
    first, second = make_lines(3), make_lines(3, start=3)
    write(tmp_path, first, wall=lambda: 1e9)
    write(tmp_path, second, wall=lambda: 1e9)
    assert read(tmp_path) == first + second


def test_after_a_kill_all_is_there_up_to_the_last_pass(tmp_path):
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from sluice.control.passfiles import PassFiles
        files = PassFiles(Path(sys.argv[1]), 86400.0, 1 << 26)
        for n in range(100):
            files.put(b'{"at":%d}\\n' % n)
        while files._waiting:
            pass
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], timeout=60, check=False)
    assert done.returncode == -9
    assert read(tmp_path) == [b'{"at":%d}\n' % n for n in range(100)]


@pytest.mark.parametrize("packed", [True, False])
def test_a_cut_file_is_read_up_to_the_cut(tmp_path, packed):
    lines = make_lines(15, size=40)
    if packed:
        write(tmp_path, lines)
        (path,) = list_files(tmp_path)
    else:
        path = tmp_path / "passes.jsonl"
        path.write_bytes(b"".join(lines))
    whole = path.read_bytes()
    cuts = set()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found = list(read_lines(path))
        got = [line + b"\n" for line, sound in found if sound]
        assert got == lines[: len(got)]
        assert len(found) - len(got) <= 1
        cuts.add(len(got))
    assert cuts >= set(range(15))


def test_a_damaged_file_is_read_up_to_the_damage_and_said_to_be_cut(tmp_path):
    lines = make_lines(40)
    write(tmp_path, lines)
    (path,) = list_files(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    path.write_bytes(data)
    found = list(read_lines(path))
    assert not found[-1][1]
    assert [line + b"\n" for line, _ in found[:5]] == lines[:5]


def test_members_of_gzip_one_after_the_other_are_one_recording(tmp_path):
    path = tmp_path / "both.gz"
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert list(read_lines(path)) == [(b"one", True), (b"two", True)]


def test_reading_begins_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(passfiles, "FILE_AGE", 0.0)
    lines = make_lines(9)
    write(tmp_path, lines)
    for path, at in zip(list_files(tmp_path), range(9), strict=True):
        os.utime(path, (at, at))
    assert list(read_since(tmp_path, 4.0, find_time)) == lines[4:]


def test_a_directory_that_cannot_be_written_is_said_once_and_costs_no_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(passfiles, "RETRY_AFTER", 0.0)
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with structlog.testing.capture_logs() as logs:
        write(blocked / "below", make_lines(20))
    assert [entry["event"] for entry in logs] == [
        "passes are not recorded on disk; tried again every minute"
    ]
    assert logs[0]["why"] == "Not a directory"


def test_a_full_disk_is_said_once_and_what_was_written_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(passfiles, "RETRY_AFTER", 0.0)
    lines = make_lines(20)
    room = [8]

    def put(self, data):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        self._raw.write(data)

    monkeypatch.setattr(passfiles._File, "_put", put)
    with structlog.testing.capture_logs() as logs:
        write(tmp_path, lines)
    assert [entry["why"] for entry in logs] == ["No space left on device"]
    assert read(tmp_path) == lines[:8]
    assert len(list_files(tmp_path)) == 1  # tries that wrote nothing leave nothing


def test_recording_goes_on_when_there_is_room_again(tmp_path, monkeypatch):
    monkeypatch.setattr(passfiles, "RETRY_AFTER", 0.0)
    blocked = tmp_path / "dir"
    blocked.write_bytes(b"")
    files = PassFiles(blocked, DAY, MEBI)
    files.put(b"lost\n")
    until(lambda: not files._waiting)
    blocked.unlink()
    files.put(b"kept\n")
    files.close(patience=30)
    assert read(blocked) == [b"kept\n"]


def test_a_disk_that_hangs_costs_passes_of_the_recording_and_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(passfiles, "WAITING_BYTES", 1000)
    answered = threading.Event()
    put = passfiles._File._put

    def hang(self, data):
        answered.wait(30)
        put(self, data)

    monkeypatch.setattr(passfiles._File, "_put", hang)
    lines = make_lines(100)
    files = PassFiles(tmp_path, DAY, MEBI)
    with structlog.testing.capture_logs() as logs:
        for line in lines:
            files.put(line)
    assert [entry["event"].split(":")[0] for entry in logs] == [
        "passes are left out of the recording"
    ]
    answered.set()
    files.close(patience=30)
    kept = read(tmp_path)
    assert 0 < len(kept) < 100
    assert kept == lines[: len(kept)]
