"""Locks that end with the process that holds them: flock on a file.

The supervisor holds the lock of its state directory and of its network; whoever prepares programs
in the cache holds the cache's.
"""

import fcntl
import os
import time
from pathlib import Path

_POLL_SECONDS = 0.02


def acquire_lock(path: Path, *, wait_seconds: float = 0.0) -> int | None:
    """Lock a file that its holder may remove; return the descriptor, or None if another holds it.

    Its directory is made if it is missing. Closing the descriptor gives the lock back.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        descriptor = _try_lock(path)
        if descriptor is not None or time.monotonic() >= deadline:
            return descriptor
        time.sleep(_POLL_SECONDS)


def _try_lock(path: Path) -> int | None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # the former holder has just removed the directory too
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder may have removed the file between our open and our flock: then this
        # is a lock on nothing, and the next try makes a new file.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Say whether some process holds the lock right now, without making the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
