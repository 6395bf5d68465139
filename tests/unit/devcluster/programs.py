"""Stand-ins for the programs of a control plane: scripts that only know their version."""

from pathlib import Path

from sluice.devcluster.binaries.programs import KUBERNETES_PROGRAMS, KUBERNETES_VERSION


def write_program(path: Path, output: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    path.chmod(0o755)


def write_kubernetes(directory: Path, version: str = KUBERNETES_VERSION) -> Path:
    for name in KUBERNETES_PROGRAMS:
        write_program(directory / name, render_version(name, version))
    return directory


def render_version(name: str, version: str) -> str:
    if name == "kubectl":
        return f'{{"clientVersion": {{"gitVersion": "{version}"}}}}'
    return f"Kubernetes {version}"


def write_etcd(directory: Path, version: str = "3.5.21") -> Path:
    write_program(directory / "etcd", f"etcd Version: {version}\nGit SHA: abc")
    return directory
