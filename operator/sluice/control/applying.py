"""Carrying out one pool's part of a plan, and one node's: the jobs of the queue."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import structlog

from sluice.act.children import Children
from sluice.act.events import emit_event
from sluice.act.nodes import mark_node
from sluice.act.probations import (
    ForeignPodError,
    RelabelledPodError,
    end_probation,
    start_probation,
)
from sluice.act.status import StatusWriter
from sluice.act.writer import Writer
from sluice.decide.status import pool_status
from sluice.kube.errors import KubeError, RejectedError
from sluice.model.keys import PoolKey
from sluice.model.memory import PoolMemory
from sluice.model.names import LABEL_POOL, deployment_name
from sluice.model.plan import (
    Decision,
    EndProbation,
    NodeAction,
    PoolPlan,
    ProbationAction,
    Results,
    StartProbation,
)
from sluice.model.snapshot import Pool, Snapshot
from sluice.observe.store import Kind, Store
from sluice.render.pool import render_pool
from sluice.render.probation import Proving, render_probation

log = structlog.get_logger()

_KINDS = {
    Kind.DEPLOYMENTS: "Deployment",
    Kind.SERVICES: "Service",
    Kind.BUDGETS: "PodDisruptionBudget",
}


UNTOLD = 20
"""Decisions of a pool that wait at the most for their Events; status keeps the last ten too."""


REFUSED_FOR = 30.0
"""Seconds for which a probation pod that was refused (quota, a namesake) is not asked for again."""


class Applier:
    """Applies plans through one writer; remembers the last results of each pool."""

    def __init__(
        self,
        writer: Writer,
        store: Store,
        clock: Callable[[], float],
        *,
        worker_image: str,
        instance: str,
        namespace: str,
    ) -> None:
        self._writer = writer
        self._namespace = namespace
        self._refused: dict[str, tuple[float, str]] = {}
        self._store = store
        self._image = worker_image
        self._instance = instance
        self._children = Children(writer, clock)
        self._status = StatusWriter(writer, clock)
        self._results: dict[PoolKey, Results] = {}
        self._untold: dict[PoolKey, deque[Decision]] = {}

    async def apply_pool(
        self, snapshot: Snapshot, pool: Pool, plan: PoolPlan, memory: PoolMemory
    ) -> None:
        """Write what was decided, then act, then tell what came of it.

        What must survive a restart and what the gateway follows come first: neither may wait for
        children that cannot be written.

        Raises:
            KubeError: something that is worth another try.
            NotLeaderError: this process must not write.
        """
        pool = replace(pool, status=self._status.recall(pool.uid, dict(pool.status)))
        before = self._results.get(pool.key, Results())
        document = pool_status(pool, plan, memory, before, snapshot.endpoint, snapshot.at)
        if not await self._write_status(pool, document):
            log.info("the pool is gone; nothing is made for it", pool=str(pool.key))
            return
        results = await self._children.apply(
            render_pool(plan, pool.spec, snapshot.classes, self._image),
            self._list_live(pool),
            [
                deployment_name(pool.key.name, variant.accelerator_class)
                for variant in plan.variants
                if variant.frozen
            ],
            pool.uid,
        )
        self._results[pool.key] = replace(results, put_back=())
        for delete in plan.deletes:
            if await self._children.delete_worker(delete):
                log.info("worker deleted", pod=delete.name, reason=delete.reason)
        document = pool_status(pool, plan, memory, results, snapshot.endpoint, snapshot.at)
        await self._write_status(pool, document)
        self.note(pool.key, _word_put_back(results, snapshot.at))
        await self._tell(pool)

    async def apply_node(self, action: NodeAction) -> None:
        """Mark a node.

        Raises:
            KubeError: something that is worth another try.
            NotLeaderError: this process must not write.
        """
        if await mark_node(self._writer, action):
            log.info("node marked", action=type(action).__name__, node=action.node)

    async def apply_probation(self, snapshot: Snapshot, action: ProbationAction) -> None:
        """Make or delete the pod that proves a node.

        Raises:
            KubeError: something that is worth another try.
            NotLeaderError: this process must not write.
        """
        if isinstance(action, EndProbation):
            if await end_probation(self._writer, action, self._namespace):
                log.info("probation ended", node=action.node, reason=action.reason)
            return
        proving = self._find_proving(snapshot, action)
        present = {node.name for node in snapshot.nodes}
        self._refused = {n: known for n, known in self._refused.items() if n in present}
        at, _ = self._refused.get(action.node, (-math.inf, ""))
        if proving is None or snapshot.at - at < REFUSED_FOR:
            return
        try:
            if await start_probation(self._writer, render_probation(action, proving)):
                log.info("probation begun", node=action.node, slots=action.slots)
        except RejectedError as error:
            self._refuse(snapshot, action, f"its probation pod is refused: {error.message}")
        except ForeignPodError as error:
            self._refuse(snapshot, action, str(error))
        except RelabelledPodError as told:
            log.warning("probation pod deleted", node=action.node, reason=str(told))
            text = f"{action.node}: {told}"
            self.note(action.pool, [Decision(snapshot.at, "ProbationRemade", text, warning=True)])
        else:
            self._refused.pop(action.node, None)

    def _refuse(self, snapshot: Snapshot, action: StartProbation, why: str) -> None:
        """Tell once why a node gets no probation pod, and ask no more for a while.

        The same again would be refused again; the proof fails by its patience.
        """
        log.warning("probation refused", node=action.node, error=why)
        if self._refused.get(action.node, (0.0, ""))[1] != why:
            text = f"{action.node} cannot be proven: {why}"
            self.note(action.pool, [Decision(snapshot.at, "ProbationRefused", text, warning=True)])
        self._refused[action.node] = snapshot.at, why

    def _find_proving(self, snapshot: Snapshot, action: StartProbation) -> Proving | None:
        """Return what a probation pod is made of; None when class or pool are gone meanwhile."""
        owner = self._store.get(Kind.CLASSES, "", action.accelerator_class)
        accelerator = snapshot.classes.get(action.accelerator_class)
        pool = next((pool for pool in snapshot.pools if pool.key == action.pool), None)
        if owner is None or accelerator is None or pool is None:
            return None
        uid = owner["metadata"]["uid"]
        return Proving(pool.spec, accelerator, uid, self._namespace, self._image)

    async def tell_unreadable(self, at: float, key: PoolKey, uid: str, why: str) -> None:
        """Make an Event on a pool that cannot be read; its children stay as they are.

        Raises:
            NotLeaderError: this process must not write.
        """
        text = f"this version of Sluice cannot read it: {why}; its workers stay as they are"
        decision = Decision(at, "Unreadable", text, warning=True)
        await self._emit(key, uid, decision)

    def forget(self, live: dict[PoolKey, str]) -> None:
        """Forget pools that are gone, given uids by key of those that are not."""
        self._status.forget(set(live.values()))
        self._children.forget(set(live.values()))
        for kept in (self._results, self._untold):
            for key in set(kept) - set(live):
                del kept[key]

    async def _write_status(self, pool: Pool, document: dict[str, Any]) -> bool:
        """Write a pool's status if it is due; False when the pool turns out to be gone."""
        due = self._status.is_due(pool.uid, document, dict(pool.status))
        return not due or await self._status.write(pool.key, pool.uid, document)

    def _list_live(self, pool: Pool) -> list[dict[str, Any]]:
        """Return the children that the store knows, as objects with a kind."""
        return [
            {**item, "kind": kind}
            for store_kind, kind in _KINDS.items()
            for item in self._store.list(store_kind)
            if item["metadata"].get("namespace") == pool.key.namespace
            and item["metadata"].get("labels", {}).get(LABEL_POOL) == pool.key.name
        ]

    def note(self, key: PoolKey, decisions: Iterable[Decision]) -> None:
        """Remember decisions to be told when the pool is next applied.

        They do not travel with the job, since a newer one may replace it before it runs.
        """
        self._untold.setdefault(key, deque(maxlen=UNTOLD)).extend(decisions)

    async def _tell(self, pool: Pool) -> None:
        untold = self._untold.get(pool.key, deque())
        while untold:
            decision = untold.popleft()
            log.info("decided", pool=str(pool.key), action=decision.action, reason=decision.reason)
            await self._emit(pool.key, pool.uid, decision)

    async def _emit(self, key: PoolKey, uid: str, decision: Decision) -> None:
        try:
            await emit_event(self._writer, key, uid, decision, self._instance)
        except KubeError as error:
            log.warning("no Event was made", action=decision.action, error=error.message)


def _word_put_back(results: Results, at: float) -> list[Decision]:
    return [Decision(at, "PutBack", text, warning=True) for text in results.put_back]
