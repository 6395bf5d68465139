"""The workers of a gateway without a cluster, as the command line names them.

Text in, frozen values out. What these backends serve, and whether they live, is asked of themselves
(`backendwatch`).
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sluice_gateway.objects import Parity, Slo
from sluice_gateway.quantities import QuantityError, parse_duration, parse_percent

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EXACT: Final = 1e-6
_FORM: Final = "NAME=URL[,class=CLASS][,key-file=PATH]"
DEFAULT_CLASS: Final = "default"


class BackendError(ValueError):
    """Arguments that describe no fleet; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One OpenAI-compatible server.

    Attributes:
        base: URL in front of `/v1/…`, without a slash at its end.
        variant: Accelerator class.
        key_file: File with the bearer key that it wants, if any.
    """

    name: str
    base: str
    variant: str = DEFAULT_CLASS
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Backends:
    """A fixed list of workers, and how to use them.

    Attributes:
        shares: Fraction of traffic by class, adding up to 1; empty if all workers are equal.
        slots: Requests that a backend runs at once; None for what a worker of ours does.
        parity: How answers are compared between classes; None if they are not.
    """

    backends: Sequence[Backend]
    slo: Slo
    shares: Mapping[str, float]
    slots: int | None = None
    parity: Parity | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """Classes in the order in which they were named first."""
        return tuple(dict.fromkeys(backend.variant for backend in self.backends))


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a gateway without a cluster."""
    group = parser.add_argument_group("without Kubernetes")
    group.add_argument(
        "--backend",
        action="append",
        metavar=_FORM,
        help="an OpenAI-compatible server, and the class of its accelerator; may be repeated",
    )
    group.add_argument(
        "--share",
        action="append",
        metavar="CLASS=FRACTION",
        help="part of the traffic for a class, 0 to 1; classes not named share the rest equally",
    )
    group.add_argument("--ttft", metavar="DURATION", help="objective of the first token (2s)")
    group.add_argument("--tpot", metavar="DURATION", help="objective of each further one (200ms)")
    group.add_argument(
        "--slots",
        metavar="N",
        help="requests that a backend runs at once (8); one more waits there",
    )
    group.add_argument(
        "--parity-sample",
        metavar="PERCENT",
        help="part of the answers that a backend of another class scores as well (none)",
    )
    group.add_argument(
        "--parity-budget", metavar="PERCENT", help="of a backend's time that this may take (2%%)"
    )


def read_backends(arguments: argparse.Namespace) -> Backends | None:
    """Return the fleet that the arguments describe; None if it is a cluster's.

    Raises:
        BackendError: If they describe none.
    """
    if not arguments.backend:
        for flag in ("share", "ttft", "tpot", "slots", "parity-sample", "parity-budget"):
            if getattr(arguments, flag.replace("-", "_")) is not None:
                raise BackendError(
                    f"--{flag} is for a gateway without a cluster: name its workers with --backend,"
                    " or leave it out (pools say it themselves)"
                )
        return None
    backends = [parse_backend(text) for text in arguments.backend]
    for what in ("name", "base"):
        for value, count in Counter(getattr(backend, what) for backend in backends).items():
            if count > 1:
                kind = "name" if what == "name" else "URL"
                raise BackendError(f"--backend: {count} backends have the {kind} {value}; keep one")
    ttft = _read_objective("--ttft", arguments.ttft or "2s")
    tpot = _read_objective("--tpot", arguments.tpot or "200ms")
    shares = parse_shares(arguments.share or (), [backend.variant for backend in backends])
    parity = _read_parity(arguments.parity_sample, arguments.parity_budget)
    return Backends(backends, Slo(ttft, tpot), shares, _read_slots(arguments.slots), parity)


def parse_backend(text: str) -> Backend:
    """Read `NAME=URL[,class=CLASS][,key-file=PATH]`.

    Raises:
        BackendError: If it is anything else.
    """
    name, _, rest = text.partition("=")
    url, *options = rest.split(",")
    if not _NAME.fullmatch(name) or not url:
        raise BackendError(f"--backend {text[:100]!r} should be {_FORM}")
    variant, key_file = DEFAULT_CLASS, None
    for option in options:
        key, _, value = option.partition("=")
        if key == "class" and _NAME.fullmatch(value):
            variant = value
        elif key == "key-file" and value:
            key_file = Path(value)
        else:
            raise BackendError(
                f"--backend {name}: {option[:100]!r} is no option of a backend; "
                "write class=CLASS (letters, digits, '.', '_', '-') or key-file=PATH"
            )
    return Backend(name, _parse_url(name, url), variant, key_file)


def _parse_url(name: str, url: str) -> str:
    """Return the URL as it stands in front of `/v1/…`."""
    where = f"--backend {name}: the URL {url[:200]!r}"
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise BackendError(f"{where} is none ({error}); write http://HOST:PORT") from error
    if parts.scheme not in ("http", "https") or not host:
        raise BackendError(f"{where} should begin with http:// or https:// and name a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise BackendError(f"{where} has more than host, port and path; a key goes into key-file=")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def parse_shares(given: Sequence[str], variants: Sequence[str]) -> dict[str, float]:
    """Return each class's fraction of the traffic, adding up to 1; empty if none is given.

    Args:
        given: `CLASS=FRACTION`; the classes not named get equal parts of the rest.
        variants: Classes of the backends.

    Raises:
        BackendError: If one cannot be read, or the sum is not what it should be.
    """
    shares: dict[str, float] = {}
    for text in given:
        variant, _, value = text.partition("=")
        if variant not in variants:
            known = ", ".join(sorted(set(variants)))
            raise BackendError(f"--share {text[:100]!r}: no backend has this class; known: {known}")
        if variant in shares:
            raise BackendError(f"--share {text[:100]!r}: {variant} has a share already; keep one")
        shares[variant] = _read_fraction(text, value)
    if not shares:
        return {}
    total = sum(shares.values())
    others = [variant for variant in dict.fromkeys(variants) if variant not in shares]
    if total > 1 + _EXACT or (not others and total < 1 - _EXACT):
        raise BackendError(f"--share: the shares add up to {total:g}; let them add up to 1")
    if others:
        shares |= dict.fromkeys(others, max(0.0, 1 - total) / len(others))
        return shares
    return {variant: share / total for variant, share in shares.items()}


def _read_fraction(text: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise BackendError(f"--share {text[:100]!r}: {value[:40]!r} is not a number from 0 to 1")
    return share


def _read_objective(flag: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except QuantityError as error:
        raise BackendError(f"{flag}: {error}") from error
    if seconds <= 0:
        raise BackendError(f"{flag} {text!r} should be longer than 0s")
    return seconds


def _read_parity(sample: str | None, budget: str | None) -> Parity | None:
    if sample is None:
        if budget is not None:
            raise BackendError("--parity-budget: say with --parity-sample how much to compare")
        return None
    found = []
    for flag, text in (("--parity-sample", sample), ("--parity-budget", budget or "2%")):
        try:
            found.append(parse_percent(text))
        except QuantityError as error:
            raise BackendError(f"{flag}: {error}") from error
    return Parity(*found)


def _read_slots(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 10_000):  # noqa: PLR2004
        raise BackendError(f"--slots {text[:40]!r} is not a number from 1 to 10000")
    return int(text)
