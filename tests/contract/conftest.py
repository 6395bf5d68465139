"""What several files start: a gateway on a fake API server, and a worker whose devices may fail."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import openai
import pytest

from ..unit.gateway.gatewayworld import GatewayWorld
from ..unit.worker.fakedevice import FakeDevice
from ..unit.worker.workerprocess import starting
from .faultyworker import COMPACT


@pytest.fixture
async def world():
    async with GatewayWorld() as world:
        await world.add_pool()
        await world.start_gateway()
        yield world


@pytest.fixture
async def client(world):
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def devices(tmp_path):
    devices = [FakeDevice(tmp_path, number) for number in range(2)]
    yield devices
    for device in devices:
        device.close()


@pytest.fixture
def start(tmp_path, devices):
    with starting(tmp_path) as begin:

        def start(*args, model=COMPACT, **over):
            return begin(model, *args, devices=devices, **over)

        yield start
