"""The processes a supervisor owns: started so that they die with it, reaped when they end.

Everything the supervisor starts goes through `Children.start`; nothing else in that process may
wait for children, because `_reap` collects all of them, orphans of dead agents included.
"""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sluice.devcluster.directories import write_private
from sluice.devcluster.processes import (
    ProcessIdentity,
    die_with_parent,
    identify_process,
    list_children,
    send_signal,
)

_END_SECONDS = 10.0
_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Child:
    """One process; `exit_code` is negative for a signal, as in `subprocess`."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes] = field(repr=False)
    exit_code: int | None = None

    @property
    def pid(self) -> int:
        """Its number; its own for as long as `exit_code` is None."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended (a frozen process is running)."""
        return self.exit_code is None

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.running:
            send_signal(self.pid, number)

    def describe_end(self) -> str:
        """Say how it ended and show the end of its log."""
        code = self.exit_code
        if code is None:
            return f"{self.name} is running"
        how = (
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        return f"{self.name} {how}. The end of {self.log}:\n{read_tail(self.log)}"


def read_tail(path: Path, lines: int = 12, limit: int = 16384) -> str:
    """Return the last lines of a text file, indented; says so if there are none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        text = ""
    tail = text.splitlines()[-lines:] or ["(nothing was written)"]
    return "\n".join(f"  {line}" for line in tail)


class Children:
    """Starts and reaps. One a process; use from the thread that runs the event loop."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._by_pid: dict[int, Child] = {}
        self._identities: dict[int, tuple[str, ProcessIdentity]] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to reap, and record the calling process itself."""
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._remember("supervisor", os.getpid())

    def start(
        self, name: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> Child:
        """Start a program in a session of its own, its output appended to `log`.

        Raises:
            OSError: the program cannot be executed.
        """
        parent = os.getpid()
        with log.open("ab") as output:
            popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                # Safe: one thread here, so no lock can be held at the fork.
                preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509
            )
        child = Child(name, log, popen)
        self._by_pid[child.pid] = child
        self._remember(name, child.pid)
        return child

    def _remember(self, name: str, pid: int) -> None:
        identity = identify_process(pid)
        if identity is not None:
            self._identities[pid] = (name, identity)
            self._write_record()

    def _write_record(self) -> None:
        entries = [{"name": n, **identity.to_dict()} for n, identity in self._identities.values()]
        write_private(self._record, json.dumps(entries, indent=1))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._identities.pop(pid, None)
            child = self._by_pid.pop(pid, None)
            if child is not None:
                child.exit_code = os.waitstatus_to_exitcode(status)
                # Popen was not the one to wait, and would warn of a process left running.
                child.popen.returncode = child.exit_code

    async def end_all(self) -> bool:
        """Kill every child and every orphan adopted from one; False if one would not die.

        At once and without a grace period: the data are thrown away with the cluster.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _END_SECONDS
        # Killing an agent orphans its pods, which then turn up here: look until nothing is left.
        while remaining := list_children(os.getpid()):
            if loop.time() >= deadline:
                return False
            for pid in remaining:
                send_signal(pid, signal.SIGKILL)
            self._reap()
            await asyncio.sleep(_POLL_SECONDS)
        return True
