"""`sluice node`: does to an emulated node what may happen to a real one."""

from typing import Any

import click

from sluice.cli.output import name_option, output_option, print_result


@click.group()
def node() -> None:
    """Kill, freeze, stop and start emulated nodes."""


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


def _act(action: str, outcome: str, *, node_name: str, name: str, output: str) -> None:
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415

    entry = find_cluster(name).act_on_node(node_name, action)
    print_result(entry, f"{node_name} is {outcome}.", output=output)
