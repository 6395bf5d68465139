"""Starts the program `sluice-operator` as a pod runs it, for an API server of a test's own."""

import asyncio
import json
import socket
import sys


def hold_port():
    """Return a socket on a port where nobody answers, and that nobody else gets."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


def write_kubeconfig(path, port):
    cluster = {"name": "k", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [cluster],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(config))


async def start_operator(directory):
    """Start it with the files `settings.yaml` and `config` of a directory; return the process."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from sluice.control.main import main; main()",
        f"--settings={directory / 'settings.yaml'}",
        f"--kubeconfig={directory / 'config'}",
        stderr=asyncio.subprocess.PIPE,
    )
