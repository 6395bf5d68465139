"""`sluice model`: what is made once for a model, beside its weights."""

import subprocess
import sys
from pathlib import Path

import click

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.output import output_option


@click.group()
def model() -> None:
    """Record known answers of a model, beside its weights."""


@model.command()
@click.argument("directory", metavar="MODELDIR", type=click.Path(path_type=Path))
@click.option(
    "--count",
    default=4,
    show_default=True,
    type=click.IntRange(min=1, max=64),
    help="Known answers, at most.",
)
@output_option
def record(*, directory: Path, count: int, output: str) -> None:
    """Record known answers of a model into MODELDIR/probes.json.

    Workers that serve the model are asked for them; one that answers otherwise computes wrongly.
    Record on a machine that is known to be good. A worker reads the file when it starts.
    """
    # The engine is another program: it shares no code with this one.
    command = [sys.executable, "-m", "sluice_worker.record", f"--model={directory}"]
    command += [f"--count={count}", *(["--json"] if output == "json" else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        raise CommandError(f"Nothing was recorded: {said[-1]}.", ExitCode.FAILED)
    click.echo(ended.stdout, nl=False)
