"""One API key as a Secret's entry gives it: its hash, and what it may do.

An entry is called as the key is, and holds `sha256:HEX`, the SHA-256 of the key in hexadecimal;
after that, if wanted, a JSON object with limits. No message from here says what stands in an entry:
somebody may have put the key itself there.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

_ENTRY: Final = re.compile(r"sha256:([0-9a-fA-F]{64})(?:\s+(\{.*\}))?", re.DOTALL)
_COUNT_MOST: Final = 10**12
_COUNTS: Final = {
    "concurrency": "concurrency",
    "requestsPerMinute": "requests_per_minute",
    "tokensPerMinute": "tokens_per_minute",
}
_LISTS: Final = {"models": "models", "pools": "pools"}


class EntryError(ValueError):
    """An entry that is no key; the message says what to do, and nothing of what stands there."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do at one gateway; None is no limit.

    Attributes:
        concurrency: Requests at a time.
        tokens_per_minute: Prompt and output together.
        models: Names of models.
        pools: `namespace/name` of pools.
    """

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: frozenset[str] | None = None
    pools: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its name; `digest` is the SHA-256 of the key."""

    name: str
    digest: bytes
    limits: KeyLimits

    def allows(self, pool: str, model: str) -> bool:
        """Return whether it may use a model of a pool (`namespace/name`)."""
        limits = self.limits
        return (limits.models is None or model in limits.models) and (
            limits.pools is None or pool in limits.pools
        )


def parse_entry(name: str, text: str) -> ApiKey:
    """Read an entry.

    Raises:
        EntryError: If it is none.
    """
    found = _ENTRY.fullmatch(text.strip())
    if found is None:
        raise EntryError(
            "is not sha256:HEX (64 hexadecimal digits), alone or before a JSON object of limits; "
            "`sluice gateway key create` prints an entry"
        )
    try:
        document = json.loads(found[2] or "{}")
    except (ValueError, RecursionError) as error:
        raise EntryError("has limits that are not a JSON object") from error
    return ApiKey(name, bytes.fromhex(found[1]), _read_limits(document))


def _read_limits(document: dict[str, Any]) -> KeyLimits:
    told: dict[str, Any] = {}
    for field, value in document.items():
        if field in _COUNTS:
            told[_COUNTS[field]] = _read_count(field, value)
        elif field in _LISTS:
            told[_LISTS[field]] = _read_names(field, value)
        else:
            known = ", ".join([*_COUNTS, *_LISTS])
            raise EntryError(f"has a limit of an unknown name; known: {known}")
    return KeyLimits(**told)


def _read_count(field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= _COUNT_MOST:
        raise EntryError(f"has a {field} that is not a number from 1 on")
    return value


def _read_names(field: str, value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise EntryError(f"has {field} that are not a list of names")
    return frozenset(value)
