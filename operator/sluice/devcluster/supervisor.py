"""The background process of one cluster: `python -m sluice.devcluster.supervisor`.

Started by `cluster.start_cluster`. Owns etcd, the control plane and the node agents; everything it
starts dies with it. It ends, and takes the cluster along, when asked to over the control socket,
on SIGTERM, or when its starter ends without having said `detach`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sluice.devcluster import components
from sluice.devcluster.certificates import Certificates, KeyPair, create_certificates
from sluice.devcluster.children import Children
from sluice.devcluster.cleanup import end_leftovers
from sluice.devcluster.control import serve_control
from sluice.devcluster.credentials import create_client_context
from sluice.devcluster.directories import StateDirectory, write_private
from sluice.devcluster.errors import ClusterConflictError, ClusterError, NodeError
from sluice.devcluster.kubeconfig import render_kubeconfig
from sluice.devcluster.locks import acquire_lock
from sluice.devcluster.networks import Network, acquire_network, choose_ports
from sluice.devcluster.nodes import NodeAgent, NodeSettings, apply_action, find_agent, plan_agents
from sluice.devcluster.outages import Components
from sluice.devcluster.processes import adopt_orphans
from sluice.devcluster.readiness import ControlPlane
from sluice.devcluster.specification import (
    DETACH,
    FAILED,
    READY,
    STEP,
    ClusterSpecification,
    encode_event,
)

_ADMIN = "sluice-admin"
_LOCK_SECONDS = 0.5
_REAP_SECONDS = 5.0
_POLL_SECONDS = 0.02


class Supervisor:
    """One cluster from its start to its end. The caller holds lock and network."""

    def __init__(
        self, specification: ClusterSpecification, state: StateDirectory, network: Network
    ) -> None:
        """Prepare nothing yet; see `start`."""
        self._specification = specification
        self._state = state
        self._network = network
        self._ports = components.Ports(*choose_ports(network, 5))
        self._children = Children(state.processes)
        self._agents: dict[str, NodeAgent] = {}
        self._components = Components(self._children, state)
        self._phase = "starting"
        self._started_at = time.time()
        self._ready_seconds: float | None = None
        self.ending = asyncio.Event()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{components.HOST}:{self._ports.api_server}"

    def describe(self) -> dict[str, Any]:
        """Return the cluster's status as the control socket shows it."""
        return {
            "name": self._state.name,
            "phase": self._describe_phase(),
            "pid": os.getpid(),
            "startedAt": self._started_at,
            "readySeconds": self._ready_seconds,
            "shape": self._specification.shape.to_dict(),
            "network": self._network.cidr,
            "server": self.server,
            "kubeconfig": str(self._state.kubeconfig),
            "auditLog": str(self._state.audit_log) if self._specification.audit_log else None,
            "binaries": self._specification.binaries.to_dict(),
            "components": self._components.describe(),
            "nodes": [agent.describe() for agent in self._agents.values()],
        }

    def _describe_phase(self) -> str:
        """`starting`, `ready`, `degraded` (a component ended or is frozen) or `stopping`."""
        broken = self._phase == "ready" and not self._components.whole
        return "degraded" if broken else self._phase

    async def act_on_node(
        self, node: str, action: str, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Kill, freeze, stop or start a node, or break or heal its devices.

        Raises:
            NodeError: no such node, it is not in a state in which that can be done, or the options
                are wrong.
        """
        agent = self._agents.get(node)
        if agent is None:
            known = ", ".join(self._agents) or "none"
            raise NodeError(
                f"The cluster '{self._state.name}' has no node '{node}'. Its nodes: {known}."
            )
        apply_action(agent, action, find_agent(), options)
        # For whoever asks later what was done to the hardware, and what was compressed in time.
        sys.stderr.write(f"{node}: {action} {json.dumps(dict(options)) if options else ''}\n")
        if action == "kill":
            await _wait_for_end(agent)
        return agent.describe()

    async def act_on_component(self, name: str, action: str) -> dict[str, Any]:
        """Kill, freeze or start a part of the control plane.

        Raises:
            ClusterError: no such component, it is not in a state in which that can be done, or it
                cannot be started.
        """
        described = await self._components.act(name, action)
        sys.stderr.write(f"{name}: {action}\n")
        return described

    def request_shutdown(self) -> None:
        """Have `main` end the cluster."""
        self._phase = "stopping"
        self.ending.set()

    async def start(self) -> None:
        """Bring everything up, in order, reporting each step on standard output.

        Raises:
            ClusterStartError: a process ended or did not become ready in time.
        """
        begun = time.monotonic()
        if self._specification.shape.plan_nodes():
            find_agent()  # not to be told of its absence only after the control plane is up
        self._children.attach(asyncio.get_running_loop())
        write_private(self._state.description, json.dumps(self.describe(), indent=1))
        _report(STEP, "making certificates")
        certificates = create_certificates(self._state.pki)
        context = create_client_context(
            authority=certificates.authority.files.certificate,
            certificate=certificates.admin.certificate,
            key=certificates.admin.key,
        )
        seconds = self._specification.start_seconds
        async with ControlPlane(self.server, context, seconds) as control_plane:
            await self._start_control_plane(control_plane, certificates)
            await self._start_nodes(control_plane, certificates)
        self._write_kubeconfig(_ADMIN, certificates.admin, certificates)
        self._phase = "ready"
        self._ready_seconds = time.monotonic() - begun
        write_private(self._state.description, json.dumps(self.describe(), indent=1))

    async def end(self) -> bool:
        """Kill all processes; False if one would not die."""
        self._phase = "stopping"
        return await self._children.end_all()

    async def _start_control_plane(
        self, control_plane: ControlPlane, certificates: Certificates
    ) -> None:
        binaries, state, ports = self._specification.binaries, self._state, self._ports
        _report(STEP, "starting etcd and the API server")
        policy = None
        if self._specification.audit_log:
            policy = state.root / "audit-policy.yaml"
            write_private(policy, components.AUDIT_POLICY)
        self._components.start(components.command_etcd(binaries, state, ports, certificates))
        self._components.start(
            components.command_api_server(binaries, state, ports, certificates, audit_policy=policy)
        )
        await control_plane.wait_for_api_server(self._components.processes)
        _report(STEP, "starting controller manager and scheduler")
        kubeconfigs = components.Kubeconfigs(
            self._write_kubeconfig(
                "controller-manager", certificates.controller_manager, certificates
            ),
            self._write_kubeconfig("scheduler", certificates.scheduler, certificates),
        )
        self._components.start(
            components.command_controller_manager(binaries, state, ports, certificates, kubeconfigs)
        )
        self._components.start(components.command_scheduler(binaries, state, ports, kubeconfigs))
        for name, port in (
            ("kube-controller-manager", ports.controller_manager),
            ("kube-scheduler", ports.scheduler),
        ):
            await control_plane.wait_for_component(name, port, self._components.processes)
        await control_plane.wait_for_service_account(self._components.processes)

    async def _start_nodes(self, control_plane: ControlPlane, certificates: Certificates) -> None:
        plans = self._specification.shape.plan_nodes()
        if not plans:
            return
        _report(STEP, f"starting {len(plans)} emulated nodes")
        self._state.prepare_device_sockets()
        settings = NodeSettings(
            cluster=self._state.name,
            state=self._state,
            network=self._network,
            certificates=certificates,
            api_server_host=components.HOST,
            api_server_port=self._ports.api_server,
            models=self._specification.models,
        )
        program = find_agent()
        self._agents = dict(plan_agents(plans, settings, self._children))
        started = [agent.start_process(program) for agent in self._agents.values()]
        await control_plane.wait_for_nodes(self._agents, [*self._components.processes, *started])

    def _write_kubeconfig(self, user: str, client: KeyPair, certificates: Certificates) -> Path:
        state = self._state
        path = state.kubeconfig if user == _ADMIN else state.root / f"{user}.kubeconfig"
        write_private(
            path,
            render_kubeconfig(
                cluster=state.name,
                user=user,
                server=self.server,
                authority=certificates.authority.files.certificate,
                client=client,
            ),
        )
        return path


async def _wait_for_end(agent: NodeAgent) -> None:
    deadline = asyncio.get_running_loop().time() + _REAP_SECONDS
    while agent.child is not None and agent.child.running:
        if asyncio.get_running_loop().time() >= deadline:
            raise NodeError(f"The agent of {agent.plan.name} was killed and does not end.")
        await asyncio.sleep(_POLL_SECONDS)


def _report(kind: str, text: str) -> None:
    # A starter that is gone is noticed at the other pipe.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), encode_event(kind, text))


async def supervise(specification: ClusterSpecification, lifeline: BinaryIO) -> int:
    """Run one cluster to its end; return the exit code of this process.

    Raises:
        ClusterError: it could not be started; nothing of it runs any more.
    """
    state = StateDirectory(specification.root)
    lock = acquire_lock(state.lock, wait_seconds=_LOCK_SECONDS)
    if lock is None:
        raise ClusterConflictError(
            f"Another process is starting or stopping the cluster '{state.name}' right now."
        )
    state.check_format()
    end_leftovers(state)
    state.clear()
    state.prepare()
    os.chdir(state.root)
    _redirect(sys.stderr.fileno(), state.log_of("supervisor"))
    try:
        supervisor = Supervisor(specification, state, acquire_network())
        close_control = await serve_control(supervisor, state.socket_name)
        watch = asyncio.create_task(_watch_lifeline(lifeline, supervisor))
        try:
            await _run(supervisor)
        finally:
            watch.cancel()
            ended = await supervisor.end()
            await close_control()
    except Exception:
        state.clear(keep_logs=True)
        raise
    if not ended:
        return 1  # the record stays, so that `down` can try again
    state.remove()
    return 0


async def _run(supervisor: Supervisor) -> None:
    """Start the cluster and stay until it shall end, which may be before it is ready."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.request_shutdown)
    start = asyncio.create_task(supervisor.start())
    ending = asyncio.create_task(supervisor.ending.wait())
    await asyncio.wait({start, ending}, return_when=asyncio.FIRST_COMPLETED)
    if start.done():
        start.result()
        _report(READY, "")
        await ending
    else:
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        _report(FAILED, "The cluster was stopped while it was starting.")


async def _watch_lifeline(lifeline: BinaryIO, supervisor: Supervisor) -> None:
    """End the cluster when its starter does, unless that said `detach` first."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), lifeline)
    if await reader.readline() == DETACH:
        _redirect(sys.stdout.fileno(), Path(os.devnull))
    else:
        supervisor.request_shutdown()


def _redirect(descriptor: int, path: Path) -> None:
    with path.open("ab") as file:
        os.dup2(file.fileno(), descriptor)


def main() -> int:
    """Read the specification from standard input and run the cluster."""
    for number in (signal.SIGINT, signal.SIGHUP):
        # Ctrl-C and a closed terminal concern the starter, whose end is seen at the pipe.
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    lifeline = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115  # for life
    specification = ClusterSpecification.decode(lifeline.readline())
    try:
        return asyncio.run(supervise(specification, lifeline))
    except ClusterError as error:
        _report(FAILED, str(error))
    except OSError as error:
        _report(FAILED, f"The cluster cannot be started in {specification.root}: {error}.")
    except Exception as error:  # noqa: BLE001  # the starter must hear of it, whatever it is
        traceback.print_exc()
        log = StateDirectory(specification.root).log_of("supervisor")
        _report(FAILED, f"The supervisor failed with {type(error).__name__}: {error}. See {log}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
