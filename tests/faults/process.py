"""The operator as a process of its own, which a supervisor starts again as a kubelet would."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from sluice.devcluster.processes import die_with_parent

PROGRAM = Path(sys.executable).parent / "sluice-operator"
HOST = "127.0.0.1"
PASSES = re.compile(r"^sluice_operator_pass_seconds_count (\S+)$", re.MULTILINE)
UID = "00000000-0000-4000-8000-00000000fa17"
"""The pod's uid, which holds the Lease. A container that a kubelet starts again is still in the
same pod: it takes its own Lease up at once, which is the least time for the rest to settle."""


def write_kubeconfig(path: Path, server: str, authority: Path, token: str) -> None:
    """Write a kubeconfig for one server and one bearer token."""
    cluster = {"server": server, "certificate-authority": str(authority)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "faults",
        "contexts": [{"name": "faults", "context": {"cluster": "faults", "user": "operator"}}],
        "clusters": [{"name": "faults", "cluster": cluster}],
        "users": [{"name": "operator", "user": {"token": token}}],
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)


def find_free_port() -> int:
    """Return a port of the loopback address on which nobody listens now."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        return int(held.getsockname()[1])


class OperatorProcess:
    """One operator, started again whenever it is killed.

    Attributes:
        deaths: exit codes of processes that ended though nobody killed or stopped them.
        starts: how often it was started since `start`.
        log: what it has said since `start`.
    """

    def __init__(self, directory: Path, kubeconfig: Path, settings: dict) -> None:
        self._port = find_free_port()
        self._settings = directory / "settings.yaml"
        self._settings.write_text(yaml.safe_dump({**settings, "adminPort": self._port}))
        self._kubeconfig = kubeconfig
        self._directory, self._runs = directory, itertools.count(1)
        self.log = directory / "operator.log"
        self.deaths: list[int] = []
        self.starts = 0
        self._stopping = False
        self._killed: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and keep it up until `stop`."""
        self.deaths, self.starts, self._stopping = [], 0, False
        self.log = self._directory / f"operator-{next(self._runs)}.log"
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """End it in order, and for good."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        if self._keeper is not None:
            self._keeper.join(timeout=30)
            assert not self._keeper.is_alive(), f"the operator does not end; its log: {self.log}"

    def kill(self) -> None:
        """End it at once, as a crash would, and return when it is gone."""
        process = self._process
        assert process is not None
        self._killed.add(process.pid)
        process.kill()
        process.wait()

    def count_passes(self) -> int:
        """Return how many passes the process that runs now has made as the leader."""
        try:
            with urllib.request.urlopen(  # our own process on loopback
                f"http://{HOST}:{self._port}/metrics", timeout=2
            ) as response:
                found = PASSES.search(response.read().decode())
        except (urllib.error.URLError, OSError):
            return 0
        return int(float(found[1])) if found else 0

    def _keep(self) -> None:
        environment = {
            **os.environ,
            "POD_NAME": "sluice-operator-faults",
            "POD_UID": UID,
            "POD_NAMESPACE": "sluice-system",
            "POD_IP": HOST,
        }
        command = [
            str(PROGRAM),
            f"--settings={self._settings}",
            f"--kubeconfig={self._kubeconfig}",
        ]
        parent = os.getpid()
        while not self._stopping:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509
                )
            self.starts += 1
            if self._stopping:  # `stop` came while it started, and saw the one before
                self._process.terminate()
            code = self._process.wait()
            if self._process.pid not in self._killed and not self._stopping:
                self.deaths.append(code)
                time.sleep(1)
