"""kopf's part: each handler is a signature and one call. kopf writes nothing and keeps nothing."""

from typing import Any, Protocol

import kopf

from sluice.kube.paths import BUDGETS, CLASSES, DEPLOYMENTS, NODES, PODS, POOLS, SERVICES, Resource
from sluice.model.names import (
    GATEWAY,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    MANAGED_BY,
    PROBATION,
    WORKER,
)
from sluice.observe.store import Kind, Object

_MANAGED = {LABEL_MANAGED_BY: MANAGED_BY}

WATCHED: tuple[tuple[Kind, Resource, dict[str, str]], ...] = (
    (Kind.POOLS, POOLS, {}),
    (Kind.CLASSES, CLASSES, {}),
    (Kind.NODES, NODES, {}),
    (Kind.WORKERS, PODS, {LABEL_NAME: WORKER}),
    (Kind.GATEWAYS, PODS, {LABEL_NAME: GATEWAY}),
    (Kind.PROBATIONS, PODS, {LABEL_NAME: PROBATION}),
    (Kind.DEPLOYMENTS, DEPLOYMENTS, _MANAGED),
    (Kind.SERVICES, SERVICES, _MANAGED),
    (Kind.BUDGETS, BUDGETS, _MANAGED),
)
"""What is watched and listed, with the labels that select it."""


class Taker(Protocol):
    """What takes events in: the store, or what leads to it."""

    def put(self, kind: Kind, item: Object) -> None:
        """An object was added or changed."""

    def drop(self, kind: Kind, item: Object) -> None:
        """An object was deleted."""


def format_selector(labels: dict[str, str]) -> str:
    """Return a label selector as the API takes it."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def take_event(store: Taker, kind: Kind, event: dict[str, Any]) -> None:
    """Put one watch event into the store."""
    if event["type"] == "DELETED":
        store.drop(kind, event["object"])
    else:
        store.put(kind, event["object"])


def register_handlers(registry: kopf.OperatorRegistry, store: Taker) -> None:
    """Watch everything that decisions look at."""
    for kind, resource, labels in WATCHED:
        _register(registry, store, kind, resource, labels)


def _register(
    registry: kopf.OperatorRegistry,
    store: Taker,
    kind: Kind,
    resource: Resource,
    labels: dict[str, str],
) -> None:
    group, _, version = resource.api_version.rpartition("/")

    async def on_event(event: Any, **_: Any) -> None:
        take_event(store, kind, event)

    watch = kopf.on.event(
        group,
        version,
        resource.plural,
        id=f"watch-{kind}",
        registry=registry,
        labels=labels or None,
    )
    watch(on_event)


def configure(settings: kopf.OperatorSettings) -> None:
    """Make kopf a mere event source: no scanning, posting, peering, or giving up."""
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.chunk_size = 500
    settings.watching.connect_timeout = 5
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = EndlessBackoffs()
    # It would kill the whole process, some seconds after its own end.
    settings.process.ultimate_exiting_timeout = None
    names = ",".join(labels[LABEL_NAME] for _, kind, labels in WATCHED if kind is PODS)
    settings.watching.label_selectors["pods"] = f"{LABEL_NAME} in ({names})"
    for resource in (DEPLOYMENTS, SERVICES, BUDGETS):
        settings.watching.label_selectors[resource.plural] = format_selector(_MANAGED)


class EndlessBackoffs:
    """Delays between tries, without an end: an outage of the API must not end the process.

    kopf iterates anew for every failing request; each run doubles from 0.2 s to 10 s. The steps are
    odd fractions, so that replicas that started together drift apart.
    """

    def __iter__(self) -> Any:
        """Yield seconds, forever."""
        delay = 0.2
        while True:
            yield delay
            delay = min(10.0, delay * 1.9)
