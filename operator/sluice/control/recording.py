"""The last passes of this process, kept for whoever asks why; those before them are on disk."""

import zlib
from collections import deque
from collections.abc import Iterator

from sluice.control.passfiles import PassFiles, read_since
from sluice.model.memory import Memory
from sluice.model.plan import Plan
from sluice.model.recording import find_time, make_record, write_record
from sluice.model.snapshot import Snapshot

PASSES_KEPT = 200
BYTES_KEPT = 16 << 20
"""Compressed; with thousands of workers a pass is large, and fewer are kept."""


class Recorder:
    """Keeps the last passes of this process, compressed, and hands all of them to the disk.

    Args:
        instance: name of the operator's pod.
        files: where passes go on disk; None for nowhere.
    """

    def __init__(self, instance: str, files: PassFiles | None = None) -> None:
        self._instance = instance
        self._files = files
        self._number = 0
        self._kept: deque[bytes] = deque()
        self._bytes = 0

    def note(self, snapshot: Snapshot, memory: Memory, planned: Plan) -> None:
        """Keep a pass."""
        self._number += 1
        record = make_record(self._instance, self._number, snapshot, memory, planned)
        line = write_record(record) + b"\n"
        packed = zlib.compress(line, level=1)
        self._kept.append(packed)
        self._bytes += len(packed)
        while len(self._kept) > PASSES_KEPT or (self._bytes > BYTES_KEPT and len(self._kept) > 1):
            self._bytes -= len(self._kept.popleft())
        if self._files is not None:
            self._files.put(line)

    def lines(self) -> Iterator[bytes]:
        """Yield what is kept in memory, oldest first, each with its end of line."""
        return _unpack(list(self._kept))

    def lines_since(self, since: float) -> Iterator[bytes]:
        """Yield the passes from a time on (seconds), of the disk and then what it lacks.

        Raises:
            OSError: while iterating; the disk cannot be read.
        """
        return self._join(since, _unpack(list(self._kept)))

    def close(self) -> None:
        """End what is written to disk."""
        if self._files is not None:
            self._files.close()

    def _join(self, since: float, kept: Iterator[bytes]) -> Iterator[bytes]:
        last = float("-inf")
        if self._files is not None and self._files.directory.is_dir():
            for line in read_since(self._files.directory, since, find_time):
                last = max(last, find_time(line))
                yield line
        for line in kept:
            at = find_time(line)
            if at >= since and at > last:
                yield line


def _unpack(kept: list[bytes]) -> Iterator[bytes]:
    for packed in kept:
        yield zlib.decompress(packed)
