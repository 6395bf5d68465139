"""Starts, finds and stops embedded clusters: the way in for commands, the demo and tests.

`start_cluster` starts a supervisor process and waits until the cluster is ready. The cluster lives
until it is stopped, or until this process ends, unless `Cluster.detach` was called.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sluice.devcluster.binaries.programs import Binaries
from sluice.devcluster.cleanup import end_leftovers, read_recorded_processes
from sluice.devcluster.client import call_supervisor
from sluice.devcluster.directories import StateDirectory, find_state_home, read_json
from sluice.devcluster.errors import (
    ClusterConflictError,
    ClusterError,
    ClusterNotRunningError,
    ClusterStartError,
    ComponentError,
    NodeError,
)
from sluice.devcluster.images import find_models
from sluice.devcluster.locks import acquire_lock, is_locked
from sluice.devcluster.processes import kill_processes, wait_until_gone
from sluice.devcluster.shape import ClusterShape
from sluice.devcluster.specification import (
    DETACH,
    FAILED,
    READY,
    ClusterSpecification,
    decode_event,
)

_START_SECONDS = 120.0
_END_SECONDS = 20.0
_ANSWER_SECONDS = 3.0
_POLL_SECONDS = 0.02


def _ignore_step(_: str) -> None:
    """Receive a step and show nothing."""


@dataclass(slots=True)
class Cluster:
    """A running cluster. `supervisor` is set where this process started it and did not detach."""

    state: StateDirectory
    supervisor: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name of the cluster."""
        return self.state.name

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""
        return self.state.kubeconfig

    def read_status(self) -> dict[str, Any]:
        """Return phase, network, addresses, components and nodes, as the supervisor sees them."""
        return call_supervisor(self.state, "GET", "/status")

    def act_on_node(self, node: str, action: str, **options: Any) -> dict[str, Any]:
        """Do something to a node (see `nodes.ACTIONS`); return its entry of the status.

        Args:
            node: its name.
            action: what to do.
            options: of `break`: `fault`, and where wanted `device` (a number, or "all"; else 0),
                those that `FaultRequest.parse` takes.

        Raises:
            NodeError: no such node, it is not in a state in which that can be done, or the options
                are wrong.
        """
        try:
            return call_supervisor(self.state, "POST", f"/nodes/{node}/{action}", body=options)
        except ClusterNotRunningError:
            raise
        except ClusterError as error:
            raise NodeError(str(error)) from error

    def act_on_component(self, name: str, action: str) -> dict[str, Any]:
        """Do something to a part of the control plane; return its entry of the status.

        Args:
            name: as the status has it, such as `kube-apiserver`.
            action: `kill` or `freeze` it, or `start` it again (see `outages.Components.act`).

        Raises:
            ComponentError: no such component, or it is not in a state in which that can be done.
        """
        try:
            return call_supervisor(self.state, "POST", f"/components/{name}/{action}")
        except ClusterNotRunningError:
            raise
        except ClusterError as error:
            raise ComponentError(str(error)) from error

    def detach(self) -> None:
        """Let the cluster outlive this process."""
        process, self.supervisor = self.supervisor, None
        if process is None:
            return
        stdin, stdout = _pipes(process)
        stdin.write(DETACH)
        stdin.close()
        stdout.close()
        # Nobody here waits for it any more, and Popen would warn of that.
        process.returncode = 0

    def stop(self) -> None:
        """End the cluster and remove what it kept. Nothing happens if that was done before."""
        stop_cluster(self.name, home=self.state.root.parent)
        if self.supervisor is not None:
            _end(self.supervisor)
            self.supervisor = None


