"""Paths a container believes in, turned into real ones of this machine. Pure.

A local process has no mount namespace: what a manifest says of mount paths and image directories
is replaced wherever it stands at the start of a value.
"""

from collections.abc import Mapping
from pathlib import Path


class PathMap:
    """Rewrites values by longest prefix."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        """Take container directories and what stands in for them."""
        cleaned = {prefix.rstrip("/"): real for prefix, real in directories.items()}
        self._entries = sorted(cleaned.items(), key=lambda entry: -len(entry[0]))

    def rewrite(self, value: str) -> str:
        """Return a path of this machine if the value is one of the container, else the value."""
        for prefix, real in self._entries:
            if value == prefix or value.startswith(prefix + "/"):
                return f"{real}{value[len(prefix) :]}"
        return value

    def rewrite_argument(self, argument: str) -> str:
        """Rewrite an argument, or what follows `=` in one such as `--settings=/etc/x`."""
        name, equals, value = argument.partition("=")
        if argument.startswith("-") and equals:
            return f"{name}={self.rewrite(value)}"
        return self.rewrite(argument)
