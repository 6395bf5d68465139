"""The planner loop: one serial pass over the whole fleet, coalesced; only the leader's act."""

import asyncio
import contextlib
import time
from functools import partial

import structlog

from sluice.act.writer import Writer
from sluice.control.applying import Applier
from sluice.control.leadership import Leadership
from sluice.control.queue import KeyedQueue
from sluice.control.recording import Recorder
from sluice.control.sensors import Sensors
from sluice.control.settings import Settings
from sluice.control.telemetry import Telemetry
from sluice.decide.planner import plan
from sluice.model.clock import Clock
from sluice.model.memory import Memory
from sluice.model.plan import Plan, VariantPlan
from sluice.model.snapshot import Snapshot
from sluice.observe.snapshot import Unreadable

log = structlog.get_logger()


class PlannerLoop:
    """Passes, one after the other.

    A pass runs when something woke it, at most every `least_gap`, and else every `fast_tick`. A
    standby only keeps its sight warm; a new leader begins with an empty memory, which the planner
    fills from what is durable.
    """

    def __init__(
        self,
        sensors: Sensors,
        leadership: Leadership,
        applier: Applier,
        writer: Writer,
        telemetry: Telemetry,
        settings: Settings,
        clock: Clock,
        recorder: Recorder,
    ) -> None:
        self._sensors = sensors
        self._recorder = recorder
        self._leadership = leadership
        self._applier = applier
        self._writer = writer
        self._telemetry = telemetry
        self._settings = settings
        self._clock = clock
        self._queue = KeyedQueue()
        self._woken = asyncio.Event()
        self._memory = Memory()
        self._led_since: float | None = None
        self._unreadable: dict[str, Unreadable] = {}
        self.passed: float | None = None

    def wake(self) -> None:
        """Ask for a pass soon."""
        self._woken.set()

    async def run(self) -> None:
        """Pass until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), self._settings.fast_tick)
                self._woken.clear()
                await self.look()
                self.passed = self._clock()
                await asyncio.sleep(self._settings.least_gap)
        finally:
            await self._queue.stop()

    async def look(self) -> None:
        """Make one pass."""
        if not self._sensors.store.is_complete():
            return
        began = time.perf_counter()
        leading = self._leadership.is_leading()
        snapshot, unreadable = self._sensors.take_snapshot(leading=leading)
        self._telemetry.leading.set(leading)
        if not leading:
            self._stand_by(snapshot.at)
            return
        if not self._has_fresh_sight():
            return
        before = self._memory
        planned, self._memory = plan(snapshot, before)
        self._recorder.note(snapshot, before, planned)
        took = time.perf_counter() - began
        self._telemetry.passes.observe(took)
        self._show(snapshot, planned, took)
        self._tell_unreadable(snapshot.at, unreadable)
        self._submit(snapshot, planned)

    def _has_fresh_sight(self) -> bool:
        """Tell whether everything was listed since we lead; asks for it.

        What another leader wrote last, a mark on a node or the memory of a pool, may not have come
        by our watches, and what is not seen would be undone or done again. A list that fails for
        long must not stop all failover, though: then what is known has to do.
        """
        now = self._clock()
        if self._led_since is None:
            self._led_since = now
            self._sensors.refresh()
        fresh = self._sensors.store.is_complete(self._led_since)
        return fresh or now - self._led_since > self._settings.relist

    def _stand_by(self, at: float) -> None:
        """Forget what another leader may change meanwhile, and show no pool: its metrics do."""
        self._memory = Memory()
        self._led_since = None
        self._queue.clear()
        self._applier.forget({})
        self._telemetry.show_plan(Plan(at))
        self._telemetry.quarantined.set(0)

    def _submit(self, snapshot: Snapshot, planned: Plan) -> None:
        for action in planned.nodes:
            self._queue.submit(("node", action.node), partial(self._applier.apply_node, action))
        for step in planned.probations:
            apply = partial(self._applier.apply_probation, snapshot, step)
            self._queue.submit(("probation", step.node), apply)
        self._applier.forget({pool.key: pool.uid for pool in snapshot.pools})
        for pool in snapshot.pools:
            self._applier.note(pool.key, planned.pools[pool.key].decisions)
            self._queue.submit(
                pool.key,
                partial(
                    self._applier.apply_pool,
                    snapshot,
                    pool,
                    planned.pools[pool.key],
                    self._memory.pools[pool.key],
                ),
            )

    def _show(self, snapshot: Snapshot, planned: Plan, took: float) -> None:
        self._telemetry.show_plan(planned)
        known = self._memory.nodes
        out = [n.name for n in snapshot.nodes if n.name in known and known[n.name].is_out]
        self._telemetry.quarantined.set(len(out))
        if self._sensors.prober is not None:
            self._telemetry.misses.set(self._sensors.prober.missed)
        if self._sensors.answers is not None:
            self._telemetry.unanswered.set(self._sensors.answers.unanswered)
        for (verb, kind), count in self._writer.written.items():
            self._telemetry.writes.labels(verb, kind).set(count)
        decisions = {
            str(p.key): [d.action for d in p.decisions]
            for p in planned.pools.values()
            if p.decisions
        }
        if decisions or planned.nodes or planned.probations:
            log.info(
                "pass",
                milliseconds=round(1000 * took, 2),
                pools={str(p.key): _brief(p.variants) for p in planned.pools.values()},
                decisions=decisions,
                nodes=[f"{type(a).__name__} {a.node}: {a.reason}" for a in planned.nodes],
                probations=[f"{type(a).__name__} {a.node}" for a in planned.probations],
                quarantined=out,
            )

    def _tell_unreadable(self, at: float, unreadable: dict[str, Unreadable]) -> None:
        for name, found in unreadable.items():
            if self._unreadable.get(name) == found:
                continue
            log.warning("cannot be read; left as it is", object=name, why=found.why)
            if found.key is not None:
                tell = partial(self._applier.tell_unreadable, at, found.key, found.uid, found.why)
                self._queue.submit(found.key, tell)
        self._unreadable = unreadable


def _brief(variants: tuple[VariantPlan, ...]) -> str:
    return ", ".join(f"{v.accelerator_class} {v.serving}/{v.wanted} {v.share}%" for v in variants)
