"""The operator's process while the API server fails in every way it can: it goes on by itself."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import contextlib
import signal

import pytest

from sluice.kube.paths import POOLS

from ..unit.gateway.polling import until
from .operatorprocess import hold_port, start_operator, write_kubeconfig
from .troubledapi import Trouble, TroubledApi

KINDS = 7
"""Kinds that are watched; three handlers share the pods."""
ENOUGH = 3
"""Failures after which kopf has ended, where it would: one ends it, and it is begun anew."""
PATIENCE = 60
POOL = {
    "apiVersion": "sluice.dev/v1alpha1",
    "kind": "InferencePool",
    "metadata": {
        "name": "chat",
        "namespace": "default",
        "uid": "0e984725-c51c-4bf4-9960-e1c80e27aba0",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "model": {"name": "chat", "source": {"path": "/models/compact"}},
        "slo": {"ttft": "2s", "tpot": "200ms"},
        "variants": [{"acceleratorClass": "maia-200", "min": 1, "max": 2}],
    },
}


@pytest.fixture
async def api():
    api = TroubledApi()
    await api.start()
    yield api
    await api.close()


@pytest.fixture
async def operator(api, tmp_path):
    """Start the operator; return its process and what it has said so far."""
    write_kubeconfig(tmp_path / "config", api.port)
    with hold_port() as admin:
        port = admin.getsockname()[1]
    # Events have to do it: no list comes while a test looks.
    (tmp_path / "settings.yaml").write_text(f"adminPort: {port}\nrelist: 10m\nfastTick: 200ms\n")
    process = await start_operator(tmp_path)
    lines = []

    async def read():
        while line := await process.stderr.readline():
            lines.append(line.decode())

    reading = asyncio.create_task(read())
    yield process, lines
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    await reading


def watches_all(api):
    return sum(count > 0 for count in api.watching.values()) == KINDS


def leads(lines):
    return any('"leading": true' in line for line in lines)


async def go_through(api, process, trouble, lines):
    """Fail for a while, then no more; return when everything is watched again."""
    api.begin_trouble(trouble)
    begun = asyncio.get_running_loop().time()
    await until(
        lambda: (
            process.returncode is not None
            or (api.troubled[trouble] >= ENOUGH and asyncio.get_running_loop().time() > begun + 3)
        ),
        seconds=PATIENCE,
    )
    assert process.returncode is None, "".join(lines)
    api.begin_trouble(None)
    await until(lambda: watches_all(api) or process.returncode is not None, seconds=PATIENCE)


@pytest.mark.parametrize("trouble", Trouble)
async def test_it_goes_on_by_itself_when_the_api_server_is_well_again(api, operator, trouble):
    process, lines = operator
    await until(lambda: watches_all(api) and leads(lines), seconds=PATIENCE)
    await go_through(api, process, trouble, lines)
    # Events come again, and are acted upon.
    path = POOLS.path("default", "chat", "status")
    await api.tell(POOLS, POOL)
    await until(
        lambda: ("PATCH", path) in api.written or process.returncode is not None, seconds=PATIENCE
    )
    assert process.returncode is None, "".join(lines)
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.wait(), PATIENCE)
    assert process.returncode == 0
    assert "ended by itself" not in "".join(lines)
