"""What a DCGM exporter would show of the node's devices: `GET /metrics` on the node's own address.

One series a device, in dcgm-exporter's names and labels whatever the kind of device, and marked as
emulated: nobody has published the names of Maia's metrics, so that they are the same is assumed.
Power, heat, use and memory come from what processes do with the devices (`deviceheat`). On a
real node the exporter is a program of its own: this one goes on while the agent is silent.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from sluice_accel.faults import DeviceState, FaultKind
from sluice_node.devicehealth import XIDS
from sluice_node.deviceheat import Reading
from sluice_node.devices import DeviceKey

TEMPERATURE: Final = 62.0
"""Degrees Celsius of a device at work (assumed), where nobody said what kind it is."""
SLOWDOWN_TEMPERATURE: Final = 88.0
"""Of one that throttles: just above the 87 at which NVIDIA's mock H100 slows down, below the 92 at
which it shuts down (published, k8s-test-infra)."""
CLOCK: Final = 1980.0
"""MHz of an H100's streaming multiprocessors at full speed (recalled); assumed for every kind."""

_MEBIBYTE: Final = 2**20
_CLOSE_SECONDS = 0.5
_FIELDS: Final = {
    "XID_ERRORS": "Value of the last XID error encountered.",
    "GPU_TEMP": "GPU temperature (in C).",
    "POWER_USAGE": "Power draw (in W).",
    "TOTAL_ENERGY_CONSUMPTION": "Total energy consumption since boot (in mJ).",
    "GPU_UTIL": "GPU utilization (in %).",
    "FB_USED": "Framebuffer memory used (in MiB).",
    "FB_FREE": "Framebuffer memory free (in MiB).",
    "SM_CLOCK": "SM clock frequency (in MHz).",
    "THERMAL_VIOLATION": "Throttling duration due to thermal constraints (in us).",
    "ECC_DBE_VOL_TOTAL": "Total number of double-bit volatile ECC errors.",
    "ROW_REMAP_FAILURE": "Whether remapping of rows has failed.",
}
_COUNTS: Final = ("THERMAL_VIOLATION", "ECC_DBE_VOL_TOTAL", "TOTAL_ENERGY_CONSUMPTION")
"""Served untyped: the library would add `_total` to the name of a counter."""


def measure_device(
    state: DeviceState, now: float, reading: Reading | None = None
) -> dict[str, float]:
    """Return the fields of one device, without their prefix `DCGM_FI_DEV_`.

    Counters begin at 0 again when a device was healed, as they do with another device in its place.
    A device that is off the bus has no readings: the last error is all that is known of it.
    """
    xid = next((float(number) for kind, number in XIDS.items() if state.find(kind)), 0.0)
    if state.find(FaultKind.OFF_BUS):
        return {"XID_ERRORS": xid}
    hot = state.find(FaultKind.THROTTLE)
    broken = 1.0 if state.find(FaultKind.ECC) else 0.0
    temperature = TEMPERATURE if reading is None else reading.temperature
    return {
        "XID_ERRORS": xid,
        # One that is told to throttle is hot, whatever it does.
        "GPU_TEMP": max(temperature, SLOWDOWN_TEMPERATURE if hot else 0.0),
        **({} if reading is None else _show_use(reading)),
        "SM_CLOCK": round(CLOCK / hot.slowdown) if hot else CLOCK,
        "THERMAL_VIOLATION": round(max(0.0, now - hot.since) * 1e6) if hot else 0.0,
        "ECC_DBE_VOL_TOTAL": broken,
        # No spare row was left, or a reset alone would have healed the device.
        "ROW_REMAP_FAILURE": broken,
    }


def _show_use(reading: Reading) -> dict[str, float]:
    return {
        "POWER_USAGE": round(reading.watts, 3),
        "TOTAL_ENERGY_CONSUMPTION": round(1000 * reading.joules),
        "GPU_UTIL": round(100 * reading.busy),
        "FB_USED": reading.used // _MEBIBYTE,
        "FB_FREE": (reading.total - reading.used) // _MEBIBYTE,
    }


class DeviceCollector(Collector):
    """Reads the devices whenever somebody scrapes."""

    def __init__(
        self,
        node: str,
        show: Callable[[], Sequence[DeviceState]],
        read: Callable[[DeviceKey], Reading | None],
    ) -> None:
        self._node = node
        self._show = show
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return all fields of all devices."""
        metrics = {
            field: Metric(f"DCGM_FI_DEV_{field}", text, "untyped" if field in _COUNTS else "gauge")
            for field, text in _FIELDS.items()
        }
        now = time.time()
        for state in self._show():
            labels = dict(self._label(state))
            reading = self._read((state.resource, state.number))
            for field, value in measure_device(state, now, reading).items():
                metrics[field].add_sample(metrics[field].name, labels, value)
        return [metric for metric in metrics.values() if metric.samples]

    def _label(self, state: DeviceState) -> Iterator[tuple[str, str]]:
        vendor, _, kind = state.resource.partition("/")
        yield "gpu", str(state.number)
        yield "device", f"{'nvidia' if vendor == 'nvidia.com' else kind}{state.number}"
        yield "Hostname", self._node
        yield "emulated", "true"


class MetricsServer:
    """Serves the metrics of the devices."""

    def __init__(self, address: str, port: int, collector: DeviceCollector) -> None:
        self._address = address
        self._port = port
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The port cannot be had.
        """
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, self._port, reuse_address=True).start()

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
