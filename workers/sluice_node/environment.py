"""The environment of a container, from its spec. Pure: config maps are fetched by the caller.

Nothing is inherited from the agent but the time zone and the language of messages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice_node.expansion import expand

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_INHERITED = ("TZ", "LANG", "LC_ALL")
_SUBSCRIPT = re.compile(r"^metadata\.(annotations|labels)\['(.+)'\]$")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What fieldRef can ask that the pod object may not say yet."""

    pod_ip: str
    host_ip: str


class ContainerConfigError(Exception):
    """A container cannot be configured as its spec says; the message says why."""


def resolve_field(pod: Mapping[str, Any], path: str, facts: PodFacts) -> str:
    """Return the value of a fieldRef.

    Raises:
        ContainerConfigError: No such field can be referred to.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    match = _SUBSCRIPT.match(path)
    if match is not None:
        return str((metadata.get(match.group(1)) or {}).get(match.group(2), ""))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": facts.pod_ip,
        "status.podIPs": facts.pod_ip,
        "status.hostIP": facts.host_ip,
        "status.hostIPs": facts.host_ip,
    }
    if path not in known:
        raise ContainerConfigError(f"the field '{path}' cannot be referred to on emulated nodes")
    return str(known[path])


def list_config_maps(container: Mapping[str, Any]) -> set[str]:
    """Return the names of the config maps a container's environment is made of."""
    names = {
        s["configMapRef"]["name"] for s in container.get("envFrom") or () if "configMapRef" in s
    }
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("configMapKeyRef")
        if reference:
            names.add(reference["name"])
    return names


def build_environment(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    facts: PodFacts,
    config_maps: Mapping[str, Mapping[str, str] | None],
) -> dict[str, str]:
    """Return what the spec says: envFrom, then env, expanded in order.

    Args:
        pod: The pod.
        container: One of its containers.
        facts: Where the pod is.
        config_maps: Data of `list_config_maps` by name; None for one that does not exist.

    Raises:
        ContainerConfigError: Something needed does not exist.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        reference = source["configMapRef"]
        data = config_maps.get(reference["name"])
        if data is None and not reference.get("optional"):
            raise ContainerConfigError(f'configmap "{reference["name"]}" not found')
        prefix = source.get("prefix", "")
        result.update({prefix + key: value for key, value in (data or {}).items()})
    for variable in container.get("env") or ():
        value = _resolve_variable(variable, pod, facts, config_maps, result)
        if value is not None:
            result[variable["name"]] = value
    return result


def _resolve_variable(
    variable: Mapping[str, Any],
    pod: Mapping[str, Any],
    facts: PodFacts,
    config_maps: Mapping[str, Mapping[str, str] | None],
    before: Mapping[str, str],
) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(variable.get("value", ""), before)
    if "fieldRef" in source:
        return resolve_field(pod, source["fieldRef"]["fieldPath"], facts)
    reference = source["configMapKeyRef"]
    name, key = reference["name"], reference["key"]
    data = config_maps.get(name)
    if data is not None and key in data:
        return data[key]
    if reference.get("optional"):
        return None
    if data is None:
        raise ContainerConfigError(f'configmap "{name}" not found')
    raise ContainerConfigError(f"couldn't find key {key} in ConfigMap {name}")


def complete_environment(
    declared: Mapping[str, str],
    *,
    base: Mapping[str, str],
    image_path: str,
    agent: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of a process.

    Args:
        declared: What the spec says; it wins.
        base: What the node gives every process of this container.
        image_path: Directories of the image's commands, divided by colons.
        agent: The agent's own environment, of which next to nothing is passed on.
    """
    inherited = {name: agent[name] for name in _INHERITED if name in agent}
    return {**inherited, "PATH": f"{image_path}:{_SYSTEM_PATH}", **base, **declared}
