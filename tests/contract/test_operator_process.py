"""The program `sluice-operator` as a pod runs it: signals and exit codes, without an API server."""

import asyncio
import signal

import pytest

from .operatorprocess import hold_port, start_operator, write_kubeconfig


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_orderly_also_while_the_api_server_is_away(tmp_path, number):
    with hold_port() as api, hold_port() as admin:
        write_kubeconfig(tmp_path / "config", api.getsockname()[1])
        port = admin.getsockname()[1]
        admin.close()
        (tmp_path / "settings.yaml").write_text(f"adminPort: {port}\n")
        process = await start_operator(tmp_path)
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
