"""The agent's HTTPS endpoint, called as the API server calls it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sluice.devcluster.certificates import create_certificates, issue_node_certificates
from sluice.devcluster.credentials import create_client_context
from sluice_node.config import KubeletEndpoint
from sluice_node.kubeletapi import KubeletServer
from sluice_node.logs import LogFile

from .test_kubeletapi import Writing


@pytest.fixture
async def called(tmp_path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Return a session with the API server's certificate, and where the log of `c` is."""
    made = create_certificates(tmp_path)
    _, serving = issue_node_certificates(made.authority, "maia-0", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    authority = made.authority.files.certificate
    endpoint = KubeletEndpoint(
        port=port, cert_file=serving.certificate, key_file=serving.key, client_ca_file=authority
    )
    (tmp_path / "0.log").write_bytes(b"one\n")
    container = Writing(LogFile(tmp_path / "0.log"), running=True)
    server = KubeletServer("127.0.0.1", endpoint, lambda *_: container)  # type: ignore[arg-type, return-value]
    await server.start()
    tls = create_client_context(
        authority=authority,
        certificate=made.kubelet_client.certificate,
        key=made.kubelet_client.key,
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        yield session, f"https://127.0.0.1:{port}/containerLogs/ns/pod/c"
    await server.stop()


async def test_nobody_follows_a_log_for_a_reader_who_has_left(
    called: tuple[aiohttp.ClientSession, str],
) -> None:
    session, url = called
    before = asyncio.all_tasks()
    async with session.get(url, params={"follow": "true"}) as response:
        assert await response.content.readline() == b"one\n"
        assert asyncio.all_tasks() > before
        response.close()
    async with asyncio.timeout(10):
        while asyncio.all_tasks() > before:  # noqa: ASYNC110  # tasks have no event for that
            await asyncio.sleep(0.01)
