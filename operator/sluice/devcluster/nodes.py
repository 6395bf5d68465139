"""The nodes of a cluster and what can be done to them: kill, freeze, stop, start, break, heal.

Owned by the supervisor. An agent is the program `sluice-node`; it runs its pods as its own
children, so what happens to the agent decides what happens to them. An agent that ended is never
started again by itself: on a real machine nobody would.
"""

import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.devcluster.certificates import Certificates, issue_node_certificates
from sluice.devcluster.children import Child, Children
from sluice.devcluster.directories import StateDirectory, write_private
from sluice.devcluster.errors import ClusterStartError, NodeError
from sluice.devcluster.faults import FaultRequest, NodeHardware
from sluice.devcluster.images import render_images
from sluice.devcluster.kubeconfig import render_kubeconfig
from sluice.devcluster.networks import Network, choose_port
from sluice.devcluster.processes import (
    catches_signal,
    freeze_tree,
    identify_process,
    kill_processes,
    thaw_tree,
)
from sluice.devcluster.shape import NodePlan

_KUBELET_PORT = 10250
_METRICS_PORT = 9400
"""dcgm-exporter's."""
ACTIONS = ("kill", "freeze", "stop", "start", "break", "heal")


def find_agent() -> Path:
    """Return the program `sluice-node`: beside this interpreter, else on PATH.

    Raises:
        ClusterStartError: it is not installed.
    """
    beside = Path(sys.executable).parent / "sluice-node"
    found = str(beside) if beside.exists() else shutil.which("sluice-node")
    if found is None:
        raise ClusterStartError(
            f"The node agent 'sluice-node' is neither at {beside} nor on PATH. Install Sluice into "
            "this environment again ('make setup' in the repository)."
        )
    return Path(found)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What all nodes of a cluster share."""

    cluster: str
    state: StateDirectory
    network: Network
    certificates: Certificates
    api_server_host: str
    api_server_port: int
    models: Path | None


class NodeAgent:
    """One emulated node: its agent's process and what was done to it."""

    def __init__(self, plan: NodePlan, settings: NodeSettings, children: Children) -> None:
        """Plan a node; `start_process` brings it to life."""
        self.plan = plan
        self.address = f"{settings.network.node_prefix(plan.index)}.1"
        self._settings = settings
        self._children = children
        self._config = settings.state.nodes / plan.name / "node.yaml"
        self._metrics_port: int | None = None
        self.hardware = NodeHardware(plan.name, plan.devices, self._config.parent)
        self._frozen = False
        self._stopped = False
        self.child: Child | None = None

    @property
    def state(self) -> str:
        """`running`, `stopped` (silent), `frozen`, `killed`, or `ended` (by itself)."""
        if self.child is None:
            return "killed"
        if not self.child.running:
            return "killed" if self.child.exit_code == -signal.SIGKILL else "ended"
        if self._frozen:
            return "frozen"
        return "stopped" if self._stopped else "running"

    def describe(self) -> dict[str, Any]:
        """Return the node's entry in the cluster's status."""
        alive = self.child is not None and self.child.running
        port = self._metrics_port
        return {
            "name": self.plan.name,
            "kind": self.plan.kind,
            "address": self.address,
            "state": self.state,
            "pid": self.child.pid if self.child is not None and alive else None,
            "log": str(self._settings.state.log_of(self.plan.name)),
            "metrics": None if port is None else f"http://{self.address}:{port}/metrics",
            "faults": self.hardware.describe(),
        }

    def start_process(self, agent: Path) -> Child:
        """Write the configuration on the first start, and start the agent."""
        if not self._config.exists():
            self._write_config()
        self.child = self._children.start(
            self.plan.name,
            [str(agent), "--config", str(self._config)],
            log=self._settings.state.log_of(self.plan.name),
            environment=os.environ,
        )
        self._frozen = self._stopped = False
        return self.child

    def kill(self) -> None:
        """End the agent and all below it, as a power cut would.

        By itself the agent's death ends the first process of a container only, not what that has
        started.
        """
        agent = identify_process(self._require_alive("kill").pid)
        if agent is not None:
            kill_processes([agent], wait_seconds=0.0)  # the caller waits, without blocking

    def freeze(self) -> None:
        """Stop agent and pods where they are: connections hang, nothing answers."""
        child = self._require_alive("freeze")
        freeze_tree(child.pid)
        self._frozen = True

    def stop(self) -> None:
        """Silence the agent; its pods serve on."""
        child = self._require_alive("stop")
        if self._frozen:
            raise NodeError(
                f"{self.plan.name} is frozen: its agent cannot act on 'stop'. Run 'sluice node "
                f"start {self.plan.name}' first."
            )
        if not catches_signal(child.pid, signal.SIGUSR1):
            # A process that has not set up its handler yet would die of the signal.
            raise NodeError(f"The agent of {self.plan.name} is still starting: try again.")
        child.signal(signal.SIGUSR1)
        self._stopped = True

    def start(self, agent: Path) -> None:
        """Undo whatever was done: thaw, end the silence, or start a new agent."""
        child = self.child
        if child is None or not child.running:
            self.start_process(agent)
            return
        if self._frozen:
            thaw_tree(child.pid)
            self._frozen = False
        if self._stopped:
            child.signal(signal.SIGUSR2)
            self._stopped = False

    def _require_alive(self, action: str) -> Child:
        if self.child is None or not self.child.running:
            raise NodeError(
                f"{self.plan.name} has no agent to {action}: it is {self.state}. Run 'sluice node "
                f"start {self.plan.name}' first."
            )
        return self.child

    def _write_config(self) -> None:
        settings = self._settings
        directory = self._config.parent
        directory.mkdir(mode=0o700, exist_ok=True)
        authority = settings.certificates.authority
        client, serving = issue_node_certificates(authority, self.plan.name, self.address)
        server = f"https://{settings.api_server_host}:{settings.api_server_port}"
        kubeconfig = settings.state.root / f"node-{self.plan.name}.kubeconfig"
        write_private(
            kubeconfig,
            render_kubeconfig(
                cluster=settings.cluster,
                user=f"system:node:{self.plan.name}",
                server=server,
                authority=authority.files.certificate,
                client=client,
            ),
        )
        if self.plan.devices:
            self._metrics_port = choose_port(self.address, _METRICS_PORT)
        config = {
            "name": self.plan.name,
            "kubeconfig": str(kubeconfig),
            "stateDir": str(directory),
            "deviceDir": str(settings.state.device_sockets / self.plan.name),
            "address": self.address,
            "podRange": f"{settings.network.node_prefix(self.plan.index)}.0/24",
            "stableRange": f"{settings.network.node_prefix(0)}.0/24",
            "kubelet": {
                "port": choose_port(self.address, _KUBELET_PORT),
                "certFile": str(serving.certificate),
                "keyFile": str(serving.key),
                "clientCAFile": str(authority.files.certificate),
            },
            "deviceProfile": self.plan.profile,
            "metricsPort": self._metrics_port,
            "apiServer": {
                "host": settings.api_server_host,
                "port": settings.api_server_port,
                "caFile": str(authority.files.certificate),
            },
            "labels": dict(self.plan.labels),
            "taints": [dict(taint) for taint in self.plan.taints],
            "capacity": dict(self.plan.capacity),
            "images": render_images(settings.models),
        }
        write_private(self._config, yaml.safe_dump(config, sort_keys=False))


def plan_agents(
    plans: list[NodePlan], settings: NodeSettings, children: Children
) -> Mapping[str, NodeAgent]:
    """Return an agent, not yet started, for every planned node, by name."""
    return {plan.name: NodeAgent(plan, settings, children) for plan in plans}


def apply_action(
    agent: NodeAgent, action: str, program: Path, options: Mapping[str, Any] | None = None
) -> None:
    """Do one of ACTIONS to a node.

    Args:
        agent: the node.
        action: what to do.
        program: the agent's, for `start`.
        options: of `break`, as `FaultRequest.parse` takes them.

    Raises:
        NodeError: the node is not in a state in which that can be done, no such action, or options
            are wrong.
    """
    if options and action != "break":
        raise NodeError(f"'{action}' takes no options; only 'break' does.")
    match action:
        case "kill":
            agent.kill()
        case "freeze":
            agent.freeze()
        case "stop":
            agent.stop()
        case "start":
            agent.start(program)
        case "break":
            agent.hardware.break_devices(FaultRequest.parse(options or {}))
        case "heal":
            agent.hardware.heal()
        case _:
            raise NodeError(f"'{action}' cannot be done to a node; use {', '.join(ACTIONS)}.")
