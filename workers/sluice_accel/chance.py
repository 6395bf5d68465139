"""Chance as a pure function: a seed and what is asked for give the same number everywhere."""

import hashlib


def draw(*key: object) -> float:
    """Return a number in [0, 1), uniform over all keys; the same key always gives the same one."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53
