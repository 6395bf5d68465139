"""What commands print: results on standard output, progress on standard error.

Results are JSON where `--output json` asks for it. Progress is a moving line on a terminal and
plain lines elsewhere.
"""

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

_PLAIN_LINE_SECONDS = 15.0

name_option: Callable[..., Any] = click.option(
    "--name", default="sluice", show_default=True, metavar="NAME", help="Which cluster."
)
output_option: Callable[..., Any] = click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people or for programs.",
)


def print_result(value: Any, text: str, *, output: str) -> None:
    """Print a result: the value as JSON, or the text."""
    click.echo(json.dumps(value, indent=2) if output == "json" else text)


class StepDisplay:
    """Shows steps as they come; implements the `Progress` of `sluice.devcluster.binaries`."""

    def __init__(self, console: Console | None = None) -> None:
        """Write to a console, by default standard error."""
        self._console = console or Console(stderr=True)
        # The thread that refreshes makes the clock of a silent step move.
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(ratio=1)),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._said_at = 0.0
        self._description = ""
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def begin(self, text: str) -> None:
        """Show another step."""
        self._description, self._said_at = text, time.monotonic()
        if self._console.is_terminal:
            self._progress.reset(self._task, description=text, total=None, visible=True)
        else:
            self._console.print(f"{text} …", highlight=False, soft_wrap=True)

    def advance(self, done: int, total: int) -> None:
        """Show how far the step is; a total of 0 is not known."""
        total = max(total, done)
        if self._console.is_terminal:
            self._progress.update(self._task, completed=done, total=total or None)
        elif total and time.monotonic() - self._said_at >= _PLAIN_LINE_SECONDS:
            self._said_at = time.monotonic()
            percent = f"{done / total:.0%}"
            self._console.print(f"{self._description}: {percent}", highlight=False, soft_wrap=True)
