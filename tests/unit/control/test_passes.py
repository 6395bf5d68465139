"""One pass after the other: who leads acts, who does not only looks."""

# ruff: noqa: TID252 - the world lives with the planner's tests; tests are no installed package

import asyncio
from types import SimpleNamespace

import pytest

from sluice.control.applying import Applier
from sluice.control.passes import PlannerLoop
from sluice.control.recording import Recorder
from sluice.control.settings import Settings
from sluice.control.telemetry import Telemetry
from sluice.model.keys import PoolKey
from sluice.observe.snapshot import Unreadable
from sluice.observe.store import Kind, Store

from ..decide.world import World
from .test_applying import FakeWriter


class FakeSensors:
    """Sees the world."""

    def __init__(self, world):
        self.store, self.prober, self._world = Store(lambda _: None), None, world
        self.asked, self.lists, self.unreadable = 0, True, {}
        self.answers = None
        self.refresh()

    def refresh(self):
        self.asked += 1
        if self.lists:
            self.list()

    def list(self):
        for kind in Kind:
            self.store.replace(kind, [], at=self._world.now)

    def take_snapshot(self, *, leading=True):
        self._world.now += self._world.tick
        return self._world.snapshot(), self.unreadable


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
        self.sensors = sensors = FakeSensors(self.world)
        self.recorder = Recorder("me")
        applier = Applier(
            self.writer,
            sensors.store,
            lambda: self.world.now,
            worker_image="w:1",
            instance="me",
            namespace="sluice-system",
        )
        self.loop = PlannerLoop(
            sensors,
            self.leadership,
            applier,
            self.writer,
            self.telemetry,
            Settings(),
            lambda: self.world.now,
            self.recorder,
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


async def test_what_is_not_measured_now_has_no_value(setting):
    names = {"namespace": "default", "pool": "chat"}
    registry = setting.telemetry.registry
    await setting.look()
    assert registry.get_sample_value("sluice_pool_demand", names) == 0
    setting.world.gateway = False
    await setting.look()
    assert registry.get_sample_value("sluice_pool_demand", names) is None


async def test_a_new_leader_looks_again_before_it_acts(setting):
    setting.sensors.asked, setting.sensors.lists = 0, False
    await setting.look()
    await setting.look()
    assert setting.writer.requests == []
    assert setting.sensors.asked == 1
    setting.sensors.list()
    await setting.look()
    assert setting.writer.requests


async def test_a_pool_that_cannot_be_read_is_told_of_once(setting):
    odd = Unreadable("spec.slo.ttft: found 'soon'", PoolKey("default", "odd"), "u")
    setting.sensors.unreadable = {"InferencePool default/odd": odd}
    await setting.look()
    await setting.look()
    assert setting.writer.events.count("Unreadable") == 1


async def test_lists_that_fail_for_long_do_not_stop_a_leader(setting):
    setting.sensors.lists = False
    for _ in range(20):
        await setting.look()
    assert setting.writer.requests


async def test_known_answers_that_did_not_come_are_counted_in_the_metrics(setting):
    setting.sensors.answers = SimpleNamespace(unanswered=7)
    await setting.look()
    name = "sluice_operator_known_answers_unanswered"
    assert setting.telemetry.registry.get_sample_value(name) == 7
