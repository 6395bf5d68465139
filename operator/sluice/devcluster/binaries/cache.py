"""Programs that were downloaded or built once: `XDG_CACHE_HOME/sluice`.

A directory appears under its final name only when it is complete, so what is there can be trusted
without being run.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluice.devcluster.binaries.programs import (
    ETCD_MINIMUM_VERSION,
    KUBERNETES_PROGRAMS,
    KUBERNETES_VERSION,
    find_architecture,
)
from sluice.devcluster.binaries.versions import read_etcd_version, read_kubernetes_version
from sluice.devcluster.errors import BinariesError


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache below `root`: `kubernetes/VERSION/linux-ARCH/` and `etcd/VERSION/linux-ARCH/`."""

    root: Path

    @property
    def lock(self) -> Path:
        """Locked by whoever adds to the cache."""
        return self.root / "lock"

    @property
    def work(self) -> Path:
        """Where a build keeps what it needs to go on after an interruption."""
        return self.root / "build"

    def find_kubernetes(self) -> Path | None:
        """Return the directory with the four programs of our version, if it is there."""
        directory = self._kubernetes_directory()
        complete = all((directory / name).exists() for name in KUBERNETES_PROGRAMS)
        return directory if complete else None

    def find_etcd(self) -> tuple[Path, tuple[int, ...]] | None:
        """Return the newest etcd and its version, if one is there."""
        found = []
        for program in self.root.glob(f"etcd/*/{_platform()}/etcd"):
            version = program.parent.parent.name
            if re.fullmatch(r"\d+\.\d+\.\d+", version):
                found.append((tuple(int(number) for number in version.split(".")), program))
        if not found or max(found)[0] < ETCD_MINIMUM_VERSION:
            return None
        version_numbers, program = max(found)
        return program, version_numbers

    def add_kubernetes(self, make: Callable[[Path], None]) -> Path:
        """Have `make` fill a directory with the four programs and keep it; return it.

        Raises:
            BinariesError: `make` failed, or made another version.
        """
        temporary = self._make_temporary()
        try:
            make(temporary)
            for name in KUBERNETES_PROGRAMS:
                version = read_kubernetes_version(temporary / name)
                if version != KUBERNETES_VERSION:
                    raise BinariesError(f"{name} is {version}, expected {KUBERNETES_VERSION}.")
            return _keep(temporary, self._kubernetes_directory())
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def add_etcd(self, make: Callable[[Path], None]) -> Path:
        """Have `make` put etcd into a directory and keep it; return the program.

        Raises:
            BinariesError: `make` failed, or made one that is too old.
        """
        temporary = self._make_temporary()
        try:
            make(temporary)
            version = read_etcd_version(temporary / "etcd")
            if version < ETCD_MINIMUM_VERSION:
                raise BinariesError(f"etcd {version} is older than {ETCD_MINIMUM_VERSION}.")
            name = ".".join(map(str, version))
            return _keep(temporary, self.root / "etcd" / name / _platform()) / "etcd"
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _kubernetes_directory(self) -> Path:
        return self.root / "kubernetes" / KUBERNETES_VERSION / _platform()

    def _make_temporary(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        for left in self.root.glob("partial-*"):
            # Of a process that was killed: this one holds the lock, so nobody fills it now.
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="partial-", dir=self.root))


def _keep(temporary: Path, final: Path) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    temporary.chmod(0o755)
    temporary.rename(final)
    return final


def _platform() -> str:
    return f"linux-{find_architecture()}"
