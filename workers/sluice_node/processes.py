"""Starts, signals and ends the local processes that stand for containers.

A container is a session of its own: a process group that is ended as a whole. The kernel kills its
first process when the agent dies. Everything here runs in the main thread, because the kernel ties
that promise to the thread that forked.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here, as little as possible is done after a fork
_PRCTL = _LIBC.prctl


class SpawnError(Exception):
    """A command cannot be started; the message says why."""


class ContainerProcess:
    """One running container: the first process of a session."""

    def __init__(self, popen: "subprocess.Popen[bytes]", on_end: Callable[[], None]) -> None:
        self._popen = popen
        self._on_end = on_end
        self.started_at = time.time()
        self._started_clock = time.monotonic()
        self.ended_at: float | None = None
        self.ran_seconds = 0.0
        self.exit_code: int | None = None
        self._descriptor = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._collect)

    @property
    def pid(self) -> int:
        """Its number, ours until `exit_code` is set."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    def terminate(self) -> None:
        """Ask the first process to end."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End all processes of the group."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)

    def _collect(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        # While the first process is not yet reaped, its number, and so the group's, is not reused.
        os.killpg(self.pid, signal.SIGKILL)
        code = self._popen.wait()
        self.exit_code = code if code >= 0 else 128 - code
        self.ended_at = time.time()
        self.ran_seconds = time.monotonic() - self._started_clock
        self._on_end()


def spawn(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    on_end: Callable[[], None],
) -> ContainerProcess:
    """Start a program, its output appended to `log`; `on_end` is called once it was reaped.

    Raises:
        SpawnError: It cannot be executed.
    """
    parent = os.getpid()
    try:
        with log.open("ab") as output:
            popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                # Safe: one thread here, so no lock can be held at the fork.
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509
            )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SpawnError(f"cannot start {arguments[0]}: {why}") from error
    return ContainerProcess(popen, on_end)


def _die_with(parent: int) -> None:
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def end_leftovers(directory: Path) -> int:
    """Kill the processes whose home is inside a directory of pods; return how many.

    What a container's first process started may have left its group, and outlives it when the
    agent is killed. Its HOME tells: no other process has one in there.
    """
    marker = b"HOME=" + os.fsencode(directory) + b"/"
    ended = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if any(variable.startswith(marker) for variable in variables):
                os.kill(int(entry.name), signal.SIGKILL)
                ended += 1
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or somebody else's
    return ended
