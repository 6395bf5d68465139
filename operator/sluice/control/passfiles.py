"""Recorded passes on disk: files of bounded size, compressed, for as long as a setting says.

A thread of its own writes, so that a slow disk costs no pass. Every pass ends on a byte boundary of
the compressed stream: of a process that was killed everything can be read up to the last pass that
reached the system. What cannot be written is left out, and that is said once.
"""

import contextlib
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

FILES_KEPT: Final = 8
"""The whole is made of at least so many files, and goes piece by piece."""

FILE_BYTES: Final = 8 << 20
FILE_AGE: Final = 3600.0
WAITING_BYTES: Final = 32 << 20
"""What may wait for a slow disk; beyond it passes are left out."""

RETRY_AFTER: Final = 60.0
LEVEL: Final = 6
_GZIP: Final = 31  # what zlib calls a gzip header around the stream
_MAGIC: Final = b"\x1f\x8b"
_CHUNK: Final = 1 << 16
_NAME: Final = re.compile(r"passes-[0-9]{8}T[0-9]{6}Z-[0-9]{4,}[.]jsonl[.]gz")


class PassFiles:
    """Writes lines to files in a directory, and removes old ones.

    Args:
        directory: made when it is not there; what others have in it is left alone.
        keep: seconds after which a file goes, counted from its last pass.
        max_bytes: of all files together; the oldest go first.
        wall: wall time in seconds, for names and ages.
    """

    def __init__(
        self,
        directory: Path,
        keep: float,
        max_bytes: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._keep = keep
        self._max_bytes = max_bytes
        self._file_bytes = min(FILE_BYTES, max_bytes // FILES_KEPT)
        self._file_age = min(FILE_AGE, keep / FILES_KEPT)
        self._wall = wall
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._closed = False
        self._more = threading.Condition()
        self._thread: threading.Thread | None = None
        self._file: _File | None = None
        self._number = 0
        self._retry_at = 0.0
        self._complaint = ""
        self._slow = False

    def put(self, line: bytes) -> None:
        """Let a line, with its end, be written soon; never waits, never fails."""
        with self._more:
            if self._closed:
                return
            if self._waiting + len(line) > WAITING_BYTES:
                self._complain_of_slowness()
                return
            self._lines.append(line)
            self._waiting += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="passes", daemon=True)
                self._thread.start()
            self._more.notify_all()

    def close(self, patience: float = 2.0) -> None:
        """End the last file; a disk that hangs is not waited for any longer than `patience`."""
        with self._more:
            self._closed = True
            self._more.notify_all()
        if self._thread is not None:
            self._thread.join(patience)

    def _work(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    break
                line = self._lines.popleft()
            self._write(line)
            with self._more:
                self._waiting -= len(line)
                self._slow = self._slow and self._waiting > 0
                self._more.notify_all()
        with contextlib.suppress(OSError):
            self._finish()

    def _write(self, line: bytes) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            if self._file is not None and self._is_full(self._file):
                self._finish()
            if self._file is None:
                self._file = self._begin()
            self._file.write(line)
        except OSError as error:
            self._give_up(error)

    def _is_full(self, file: "_File") -> bool:
        return file.bytes >= self._file_bytes or time.monotonic() - file.begun >= self._file_age

    def _begin(self) -> "_File":
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prune()
        while True:
            self._number += 1
            stamp = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y%m%dT%H%M%SZ")
            path = self.directory / f"passes-{stamp}-{self._number:04d}.jsonl.gz"
            with contextlib.suppress(FileExistsError):  # of another process with this directory
                return _File(path)

    def _finish(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.finish()
            self._complaint = ""

    def _give_up(self, error: OSError) -> None:
        """Leave the file as it is, and try another one later."""
        file, self._file = self._file, None
        self._retry_at = time.monotonic() + RETRY_AFTER
        if file is not None:
            file.abandon()
        why = error.strerror or str(error)
        if why != self._complaint:
            self._complaint = why
            log.warning(
                "passes are not recorded on disk; tried again every minute",
                directory=str(self.directory),
                why=why,
            )

    def _complain_of_slowness(self) -> None:
        if not self._slow:
            self._slow = True
            log.warning(
                "passes are left out of the recording: the disk does not keep up",
                directory=str(self.directory),
                waiting_bytes=self._waiting,
            )

    def _prune(self) -> None:
        """Make room for one more file."""
        room, oldest = self._max_bytes - self._file_bytes, self._wall() - self._keep
        for path in reversed(list_files(self.directory)):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                room -= found.st_size
                if room < 0 or found.st_mtime < oldest:
                    path.unlink()


class _File:
    """One file: a gzip stream, on the disk up to the end of the last line written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = path.open("xb", buffering=0)
        self._stream = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
        self.begun = time.monotonic()
        self.bytes = 0
        self._whole = False

    def write(self, line: bytes) -> None:
        """Write a line so that it can be read from now on."""
        self._put(self._stream.compress(line) + self._stream.flush(zlib.Z_SYNC_FLUSH))
        self._whole = True

    def finish(self) -> None:
        """End the stream."""
        with self._raw:
            self._put(self._stream.flush(zlib.Z_FINISH))

    def abandon(self) -> None:
        """Leave what is there, if anything can be read of it."""
        with contextlib.suppress(OSError):
            self._raw.close()
        if not self._whole:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = self._raw.write(left)
            self.bytes += written
            left = left[written:]


def list_files(directory: Path) -> list[Path]:
    """Return the files of `PassFiles` in a directory, oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def read_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a recording, gzip or plain, without their ends.

    The second value is False for what comes last in a file that is cut in the middle of a line, or
    of whose compressed stream the rest cannot be read.

    Raises:
        OSError: it cannot be read at all.
    """
    tail, sound = b"", True
    with path.open("rb") as file:
        packed = file.read(len(_MAGIC)) == _MAGIC
        file.seek(0)
        unpack = _Unpacker()
        while sound and (data := file.read(_CHUNK)):
            if packed:
                data, sound = unpack(data)
            *lines, tail = (tail + data).split(b"\n")
            for line in lines:
                yield line, True
    if tail or not sound:
        yield tail, False


class _Unpacker:
    """Unpacks gzip piece by piece, members one after the other."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)

    def __call__(self, data: bytes) -> tuple[bytes, bool]:
        """Return what a piece holds, and whether it could be unpacked to its end."""
        before = self._stream.copy()
        try:
            return self._feed(data), True
        except zlib.error:
            self._stream = before
        found = bytearray()
        with contextlib.suppress(zlib.error):
            for at in range(len(data)):  # once: nothing can be read after this
                found += self._feed(data[at : at + 1])
        return bytes(found), False

    def _feed(self, data: bytes) -> bytes:
        found = bytearray()
        while data:
            found += self._stream.decompress(data)
            data = self._stream.unused_data
            if self._stream.eof:
                self._stream = zlib.decompressobj(_GZIP)
        return bytes(found)


def read_since(
    directory: Path, since: float, find_time: Callable[[bytes], float]
) -> Iterator[bytes]:
    """Yield the recorded lines from a time on (seconds), with their ends; a cut file to there."""
    for path in list_files(directory):
        with contextlib.suppress(FileNotFoundError):  # its time came while we read
            if path.stat().st_mtime < since:
                continue
            for line, whole in read_lines(path):
                if whole and find_time(line) >= since:
                    yield line + b"\n"
