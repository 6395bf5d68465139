"""What a writer asks before each write; leadership in `control` answers."""

from typing import Protocol


class WriteGate(Protocol):
    """Permission to write, for a time."""

    def remaining(self) -> float:
        """Return seconds for which this process may still write; 0 or less means not at all."""
        ...
