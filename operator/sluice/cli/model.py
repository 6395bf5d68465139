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
@click.option(
    "--numerics",
    default="float32",
    show_default=True,
    help="What workers compute in that are asked for these answers; see docs/numerics.md.",
)
@output_option
def record(*, directory: Path, count: int, numerics: str, output: str) -> None:
    """Record known answers of a model into MODELDIR/probes.json.

    Those in other numerics than float32 go into MODELDIR/probes.NUMERICS.json.

    Workers that serve the model are asked for them; one that answers otherwise computes wrongly.
    Record on a machine that is known to be good. A worker reads the file when it starts.
    """
    # The engine is another program: it shares no code with this one.
    command = [sys.executable, "-m", "sluice_worker.record", f"--model={directory}"]
    command += [
        f"--count={count}",
        f"--numerics={numerics}",
        *(["--json"] if output == "json" else []),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        why = said[-1].removeprefix("Error: ").removesuffix(".")
        raise CommandError(f"Nothing was recorded: {why}.", ExitCode.FAILED)
    click.echo(ended.stdout, nl=False)
