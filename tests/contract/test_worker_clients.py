"""What tests/e2e asks of a pool in a cluster, asked of a worker alone and behind a gateway."""

# ruff: noqa: TID252 - the helpers live with other tests; tests are no installed package

import asyncio
from pathlib import Path

import pytest

from ..e2e.openaichecks import CHECKS, Asker, Target, check_names
from ..unit.gateway import objects
from ..unit.gateway.fakekube import PODS
from ..unit.gateway.gatewayworld import GatewayWorld, settings
from ..unit.worker.workerprocess import WorkerProcess

COMPACT = Path(__file__).resolve().parents[2] / "workers/models/compact"
EMULATED = ("--profile=maia-200", "--nominal=llama-3.3-70b", "--token-scale=96")
PATIENT = settings(
    probing={"timeout": 5.0, "stall_seconds": 5.0},
    limits={"header_seconds": 5.0, "body_seconds": 5.0, "slow_reader_seconds": 5.0},
)
"""A real worker on a busy machine is not to be taken for one that hangs."""
every_check = pytest.mark.parametrize("check", CHECKS, ids=check_names)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    process = WorkerProcess(COMPACT, tmp_path_factory.mktemp("worker"), *EMULATED, uid="uid-real")
    process.until("/readyz", 200)
    yield process
    process.close()


def run_check(check, url, worker):
    target = Target(url, "compact", worker.url)
    with target.connect() as client:
        check(Asker(target, client))


@every_check
def test_the_openai_sdk_works_at_a_worker(worker, check):
    run_check(check, worker.url, worker)


@pytest.mark.full  # tests/e2e asks the same of a gateway in a cluster
@every_check
async def test_the_openai_sdk_works_through_a_gateway(worker, check):
    async with GatewayWorld(PATIENT) as world:
        await world.add_pool(shares={"maia": "100%"})
        await world.start_gateway()
        at = {"host": "127.0.0.1", "port": worker.port, "uid": "uid-real"}
        await world.kube.put(PODS, objects.worker("real", variant="maia", pool="chat", **at))
        await world.until_usable("real")
        await asyncio.to_thread(run_check, check, world.url, worker)
