"""How much of its limits a key has used: requests at a time, and requests and tokens a minute.

Pure but for its own counters: time is passed in. A minute's allowance is a level that refills
steadily, so a key may use all of it at once and then as much as comes back, as OpenAI has it.
"""

from dataclasses import dataclass
from typing import Final

from sluice_gateway.apikeys import KeyLimits

_MINUTE: Final = 60.0
_MILLISECONDS: Final = 1000


class Level:
    """What is left of a limit a minute. It may fall below zero by what was not foreseen."""

    def __init__(self, most: int, now: float) -> None:
        self._level = float(most)
        self._at = now
        self.most = most

    def read(self, now: float) -> float:
        """Return what is left now."""
        if now == self._at:
            return self._level
        gained = max(0.0, now - self._at) * self.most / _MINUTE
        self._level = min(float(self.most), self._level + gained)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take so much; a negative amount is given back."""
        self._level = min(float(self.most), self.read(now) - amount)

    def find_wait(self, amount: float, now: float) -> float:
        """Return the seconds until so much is left; 0 if it is."""
        return max(0.0, amount - self.read(now)) * _MINUTE / self.most

    def change(self, most: int, now: float) -> None:
        """Change the limit; what was used of it stays used."""
        self._level = min(float(most), self.read(now) + most - self.most)
        self.most = most


@dataclass(slots=True)
class Allowance:
    """What is left of one key's limits.

    Attributes:
        running: Its requests now.
        requests: None if they are not limited; likewise `tokens`.
    """

    running: int = 0
    requests: Level | None = None
    tokens: Level | None = None

    def adopt(self, limits: KeyLimits, now: float) -> None:
        """Take over limits that may have changed."""
        self.requests = _adopt(self.requests, limits.requests_per_minute, now)
        self.tokens = _adopt(self.tokens, limits.tokens_per_minute, now)

    def render_headers(self, now: float) -> dict[str, str]:
        """Return OpenAI's headers for what is limited."""
        headers: dict[str, str] = {}
        for name, level in (("requests", self.requests), ("tokens", self.tokens)):
            if level is None:
                continue
            left = level.read(now)
            missing = (level.most - left) * _MINUTE / level.most
            headers[f"x-ratelimit-limit-{name}"] = str(level.most)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(left)))
            headers[f"x-ratelimit-reset-{name}"] = render_wait(missing)
        return headers


def render_wait(seconds: float) -> str:
    """Return a time as OpenAI's headers have it: `120ms`, `6.5s` or `1m30s`."""
    if seconds < 1:
        return f"{round(seconds * _MILLISECONDS)}ms"
    minutes, rest = divmod(round(seconds, 1), _MINUTE)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _adopt(level: Level | None, most: int | None, now: float) -> Level | None:
    if most is None:
        return None
    if level is None:
        return Level(most, now)
    if level.most != most:
        level.change(most, now)
    return level
