"""Waiting for a condition without guessing how long it takes."""

import asyncio


async def until(condition, *, seconds=15.0):
    """Return when `condition()` is true; fail the test when that takes too long."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is observed has no event of its own
            await asyncio.sleep(0.005)


async def until_async(condition, *, seconds=15.0):
    """The same for a condition that has to be awaited."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is observed has no event of its own
            await asyncio.sleep(0.01)
