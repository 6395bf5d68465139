"""Follows a directory that a Secret is mounted at: the kubelet swaps its content as a whole.

Such a mount has its files behind a link `..data`, which points at another directory once the
Secret has changed. A plain directory is followed, too, by the times and sizes of its files.
"""

import asyncio
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

_T = TypeVar("_T")
_DATA = "..data"


class MountError(Exception):
    """What is mounted cannot be used; the message says which file, and what to do."""


class MountedSecret(Generic[_T]):
    """Reads a directory, and reads it again whenever it has changed.

    Args:
        load: Reads the directory, in a thread; raises `MountError` if it cannot be used.
        on_loaded: Is given what was read, on the event loop.
        what: What to call it in the log.
        period: Seconds between two looks.
    """

    def __init__(
        self,
        directory: Path,
        load: Callable[[Path], _T],
        on_loaded: Callable[[_T], None],
        *,
        what: str,
        period: float,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._directory = directory
        self._load = load
        self._on_loaded = on_loaded
        self._what = what
        self._period = period
        self._log = log.bind(directory=str(directory))
        self._seen: Hashable = None

    async def start(self) -> None:
        """Read it for the first time.

        Raises:
            MountError: If it cannot be used.
        """
        self._seen = await asyncio.to_thread(find_version, self._directory)
        self._on_loaded(await asyncio.to_thread(self._load, self._directory))

    async def run(self) -> None:
        """Follow it until cancelled; what cannot be used changes nothing but the log."""
        while True:
            await asyncio.sleep(self._period)
            version = await asyncio.to_thread(find_version, self._directory)
            if version == self._seen:
                continue
            # Noted before it is read: what changes meanwhile is seen the next time.
            self._seen = version
            try:
                loaded = await asyncio.to_thread(self._load, self._directory)
            except MountError as error:
                self._log.error(f"{self._what} not reloaded", reason=str(error))
            else:
                self._on_loaded(loaded)
                self._log.info(f"{self._what} reloaded")


def find_version(directory: Path) -> Hashable:
    """Return a value that differs whenever the directory's content does; None if there is none."""
    try:
        link = directory / _DATA
        if link.is_symlink():
            return link.readlink(), link.lstat().st_ino
        with os.scandir(directory) as entries:
            return tuple(sorted(_describe(entry) for entry in entries))
    except OSError:
        return None


def find_content(directory: Path) -> Path:
    """Return the directory that has the files: one that will not change while they are read."""
    return (directory / _DATA).resolve() if (directory / _DATA).is_symlink() else directory


def list_files(directory: Path) -> list[Path]:
    """Return the entries of a mounted Secret, by name.

    Raises:
        MountError: If there is no such directory.
    """
    try:
        found = find_content(directory).iterdir()
        return sorted(path for path in found if not path.name.startswith(".."))
    except OSError as error:
        raise MountError(
            f"cannot read the directory {directory} ({error.strerror}); mount the Secret there"
        ) from error


def _describe(entry: os.DirEntry[str]) -> tuple[str, int, int, int]:
    status = entry.stat()
    return entry.name, status.st_ino, status.st_mtime_ns, status.st_size
