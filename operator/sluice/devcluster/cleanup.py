"""Ends what an earlier run of a cluster left behind: processes by identity, then files.

Used by the supervisor before it starts (after a crash) and by `down` when no supervisor answers.
The caller holds the lock of the state directory.
"""

from sluice.devcluster.directories import StateDirectory, read_json
from sluice.devcluster.errors import ClusterError
from sluice.devcluster.processes import (
    ProcessIdentity,
    find_at_home,
    kill_processes,
)


def read_recorded_processes(state: StateDirectory) -> list[tuple[str, ProcessIdentity]]:
    """Return name and identity of every process that a supervisor recorded."""
    entries = read_json(state.processes) or []
    return [(entry["name"], ProcessIdentity.from_dict(entry)) for entry in entries]


def end_leftovers(state: StateDirectory) -> None:
    """Kill recorded processes that still run, and what the pods have left.

    A pod's first process dies with its agent. What that has started may live on when a supervisor
    was killed; it is known by its HOME, which lies in the state directory.

    Raises:
        ClusterError: one of them would not die.
    """
    left = [
        *read_recorded_processes(state),
        *(("a pod's", identity) for identity in find_at_home(state.nodes.absolute())),
    ]
    if not kill_processes(identity for _, identity in left):
        listing = ", ".join(f"{name} ({identity.pid})" for name, identity in left)
        raise ClusterError(
            f"Processes of an earlier run of the cluster '{state.name}' cannot be ended: "
            f"{listing}. End them by hand and try again."
        )
