"""The program `sluice-operator` as a pod runs it: signals and exit codes, without an API server."""

import asyncio
import json
import signal
import socket
import sys

import pytest


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_orderly_also_while_the_api_server_is_away(tmp_path, number):
    with hold_port() as api, hold_port() as admin:
        write_kubeconfig(tmp_path / "config", api.getsockname()[1])
        port = admin.getsockname()[1]
        admin.close()
        (tmp_path / "settings.yaml").write_text(f"adminPort: {port}\n")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from sluice.control.main import main; main()",
            f"--settings={tmp_path / 'settings.yaml'}",
            f"--kubeconfig={tmp_path / 'config'}",
            stderr=asyncio.subprocess.PIPE,
        )
        lines = []
        async with asyncio.timeout(60):
            async for line in process.stderr:
                lines.append(line.decode())
                # kopf watches, or would: it has done what it does at its start.
                if "kopf" in lines[-1] and process.returncode is None:
                    process.send_signal(number)
                    break
            lines.append((await process.stderr.read()).decode())
            await process.wait()
    assert process.returncode == 0
    assert "ended by itself" not in "".join(lines)
