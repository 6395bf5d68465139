"""The fleet of a Kubernetes cluster: InferencePools and worker pods, mirrored."""

from collections.abc import Callable, Sequence

import aiohttp
import structlog

from sluice_gateway import names
from sluice_gateway.cluster import PoolSink, Sink, WorkerSink
from sluice_gateway.fleet import Fleet
from sluice_gateway.kubeaccess import KubeAccess
from sluice_gateway.kubeapi import KubeApi
from sluice_gateway.reflector import Reflector
from sluice_gateway.settings import Watching

_POOLS_PATH = f"/apis/{names.GROUP}/{names.VERSION}/{names.POOL_PLURAL}"
_PODS_PATH = "/api/v1/pods"


class ClusterWatch:
    """Mirrors pools and worker pods into the fleet.

    Args:
        random: Returns numbers in [0, 1).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        access: KubeAccess,
        session: aiohttp.ClientSession,
        *,
        watching: Watching,
        random: Callable[[], float],
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._server = access.server
        api = KubeApi(access, session, watching)
        pods = {"labelSelector": f"{names.LABEL_NAME}={names.WORKER}"}
        sinks: list[tuple[str, str, dict[str, str], Sink]] = [
            ("pools", _POOLS_PATH, {}, PoolSink(fleet, log)),
            ("workers", _PODS_PATH, pods, WorkerSink(fleet, log)),
        ]

        self._reflectors = [
            Reflector(
                api,
                sink,
                kind=kind,
                path=path,
                selector=selector,
                watching=watching,
                random=random,
                clock=clock,
                log=log,
                on_contact=fleet.vouching.note_contact if kind == "workers" else None,
            )
            for kind, path, selector, sink in sinks
        ]

    @property
    def watches(self) -> Sequence[Reflector]:
        """The mirrors of pools and of workers."""
        return self._reflectors

    def explain_unsynced(self) -> str:
        """Return which objects have not been listed yet; nothing if all have."""
        missing = [reflector.kind for reflector in self._reflectors if not reflector.synced]
        return f"no list of {' and '.join(missing)} from {self._server} yet" if missing else ""
