"""`sluice demo [--keep] [--json FILE]`: sets everything up, plays the story, reports, cleans up."""

import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from sluice.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from sluice.cli.demo.fleet import Fleet
    from sluice.cli.demo.load import Load
    from sluice.devcluster.binaries.programs import Binaries
    from sluice.devcluster.cluster import Cluster

QUESTIONS = 24
MANIFESTS = Path("manifests")
READY_SECONDS = 90.0
PLAIN_LINE_EVERY = 5.0


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running and say what to try next.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the numbers here."
)
@click.option("--name", default="demo", show_default=True, help="Name of the cluster to start.")
def demo(*, keep: bool, json_file: Path | None, name: str) -> None:
    """Show scaling, spill, failover and return.

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
    try:
        import openai  # noqa: F401, PLC0415
    except ImportError as error:
        raise CommandError(
            "The demo speaks through the openai client: pip install openai."
        ) from error
    with StepDisplay() as display:
        programs = resolve_binaries(Sources(), display)
        cluster = start_cluster(
            name,
            shape=ClusterShape(maia=2, gpu=2, system=1),
            binaries=programs,
            on_step=display.begin,
        )
    try:
        found = asyncio.run(_play(cluster, programs, models))
        from sluice.cli.demo.report import format_report  # noqa: PLC0415

        click.echo(format_report(found))
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=2) + "\n")
        if keep:
            cluster.detach()
            click.echo(_suggest(name))
    finally:
        if not keep or cluster.supervisor is not None:
            cluster.stop()
    _judge(found)


def _judge(found: dict[str, Any]) -> None:
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
            ("the pool did not spill", not found["spilled"]),
        )
        if bad
    ]
    if wrong:
        raise CommandError(f"The demo failed: {'; '.join(wrong)}.")


def _suggest(name: str) -> str:
    flag = f"--name {name}"
    return f"""
