"""Asks programs for their version, so that a stranger of the same name is not mistaken for ours."""

import json
import re
import subprocess
from pathlib import Path

from sluice.devcluster.errors import BinariesError

_TIMEOUT_SECONDS = 20.0


def read_kubernetes_version(program: Path) -> str:
    """Return a Kubernetes program's version with its leading `v`.

    Raises:
        BinariesError: it does not run here, or says something else.
    """
    if program.name == "kubectl":
        output = _run(program, "version", "--client", "--output=json")
        try:
            version = json.loads(output)["clientVersion"]["gitVersion"]
        except (ValueError, KeyError, TypeError):
            version = output
    else:
        version = _run(program, "--version").removeprefix("Kubernetes").strip()
    if not re.fullmatch(r"v\d+\.\d+\.\d+\S*", version):
        raise BinariesError(f"{program} does not say its version but {version[:80]!r}.")
    return str(version)


def read_etcd_version(program: Path) -> tuple[int, ...]:
    """Return etcd's version as numbers.

    Raises:
        BinariesError: it does not run here, or says something else.
    """
    output = _run(program, "--version")
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", output)
    if match is None:
        raise BinariesError(f"{program} does not say its version but {output[:80]!r}.")
    return tuple(int(number) for number in match.groups())


def parse_minor(version: str) -> tuple[int, int]:
    """Return major and minor of a version such as v1.36.3."""
    major, minor = version.removeprefix("v").split(".")[:2]
    return int(major), int(minor)


def _run(program: Path, *arguments: str) -> str:
    try:
        completed = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BinariesError(f"{program} does not run on this machine: {reason}.") from error
    return completed.stdout.strip()
