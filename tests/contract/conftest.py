"""A gateway with one pool on a fake API server, and the openai client for it."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import openai
import pytest

from ..unit.gateway.gatewayworld import GatewayWorld


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
