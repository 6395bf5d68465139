"""Entry point of `sluice`: a table of commands, each imported only when it is used.

To add a command, write a module with a click command in it and a line in COMMANDS.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

import click

from sluice.cli.errors import ExitCode, run_command


class LazyCommand(NamedTuple):
    """Where a command lives, and its line in the help."""

    module: str
    attribute: str
    summary: str


COMMANDS: Mapping[str, LazyCommand] = {
    "cluster": LazyCommand(
        "sluice.cli.cluster", "cluster", "Start, use and stop embedded Kubernetes clusters."
    ),
    "node": LazyCommand(
        "sluice.cli.node", "node", "Kill, freeze, stop, start, break and heal emulated nodes."
    ),
    "gateway": LazyCommand(
        "sluice.cli.gateway", "gateway", "Find the gateway of a cluster, make API keys for it."
    ),
    "demo": LazyCommand(
        "sluice.cli.demo.command",
        "demo",
        "Show scaling, failover under a stream, a gated return, a corruption that is caught.",
    ),
    "model": LazyCommand("sluice.cli.model", "model", "Record known answers of a model."),
    "parity": LazyCommand(
        "sluice.cli.parity",
        "parity",
        "Compare what two accelerator classes make of a model, and each with float32.",
    ),
    "explain": LazyCommand(
        "sluice.cli.explain", "explain", "Tell what a pool or a node went through, and why."
    ),
    "route": LazyCommand(
        "sluice.cli.route", "route", "Tell why a request went to the worker that it went to."
    ),
    "recording": LazyCommand(
        "sluice.cli.replay",
        "recording",
        "Save passes of the operator: the last 200, or all since some time.",
    ),
    "replay": LazyCommand(
        "sluice.cli.replay", "replay", "Plan recorded passes again, and compare bit for bit."
    ),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and for `--help` none at all."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        del ctx
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def _describe_exit_codes() -> str:
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
    return f"Exit codes: {codes}."


@click.group(
    cls=LazyGroup,
    epilog=_describe_exit_codes(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="sluice")
def sluice() -> None:
    """Keep LLM inference inside its SLO on clusters with several kinds of accelerator."""


def main() -> None:
    """Run `sluice` and end the process with its exit code."""
    sys.exit(run_command(sluice))