def start_cluster(
    name: str,
    *,
    shape: ClusterShape,
    binaries: Binaries,
    audit_log: bool = False,
    models: Path | None = None,
    home: Path | None = None,
    start_seconds: float = _START_SECONDS,
    on_step: Callable[[str], None] = _ignore_step,
) -> Cluster:
    """Start a cluster and wait until control plane and nodes are ready.

    Args:
        name: lower-case letters, digits and dashes.
        shape: how many nodes of which kind.
        binaries: the programs, from `binaries.resolution.resolve_binaries`.
        audit_log: have the API server log every request (see `StateDirectory.audit_log`).
        models: what workers see as /models; None for that of the source tree.
        home: directory of the clusters' state directories; None for the user's.
        start_seconds: after how long a single wait for readiness is given up.
        on_step: called with a few words whenever the start reaches another step.

    Raises:
        ClusterConflictError: a cluster of that name runs already.
        ClusterStartError: it did not come up; nothing of it runs, its logs are kept.
        StateFormatError: its state directory is of another version.
    """
    state = StateDirectory.of(name, home)
    state.check_format()
    if is_locked(state.lock):
        raise ClusterConflictError(f"A cluster '{name}' is running already.")
    specification = ClusterSpecification(
        root=state.root.absolute(),
        shape=shape,
        binaries=binaries,
        models=models or find_models(),
        audit_log=audit_log,
        start_seconds=start_seconds,
    )
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            # -P: a module in the user's working directory must not shadow one of ours.
            [sys.executable, "-P", "-m", "sluice.devcluster.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, specification, on_step, errors)
        except BaseException:
            _end(process)
            raise
    return Cluster(state, process)


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    specification: ClusterSpecification,
    on_step: Callable[[str], None],
    errors: IO[bytes],
) -> None:
    stdin, stdout = _pipes(process)
    with contextlib.suppress(BrokenPipeError):  # it died at once: said below
        stdin.write(specification.encode())
    for line in iter(stdout.readline, b""):
        if not line.endswith(b"\n"):
            break  # it died while it wrote this
        kind, text = decode_event(line)
        if kind == READY:
            return
        if kind == FAILED:
            raise ClusterStartError(text)
        on_step(text)
    errors.seek(0)
    output = errors.read().decode(errors="replace").strip()
    # Once it has a state directory, it writes its errors there.
    log = StateDirectory(specification.root).log_of("supervisor")
    raise ClusterStartError(
        f"The supervisor of the cluster '{specification.root.name}' ended before the cluster was "
        f"ready{': ' + output if output else ''}.{f' Its log: {log}.' if log.exists() else ''}"
    )


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the supervisor was started without pipes")
    return process.stdin, process.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the lifeline and wait until the supervisor has cleaned up."""
    stdin, stdout = _pipes(process)
    stdin.close()
    stdout.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_cluster(name: str, *, home: Path | None = None) -> Cluster:
    """Return the running cluster of that name.

    Raises:
        ClusterNotRunningError: there is none.
    """
    state = StateDirectory.of(name, home)
    state.check_format()
    if not is_locked(state.lock):
        crashed = " It has crashed or failed to start." if state.format.exists() else ""
        raise ClusterNotRunningError(
            f"No cluster '{name}' is running.{crashed} Start it with 'sluice cluster up --name "
            f"{name}'."
        )
    return Cluster(state)


def list_clusters(*, home: Path | None = None) -> list[dict[str, Any]]:
    """Return name, phase, shape, network and kubeconfig of every cluster of this user.

    A cluster whose supervisor is gone has phase `crashed`; one of another version `unreadable`.
    """
    root = home or find_state_home()
    if not root.is_dir():
        return []
    return [_summarise(StateDirectory(path)) for path in sorted(root.iterdir()) if path.is_dir()]


def _summarise(state: StateDirectory) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": state.name, "phase": "crashed"}
    try:
        state.check_format()
        if is_locked(state.lock):
            summary["phase"] = "starting"
            status = call_supervisor(state, "GET", "/status")
        else:
            status = {**(read_json(state.description) or {}), "phase": "crashed"}
    except ClusterNotRunningError:
        return summary
    except ClusterError as error:
        return {**summary, "phase": "unreadable", "error": str(error)}
    kept = ("phase", "shape", "network", "server", "kubeconfig", "startedAt", "readySeconds")
    return {**summary, **{key: status[key] for key in kept if key in status}}


def stop_cluster(name: str, *, home: Path | None = None) -> bool:
    """End the cluster, whatever state it is in, and remove its state directory.

    Returns False if there was nothing to end.

    Raises:
        StateFormatError: the directory is of another version.
        ClusterError: a process would not die.
    """
    state = StateDirectory.of(name, home)
    if not state.root.exists():
        return False
    state.check_format()
    supervisors = [who for name, who in read_recorded_processes(state) if name == "supervisor"]
    # It gives the lock back a moment before its process ends.
    if not (_shut_down(state) and wait_until_gone(supervisors, wait_seconds=_ANSWER_SECONDS)):
        kill_processes(supervisors)
    descriptor = acquire_lock(state.lock, wait_seconds=_END_SECONDS / 2)
    if descriptor is None:
        raise ClusterError(
            f"The cluster '{name}' cannot be stopped: another process holds {state.lock}."
        )
    try:
        end_leftovers(state)
        state.remove()
    finally:
        os.close(descriptor)  # or this process could not try again what went wrong
    return True


def _shut_down(state: StateDirectory) -> bool:
    """Ask the supervisor to end and wait until it has; False if it does not answer or end."""
    deadline = time.monotonic() + _END_SECONDS / 2
    while is_locked(state.lock):
        if time.monotonic() >= deadline:
            return False
        try:
            call_supervisor(state, "POST", "/shutdown", timeout_seconds=_ANSWER_SECONDS)
        except ClusterNotRunningError:
            pass  # it has not begun to listen yet, or ceased to because it is ending
        except ClusterError:
            return False
        time.sleep(_POLL_SECONDS)
    return True
