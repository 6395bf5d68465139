"""A real worker process on a loopback port, for tests of what only a process shows."""

# ruff: noqa: S310 - the only URL opened is the worker's

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 60
"""Seconds after which a test gives up; nothing here takes near as long."""
COMMAND = Path(sys.executable).parent / "sluice-worker"


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class WorkerProcess:
    """A worker that is started, asked and ended; `log` is its standard error."""

    def __init__(self, checkpoint, directory, *args, uid="uid-1", devices=()):
        self.port = find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"worker-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    COMMAND,
                    f"--model-path={checkpoint}",
                    "--served-model-name=compact",
                    f"--port={self.port}",
                    "--startup-seconds=0",  # one that is given later counts
                    *args,
                ],
                stderr=log,
                env=os.environ
                | {"POD_UID": uid}
                | {"SLUICE_DEVICE_SOCKETS": ",".join(str(device.path) for device in devices)},
            )

    def get(self, path, headers=()):
        """Return status and text of a GET; status 0 while nobody listens."""
        request = urllib.request.Request(self.url + path, headers=dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, ""

    def post(self, path, body, headers=()):
        """Return status, headers and text of a POST of bytes, or of anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, raw, dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def until(self, path, status):
        """Wait until a GET is answered with `status` and return the text."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            found, text = self.get(path)
            if found == status:
                return text
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"{path} was not {status} within {DEADLINE} s: {found} {text}")

    def metric(self, name):
        """Return the value of the first sample whose name and labels begin with `name`."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"there is no metric {name}")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        return self.process.wait(timeout=DEADLINE)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=DEADLINE)


@contextmanager
def starting(directory):
    """Give a function that starts workers as `WorkerProcess` does; they end when it is left."""
    started = []

    def start(checkpoint, *args, ready=True, **over):
        worker = WorkerProcess(checkpoint, directory, *args, **over)
        started.append(worker)
        if ready:
            worker.until("/readyz", 200)
        return worker

    try:
        yield start
    finally:
        for worker in started:
            worker.close()
