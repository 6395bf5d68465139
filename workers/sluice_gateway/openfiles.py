"""How many files this process may have open, which connections are: raised, and reckoned with."""

import resource
from dataclasses import replace
from typing import Final

import structlog

from sluice_gateway.settings import Limits

_OTHERS: Final = 256
"""Files that no client has: probes of the workers, watches, the admin port, kept connections."""
_EACH: Final = 2
"""Files of one request: its client's connection, and one to a worker."""
_PLENTY: Final = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _PLENTY if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _PLENTY if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def fit_connections(limits: Limits, files: int, log: structlog.stdlib.BoundLogger) -> Limits:
    """Return limits that so many open files are enough for, and log what they are.

    A connection too many is refused with a sentence; a file too many would break whatever needed
    it, requests that run and probes of healthy workers among it.
    """
    fitting = max(1, (files - _OTHERS) // _EACH)
    connections = min(limits.connections, fitting)
    say = log.info if connections == limits.connections else log.warning
    say("open files", limit=files, connections=connections, wanted=limits.connections)
    return replace(limits, connections=connections)
