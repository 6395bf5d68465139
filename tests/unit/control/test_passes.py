"""One pass after the other: who leads acts, who does not only looks."""

# ruff: noqa: TID252 - the world lives with the planner's tests; tests are no installed package

import asyncio

import pytest

from sluice.control.applying import Applier
from sluice.control.passes import PlannerLoop
from sluice.control.settings import Settings
from sluice.control.telemetry import Telemetry
from sluice.observe.store import Kind, Store

from ..decide.world import World
from .test_applying import FakeWriter


class FakeSensors:
    """Sees the world."""

    def __init__(self, world):
        self.store, self.prober, self._world = Store(lambda _: None), None, world
        for kind in Kind:
            self.store.replace(kind, [], at=0.0)

    def take_snapshot(self):
        self._world.now += self._world.tick
        return self._world.snapshot(), {}


class FakeLeadership:
    leading = True

    def is_leading(self):
        return self.leading


class Setting:
    """A planner loop with everything around it faked."""

    def __init__(self):
        self.world = World()
        self.world.run(20)
        self.writer, self.leadership, self.telemetry = FakeWriter(), FakeLeadership(), Telemetry()
        sensors = FakeSensors(self.world)
        applier = Applier(
            self.writer, sensors.store, lambda: self.world.now, worker_image="w:1", instance="me"
        )
        self.loop = PlannerLoop(
            sensors,
            self.leadership,
            applier,
            self.writer,
            self.telemetry,
            Settings(),
            lambda: self.world.now,
        )

    async def look(self):
        await self.loop.look()
        for _ in range(100):
            await asyncio.sleep(0)


@pytest.fixture
def setting():
    return Setting()


async def test_who_lost_and_regained_leadership_writes_what_another_leader_changed(setting):
    await setting.look()
    ours = setting.writer.statuses[-1]
    setting.leadership.leading = False
    await setting.look()
    setting.world.status["chat"] = {**ours, "endpoint": "http://another-leader"}
    setting.leadership.leading = True
    await setting.look()
    assert len(setting.writer.statuses) == 2
    assert "endpoint" not in setting.writer.statuses[-1]


async def test_a_standby_shows_no_pool_in_its_metrics(setting):
    await setting.look()
    names = {"namespace": "default", "pool": "chat", "accelerator_class": "maia"}
    registry = setting.telemetry.registry
    assert registry.get_sample_value("sluice_pool_workers_wanted", names) == 1
    setting.leadership.leading = False
    await setting.look()
    assert registry.get_sample_value("sluice_pool_workers_wanted", names) is None
