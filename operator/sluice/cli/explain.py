"""`sluice explain POOL`: the last decisions of a pool, with the numbers behind them."""

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from sluice.cli.kubeapi import call_api, find_kubeconfig, kubeconfig_option
from sluice.cli.output import name_option, output_option, print_result


@click.command()
@click.argument("pool")
@click.option("--namespace", "-n", default="default", show_default=True, help="Where the pool is.")
@kubeconfig_option
@name_option
@output_option
def explain(*, pool: str, namespace: str, kubeconfig: str | None, name: str, output: str) -> None:
    """Tell what a pool decided lately, and why."""
    found = asyncio.run(_read_pool(find_kubeconfig(kubeconfig, name), namespace, pool))
    status = found.get("status", {})
    print_result(
        {"pool": f"{namespace}/{pool}", "status": status},
        describe_pool(f"{namespace}/{pool}", status),
        output=output,
    )


async def _read_pool(kubeconfig: str, namespace: str, pool: str) -> dict[str, Any]:
    from sluice.kube.paths import POOLS  # noqa: PLC0415

    return await call_api(
        kubeconfig,
        lambda client: client.get(POOLS, namespace, pool),
        doing="read the pool",
        missing=f"No InferencePool '{pool}' in namespace '{namespace}'. 'kubectl get ipool -A' "
        "lists them.",
    )


def describe_pool(key: str, status: Mapping[str, Any]) -> str:
    """Return the story of a pool: conditions, variants, then decisions, oldest first."""
    if not status:
        return f"{key}: the operator has not looked at it yet. Is it running?"
    lines = [f"{key}: {status.get('placement', '')}, ${status.get('costPerHour', '?')}/h"]
    if "attainment" in status:
        lines[0] += f", {status['attainment']} of requests inside the SLO"
    lines += ["", "conditions"]
    lines += [
        f"  {c['type']:15} {c['status']:8} {c['reason']}: {c['message']}"
        for c in status.get("conditions", ())
    ]
    lines += ["", "variants"]
    lines += [
        f"  {v['acceleratorClass']:15} wanted {v['wanted']}, ready {v['ready']}, serving"
        f" {v['serving']}, share {v['share']}, one worker carries {v.get('capacity', '?')}/s"
        for v in status.get("variants", ())
    ]
    decisions = status.get("decisions", ())
    lines += ["", "decisions, oldest first" if decisions else "no decisions yet"]
    lines += [f"  {d['time']}  {d['action']:13} {d['reason']}" for d in decisions]
    return "\n".join(lines)
