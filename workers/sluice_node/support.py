"""What emulated nodes cannot do: said in the pod's status instead of being left out. Pure."""

from collections.abc import Mapping
from typing import Any

_VOLUMES = {"configMap", "emptyDir", "projected", "secret"}
_SOURCES = {"serviceAccountToken", "configMap", "downwardAPI"}


def find_unsupported(spec: Mapping[str, Any]) -> str | None:
    """Return a sentence about the first thing of a pod that an emulated node cannot do, or None."""
    if spec.get("initContainers"):
        return "Emulated nodes run no init containers."
    if spec.get("readinessGates"):
        return "Emulated nodes know no readiness gates."
    for volume in spec.get("volumes") or ():
        fault = _check_volume(volume)
        if fault is not None:
            return fault
    for container in spec["containers"]:
        fault = _check_container(container)
        if fault is not None:
            return fault
    return None


def _check_volume(volume: Mapping[str, Any]) -> str | None:
    name = volume["name"]
    kind = next((key for key in volume if key != "name"), "emptyDir")
    if kind not in _VOLUMES:
        return f"Volume '{name}' is of kind {kind}; emulated nodes know {_list(_VOLUMES)}."
    for source in (volume.get("projected") or {}).get("sources") or ():
        unknown = set(source) - _SOURCES
        if unknown:
            return (
                f"Volume '{name}' projects {_list(unknown)}; emulated nodes project "
                f"{_list(_SOURCES)}."
            )
    return None


def _check_container(container: Mapping[str, Any]) -> str | None:
    name = container["name"]
    if container.get("lifecycle"):
        return f"Container '{name}' has lifecycle hooks; emulated nodes run none."
    for mount in container.get("volumeMounts") or ():
        if mount.get("subPath") or mount.get("subPathExpr"):
            return f"Container '{name}' mounts a subPath; emulated nodes mount whole volumes."
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        unknown = set(source) - {"fieldRef", "configMapKeyRef"}
        if unknown:
            return (
                f"Variable {variable['name']} of container '{name}' comes from {_list(unknown)}; "
                "emulated nodes know literals, fieldRef and configMapKeyRef."
            )
    if any("secretRef" in source for source in container.get("envFrom") or ()):
        return f"Container '{name}' takes its environment from a Secret; mount it as a volume."
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(kind)
        if probe and not (probe.get("httpGet") or probe.get("tcpSocket")):
            return (
                f"The {kind} of container '{name}' is neither httpGet nor tcpSocket; emulated "
                "nodes run no others."
            )
    return None


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
