"""Where a cluster keeps its files; the first thing every command looks at.

State stands under `XDG_STATE_HOME/sluice/clusters/NAME`, programs under `XDG_CACHE_HOME/sluice`.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.devcluster.errors import ClusterError, InvalidClusterError, StateFormatError

FORMAT = "1"
"""Version of the layout below; a directory with another one is left alone."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def find_state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds a directory for every cluster of this user."""
    return _find_home(environ, "XDG_STATE_HOME", ".local/state") / "sluice" / "clusters"


def find_cache_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory that holds downloaded and built programs of this user."""
    return _find_home(environ, "XDG_CACHE_HOME", ".cache") / "sluice"


def _find_home(environ: Mapping[str, str], variable: str, default: str) -> Path:
    # The XDG specification says that a relative value is to be ignored.
    value = environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default


def check_name(name: str) -> None:
    """Refuse a name that cannot be a directory and part of a kubeconfig context.

    Raises:
        InvalidClusterError: the name is not 1 to 40 lower-case letters, digits and dashes.
    """
    if not _NAME.fullmatch(name):
        raise InvalidClusterError(
            f"'{name}' cannot be the name of a cluster: use 1 to 40 lower-case letters, digits "
            "and dashes, beginning and ending with a letter or digit."
        )


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """The files of one cluster. Nothing here exists until `prepare` was called."""

    root: Path

    @classmethod
    def of(cls, name: str, home: Path | None = None) -> "StateDirectory":
        """Return the directory of the cluster `name`, below `home` or the user's state home."""
        check_name(name)
        return cls((home or find_state_home()) / name)

    @property
    def name(self) -> str:
        """Name of the cluster."""
        return self.root.name

    @property
    def format(self) -> Path:
        """Holds FORMAT."""
        return self.root / "format"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor as long as it lives."""
        return self.root / "lock"

    @property
    def description(self) -> Path:
        """JSON: shape, network and ports, written by the supervisor before it starts anything."""
        return self.root / "cluster.json"

    @property
    def processes(self) -> Path:
        """JSON: every process that was started, with its start time."""
        return self.root / "processes.json"

    @property
    def socket_name(self) -> str:
        """Name of the control socket inside `root` (its full path may exceed 107 bytes)."""
        return "control.sock"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator, written when the cluster is ready."""
        return self.root / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, JSON lines, where it was asked for."""
        return self.root / "audit.log"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.root / "pki"

    @property
    def etcd(self) -> Path:
        """Data of etcd."""
        return self.root / "etcd"

    @property
    def logs(self) -> Path:
        """A log for every process."""
        return self.root / "logs"

    @property
    def nodes(self) -> Path:
        """A directory for every emulated node."""
        return self.root / "nodes"

    @property
    def device_sockets(self) -> Path:
        """A directory for every node, with the sockets of its devices.

        Outside `root`, since the full path of a socket may not exceed 107 bytes; its name follows
        from `root`, so that whoever removes that finds it too.
        """
        digest = hashlib.sha256(os.fsencode(self.root.absolute())).hexdigest()
        return Path("/tmp") / f"sluice-{digest[:16]}"  # noqa: S108  # private to its owner

    def log_of(self, component: str) -> Path:
        """Return the log of a component or a node."""
        return self.logs / f"{component}.log"

    def check_format(self) -> None:
        """Refuse a directory that this version cannot read.

        Raises:
            StateFormatError: another version wrote it, or it is not a cluster's at all.
        """
        try:
            found = self.format.read_text(errors="replace").strip()[:20]
        except (NotADirectoryError, IsADirectoryError) as error:
            raise StateFormatError(
                f"{self.root} is not the state of a cluster. Move it away, or choose another "
                "--name."
            ) from error
        except FileNotFoundError:
            if not self.root.exists() or not any(p.name != "lock" for p in self.root.iterdir()):
                return
            raise StateFormatError(
                f"{self.root} is not the state of a cluster: it has files, but none called "
                "'format'. Move them away, or choose another --name."
            ) from None
        if found != FORMAT:
            raise StateFormatError(
                f"{self.root} was written by another version of Sluice (format {found}, this "
                f"version writes {FORMAT}). Stop the cluster with that version's 'sluice cluster "
                f"down --name {self.name}'; if nothing of it runs any more, remove the directory."
            )

    def prepare(self) -> None:
        """Make an empty directory with the format file in it, readable by its owner alone."""
        for directory in (self.root, self.pki, self.logs, self.nodes):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)  # it may have been there: keys and the control socket lie in it
        self.format.write_text(f"{FORMAT}\n")

    def prepare_device_sockets(self) -> None:
        """Make the directory `device_sockets`.

        Raises:
            ClusterError: it is there and somebody else's.
        """
        directory = self.device_sockets
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ClusterError(
                f"{directory} should be a directory of your own and is not. Have it removed, or "
                "choose another --name."
            )
        directory.chmod(0o700)

    def clear(self, *, keep_logs: bool = False) -> None:
        """Remove everything but the lock and, where they are of use, logs and records."""
        if not self.root.exists():
            return
        records = (self.logs, self.description, self.processes) if keep_logs else ()
        kept = {self.lock, self.format, *records}
        for entry in self.root.iterdir():
            if entry not in kept:
                _remove(entry)
        shutil.rmtree(self.device_sockets, ignore_errors=True)
        if not keep_logs:
            # Last: a crash before this line leaves a directory that is still known as ours.
            self.format.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory. The caller holds the lock, which goes last."""
        self.clear()
        self.lock.unlink(missing_ok=True)
        try:
            self.root.rmdir()
        except OSError:
            # Another `up` of that name has made its lock here already: the directory is its own.
            return


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=False)
    else:
        entry.unlink(missing_ok=True)


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner can read, in one step for readers."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None where the file is missing or unfinished."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
