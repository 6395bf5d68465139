"""`sluice node`: does to an emulated node what may happen to a real one, and lets nodes back."""

import asyncio
from typing import Any

import click

from sluice.cli.kubeapi import call_api, find_kubeconfig, kubeconfig_option
from sluice.cli.output import name_option, output_option, print_result


@click.group()
def node() -> None:
    """Kill, freeze, stop and start emulated nodes; release any node from quarantine."""


@node.command()
@click.argument("node_name", metavar="NODE")
@name_option
@output_option
def kill(**options: Any) -> None:
    """Cut the power: the node's agent and all its pods die at once."""
    _act("kill", "killed: its agent and all its pods are gone", **options)


@node.command()
@click.argument("node_name", metavar="NODE")
@name_option
@output_option
def freeze(**options: Any) -> None:
    """Hang the machine: agent and pods stop, connections to them hang."""
    _act("freeze", "frozen: its agent and all its pods hang", **options)


@node.command()
@click.argument("node_name", metavar="NODE")
@name_option
@output_option
def stop(**options: Any) -> None:
    """Silence the node's agent; its pods serve on."""
    _act("stop", "stopped: its agent is silent, its pods serve on", **options)


@node.command()
@click.argument("node_name", metavar="NODE")
@name_option
@output_option
def start(**options: Any) -> None:
    """Undo kill, freeze or stop."""
    _act("start", "running", **options)


@node.command()
@click.argument("node_name", metavar="NODE")
@kubeconfig_option
@name_option
@output_option
def release(*, node_name: str, kubeconfig: str | None, name: str, output: str) -> None:
    """End a node's quarantine now, and forget how often it failed.

    Works on any cluster. A node that still fails is taken out again at once.
    """
    from sluice.model.names import ANNOTATION_HEALTH, ANNOTATION_RELEASE  # noqa: PLC0415

    live = asyncio.run(_ask_release(find_kubeconfig(kubeconfig, name), node_name))
    mark = live["metadata"].get("annotations", {}).get(ANNOTATION_HEALTH)
    told = f"It was out: {mark}" if mark else "It bore no mark of Sluice: nothing will change."
    text = f"The operator is asked to release {node_name} ({ANNOTATION_RELEASE}). {told}"
    print_result({"node": node_name, "mark": mark}, text, output=output)


async def _ask_release(kubeconfig: str, node_name: str) -> dict[str, Any]:
    from sluice.kube.paths import NODES  # noqa: PLC0415
    from sluice.model.names import ANNOTATION_RELEASE  # noqa: PLC0415

    return await call_api(
        kubeconfig,
        lambda client: client.request(
            "PATCH",
            NODES.path("", node_name),
            body={"metadata": {"annotations": {ANNOTATION_RELEASE: "yes"}}},
            content_type="application/merge-patch+json",
        ),
        doing="annotate the node",
        missing=f"No node '{node_name}'. 'kubectl get nodes' lists them.",
    )


def _act(action: str, outcome: str, *, node_name: str, name: str, output: str) -> None:
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415

    entry = find_cluster(name).act_on_node(node_name, action)
    print_result(entry, f"{node_name} is {outcome}.", output=output)
