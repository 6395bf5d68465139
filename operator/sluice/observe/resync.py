"""The authoritative re-list: what it returns is so, whatever the watches have missed."""

import asyncio
from collections.abc import Callable

import structlog

from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError
from sluice.kube.paths import LEASES
from sluice.model.clock import Clock
from sluice.observe.events import WATCHED, format_selector
from sluice.observe.leases import LeaseBook
from sluice.observe.store import Store

log = structlog.get_logger()

LEASE_NAMESPACE = "kube-node-lease"


async def relist(client: KubeClient, store: Store, clock: Clock) -> None:
    """Replace every kind in the store by a fresh list.

    Raises:
        KubeError: a list failed; kinds listed before stay replaced.
    """
    for kind, resource, labels in WATCHED:
        store.begin_list(kind)
        items = [
            item async for item in client.list_pages(resource, selector=format_selector(labels))
        ]
        store.replace(kind, items, clock())


async def read_leases(client: KubeClient, book: LeaseBook) -> None:
    """Note the renew times of all node Leases.

    Raises:
        KubeError: the list failed; nothing was noted.
    """
    items = [item async for item in client.list_pages(LEASES, LEASE_NAMESPACE)]
    book.note({item["metadata"]["name"]: item["spec"].get("renewTime", "") for item in items})


async def repeat(
    name: str, every: float, work: Callable[[], object], beat: Callable[[str], None]
) -> None:
    """Run coroutine function `work` every so many seconds; failures are told and tried again."""
    while True:
        try:
            await work()  # type: ignore[misc]
            beat(name)
        except KubeError as error:
            log.warning("cannot read from the API server", what=name, error=error.message)
        await asyncio.sleep(every)