Everything is still running. Try:
  export KUBECONFIG=$(sluice cluster kubeconfig {flag})
  kubectl get ipool,accel,nodes,pods
  kubectl describe ipool chat
  kubectl explain ipool.spec.variants
  sluice explain chat
  sluice node freeze maia-1 {flag}
  curl $(sluice gateway url {flag})/v1/models
  sluice cluster down {flag}"""


def kubectl(cluster: "Cluster", programs: "Binaries", *arguments: str) -> str:
    """Run kubectl on the cluster and return what it printed.

    Raises:
        CommandError: it failed; the message is its own.
    """
    done = subprocess.run(
        [str(programs.kubectl), "--kubeconfig", str(cluster.kubeconfig), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise CommandError(f"kubectl {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
    return done.stdout


async def _play(cluster: "Cluster", programs: "Binaries", models: Path) -> dict[str, Any]:
    import aiohttp  # noqa: PLC0415

    from sluice.cli.demo.fleet import Fleet  # noqa: PLC0415
    from sluice.kube.client import KubeClient  # noqa: PLC0415

    def say(text: str) -> None:
        click.echo(f"— {text}", err=True)

    say("installing Sluice from manifests/overlays/embedded, then classes and a pool")
    await asyncio.to_thread(install, cluster, programs, time.monotonic() + READY_SECONDS)
    client = KubeClient(str(cluster.kubeconfig))
    try:
        async with aiohttp.ClientSession() as session:
            fleet = Fleet(client, session, "default", "chat")
            return await _play_story(cluster, programs, models, fleet, say)
    finally:
        await client.close()


def install(cluster: "Cluster", programs: "Binaries", deadline: float) -> None:
    """Apply Sluice, then the samples; give up at `deadline` (monotonic seconds)."""
    for path in ("manifests/overlays/embedded", "manifests/samples"):
        _apply(cluster, programs, path, deadline)


def _apply(cluster: "Cluster", programs: "Binaries", path: str, deadline: float) -> None:
    """Apply a directory; custom resources may have to wait until their kinds are established."""
    while True:
        try:
            kubectl(cluster, programs, "apply", "--server-side", "-k", path)
        except CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


async def _play_story(
    cluster: "Cluster", programs: "Binaries", models: Path, fleet: "Fleet", say: Any
) -> dict[str, Any]:
    from openai import AsyncOpenAI  # noqa: PLC0415

    from sluice.cli.demo.load import Load  # noqa: PLC0415
    from sluice.cli.demo.prompts import (  # noqa: PLC0415
        draw_requests,
        list_gaps,
        load_questions,
        load_trace,
    )
    from sluice.cli.demo.report import describe_run  # noqa: PLC0415
    from sluice.cli.demo.story import Story  # noqa: PLC0415

    questions, trace = load_questions(models, QUESTIONS), load_trace()
    spec = json.loads(kubectl(cluster, programs, "get", "ipool", "chat", "-o", "json"))["spec"]
    requests = draw_requests(trace, questions, spec["model"]["emulation"]["tokenScale"])
    story = Story(
        fleet, Load(None, "compact", requests, list_gaps(trace)), cluster.act_on_node, say
    )
    say("waiting for the first worker")
    if not await story.until(lambda v: v.conditions.get("Ready") == "True", READY_SECONDS):
        raise CommandError(
            f"The pool did not become ready: {fleet.view.reason}: {fleet.view.message}"
        )
    from sluice.cli.gateway import choose_address  # noqa: PLC0415

    pods = kubectl(
        cluster,
        programs,
        "-n",
        "sluice-system",
        "get",
        "pods",
        "-o",
        "json",
        "-l",
        "app.kubernetes.io/name=sluice-gateway",
    )
    address = choose_address(json.loads(pods)["items"])
    story.load.client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    say(f"calibrating: {len(questions)} questions undisturbed, their answers are the references")
    calibration = await story.load.calibrate(questions)
    broken = [one.error for one in calibration if one.error]
    if broken:
        raise CommandError(f"Calibration failed: {broken[0]}")
    sending = asyncio.create_task(story.load.run())
    showing = asyncio.create_task(_show(fleet, story.load))
    try:
        await story.climb()
        await story.kill_and_return()
        say("lowering the load")
        story.load.rate = 1.0
        await asyncio.sleep(10)
    finally:
        story.load.rate = 0.0
        sending.cancel()
        showing.cancel()
        await asyncio.gather(sending, showing, return_exceptions=True)
        await story.load.client.close()
    log = kubectl(
        cluster, programs, "-n", "sluice-system", "logs", "deploy/sluice-gateway", "--tail=-1"
    )
    return describe_run(story, story.load, fleet, calibration, log.splitlines())


async def _show(fleet: "Fleet", load: "Load") -> None:
    """Show how traffic and workers move: a live table on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        while True:
            console.print(_line(fleet, load), highlight=False, soft_wrap=True)
            await asyncio.sleep(PLAIN_LINE_EVERY)
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while True:
            live.update(_table(fleet, load))
            await asyncio.sleep(0.5)


def _line(fleet: "Fleet", load: "Load") -> str:
    recent = load.recent(10)
    failed = sum(bool(one.error) for one in load.outcomes)
    view = fleet.view
    return (
        f"  {load.rate:.1f}/s | {view.placement} | attainment {view.attainment or '-'}"
        f" | ${view.cost}/h | {view.reason}"
        f" | sent {len(load.outcomes)} (last 10 s {len(recent)}), failed {failed}"
    )


def _table(fleet: "Fleet", load: "Load") -> Table:
    table = Table(title=f"{_line(fleet, load).strip()}\n(emulated devices)", title_justify="left")
    for column in ("node", "quarantine", "workers"):
        table.add_column(column)
    for node in sorted({*fleet.workers, *fleet.tainted}):
        mark = "tainted" if node in fleet.tainted else ""
        table.add_row(node, mark, ", ".join(fleet.workers.get(node, ())))
    return table
