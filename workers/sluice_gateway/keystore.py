"""The API keys that are valid now, from a mounted Secret.

A request's key is hashed and looked up by a second hash that only this process knows, so that the
time of the search tells nothing; the match is then compared in constant time.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from sluice_gateway.apikeys import ApiKey, EntryError, parse_entry
from sluice_gateway.mounted import MountedSecret, list_files

_ENTRY_BYTES: Final = 64 << 10
_KEY_LENGTH: Final = 4096


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What was read of a Secret: its keys, and by name why other entries are none."""

    keys: tuple[ApiKey, ...]
    broken: Mapping[str, str]


class KeyStore:
    """Finds the key of a request.

    Attributes:
        keys: The valid ones by name.
        on_changed: Called when they were read again.
        secret: Where they come from; it has to be started, and to run.
    """

    def __init__(
        self, directory: Path, *, period: float, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._log = log
        self._pepper = secrets.token_bytes(32)
        self._index: dict[bytes, ApiKey] = {}
        self.keys: dict[str, ApiKey] = {}
        self.on_changed: list[Callable[[], None]] = []
        self.secret = MountedSecret(
            directory, load_keys, self.take, what="API keys", period=period, log=log
        )

    def take(self, found: KeyFile) -> None:
        """Use these keys from now on."""
        for name, why in found.broken.items():
            self._log.error("API key ignored", key=name, reason=f"the entry {name} {why}")
        self.keys = {key.name: key for key in found.keys}
        self._index = {self._hide(key.digest): key for key in found.keys}
        for tell in self.on_changed:
            tell()

    def find(self, token: str) -> ApiKey | None:
        """Return the key that a client has shown; None if it is unknown."""
        if len(token) > _KEY_LENGTH:
            return None
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        key = self._index.get(self._hide(digest))
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def _hide(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._pepper, digest_size=16).digest()


def load_keys(directory: Path) -> KeyFile:
    """Read all entries of a mounted Secret; a broken one does not harm the others.

    Raises:
        MountError: If there is no such directory.
    """
    keys: dict[bytes, ApiKey] = {}
    broken: dict[str, str] = {}
    for path in list_files(directory):
        try:
            key = _load_entry(path)
        except EntryError as error:
            broken[path.name] = str(error)
            continue
        first = keys.setdefault(key.digest, key)
        if first is not key:
            broken[path.name] = f"is the same key as {first.name}"
    return KeyFile(tuple(keys.values()), broken)


def _load_entry(path: Path) -> ApiKey:
    try:
        with path.open("rb") as file:
            raw = file.read(_ENTRY_BYTES + 1)
    except OSError as error:
        raise EntryError(f"cannot be read: {error.strerror}") from error
    if len(raw) > _ENTRY_BYTES:
        raise EntryError(f"is longer than {_ENTRY_BYTES} bytes")
    try:
        return parse_entry(path.name, raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise EntryError("is not UTF-8") from None
