"""The control plane's processes, and what can be done to them: killed, frozen, started again.

Owned by the supervisor. A component that was killed is started with the arguments and the data that
it had; the others, the nodes and their pods run on meanwhile, as in a cluster whose API is away.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.devcluster.children import Child, Children
from sluice.devcluster.components import Command
from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import ClusterStartError, ComponentError

API_SERVER: Final = "kube-apiserver"
ACTIONS: Final = ("kill", "freeze", "start")

_REAP_SECONDS = 5.0
_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Component:
    """One program of the control plane, and the process that runs it or ran it last."""

    command: Command
    child: Child
    frozen: bool = False

    @property
    def state(self) -> str:
        """`running`, `frozen` or `ended`."""
        if not self.child.running:
            return "ended"
        return "frozen" if self.frozen else "running"

    def describe(self) -> dict[str, Any]:
        """Return its entry of the cluster's status."""
        child = self.child
        return {
            "name": self.command.name,
            "state": self.state,
            "pid": child.pid if child.running else None,
            "exitCode": child.exit_code,
            "log": str(child.log),
        }


class Components:
    """Everything of the control plane that was started, by name and in order."""

    def __init__(self, children: Children, state: StateDirectory) -> None:
        """Hold none yet; `children` starts them."""
        self._children = children
        self._state = state
        self._components: dict[str, Component] = {}

    @property
    def processes(self) -> list[Child]:
        """Return the process of each, running or not."""
        return [component.child for component in self._components.values()]

    @property
    def whole(self) -> bool:
        """Return whether all of them run."""
        return all(component.state == "running" for component in self._components.values())

    def describe(self) -> list[dict[str, Any]]:
        """Return their entries of the cluster's status."""
        return [component.describe() for component in self._components.values()]

    def start(self, command: Command) -> None:
        """Start a program for the first time.

        Raises:
            ClusterStartError: it cannot be executed.
        """
        self._components[command.name] = Component(command, self._run(command))

    async def act(self, name: str, action: str) -> dict[str, Any]:
        """Do one of `ACTIONS` to a component; return its entry of the status.

        `kill` returns when its process is gone; `start` as soon as there is one, long before it
        serves, and has a frozen one go on.

        Raises:
            ComponentError: there is none of that name, or it is not in a state in which that can be
                done.
        """
        component = self._components.get(name)
        if component is None:
            known = ", ".join(self._components) or "none"
            raise ComponentError(f"The cluster has no component '{name}'. Its components: {known}.")
        _check(component, action)
        if action == "kill":
            component.child.signal(signal.SIGKILL)
            await _wait_for_end(component.child)
            component.frozen = False
        elif action == "freeze":
            component.child.signal(signal.SIGSTOP)
            component.frozen = True
        elif component.frozen:
            component.child.signal(signal.SIGCONT)
            component.frozen = False
        else:
            component.child = self._run(component.command)
        return component.describe()

    def _run(self, command: Command) -> Child:
        try:
            return self._children.start(
                command.name,
                command.arguments,
                log=self._state.log_of(command.name),
                environment={**os.environ, **command.environment},
            )
        except OSError as error:
            raise ClusterStartError(
                f"{command.name} at {command.arguments[0]} cannot be executed: {error.strerror}."
            ) from error


_POSSIBLE: Final[dict[str, Sequence[str]]] = {
    "kill": ("running", "frozen"),
    "freeze": ("running",),
    "start": ("frozen", "ended"),
}
"""In which states a component can be acted on."""


def _check(component: Component, action: str) -> None:
    if action not in _POSSIBLE:
        raise ComponentError(
            f"Nothing called '{action}' can be done to a component. There are: "
            f"{', '.join(ACTIONS)}."
        )
    if component.state not in _POSSIBLE[action]:
        raise ComponentError(
            f"The component {component.command.name} is {component.state}; '{action}' is for one "
            f"that is {' or '.join(_POSSIBLE[action])}."
        )


async def _wait_for_end(child: Child) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REAP_SECONDS
    while child.running:
        if loop.time() >= deadline:
            raise ComponentError(f"{child.name} was killed and does not end.")
        await asyncio.sleep(_POLL_SECONDS)
