"""The devices of one node: what is wrong with them, and who is told.

Hardware does not fall silent with the agent: this goes on while the agent is silent, and stops only
when the machine does. `agent` runs it; containers find the sockets of their devices here.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from sluice_accel.profiles import PROFILES
from sluice_node.config import NodeConfig
from sluice_node.devicehealth import DeviceReport, judge_devices
from sluice_node.deviceheat import DeviceHeat, Reading
from sluice_node.devicemetrics import DeviceCollector, MetricsServer
from sluice_node.devices import DeviceKey, list_devices
from sluice_node.devicesockets import DeviceSockets
from sluice_node.devicestates import DeviceStates

FAULT_FILE = "faults.json"
_LOOK_SECONDS = 0.2


class DeviceBank:
    """All devices of a node."""

    def __init__(self, config: NodeConfig, on_report: Callable[[DeviceReport], None]) -> None:
        """Prepare; `on_report` is called with every report that differs from the one before."""
        self.states = DeviceStates(list_devices(config.capacity), config.state_dir / FAULT_FILE)
        self._sockets = DeviceSockets(config.device_dir or config.state_dir, self.states.show)
        self._heat: dict[DeviceKey, DeviceHeat] = {}
        if config.device_profile is not None:
            profile = PROFILES[config.device_profile]
            self._heat = {device: DeviceHeat(profile) for device in self.states.devices}
        self._heated = time.monotonic()
        self._metrics: MetricsServer | None = None
        if config.metrics_port is not None:
            collector = DeviceCollector(config.name, self.states.show_all, self.read)
            self._metrics = MetricsServer(str(config.address), config.metrics_port, collector)
        self._on_report = on_report
        self.report = judge_devices((), time.time())

    def find_socket(self, device: DeviceKey) -> Path:
        """Return the path of a device's socket."""
        return self._sockets.find(device)

    def read(self, device: DeviceKey) -> Reading | None:
        """Return what a device's sensors show; None where nobody said what kind it is."""
        heat = self._heat.get(device)
        if heat is None:
            return None
        return heat.read(self._sockets.sum_use(device), self.states.show_written(device))

    async def start(self) -> None:
        """Read what is broken; open the sockets and the port for metrics.

        Raises:
            OSError: One of them cannot be had.
        """
        self.look()
        await self._sockets.start(self.states.devices)
        if self._metrics is not None:
            await self._metrics.start()

    async def stop(self) -> None:
        """Close what `start` opened."""
        await self._sockets.stop()
        if self._metrics is not None:
            await self._metrics.stop()

    async def run(self) -> None:
        """Follow the state of the devices for ever."""
        while self.states.devices:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()
        await asyncio.Event().wait()

    def look(self) -> None:
        """Tell processes and the health agent what changed."""
        clock = time.monotonic()
        seconds, self._heated = clock - self._heated, clock
        by_itself = {
            device: heat.advance(
                seconds,
                time.time(),
                self._sockets.sum_use(device),
                self.states.show_written(device),
            )
            for device, heat in self._heat.items()
        }
        for state in self.states.look(clock, by_itself):
            self._sockets.tell(state)
        report = judge_devices(self.states.show_all(), time.time())
        if report != self.report:
            self.report = report
            self._on_report(report)
