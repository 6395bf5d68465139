"""Downloads the official programs and compares their published checksums.

A source of `resolution`. Where there is no route to the servers this gives up within seconds.
"""

import hashlib
import http.client
import os
import re
import tarfile
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from sluice.devcluster.binaries.programs import (
    ETCD_DOWNLOAD_VERSION,
    KUBERNETES_PROGRAMS,
    KUBERNETES_VERSION,
    find_architecture,
)
from sluice.devcluster.binaries.progress import Progress
from sluice.devcluster.errors import BinariesError

_CHUNK = 1 << 20
_READ_SECONDS = 30.0
_CHECKSUM_LIMIT = 1 << 16
_CHECKSUM = re.compile(r"[0-9a-fA-F]{64}")
_FAILURES = (OSError, ValueError, http.client.HTTPException)
"""URLError is an OSError; an answer that is not HTTP is neither that nor a ValueError."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Base addresses; `route_seconds` is how long a server may take to answer at all."""

    kubernetes: str
    etcd: str
    route_seconds: float = 5.0


OFFICIAL = Servers(
    kubernetes="https://dl.k8s.io/release",
    etcd="https://github.com/etcd-io/etcd/releases/download",
)


def download_kubernetes(servers: Servers, target: Path, progress: Progress) -> None:
    """Put the four Kubernetes programs into `target`.

    Raises:
        BinariesError: a server cannot be reached, or a checksum does not match.
    """
    base = f"{servers.kubernetes}/{KUBERNETES_VERSION}/bin/linux/{find_architecture()}"
    for name in KUBERNETES_PROGRAMS:
        url = f"{base}/{name}"
        checksum = _fetch_checksums(f"{url}.sha256", servers.route_seconds).split()[0]
        if not _CHECKSUM.fullmatch(checksum):
            # What a network that asks for a login answers to everything.
            raise BinariesError(f"Download: {url}.sha256 holds something else than a checksum.")
        progress.begin(f"downloading {name} {KUBERNETES_VERSION}")
        _download(url, target / name, checksum, progress)
        (target / name).chmod(0o755)


def download_etcd(servers: Servers, target: Path, progress: Progress) -> None:
    """Put etcd out of its release archive into `target`.

    Raises:
        BinariesError: the server cannot be reached, or the checksum does not match.
    """
    archive_name = f"etcd-{ETCD_DOWNLOAD_VERSION}-linux-{find_architecture()}.tar.gz"
    base = f"{servers.etcd}/{ETCD_DOWNLOAD_VERSION}"
    sums = _fetch_checksums(f"{base}/SHA256SUMS", servers.route_seconds)
    lines = [line.split() for line in sums.splitlines()]
    by_name = {line[1]: line[0] for line in lines if len(line) == 2}  # noqa: PLR2004
    if archive_name not in by_name:
        raise BinariesError(f"Download: {base}/SHA256SUMS does not name {archive_name}.")
    progress.begin(f"downloading etcd {ETCD_DOWNLOAD_VERSION}")
    archive = target / archive_name
    _download(f"{base}/{archive_name}", archive, by_name[archive_name], progress)
    _extract(archive, target / "etcd")
    archive.unlink()


def _extract(archive: Path, program: Path) -> None:
    member = f"{archive.name.removesuffix('.tar.gz')}/etcd"
    try:
        with tarfile.open(archive) as tar:
            source = tar.extractfile(member)
            if source is None:
                raise BinariesError(f"Download: {archive.name} has no program {member}.")
            program.write_bytes(source.read())
    except (tarfile.TarError, KeyError, OSError) as error:
        raise BinariesError(f"Download: {archive.name} cannot be unpacked ({error}).") from error
    program.chmod(0o755)


def _fetch_checksums(url: str, seconds: float) -> str:
    """Return a small text, or give up after `seconds` whatever it is that hangs.

    In a thread that may be left behind: name resolution knows no time limit.
    """
    outcome: list[str | Exception] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as response:  # noqa: S310
                outcome.append(response.read(_CHECKSUM_LIMIT).decode())
        except _FAILURES as error:
            outcome.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(seconds)
    match outcome:
        case [str(text)] if text.strip():
            return text
        case [Exception() as error]:
            raise BinariesError(f"Download: {url} cannot be had ({_explain(error)}).") from error
        case []:
            raise BinariesError(f"Download: {url} did not answer within {seconds:.0f} s.")
        case _:
            raise BinariesError(f"Download: {url} is empty.")


def _explain(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
        return f"HTTP {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, OSError) and reason.errno is not None and reason.errno > 0:
        return os.strerror(reason.errno)
    return str(reason)


def _download(url: str, target: Path, checksum: str, progress: Progress) -> None:
    digest = hashlib.sha256()
    done = 0
    try:
        with (
            urllib.request.urlopen(url, timeout=_READ_SECONDS) as response,  # noqa: S310
            target.open("wb") as file,
        ):
            total = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress.advance(done, total)
    except _FAILURES as error:
        raise BinariesError(f"Download: {url} broke off ({_explain(error)}).") from error
    if digest.hexdigest() != checksum.lower():
        target.unlink()
        raise BinariesError(
            f"Download: {url} has the checksum {digest.hexdigest()}, published is {checksum}."
        )
