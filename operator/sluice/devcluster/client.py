"""Calls to a cluster's control socket; what `cluster` and through it every command uses."""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from sluice.devcluster.directories import StateDirectory
from sluice.devcluster.errors import ClusterError, ClusterNotRunningError

_TIMEOUT_SECONDS = 10.0


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket in a directory."""

    def __init__(self, state: StateDirectory, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._state = state

    def connect(self) -> None:
        # Through a descriptor of the directory, since the full path may exceed 107 bytes.
        directory = os.open(self._state.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{directory}/{self._state.socket_name}")
        finally:
            os.close(directory)


def call_supervisor(
    state: StateDirectory,
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    timeout_seconds: float = _TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """Send a request, with a JSON body if one is given; return the supervisor's JSON answer.

    Raises:
        ClusterNotRunningError: nothing listens.
        ClusterError: it listens and does not answer, or refuses; the message is its own.
    """
    connection = _Connection(state, timeout_seconds)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body))
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ClusterNotRunningError(
            f"No cluster '{state.name}' is running. Start it with 'sluice cluster up --name "
            f"{state.name}'."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ClusterError(
            f"The supervisor of the cluster '{state.name}' does not answer ({error}). "
            f"'sluice cluster down --name {state.name}' ends it."
        ) from error
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise ClusterError(answer.get("error", f"The supervisor answered {response.status}."))
    return answer
