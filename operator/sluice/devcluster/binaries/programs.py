"""Which programs in which versions; what `resolution` returns and `components` starts."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice.devcluster.errors import BinariesError

KUBERNETES_VERSION = "v1.36.3"
"""The version in kubernetes/go.mod, and the only one taken from PATH."""

KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")

KUBERNETES_MINIMUM_VERSION = (1, 33)
"""Oldest minor taken from a directory the user names."""

ETCD_DOWNLOAD_VERSION = "v3.6.16"
ETCD_MINIMUM_VERSION = (3, 4)
"""Debian 12 has 3.4.23; the API server was seen to work with it."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Binaries:
    """Paths of the programs, and where they came from in words."""

    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    etcd: Path
    etcd_version: tuple[int, ...]
    kubernetes_source: str
    etcd_source: str

    def to_dict(self) -> dict[str, object]:
        """Return JSON for the supervisor."""
        return {
            "kube_apiserver": str(self.kube_apiserver),
            "kube_controller_manager": str(self.kube_controller_manager),
            "kube_scheduler": str(self.kube_scheduler),
            "kubectl": str(self.kubectl),
            "etcd": str(self.etcd),
            "etcd_version": list(self.etcd_version),
            "kubernetes_source": self.kubernetes_source,
            "etcd_source": self.etcd_source,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> "Binaries":
        """Return the binaries `to_dict` was called on."""
        version = value["etcd_version"]
        if not isinstance(version, list):
            raise TypeError(f"etcd_version is {version!r}, not a list of numbers")
        return cls(
            kube_apiserver=Path(str(value["kube_apiserver"])),
            kube_controller_manager=Path(str(value["kube_controller_manager"])),
            kube_scheduler=Path(str(value["kube_scheduler"])),
            kubectl=Path(str(value["kubectl"])),
            etcd=Path(str(value["etcd"])),
            etcd_version=tuple(version),
            kubernetes_source=str(value["kubernetes_source"]),
            etcd_source=str(value["etcd_source"]),
        )


def find_architecture(machine: str | None = None) -> str:
    """Return Go's name of this machine's architecture.

    Raises:
        BinariesError: Kubernetes is published for it, but this code was never run there.
    """
    machine = machine or platform.machine()
    try:
        return _ARCHITECTURES[machine]
    except KeyError:
        raise BinariesError(
            f"The embedded cluster runs on x86_64 and aarch64, and this machine is {machine}."
        ) from None
