"""Container logs: one file a run, and an index of when it grew, for `kubectl logs --since`.

The process itself writes the file, so that logs go on while the agent is silent. The index has the
resolution of its sampling, about a second.
"""

import bisect
from pathlib import Path

KEEP_RUNS = 2
LARGEST_FILE = 32 * 1024 * 1024
_TAIL_BYTES = 2048
BLOCK = 64 * 1024
_INDEX_ENTRIES = 4096


class LogFile:
    """The output of one run of a container."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._times: list[float] = []
        self._offsets: list[int] = []  # where what was written by that time ends
        self._size = 0

    def sample(self, now: float) -> None:
        """Note how long the file is at this time; empty one that has become too long."""
        size = self.measure()
        if size > LARGEST_FILE:
            with self.path.open("r+b") as file:
                file.truncate(0)
            self._times, self._offsets, self._size = [], [], 0
        elif size > self._size:
            self._size = size
            self._times.append(now)
            self._offsets.append(size)
            if len(self._times) > _INDEX_ENTRIES:
                del self._times[::2], self._offsets[::2]

    def measure(self) -> int:
        """Return the length in bytes; 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def find_since(self, moment: float) -> int:
        """Return from where on everything was written at or after a time."""
        index = bisect.bisect_left(self._times, moment)
        return self._offsets[index - 1] if index else 0

    def find_time(self, offset: int) -> float | None:
        """Return by when the byte at an offset had been written; None if not sampled yet."""
        index = bisect.bisect_right(self._offsets, offset)
        return self._times[index] if index < len(self._times) else None

    def find_tail(self, lines: int) -> int:
        """Return where the last lines begin."""
        end = self.measure()
        if lines <= 0 or end == 0:
            return end
        with self.path.open("rb") as file:
            file.seek(end - 1)
            missing = lines + (1 if file.read(1) == b"\n" else 0)
            position = end
            while position > 0:
                start = max(0, position - BLOCK)
                file.seek(start)
                block = file.read(position - start)
                found = block.count(b"\n")
                if found >= missing:
                    return start + _find_nth_last(block, missing) + 1
                missing -= found
                position = start
        return 0

    def read(self, offset: int, limit: int = BLOCK) -> bytes:
        """Return bytes from an offset on; empty at the end."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def read_message(self) -> str:
        """Return the last lines for a status message, at most 2 KiB."""
        size = self.measure()
        return self.read(max(0, size - _TAIL_BYTES), _TAIL_BYTES).decode(errors="replace")


def _find_nth_last(block: bytes, count: int) -> int:
    position = len(block)
    for _ in range(count):
        position = block.rindex(b"\n", 0, position)
    return position


def prune_runs(directory: Path) -> None:
    """Remove all but the newest logs of a container."""
    runs = [path for path in directory.glob("*.log") if path.stem.isdigit()]
    for path in sorted(runs, key=lambda path: int(path.stem))[:-KEEP_RUNS]:
        path.unlink(missing_ok=True)
