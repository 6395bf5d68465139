"""Takes etcd out of the distribution's package, without root and without installing it.

A source of `resolution`, for Debian and its descendants: apt downloads the package under lists and
caches of its own, dpkg unpacks it into a directory.
"""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

from sluice.devcluster.binaries.progress import Progress
from sluice.devcluster.errors import BinariesError
from sluice.devcluster.tether import run_tethered

_PACKAGE = "etcd-server"
_TAIL = 5


def unpack_etcd(target: Path, progress: Progress) -> None:
    """Put the package's etcd into `target`.

    Raises:
        BinariesError: this is no such distribution, or its servers cannot be reached.
    """
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise BinariesError(f"Package: this machine has no {' and no '.join(missing)}.")
    progress.begin(f"unpacking etcd from the distribution's package {_PACKAGE}")
    with tempfile.TemporaryDirectory(prefix="sluice-etcd-") as name:
        work = Path(name)
        options = _prepare_apt(work)
        _run(["apt-get", *options, "update"], work)
        _run(["apt-get", *options, "download", _PACKAGE], work)
        packages = list(work.glob(f"{_PACKAGE}_*.deb"))
        if len(packages) != 1:
            raise BinariesError(f"Package: apt-get downloaded {len(packages)} files, not one.")
        _run(["dpkg-deb", "-x", str(packages[0]), str(work / "unpacked")], work)
        program = work / "unpacked" / "usr" / "bin" / "etcd"
        if not program.exists():
            raise BinariesError(f"Package: {packages[0].name} has no /usr/bin/etcd.")
        shutil.copy2(program, target / "etcd")


def _prepare_apt(work: Path) -> list[str]:
    for directory in ("lists/partial", "cache/archives/partial"):
        (work / directory).mkdir(parents=True)
    user = pwd.getpwuid(os.geteuid()).pw_name
    settings = {
        "Dir::State::lists": str(work / "lists"),
        "Dir::Cache": str(work / "cache"),
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": user,  # root would otherwise download as _apt, who may not write here
        "Acquire::http::Timeout": "10",
        "Acquire::Retries": "1",
    }
    return ["-q", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]


def _run(command: list[str], directory: Path) -> None:
    lines: list[str] = []
    with run_tethered(command, directory=directory) as process:
        if process.stdout is not None:
            lines = [line.rstrip() for line in process.stdout]
        code = process.wait()
    if code != 0:
        tail = "\n".join(f"      {line}" for line in lines[-_TAIL:])
        raise BinariesError(f"Package: '{' '.join(command[:1])}' ended with code {code}:\n{tail}")
