"""`sluice node`: does to an emulated node what may happen to a real one; takes any out and back."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import click

from sluice.cli.kubeapi import call_api, find_kubeconfig, kubeconfig_option
from sluice.cli.output import name_option, output_option, print_result
from sluice_accel.faults import (
    DEFAULT_HELD,
    DEFAULT_PERIOD,
    DEFAULT_RATE,
    DEFAULT_SLOWDOWN,
    FaultKind,
)


@click.group()
def node() -> None:
    """Kill, freeze, stop, start, break and heal emulated nodes; quarantine and release any."""


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


def _parse_device(_: click.Context, __: click.Parameter, text: str) -> int | str:
    """Return a device's number, or `all`."""
    if text == "all":
        return text
    if not (text.isascii() and text.isdigit()):
        raise click.BadParameter(f"'{text}' is neither a device's number nor 'all'.")
    return int(text)


@node.command(name="break")
@click.argument("node_name", metavar="NODE")
@click.option(
    "--fault",
    type=click.Choice([str(kind) for kind in FaultKind]),
    required=True,
    help="What goes wrong: off-bus and ecc are logged by the driver, throttle shows in clocks and "
    "latency, hang and corruption in nothing but tokens; crash ends the process once, "
    "out-of-memory one that allocates; slow-start delays the next start, and cooling lets a device "
    "heat up under load.",
)
@click.option(
    "--device",
    callback=_parse_device,
    metavar="N|all",
    default="0",
    show_default=True,
    help="Which device.",
)
@click.option(
    "--rate", type=float, help=f"Share of wrong values, for corruption.  [default: {DEFAULT_RATE}]"
)
@click.option(
    "--slowdown",
    type=float,
    help="Times as long a step takes, for throttle, or loading, for slow-start."
    f"  [default: {DEFAULT_SLOWDOWN}]",
)
@click.option(
    "--held",
    type=float,
    help="Share of the memory that something else holds, for out-of-memory."
    f"  [default: {DEFAULT_HELD}]",
)
@click.option("--seed", type=int, help="Of all chance in it.  [default: 0]")
@click.option("--after", type=float, metavar="SECONDS", help="When it comes.  [default: now]")
@click.option(
    "--probability",
    type=float,
    help="Chance that it is there in each period; off-bus and ecc stay once they came."
    "  [default: 1]",
)
@click.option(
    "--period",
    type=float,
    metavar="SECONDS",
    help=f"How long one draw of chance holds.  [default: {DEFAULT_PERIOD:g}]",
)
@click.option(
    "--repair-after",
    "repairAfter",  # the names of the request
    type=float,
    metavar="SECONDS",
    help="Repair it by itself, so long after it came.  [default: never]",
)
@click.option(
    "--time-compression",
    "timeCompression",
    type=float,
    help="Divides --repair-after, nothing else.  [default: 1]",
)
@name_option
@output_option
def break_(
    *,
    fault: str,
    device: int | str,
    node_name: str,
    name: str,
    output: str,
    **numbers: float | None,
) -> None:
    """Break a device of the node; its agent and its pods go on.

    The fault stays until 'sluice node heal' or its repair, whatever happens to the agent. Another
    fault of the same kind replaces it. A crash ends the processes that use the device when it
    comes, and is over then.
    """
    given: dict[str, Any] = {"fault": fault, "device": device}
    given |= {option: number for option, number in numbers.items() if number is not None}
    which = "all its devices have" if device == "all" else f"its device {device} has"
    entry = _ask("break", given, node_name=node_name, name=name)
    there = [one for one in entry.get("faults", ()) if device in ("all", one["device"])]
    made: dict[str, Any] = next((one for one in there if one["fault"] == fault), {})
    text = (
        f"{node_name} is broken: {which} the fault '{fault}'{_describe_numbers(made)}"
        f"{_describe_schedule(numbers)}."
    )
    others = [
        f"'{one['fault']}'{_describe_numbers(one)} on device {one['device']}"
        f"{'' if one.get('present', True) else ', not there now'}"
        for one in there
        if one["fault"] != fault
    ]
    text += f" Broken before, and still: {'; '.join(others)}." if others else ""
    print_result(entry, text, output=output)


