"""Processes by identity rather than by number: what makes it safe to end one that was recorded.

A process number is used again after its process has ended; number, start time and boot together
are not. Used by `children` to record, and by `cleanup` to find what an earlier run left behind.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_POLL_SECONDS = 0.02

_STAT_STATE, _STAT_PARENT, _STAT_START = 0, 1, 19  # fields of /proc/PID/stat after the name


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, for ever: its number, its start in clock ticks since boot, and the boot."""

    pid: int
    start_ticks: int
    boot: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON."""
        return {"pid": self.pid, "start": self.start_ticks, "boot": self.boot}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "ProcessIdentity":
        """Return the identity `to_dict` was called on."""
        return cls(int(value["pid"]), int(value["start"]), str(value["boot"]))


def _read_stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in brackets and may itself hold brackets and blanks.
    return text.rpartition(")")[2].split()


def _read_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify_process(pid: int) -> ProcessIdentity | None:
    """Return the identity of a running process, or None if there is none (a zombie is none)."""
    stat = _read_stat(pid)
    if stat is None or stat[_STAT_STATE] in ("Z", "X"):
        return None
    return ProcessIdentity(pid, int(stat[_STAT_START]), _read_boot())


def is_running(identity: ProcessIdentity) -> bool:
    """Say whether exactly that process still runs."""
    return identify_process(identity.pid) == identity


def list_children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`, zombies included."""
    return [child for child, parent in _list_parents() if parent == pid]


def list_descendants(pid: int) -> list[int]:
    """Return children, their children and so on, parents before children."""
    children: dict[int, list[int]] = {}
    for child, parent in _list_parents():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def _list_parents() -> list[tuple[int, int]]:
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    stats = [(pid, _read_stat(pid)) for pid in pids]
    return [(pid, int(stat[_STAT_PARENT])) for pid, stat in stats if stat is not None]


def find_at_home(directory: Path) -> list[ProcessIdentity]:
    """Return the processes of this user whose HOME is inside a directory."""
    marker = b"HOME=" + os.fsencode(directory) + b"/"
    found = []
    for pid, _ in _list_parents():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or somebody else's
        if any(variable.startswith(marker) for variable in variables):
            identity = identify_process(pid)
            found += [identity] if identity is not None else []
    return found


def send_signal(pid: int, number: int) -> bool:
    """Send a signal; False if the process is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def catches_signal(pid: int, number: int) -> bool:
    """Say whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)


def freeze_tree(pid: int) -> None:
    """Stop a process and all below it, the process first so that it starts nothing more."""
    send_signal(pid, signal.SIGSTOP)
    stopped: set[int] = set()
    # A child may have been started just before its parent stopped: look until nothing is new.
    while fresh := set(list_descendants(pid)) - stopped:
        for child in fresh:
            send_signal(child, signal.SIGSTOP)
        stopped |= fresh


def thaw_tree(pid: int) -> None:
    """Undo `freeze_tree`."""
    for child in list_descendants(pid):
        send_signal(child, signal.SIGCONT)
    send_signal(pid, signal.SIGCONT)


def kill_processes(identities: Iterable[ProcessIdentity], *, wait_seconds: float = 10.0) -> bool:
    """Kill those of the processes that still run, and wait until they are gone.

    What is below them is killed too. Returns False if something would not die in time.
    """
    remaining = [identity for identity in identities if is_running(identity)]
    for identity in list(remaining):
        below = [identify_process(pid) for pid in list_descendants(identity.pid)]
        remaining += [child for child in below if child is not None]
    for identity in remaining:
        if is_running(identity):
            send_signal(identity.pid, signal.SIGKILL)
    return wait_until_gone(remaining, wait_seconds=wait_seconds)


def wait_until_gone(identities: Iterable[ProcessIdentity], *, wait_seconds: float) -> bool:
    """Wait until none of the processes runs; False if one still does after that time."""
    remaining = list(identities)
    deadline = time.monotonic() + wait_seconds
    while remaining := [identity for identity in remaining if is_running(identity)]:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def request_signal_at_end_of(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when the parent's thread that forked it ends.

    Ends this process at once if the parent has ended already. Survives exec, not fork.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent ends; to be called between fork and exec."""
    request_signal_at_end_of(parent, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets away."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
