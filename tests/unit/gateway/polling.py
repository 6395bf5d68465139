"""Waiting for a condition without guessing how long it takes."""

import asyncio


async def until(condition, *, seconds=15.0):
    """Return when `condition()` is true; fail the test when that takes too long."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is observed has no event of its own
            await asyncio.sleep(0.005)
