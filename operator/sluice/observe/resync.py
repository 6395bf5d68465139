"""The authoritative re-list: what it returns is so, whatever the watches have missed."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError
from sluice.kube.paths import LEASES
from sluice.model.clock import Clock
from sluice.observe.events import WATCHED, format_selector
from sluice.observe.leases import LeaseBook
from sluice.observe.store import Store

log = structlog.get_logger()

RETRY = 2.0
"""Seconds until a list that failed is asked for again; who just began, or leads, waits for it."""

LEASE_NAMESPACE = "kube-node-lease"


async def relist(client: KubeClient, store: Store, clock: Clock) -> None:
    """Replace every kind in the store by a fresh list.

    Raises:
        KubeError: a list failed; kinds listed before stay replaced.
    """
    for kind, resource, labels in WATCHED:
        store.begin_list(kind)
        asked = clock()
        items = [
            item async for item in client.list_pages(resource, selector=format_selector(labels))
        ]
        store.replace(kind, items, asked)


async def read_leases(client: KubeClient, book: LeaseBook, clock: Clock) -> None:
    """Note the renew times of all node Leases.

    Raises:
        KubeError: the list failed; nothing was noted.
    """
    asked = clock()
    items = [item async for item in client.list_pages(LEASES, LEASE_NAMESPACE)]
    renewed = {item["metadata"]["name"]: item["spec"].get("renewTime", "") for item in items}
    book.note(renewed, asked)


async def repeat(
    name: str, every: float, work: Callable[[], Awaitable[None]], sooner: asyncio.Event
) -> None:
    """Run `work` every so many seconds, or sooner; failures are told and tried again."""
    while True:
        sooner.clear()
        pause = every
        try:
            await work()
        except KubeError as error:
            log.warning("cannot read from the API server", what=name, error=error.message)
            pause = min(every, RETRY)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sooner.wait(), pause)
