"""How long a container that ended waits before it is started again. Pure; the clock comes in.

As the kubelet does it: the first restart is at once, then 10 s, doubled up to 5 min, forgotten once
the container ran 10 min.
"""

from dataclasses import dataclass

INITIAL_SECONDS = 10.0
MAXIMUM_SECONDS = 300.0
RESET_SECONDS = 600.0


@dataclass(slots=True)
class RestartBackoff:
    """The back-off of one container (or of one image that cannot be had)."""

    _delay: float = 0.0

    @property
    def delay(self) -> float:
        """Seconds the next restart waits, counted from the end; 0 means at once."""
        return self._delay

    def note_start(self) -> None:
        """Record a restart: the next one waits longer."""
        self._delay = min(max(INITIAL_SECONDS, self._delay * 2), MAXIMUM_SECONDS)

    def note_end(self, ran_seconds: float) -> None:
        """Record an end: a long run is forgiven."""
        if ran_seconds >= RESET_SECONDS:
            self._delay = 0.0


def format_delay(seconds: float) -> str:
    """Return a delay as Kubernetes writes it: 10s, 2m40s, 5m0s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
