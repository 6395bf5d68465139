"""Loopback networks 127.X.0.0/16 and ports: what keeps clusters of one machine apart.

The supervisor takes a network here before it starts anything. Linux answers on all of 127.0.0.0/8
without setup, so an address costs nothing; which X is whose is said by a lock file in a directory
that all users of the machine share.
"""

import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sluice.devcluster.errors import ClusterError, NetworkExhaustedError

LOCK_DIRECTORY = Path("/tmp/sluice-networks")  # noqa: S108  # shared by all users, hence not a private one
NETWORKS = range(10, 251)
"""Values of X. Lower ones are in use by habit: 127.0.0.53, 127.0.1.1."""

_FIRST_PORT = 20000  # below Linux's ephemeral range, where outgoing connections take ports
_PORTS_PER_NETWORK = 40


@dataclass(frozen=True, slots=True)
class Network:
    """A locked 127.X.0.0/16; `descriptor` holds the lock."""

    second_octet: int
    descriptor: int

    @property
    def cidr(self) -> str:
        """The whole network."""
        return f"127.{self.second_octet}.0.0/16"

    def node_prefix(self, index: int) -> str:
        """Return the first three octets of node `index`; 0 is the range of stable addresses."""
        return f"127.{self.second_octet}.{index}"

    def release(self) -> None:
        """Give the network back."""
        os.close(self.descriptor)


def acquire_network(directory: Path = LOCK_DIRECTORY, numbers: Iterable[int] = NETWORKS) -> Network:
    """Lock the first free network.

    Raises:
        NetworkExhaustedError: every network is taken.
        ClusterError: the lock directory cannot be used.
    """
    _prepare_directory(directory)
    for number in numbers:
        descriptor = _try_lock(directory / f"127.{number}.lock")
        if descriptor is not None:
            return Network(number, descriptor)
    raise NetworkExhaustedError(
        f"All loopback networks are taken by other clusters (locks in {directory}). Stop some: "
        "'sluice cluster list' shows yours."
    )


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o1777)
        directory.chmod(0o1777)  # mkdir's mode went through the umask
    except FileExistsError:
        if not stat.S_ISDIR(directory.lstat().st_mode):
            raise ClusterError(
                f"{directory} should be a directory of lock files and is something else. Remove it."
            ) from None


def _try_lock(path: Path) -> int | None:
    """Lock a file that may belong to another user; None if it is held or cannot be opened."""
    descriptor = _open(path)
    if descriptor is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _open(path: Path) -> int | None:
    # Without O_CREAT first: in a sticky directory the kernel (fs.protected_regular) refuses
    # O_CREAT on a file of another user, though it may be read and so locked.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    except OSError:
        return None
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError:
        return None  # another process made it just now, or this user may not
    os.fchmod(descriptor, 0o644)
    return descriptor


def is_free(address: str, port: int) -> bool:
    """Say whether a server could listen there; a listener on 0.0.0.0 occupies every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Go's listeners do; without it connections in TIME_WAIT count as occupied.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def choose_ports(network: Network, count: int, address: str = "127.0.0.1") -> list[int]:
    """Return free ports out of those that belong to the network.

    Each network has ports of its own, so that two clusters starting at once cannot choose the same.

    Raises:
        ClusterError: other programs have taken too many of them.
    """
    first = _FIRST_PORT + (network.second_octet - NETWORKS.start) * _PORTS_PER_NETWORK
    candidates = range(first, first + _PORTS_PER_NETWORK)
    free = [port for port in candidates if is_free(address, port)][:count]
    if len(free) < count:
        raise ClusterError(
            f"Of the ports {candidates.start} to {candidates.stop - 1} on {address} only "
            f"{len(free)} are free, and {count} are needed. End the programs that listen there."
        )
    return free


def choose_port(address: str, preferred: int) -> int:
    """Return the preferred port if it is free on that address, else one the kernel chooses."""
    if is_free(address, preferred):
        return preferred
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
