"""How long work is shown to whoever waits for it; implemented by the command line."""

from typing import Protocol


class Progress(Protocol):
    """Receives steps and how far they are."""

    def begin(self, text: str) -> None:
        """Begin another step, described in a few words."""

    def advance(self, done: int, total: int) -> None:
        """Say how much of the current step is done, in a unit of the step's own."""


class SilentProgress:
    """Shows nothing."""

    def begin(self, text: str) -> None:
        """Ignore the step."""

    def advance(self, done: int, total: int) -> None:
        """Ignore how far it is."""
