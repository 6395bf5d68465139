"""Ends what an earlier run of a cluster left behind: processes by identity, then files.

Used by the supervisor before it starts (after a crash) and by `down` when no supervisor answers.
The caller holds the lock of the state directory.
"""

from sluice.devcluster.directories import StateDirectory, read_json
from sluice.devcluster.errors import ClusterError
from sluice.devcluster.processes import ProcessIdentity, kill_processes


def read_recorded_processes(state: StateDirectory) -> list[tuple[str, ProcessIdentity]]:
    """Return name and identity of every process that a supervisor recorded."""
    entries = read_json(state.processes) or []
    return [(entry["name"], ProcessIdentity.from_dict(entry)) for entry in entries]


def end_leftovers(state: StateDirectory) -> None:
    """Kill recorded processes that still run.

    Raises:
        ClusterError: one of them would not die.
    """
    recorded = read_recorded_processes(state)
    if not kill_processes(identity for _, identity in recorded):
        listing = ", ".join(f"{name} ({identity.pid})" for name, identity in recorded)
        raise ClusterError(
            f"Processes of an earlier run of the cluster '{state.name}' cannot be ended: "
            f"{listing}. End them by hand and try again."
        )