def _describe_numbers(fault: Mapping[str, Any]) -> str:
    """Return the numbers that a fault of the node's entry has of its own."""
    own = [f"{key} {fault[key]:g}" for key in ("rate", "slowdown", "held") if key in fault]
    return f" ({', '.join(own)})" if own else ""


def _describe_schedule(numbers: Mapping[str, float | None]) -> str:
    """Return when it will be there, as far as it is not simply there from now on."""
    after, chance, repair = (numbers.get(key) for key in ("after", "probability", "repairAfter"))
    told = f" in {after:g} s" if after else ""
    if chance is not None and chance < 1:
        told += f", with probability {chance:g} each {numbers.get('period') or DEFAULT_PERIOD:g} s"
    if repair is not None:
        compression = numbers.get("timeCompression") or 1
        told += f", until it is repaired {repair / compression:g} s later"
        if compression != 1:
            told += f" ({repair:g} s, compressed {compression:g} times)"
    return told


@node.command()
@click.argument("node_name", metavar="NODE")
@name_option
@output_option
def heal(**options: Any) -> None:
    """Repair all devices of the node: every fault is gone."""
    _act("heal", "healed: its devices have no fault", **options)


@node.command()
@click.argument("node_name", metavar="NODE")
@click.option("--reason", default="", help="Why; stands in the node's mark and in its pools.")
@kubeconfig_option
@name_option
@output_option
def quarantine(
    *, node_name: str, reason: str, kubeconfig: str | None, name: str, output: str
) -> None:
    """Take a node out until it is released: its workers finish their streams and go.

    Works on any cluster. Other classes take over what it carried.
    """
    from sluice.model.names import ANNOTATION_QUARANTINE, ANNOTATION_RELEASE  # noqa: PLC0415

    wanted = {ANNOTATION_QUARANTINE: reason, ANNOTATION_RELEASE: None}
    asyncio.run(_annotate(find_kubeconfig(kubeconfig, name), node_name, wanted))
    text = (
        f"The operator is asked to take {node_name} out ({ANNOTATION_QUARANTINE}), until 'sluice"
        f" node release {node_name}'."
    )
    print_result({"node": node_name, "reason": reason}, text, output=output)


@node.command()
@click.argument("node_name", metavar="NODE")
@kubeconfig_option
@name_option
@output_option
def release(*, node_name: str, kubeconfig: str | None, name: str, output: str) -> None:
    """Let a node prove itself now, also a latched one, and forget how often it failed.

    Works on any cluster. Its devices are asked for known answers at once; once they are right the
    node is back, and its share of the traffic climbs.
    """
    from sluice.cli.stories import describe_release  # noqa: PLC0415
    from sluice.model.names import (  # noqa: PLC0415
        ANNOTATION_HEALTH,
        ANNOTATION_QUARANTINE,
        ANNOTATION_RELEASE,
    )

    wanted = {ANNOTATION_QUARANTINE: None, ANNOTATION_RELEASE: "yes"}
    live = asyncio.run(_annotate(find_kubeconfig(kubeconfig, name), node_name, wanted))
    mark = live["metadata"].get("annotations", {}).get(ANNOTATION_HEALTH)
    told = describe_release(node_name, mark, time.time())
    text = f"The operator is asked to release {node_name} ({ANNOTATION_RELEASE}). {told}"
    print_result({"node": node_name, "mark": mark}, text, output=output)


async def _annotate(
    kubeconfig: str, node_name: str, annotations: dict[str, str | None]
) -> dict[str, Any]:
    from sluice.kube.paths import NODES  # noqa: PLC0415

    return await call_api(
        kubeconfig,
        lambda client: client.request(
            "PATCH",
            NODES.path("", node_name),
            body={"metadata": {"annotations": annotations}},
            content_type="application/merge-patch+json",
        ),
        doing="annotate the node",
        missing=f"No node '{node_name}'. 'kubectl get nodes' lists them.",
    )


def _act(action: str, outcome: str, *, node_name: str, name: str, output: str) -> None:
    entry = _ask(action, {}, node_name=node_name, name=name)
    print_result(entry, f"{node_name} is {outcome}.", output=output)


def _ask(action: str, given: Mapping[str, Any], *, node_name: str, name: str) -> dict[str, Any]:
    from sluice.devcluster.cluster import find_cluster  # noqa: PLC0415

    return find_cluster(name).act_on_node(node_name, action, **given)
