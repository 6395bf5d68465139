"""The status of a pod, from what its containers do. Pure; sent by `statuswriter`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from sluice_node.timestamps import format_time, parse_time


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that does not run yet, or not again yet."""

    reason: str
    message: str = ""

    def render(self) -> dict[str, Any]:
        """Return a ContainerState."""
        return {"waiting": _drop_empty({"reason": self.reason, "message": self.message})}


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs since a time (seconds since 1970)."""

    started_at: float

    def render(self) -> dict[str, Any]:
        """Return a ContainerState."""
        return {"running": {"startedAt": format_time(self.started_at)}}


@dataclass(frozen=True, slots=True)
class Terminated:
    """A container that ended."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    message: str = ""
    container_id: str = ""

    def render(self) -> dict[str, Any]:
        """Return a ContainerState."""
        fields: dict[str, Any] = {
            "exitCode": self.exit_code,
            "reason": self.reason,
            "message": self.message,
            "startedAt": format_time(self.started_at),
            "finishedAt": format_time(self.finished_at),
            "containerID": self.container_id,
        }
        return {"terminated": {k: v for k, v in fields.items() if v != ""}}

    @classmethod
    def parse(cls, state: Mapping[str, Any]) -> Self:
        """Read what `render` made, from under its key."""
        return cls(
            exit_code=int(state["exitCode"]),
            reason=state.get("reason", ""),
            started_at=parse_time(state["startedAt"]) if state.get("startedAt") else 0.0,
            finished_at=parse_time(state["finishedAt"]) if state.get("finishedAt") else 0.0,
            message=state.get("message", ""),
            container_id=state.get("containerID", ""),
        )


State = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container at one moment."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    ready: bool = False
    started: bool = False
    restarts: int = 0
    container_id: str = ""
    image_known: bool = True


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod at one moment. `failure` (reason, message) is set for a pod refused at the door."""

    restart_policy: str
    containers: tuple[ContainerView, ...]
    pod_ip: str
    host_ip: str
    started_at: float
    generation: int
    failure: tuple[str, str] | None = None
    ended: bool = False
    """All containers are down for good, whatever the restart policy (the pod is being deleted)."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """The status sent or seen last; transition times are kept from it."""


def decide_phase(view: PodView) -> str:
    """Return Pending, Running, Succeeded or Failed."""
    if view.failure is not None:
        return "Failed"
    states = [container.state for container in view.containers]
    over = [state for state in states if isinstance(state, Terminated)]
    if len(over) == len(states):
        codes = [state.exit_code for state in over]
        if view.ended or view.restart_policy == "Never":
            return "Failed" if any(codes) else "Succeeded"
        if view.restart_policy == "OnFailure" and not any(codes):
            return "Succeeded"
        return "Running"
    begun = (c.last is not None or not isinstance(c.state, Waiting) for c in view.containers)
    return "Running" if all(begun) else "Pending"


def render_status(view: PodView, now: float) -> dict[str, Any]:
    """Return the PodStatus."""
    phase = decide_phase(view)
    status: dict[str, Any] = {
        "phase": phase,
        "observedGeneration": view.generation,
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "startTime": format_time(view.started_at),
        "reason": None,
        "message": None,
    }
    if view.failure is not None:
        status["reason"], status["message"] = view.failure
        return status
    status["conditions"] = _render_conditions(view, phase, now)
    status["containerStatuses"] = [_render_container(c) for c in view.containers]
    if view.pod_ip:
        status["podIP"] = view.pod_ip
        status["podIPs"] = [{"ip": view.pod_ip}]
    return status


def _render_conditions(view: PodView, phase: str, now: float) -> list[dict[str, Any]]:
    unready = [container.name for container in view.containers if not container.ready]
    if phase == "Succeeded":
        ready = ("False", "PodCompleted", "")
    elif phase == "Failed":
        ready = ("False", "PodFailed", "")
    elif unready:
        names = " ".join(unready)
        ready = ("False", "ContainersNotReady", f"containers with unready status: [{names}]")
    else:
        ready = ("True", "", "")
    completed = "PodCompleted" if phase == "Succeeded" else ""
    states = {
        "PodReadyToStartContainers": (
            "True" if view.pod_ip and not view.ended else "False",
            "",
            "",
        ),
        "Initialized": ("True", completed, ""),
        "Ready": ready,
        "ContainersReady": ready,
        "PodScheduled": ("True", "", ""),
    }
    before = {item["type"]: item for item in view.before.get("conditions") or ()}
    conditions = []
    for kind, (status, reason, message) in states.items():
        old = before.get(kind)
        kept = old is not None and old["status"] == status and old.get("lastTransitionTime")
        condition = {
            "type": kind,
            "status": status,
            "lastTransitionTime": kept or format_time(now),
            "observedGeneration": view.generation,
        }
        # In a strategic merge patch only null takes away what an earlier status said.
        conditions.append({**condition, "reason": reason or None, "message": message or None})
    return conditions


def _render_container(container: ContainerView) -> dict[str, Any]:
    last = {} if container.last is None else container.last.render()
    return {
        "name": container.name,
        "image": container.image,
        "imageID": f"local-process://{container.image}" if container.image_known else "",
        **_drop_empty({"containerID": container.container_id}),
        "state": container.state.render(),
        "lastState": last,
        "ready": container.ready,
        "started": container.started,
        "restartCount": container.restarts,
    }


def is_reported(status: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    """Say whether the API server already shows what we would send, as far as we decide it.

    Times and texts are not compared: they never change alone.
    """
    if any(status.get(key) != observed.get(key) for key in ("phase", "podIP", "startTime")):
        return False
    shown = {item["type"]: item["status"] for item in observed.get("conditions") or ()}
    if any(shown.get(item["type"]) != item["status"] for item in status.get("conditions") or ()):
        return False
    ours, theirs = (_summarise(s.get("containerStatuses") or ()) for s in (status, observed))
    return ours == theirs


def _summarise(containers: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("name", "ready", "started", "restartCount")
    return [
        (*(c.get(key) for key in keys), *sorted(c.get("state") or {}))
        for c in sorted(containers, key=lambda c: str(c["name"]))
    ]


def _drop_empty(fields: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in fields.items() if value}
