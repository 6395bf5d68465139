"""Finds the programs of the control plane, or makes them; the first thing `cluster up` does.

In this order: a directory the user names, the cache, PATH, the official downloads, and else a Go
build for Kubernetes and the distribution's package for etcd. What was downloaded or made goes into
the cache. The four Kubernetes programs always come from one source together.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sluice.devcluster.binaries import debian, download, golang
from sluice.devcluster.binaries.cache import Cache
from sluice.devcluster.binaries.programs import (
    ETCD_MINIMUM_VERSION,
    KUBERNETES_MINIMUM_VERSION,
    KUBERNETES_PROGRAMS,
    KUBERNETES_VERSION,
    Binaries,
)
from sluice.devcluster.binaries.progress import Progress, SilentProgress
from sluice.devcluster.binaries.versions import (
    parse_minor,
    read_etcd_version,
    read_kubernetes_version,
)
from sluice.devcluster.directories import find_cache_home
from sluice.devcluster.errors import BinariesError
from sluice.devcluster.locks import acquire_lock

_POLL_SECONDS = 0.2
_Makers = dict[str, Callable[[Path], None]]
"""A source in words, and a function that fills a directory from it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look. `search_path` is a PATH; `downloads` names the servers."""

    user_directory: Path | None = None
    cache: Cache = field(default_factory=lambda: Cache(find_cache_home()))
    search_path: str = field(default_factory=lambda: os.environ.get("PATH", ""))
    downloads: download.Servers = download.OFFICIAL


@dataclass(frozen=True, slots=True)
class _Found:
    """A directory with programs, and where it came from in words."""

    directory: Path
    source: str


@dataclass(frozen=True, slots=True)
class _FoundEtcd:
    program: Path
    version: tuple[int, ...]
    source: str


def resolve_binaries(sources: Sources | None = None, progress: Progress | None = None) -> Binaries:
    """Return the programs of a control plane, downloading or building what is missing.

    Raises:
        BinariesError: they cannot be had; the message lists what was tried and what to install.
    """
    sources = sources or Sources()
    progress = progress or SilentProgress()
    _check_user_directory(sources)
    kubernetes = _resolve_kubernetes(sources, progress)
    etcd = _resolve_etcd(sources, progress)
    return Binaries(
        kube_apiserver=kubernetes.directory / "kube-apiserver",
        kube_controller_manager=kubernetes.directory / "kube-controller-manager",
        kube_scheduler=kubernetes.directory / "kube-scheduler",
        kubectl=kubernetes.directory / "kubectl",
        etcd=etcd.program,
        etcd_version=etcd.version,
        kubernetes_source=kubernetes.source,
        etcd_source=etcd.source,
    )


def _check_user_directory(sources: Sources) -> None:
    directory = sources.user_directory
    if directory is None:
        return
    wanted = (*KUBERNETES_PROGRAMS, "etcd")
    if not directory.is_dir():
        raise BinariesError(f"--binaries {directory}: there is no such directory.")
    if not any((directory / name).exists() for name in wanted):
        raise BinariesError(f"--binaries {directory}: it holds none of {', '.join(wanted)}.")


def _resolve_kubernetes(sources: Sources, progress: Progress) -> _Found:
    notes: list[str] = []
    found = (
        _find_in_user_directory(sources.user_directory)
        or _find_in_cache(sources.cache)
        or _find_on_path(sources.search_path, notes)
    )
    if found is not None:
        return found
    servers, cache = sources.downloads, sources.cache
    makers: _Makers = {
        "downloaded": lambda target: download.download_kubernetes(servers, target, progress),
        "built with Go": lambda target: golang.build_kubernetes(
            cache, sources.search_path, target, progress
        ),
    }
    with _CacheLock(cache, progress):
        if found := _find_in_cache(cache):
            return found  # another process has made it while this one waited
        if made := _make(makers, cache.add_kubernetes, notes):
            return _Found(*made)
    raise BinariesError(
        f"There is no Kubernetes {KUBERNETES_VERSION} to start:\n"
        + "".join(f"  - {note}\n" for note in notes)
        + f"Put {', '.join(KUBERNETES_PROGRAMS)} of one version into a directory and name it with "
        "--binaries, or install Go (https://go.dev/dl), or connect this machine to the network."
    )


def _make(
    makers: _Makers, add: Callable[[Callable[[Path], None]], Path], notes: list[str]
) -> tuple[Path, str] | None:
    """Return what the first maker that works has made, and how; note why others did not."""
    for source, make in makers.items():
        try:
            return add(make), source
        except BinariesError as error:
            notes.append(str(error))
    return None


def _find_in_user_directory(directory: Path | None) -> _Found | None:
    if directory is None:
        return None
    present = [name for name in KUBERNETES_PROGRAMS if (directory / name).exists()]
    if not present:
        return None
    missing = [name for name in KUBERNETES_PROGRAMS if name not in present]
    if missing:
        raise BinariesError(
            f"--binaries {directory}: {', '.join(missing)} is missing beside "
            f"{', '.join(present)}. The four belong together."
        )
    versions = {name: read_kubernetes_version(directory / name) for name in KUBERNETES_PROGRAMS}
    if len(set(versions.values())) > 1:
        listing = ", ".join(f"{name} {version}" for name, version in versions.items())
        raise BinariesError(f"--binaries {directory}: the versions differ ({listing}).")
    version = versions["kube-apiserver"]
    if parse_minor(version) < KUBERNETES_MINIMUM_VERSION:
        minimum = ".".join(map(str, KUBERNETES_MINIMUM_VERSION))
        raise BinariesError(
            f"--binaries {directory}: Kubernetes {version} is too old, {minimum} or later is "
            f"needed ({KUBERNETES_VERSION} is what Sluice is tested with)."
        )
    return _Found(directory.absolute(), f"{version} from {directory}")


def _find_in_cache(cache: Cache) -> _Found | None:
    directory = cache.find_kubernetes()
    return None if directory is None else _Found(directory, f"{KUBERNETES_VERSION} from the cache")


def _find_on_path(search_path: str, notes: list[str]) -> _Found | None:
    """Return a directory of PATH that holds all four in exactly our version."""
    directories = [Path(entry) for entry in search_path.split(os.pathsep) if entry]
    complete = [
        directory
        for directory in directories
        if all(os.access(directory / name, os.X_OK) for name in KUBERNETES_PROGRAMS)
    ]
    if not complete:
        notes.append(f"PATH: no directory there holds {', '.join(KUBERNETES_PROGRAMS)} together.")
    for directory in complete:
        try:
            versions = {read_kubernetes_version(directory / name) for name in KUBERNETES_PROGRAMS}
        except BinariesError as error:
            notes.append(f"PATH: {error}")
            continue
        if versions == {KUBERNETES_VERSION}:
            return _Found(directory.absolute(), f"{KUBERNETES_VERSION} from {directory}")
        notes.append(f"PATH: {directory} holds {', '.join(sorted(versions))}.")
    return None


def _resolve_etcd(sources: Sources, progress: Progress) -> _FoundEtcd:
    notes: list[str] = []
    found = (
        _find_user_etcd(sources.user_directory)
        or _find_cached_etcd(sources.cache)
        or _find_etcd_on_path(sources.search_path, notes)
    )
    if found is not None:
        return found
    servers = sources.downloads
    makers: _Makers = {
        "downloaded": lambda target: download.download_etcd(servers, target, progress),
        "from the distribution's package": lambda target: debian.unpack_etcd(target, progress),
    }
    with _CacheLock(sources.cache, progress):
        if found := _find_cached_etcd(sources.cache):
            return found
        if made := _make(makers, sources.cache.add_etcd, notes):
            program, source = made
            return _FoundEtcd(program, read_etcd_version(program), source)
    minimum = ".".join(map(str, ETCD_MINIMUM_VERSION))
    raise BinariesError(
        "There is no etcd to start:\n"
        + "".join(f"  - {note}\n" for note in notes)
        + f"Install etcd {minimum} or later (Debian and Ubuntu: 'apt install etcd-server'), or put "
        "it into a directory and name that with --binaries."
    )


def _find_user_etcd(directory: Path | None) -> _FoundEtcd | None:
    if directory is None or not (directory / "etcd").exists():
        return None
    program = (directory / "etcd").absolute()
    version = read_etcd_version(program)
    if version < ETCD_MINIMUM_VERSION:
        raise BinariesError(f"{_describe_old_etcd(program, version)}")
    return _FoundEtcd(program, version, f"{_join(version)} from {directory}")


def _find_cached_etcd(cache: Cache) -> _FoundEtcd | None:
    found = cache.find_etcd()
    if found is None:
        return None
    program, version = found
    return _FoundEtcd(program, version, f"{_join(version)} from the cache")


def _find_etcd_on_path(search_path: str, notes: list[str]) -> _FoundEtcd | None:
    found = shutil.which("etcd", path=search_path)
    if found is None:
        notes.append("PATH: no etcd there.")
        return None
    program = Path(found).absolute()
    try:
        version = read_etcd_version(program)
    except BinariesError as error:
        notes.append(f"PATH: {error}")
        return None
    if version < ETCD_MINIMUM_VERSION:
        notes.append(f"PATH: {_describe_old_etcd(program, version)}")
        return None
    return _FoundEtcd(program, version, f"{_join(version)} from {program.parent}")


def _describe_old_etcd(program: Path, version: tuple[int, ...]) -> str:
    return (
        f"{program} is etcd {_join(version)}, and {_join(ETCD_MINIMUM_VERSION)} or later is needed."
    )


def _join(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


class _CacheLock:
    """Only one process at a time makes programs; the others wait and then find them."""

    def __init__(self, cache: Cache, progress: Progress) -> None:
        self._cache = cache
        self._progress = progress
        self._descriptor = -1

    def __enter__(self) -> None:
        descriptor = acquire_lock(self._cache.lock)
        if descriptor is None:
            self._progress.begin("waiting for another sluice that prepares the same programs")
        while descriptor is None:
            time.sleep(_POLL_SECONDS)
            descriptor = acquire_lock(self._cache.lock)
        self._descriptor = descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
