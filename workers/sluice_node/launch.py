"""Turns a container's spec into the command, environment and directories of a local process.

Called for every start of a container, because config maps may have changed.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_node.config import Image, NodeConfig
from sluice_node.environment import PodFacts, build_environment, complete_environment
from sluice_node.expansion import expand
from sluice_node.paths import PathMap
from sluice_node.processes import SpawnError
from sluice_node.volumes import PodVolumes


@dataclass(frozen=True, slots=True)
class Launch:
    """What to execute."""

    arguments: list[str]
    environment: dict[str, str]
    directory: Path


def prepare_launch(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    *,
    node: NodeConfig,
    image: Image,
    facts: PodFacts,
    volumes: PodVolumes,
    config_maps: Mapping[str, Mapping[str, str] | None],
    devices: str,
    device_sockets: Sequence[Path],
    directory: Path,
) -> Launch:
    """Return what to execute for a container.

    Args:
        pod: The pod.
        container: One of its containers.
        node: The node, for the way to the API server.
        image: What stands in for the container's image.
        facts: Where the pod is.
        volumes: The pod's volumes, prepared.
        config_maps: As `build_environment` takes them.
        devices: As `CapacityLedger.describe_devices` says it.
        device_sockets: Their sockets, in the order of `CapacityLedger.list_devices`.
        directory: The container's own; its home and its temporary files come to lie there.

    Raises:
        ContainerConfigError: The environment cannot be made.
        SpawnError: There is no command, or the image lacks it.
    """
    home, temporary = directory / "home", directory / "tmp"
    home.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    paths = PathMap({**image.rootfs, **volumes.map_mounts(container)})
    declared = build_environment(pod, container, facts, config_maps)
    base = {
        "HOSTNAME": pod["metadata"]["name"],
        "HOME": str(home),
        "TMPDIR": str(temporary),
        **_describe_devices(devices, device_sockets),
        **_describe_api_server(pod, node, volumes.find_token(container), directory),
    }
    environment = complete_environment(
        {name: paths.rewrite(value) for name, value in declared.items()},
        base=base,
        image_path=":".join(str(entry) for entry in image.path),
        agent=os.environ,
    )
    # HOME tells our processes from others after an agent was killed.
    environment["HOME"] = str(home)
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not container.get("command"):
        raise SpawnError(
            "no command specified: images of emulated nodes have no entrypoint, so the container "
            "must name its command"
        )
    arguments = [paths.rewrite_argument(expand(word, {**base, **declared})) for word in words]
    arguments[0] = _find_program(arguments[0], environment["PATH"], container["image"])
    working = container.get("workingDir")
    return Launch(arguments, environment, Path(paths.rewrite(working)) if working else home)


def _describe_devices(devices: str, sockets: Sequence[Path]) -> dict[str, str]:
    """Return the variables that a device plugin's Allocate would have injected."""
    if not devices:
        return {}
    paths = ",".join(str(path) for path in sockets)
    return {"SLUICE_DEVICES": devices, "SLUICE_DEVICE_SOCKETS": paths}


def _find_program(program: str, search: str, image: str) -> str:
    found = shutil.which(program, path=search)
    if found is None:
        raise SpawnError(f'exec: "{program}": no such program in the image {image}')
    return found


def _describe_api_server(
    pod: Mapping[str, Any], node: NodeConfig, token: Path | None, directory: Path
) -> dict[str, str]:
    """Write a kubeconfig around the pod's token; return the variables that lead to it."""
    if token is None:
        return {}
    server = node.api_server
    context = {
        "cluster": "cluster",
        "user": "serviceaccount",
        "namespace": pod["metadata"]["namespace"],
    }
    cluster = {
        "server": f"https://{server.host}:{server.port}",
        "certificate-authority": str(server.ca_file),
    }
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "serviceaccount", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "pod", "context": context}],
        "current-context": "pod",
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps(kubeconfig, indent=2))
    return {
        "KUBECONFIG": str(path),
        "KUBERNETES_SERVICE_HOST": server.host,
        "KUBERNETES_SERVICE_PORT": str(server.port),
    }
