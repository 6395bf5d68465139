"""The last passes of this process, kept for whoever asks why."""

import zlib
from collections import deque
from collections.abc import Iterator

from sluice.model.memory import Memory
from sluice.model.plan import Plan
from sluice.model.recording import make_record, write_record
from sluice.model.snapshot import Snapshot

PASSES_KEPT = 200
BYTES_KEPT = 16 << 20
"""Compressed; with thousands of workers a pass is large, and fewer are kept."""


class Recorder:
    """Keeps the last passes of this process, compressed."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._number = 0
        self._kept: deque[bytes] = deque()
        self._bytes = 0

    def note(self, snapshot: Snapshot, memory: Memory, planned: Plan) -> None:
        """Keep a pass."""
        self._number += 1
        record = make_record(self._instance, self._number, snapshot, memory, planned)
        packed = zlib.compress(write_record(record), level=1)
        self._kept.append(packed)
        self._bytes += len(packed)
        while len(self._kept) > PASSES_KEPT or (self._bytes > BYTES_KEPT and len(self._kept) > 1):
            self._bytes -= len(self._kept.popleft())

    def lines(self) -> Iterator[bytes]:
        """Yield what is kept, oldest first, each with its end of line."""
        for packed in list(self._kept):
            yield zlib.decompress(packed) + b"\n"
