"""`sluice demo [--keep] [--json FILE]`: sets everything up, plays the story, reports, cleans up."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import click

from sluice.cli.demo.survival import find_fault
from sluice.cli.errors import CommandError, ExitCode

MANIFESTS = Path("manifests")


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running and say what to try next.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the numbers here."
)
@click.option("--name", default="demo", show_default=True, help="Name of the cluster to start.")
def demo(*, keep: bool, json_file: Path | None, name: str) -> None:
    """Show scaling, failover under a stream, a gated return, a corruption that is caught.

    Starts a cluster of its own, and removes it.
    """
    from sluice.cli.output import StepDisplay  # noqa: PLC0415
    from sluice.devcluster.binaries.resolution import Sources, resolve_binaries  # noqa: PLC0415
    from sluice.devcluster.cluster import start_cluster  # noqa: PLC0415
    from sluice.devcluster.images import find_models  # noqa: PLC0415
    from sluice.devcluster.shape import ClusterShape  # noqa: PLC0415

    models = find_models()
    if models is None or not MANIFESTS.is_dir():
        raise CommandError("Run the demo from a checkout of Sluice: it applies ./manifests.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise CommandError(f"--json {json_file}: there is no directory {json_file.parent}.")
    try:
        import openai  # noqa: F401, PLC0415
    except ImportError as error:
        raise CommandError(
            "The demo speaks through the openai client: pip install openai."
        ) from error
    from sluice.cli.demo.parity import measure_parity, tell_parity  # noqa: PLC0415
    from sluice.cli.demo.play import READY_SECONDS, install, play  # noqa: PLC0415
    from sluice.cli.demo.report import format_report  # noqa: PLC0415

    with StepDisplay() as display:
        programs = resolve_binaries(Sources(), display)
        cluster = start_cluster(
            name,
            shape=ClusterShape(maia=2, gpu=2, system=1),
            binaries=programs,
            on_step=display.begin,
        )
    try:
        install(cluster, programs, time.monotonic() + READY_SECONDS)
        found = asyncio.run(play(cluster, programs, models))
        click.echo(format_report(found))
        # After the load: it takes a core for some time, and steps would come too late.
        found["parity"] = measure_parity(models, found["numerics"])
        click.echo(f"\n{tell_parity(found['parity'])}")
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=2) + "\n")
        if keep:
            cluster.detach()
            click.echo(_suggest(name))
    finally:
        if not keep or cluster.supervisor is not None:
            cluster.stop()
    judge(found)


def judge(found: dict[str, Any]) -> None:
    """End with the code that the numbers deserve."""
    if not found["valid"]:
        raise CommandError(
            f"The run is invalid: {100 * found['overrun_share']:.1f} % of the steps took longer to"
            " compute than the emulated device would. Run it again on a machine that is idle.",
            ExitCode.INVALID_RUN,
        )
    wrong = [
        text
        for text, bad in (
            ("the pool did not fall back", not found["fell_back"]),
            ("the pool did not return", not found["returned"]),
            (f"{found['wrong_answers']} answers were wrong", found["wrong_answers"] > 0),
            (
                f"{found['unjudged_answers']} answers came from a class that nobody knew",
                found["unjudged_answers"] > 0,
            ),
            ("the pool did not spill", not found["spilled"]),
            ("the node came back without a ramp", not found["ramp_steps"]),
            (find_fault(found["survival"]), bool(find_fault(found["survival"]))),
            ("the corruption was not caught", _lacks(found, "caught_s")),
            ("the repaired node did not come back", _lacks(found, "returned_s")),
        )
        if bad
    ]
    if wrong:
        raise CommandError(f"The demo failed: {'; '.join(wrong)}.")


def _lacks(found: dict[str, Any], key: str) -> bool:
    return any(one[key] is None for one in found["corruptions"])


def _suggest(name: str) -> str:
    flag = f"--name {name}"
    return f"""
Everything is still running. Try:
  export KUBECONFIG=$(sluice cluster kubeconfig {flag})
  kubectl get ipool,accel,nodes,pods
  kubectl describe ipool chat
  kubectl explain ipool.spec.variants
  sluice explain chat
  sluice explain maia-0
  sluice node break maia-1 --fault off-bus {flag}
  sluice node heal maia-1 {flag}
  curl $(sluice gateway url {flag})/v1/models
  sluice cluster down {flag}"""
