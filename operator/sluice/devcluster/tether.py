"""Runs a command that ends, with all it has started, when its caller does.

`python -m sluice.devcluster.tether PARENT COMMAND …`; used through `run_tethered` for compilers
and package managers. A process of its own, because only it can adopt and end what the command
leaves behind, whatever way the caller ends.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sluice.devcluster.processes import (
    adopt_orphans,
    list_descendants,
    request_signal_at_end_of,
    send_signal,
)

_MODULE = "sluice.devcluster.tether"  # not __name__, which is __main__ when run
_POLL_SECONDS = 0.02
_END_SECONDS = 10.0


@contextmanager
def run_tethered(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a command, its output (both streams) readable as text lines at `stdout`.

    On leaving the block the command and everything below it is ended, if it is not done.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=None if environment is None else dict(environment),
        cwd=directory,
        # Not in the terminal's foreground group: Ctrl-C reaches the caller, who leaves the block.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _end_descendants() -> None:
    deadline = time.monotonic() + _END_SECONDS
    while (below := list_descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in below:
            send_signal(pid, signal.SIGKILL)
        _reap()
        time.sleep(_POLL_SECONDS)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return


def _end(_: int, __: FrameType | None) -> None:
    _end_descendants()
    os._exit(128 + signal.SIGTERM)


def main() -> int:
    """Run the command given as arguments; return its exit code, 127 if it cannot be run."""
    parent, *command = sys.argv[1:]
    adopt_orphans()
    signal.signal(signal.SIGTERM, _end)
    request_signal_at_end_of(int(parent), signal.SIGTERM)
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        return 127
    code = child.wait()
    _end_descendants()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
