"""The Node as the agent describes it to the API server. Pure; sent by `registration`."""

import platform
from typing import Any

from sluice_node.config import NodeConfig
from sluice_node.devicehealth import CONDITION, DeviceReport
from sluice_node.quantities import parse_quantity
from sluice_node.timestamps import format_micro_time, format_time

LEASE_SECONDS = 40
"""leaseDurationSeconds of a kubelet's Lease (its default)."""

_VERSION = "v1.36.3-sluice"
_PRESSURES = {
    "MemoryPressure": ("KubeletHasSufficientMemory", "emulated node: memory is not measured"),
    "DiskPressure": ("KubeletHasNoDiskPressure", "emulated node: disks are not measured"),
    "PIDPressure": ("KubeletHasSufficientPID", "emulated node: processes are not counted"),
}


def describe_node(config: NodeConfig) -> dict[str, Any]:
    """Return the Node to register: labels and taints, no status yet."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": config.name, "labels": merge_labels(config)},
        "spec": {"taints": [taint.model_dump() for taint in config.taints]},
    }


def merge_labels(config: NodeConfig) -> dict[str, str]:
    """Return the configured labels and those that every node has."""
    return {
        "kubernetes.io/hostname": config.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": find_architecture(),
        **config.labels,
    }


def find_architecture() -> str:
    """Return this machine's architecture as Go spells it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def describe_status(
    config: NodeConfig,
    devices: DeviceReport,
    *,
    boot: str,
    now: float,
    observed: dict[str, Any],
) -> dict[str, Any]:
    """Return the status of a node whose agent runs.

    Args:
        config: The node.
        devices: The health of its devices.
        boot: Identity of this run of the agent.
        now: Seconds since 1970.
        observed: The Node's present status; transition times are kept from it.
    """
    before = {condition["type"]: condition for condition in observed.get("conditions") or []}
    conditions = [
        _describe_condition(before.get(kind), kind, "False", *why, now)
        for kind, why in _PRESSURES.items()
    ]
    conditions.append(
        _describe_condition(
            before.get("Ready"), "Ready", "True", "KubeletReady", "emulated node is running", now
        )
    )
    if devices.devices:
        healthy = "True" if devices.healthy else "False"
        why = (devices.reason, devices.message)
        conditions.append(_describe_condition(before.get(CONDITION), CONDITION, healthy, *why, now))
    return {
        "capacity": dict(config.capacity),
        "allocatable": _describe_allocatable(config, devices),
        "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": str(config.address)},
            {"type": "Hostname", "address": config.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.kubelet.port}},
        "nodeInfo": {
            "machineID": config.name,
            "systemUUID": config.name,
            "bootID": boot,
            "kernelVersion": platform.release(),
            "osImage": "emulated by Sluice",
            "containerRuntimeVersion": "local-process://0.1.0",
            "kubeletVersion": _VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": find_architecture(),
        },
    }


def _describe_allocatable(config: NodeConfig, devices: DeviceReport) -> dict[str, str]:
    """Leave out unhealthy devices, as the kubelet does with those of a device plugin."""
    allocatable = dict(config.capacity)
    for resource, _ in devices.unhealthy:
        allocatable[resource] = str(int(parse_quantity(allocatable[resource])) - 1)
    return allocatable


def _describe_condition(
    before: dict[str, Any] | None, kind: str, status: str, reason: str, message: str, now: float
) -> dict[str, Any]:
    stamp = format_time(now)
    same = before is not None and before["status"] == status
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else stamp,
    }


def needs_status(wanted: dict[str, Any], observed: dict[str, Any]) -> bool:
    """Say whether the API server's status of the node differs in more than heartbeat times."""
    plain = ("capacity", "allocatable", "addresses", "daemonEndpoints")
    if any(wanted[field] != observed.get(field) for field in plain):
        return True
    if wanted["nodeInfo"]["bootID"] != (observed.get("nodeInfo") or {}).get("bootID"):
        return True
    present = {item["type"]: _read_verdict(item) for item in observed.get("conditions") or []}
    return any(present.get(item["type"]) != _read_verdict(item) for item in wanted["conditions"])


def _read_verdict(condition: dict[str, Any]) -> tuple[str, ...]:
    return tuple(condition.get(field, "") for field in ("status", "reason", "message"))


def describe_lease(config: NodeConfig, node_uid: str, now: float) -> dict[str, Any]:
    """Return the Lease by which the control plane sees that the node lives."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": config.name,
            "namespace": "kube-node-lease",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": config.name, "uid": node_uid}
            ],
        },
        "spec": {
            "holderIdentity": config.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": format_micro_time(now),
        },
    }
