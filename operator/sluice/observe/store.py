"""The store: the last known state of every object that decisions look at.

kopf's events fill it between the re-lists; a re-list replaces a whole kind, and so removes what was
deleted while nobody watched. What really changed wakes the planner; heartbeats and our own status
writes do not.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

Object = Mapping[str, Any]


class Kind(StrEnum):
    """What the store keeps apart."""

    POOLS = "pools"
    CLASSES = "classes"
    WORKERS = "workers"
    GATEWAYS = "gateways"
    PROBATIONS = "probations"
    NODES = "nodes"
    DEPLOYMENTS = "deployments"
    SERVICES = "services"
    BUDGETS = "budgets"


class Store:
    """Objects by kind and by (namespace, name).

    Args:
        wake: called with a kind whenever something that matters to decisions has changed.
    """

    def __init__(self, wake: Callable[[Kind], None]) -> None:
        self._wake = wake
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {kind: {} for kind in Kind}
        self._moved: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in Kind}
        self.listed: dict[Kind, float] = {}

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        return self._objects[kind].get((namespace, name))

    def list(self, kind: Kind) -> list[Object]:
        """Return all objects of a kind, ordered by namespace and name."""
        return [self._objects[kind][key] for key in sorted(self._objects[kind])]

    def put(self, kind: Kind, item: Object) -> None:
        """Take in an object that was added or changed."""
        self._moved[kind].add(find_key(item))
        self._take(kind, item)

    def _take(self, kind: Kind, item: Object) -> None:
        key = find_key(item)
        before = self._objects[kind].get(key)
        if before is not None and is_older(item, before):
            return
        self._objects[kind][key] = item
        if before is None or digest(kind, before) != digest(kind, item):
            self._wake(kind)

    def drop(self, kind: Kind, item: Object) -> None:
        """Take out an object that was deleted; a namesake with another uid stays."""
        key = find_key(item)
        self._moved[kind].add(key)
        before = self._objects[kind].get(key)
        if before is not None and before["metadata"]["uid"] == item["metadata"]["uid"]:
            del self._objects[kind][key]
            self._wake(kind)

    def begin_list(self, kind: Kind) -> None:
        """Note that a list of this kind is about to be asked for."""
        self._moved[kind].clear()

    def replace(self, kind: Kind, items: Iterable[Object], at: float) -> None:
        """Take in a complete list, asked for at `at`; what is not in it is gone.

        Except for what events told since `begin_list`: the list may be older, and would remove an
        object just made, or bring one back that was just deleted. The next list settles it.
        """
        moved = self._moved[kind]
        listed = {find_key(item): item for item in items}
        for key in [key for key in self._objects[kind] if key not in listed and key not in moved]:
            del self._objects[kind][key]
            self._wake(kind)
        for key, item in listed.items():
            if key not in moved:
                self._take(kind, item)
        self.listed[kind] = at

    def is_complete(self, since: float = -math.inf) -> bool:
        """Tell whether every kind has been listed once, by a list asked for at `since` or later."""
        return all(kind in self.listed and self.listed[kind] >= since for kind in Kind)


def find_key(item: Object) -> tuple[str, str]:
    """Return (namespace, name) of an object."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def is_older(item: Object, known: Object) -> bool:
    """Tell whether `item` is an earlier version of the same object (a late event)."""
    new, old = item["metadata"], known["metadata"]
    if new.get("uid") != old.get("uid"):
        return False
    try:
        return int(new["resourceVersion"]) < int(old["resourceVersion"])
    except (KeyError, ValueError):
        return False


def digest(kind: Kind, item: Object) -> object:
    """Return what of an object matters to decisions; equal digests wake nobody."""
    meta, status = item["metadata"], item.get("status", {})
    common = (meta.get("uid"), meta.get("labels"), meta.get("deletionTimestamp"))
    if kind in {Kind.POOLS, Kind.CLASSES}:
        return (common, meta.get("generation"), meta.get("annotations"))
    if kind is Kind.NODES:
        # Every condition, for classes name theirs; their heartbeats and messages wake nobody.
        conditions = [
            (c.get("type"), c.get("status"), c.get("reason")) for c in status.get("conditions", ())
        ]
        spec = item.get("spec", {})
        return (
            common,
            meta.get("annotations"),
            spec.get("taints"),
            spec.get("unschedulable"),
            status.get("allocatable"),
            conditions,
        )
    if kind in {Kind.WORKERS, Kind.GATEWAYS, Kind.PROBATIONS}:
        conditions = [
            (c.get("type"), c.get("status"), c.get("message")) for c in status.get("conditions", ())
        ]
        waiting = [c.get("state") for c in status.get("containerStatuses", ())]
        return (
            common,
            item.get("spec", {}).get("nodeName"),
            status.get("podIP"),
            conditions,
            waiting,
        )
    return (common, meta.get("annotations"), item.get("spec"), status)
