"""`sluice gateway`: says where a cluster's gateway listens."""

from typing import Any

import click

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.output import name_option, output_option, print_result

NAMESPACE = "sluice-system"
SELECTOR = "app.kubernetes.io/name=sluice-gateway"
_PORT = 8080


@click.group()
def gateway() -> None:
    """Find the gateway of a cluster."""


@gateway.command()
@name_option
@output_option
def url(*, name: str, output: str) -> None:
    """Print the address of a gateway that is ready."""
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415
    from sluice.devcluster.kubernetes_api import list_objects  # noqa: PLC0415

    found = find_cluster(name)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    address = choose_address(list_objects(found.state, path, label_selector=SELECTOR))
    print_result({"url": address}, address, output=output)


def choose_address(pods: list[dict[str, Any]]) -> str:
    """Return the URL of the first Ready gateway pod, by name.

    Raises:
        CommandError: there is none; the message says how far the pods are.
    """
    if not pods:
        raise CommandError(
            f"No gateway is installed: the namespace {NAMESPACE} has no pod with the label "
            f"{SELECTOR}. Install Sluice with 'sluice cluster kubectl -- apply --server-side -k "
            "manifests/overlays/embedded'.",
            ExitCode.NOT_READY,
        )
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
    for pod in ordered:
        if is_ready(pod):
            return f"http://{pod['status']['podIP']}:{_PORT}"
    states = ", ".join(f"{pod['metadata']['name']} is {_describe(pod)}" for pod in ordered)
    raise CommandError(f"No gateway is ready yet: {states}.", ExitCode.NOT_READY)


def is_ready(pod: dict[str, Any]) -> bool:
    """Return whether a gateway's pod is Ready, not on its way out, and has an address."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"] and "podIP" in pod["status"]


def _describe(pod: dict[str, Any]) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "terminating"
    phase = str(pod.get("status", {}).get("phase", "Pending"))
    return "running but not ready" if phase == "Running" else phase.lower()
