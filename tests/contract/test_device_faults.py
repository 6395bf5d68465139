"""Faults of devices, from the order to break one to what a worker and telemetry show of it.

A real worker on the devices of a node: what breaks them is the supervisor's part, what tells of it
the agent's, both without a control plane. What a node's condition and a pool make of it is tested
on a cluster (tests/integration).
"""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package
# ruff: noqa: S310 - the only URLs opened are the worker's and the node's

import asyncio
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice.devcluster.faults import FaultRequest, NodeHardware
from sluice_accel import thermal
from sluice_accel.quantities import assumed
from sluice_node.devicebank import DeviceBank

from ..unit.node.nodeworld import make_config
from ..unit.worker.workerprocess import DEADLINE, find_port, starting

COMPACT = Path(__file__).parents[2] / "workers" / "models" / "compact"
EMULATED = ("--profile=maia-200", "--nominal=llama-3.3-70b", "--devices=2", "--token-scale=96")
ASKED = {"model": "compact", "prompt": "some text", "seed": 7, "extra_body": {"ignore_eos": True}}
MAIA = "sluice.dev/maia"


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Node:
    """The devices of a node: broken as the supervisor breaks them, served as the agent does."""

    def __init__(self, directory, sockets):
        self._hardware = NodeHardware("maia-0", {MAIA: "2"}, directory)
        self._url = f"http://127.0.0.1:{(port := find_port())}/metrics"
        capacity = {"cpu": "4", "memory": "8Gi", "pods": "9", MAIA: "2"}
        self._config = make_config(
            directory,
            address=IPv4Address("127.0.0.1"),
            metrics_port=port,
            device_dir=sockets,
            device_profile="maia-200",
            capacity=capacity,
        )
        self._reports = []
        self._began, self._ending = threading.Event(), None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._began.wait(DEADLINE)

    async def _run(self):
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        bank = DeviceBank(self._config, self._reports.append)
        await bank.start()
        self.devices = [SimpleNamespace(path=bank.find_socket((MAIA, n))) for n in range(2)]
        running = asyncio.create_task(bank.run())
        self._began.set()
        await self._ending.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bank.stop()

    def close(self):
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(DEADLINE)

    def do_break(self, fault, **more):
        self._hardware.break_devices(FaultRequest.parse({"fault": fault} | more))

    def looks_healthy(self):
        """Tell whether the health agent never said anything else."""
        return all(report.healthy for report in self._reports)

    def heal(self):
        self._hardware.heal()

    def read(self, field):
        """Return a field of both devices, None where one has no reading."""
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            text = answer.read().decode()
        found = {
            sample.labels["gpu"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"DCGM_FI_DEV_{field}"
        }
        return tuple(found.get(number) for number in ("0", "1"))


@pytest.fixture
def node(tmp_path):
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as sockets:
        node = Node(tmp_path, Path(sockets))
        yield node
        node.close()


@pytest.fixture
def start(tmp_path, node):
    with starting(tmp_path) as begin:
        yield lambda *args, **over: begin(COMPACT, *EMULATED, *args, devices=node.devices, **over)


@pytest.fixture
def busy():
    """Keep a worker busy with long answers, one after the other; goes on once the first is made."""
    over = threading.Event()

    def ask(worker):
        client = openai.OpenAI(base_url=f"{worker.url}/v1", api_key="unused", max_retries=0)
        with client:
            while not over.is_set():
                try:
                    client.completions.create(**ASKED, max_tokens=100)
                except openai.APIError:
                    return

    def begin(worker):
        pool.submit(ask, worker)
        wait_until(lambda: count_tokens(worker) > 3)

    with ThreadPoolExecutor(1) as pool:
        yield begin
        over.set()


def count_tokens(worker):
    return worker.metric("vllm:generation_tokens_total")


def measure_rate(worker):
    """Return tokens/s, over a few tokens."""
    begun, made = time.monotonic(), count_tokens(worker)
    wait_until(lambda: count_tokens(worker) > made + 3)
    return (count_tokens(worker) - made) / (time.monotonic() - begun)


def test_telemetry_shows_what_a_worker_does_with_its_devices(node, start, busy):
    assert node.read("FB_USED") == (0, 0)
    idle = node.read("POWER_USAGE")
    worker = start()
    wait_until(lambda: min(node.read("FB_USED")) > 0.9 * 216e9 / 2**20)
    busy(worker)
    wait_until(lambda: min(node.read("GPU_UTIL")) > 20)
    assert min(node.read("POWER_USAGE")) > max(idle) + 50
    assert node.read("XID_ERRORS") == (0, 0)
    worker.process.kill()
    wait_until(lambda: node.read("FB_USED") == (0, 0) and node.read("POWER_USAGE") == idle)


def test_exhausted_memory_shows_in_memory_and_in_the_worker_s_end_and_nowhere_else(node, start):
    worker = start()
    node.do_break("out-of-memory", device=1, held=0.5)
    wait_until(lambda: node.read("FB_FREE")[1] == 0)
    assert node.read("FB_FREE")[0] > 0
    client = openai.OpenAI(base_url=f"{worker.url}/v1", api_key="unused", max_retries=0)
    with client, pytest.raises(openai.InternalServerError):
        client.completions.create(**ASKED, max_tokens=3)
    assert worker.wait() == 1
    assert "out of memory: sluice.dev/maia 1" in worker.log.read_text()
    assert start(ready=False).wait() == 1
    assert node.read("XID_ERRORS") == (0, 0)
    assert node.looks_healthy()  # no driver logs it
    node.heal()
    start()


def test_a_slow_start_shows_in_readiness_and_nowhere_else(node, start):
    node.do_break("slow-start", slowdown=1000)
    worker = start("--startup-seconds=1", ready=False)
    wait_until(lambda: worker.get("/readyz") == (503, "loading, emulated as 1 s"))
    assert worker.get("/healthz")[0] == 200
    assert node.read("FB_USED") == (0, 0)
    assert node.looks_healthy()
    node.heal()
    worker.until("/readyz", 200)
    wait_until(lambda: min(node.read("FB_USED")) > 0)


def test_one_throttled_device_of_two_shows_in_its_clocks_and_in_everybody_s_latency(
    node, start, busy
):
    worker = start()
    busy(worker)
    usual = max(measure_rate(worker) for _ in range(3))
    # By so much that it shows on a busy machine, too, whose own steps take too long.
    node.do_break("throttle", device=1, slowdown=20)
    wait_until(lambda: measure_rate(worker) < usual / 3)
    clocks, temperatures = node.read("SM_CLOCK"), node.read("GPU_TEMP")
    assert clocks[1] == pytest.approx(clocks[0] / 20, abs=1)
    assert temperatures[0] < 87 < temperatures[1]
    # The other one waits for it, and has less to do.
    wait_until(lambda: node.read("GPU_UTIL")[0] < node.read("GPU_UTIL")[1] / 2)
    assert worker.get("/healthz") == (200, "ok")
    node.heal()
    wait_until(lambda: measure_rate(worker) > usual / 2)


def test_without_cooling_a_busy_device_heats_up_and_throttles_by_itself(
    node, start, busy, monkeypatch
):
    monkeypatch.setattr(thermal, "TIME_CONSTANT", assumed(0.5, "s", "so that nobody has to wait"))
    monkeypatch.setattr(thermal, "THROTTLE_ABOVE", assumed(75, "°C", "under any load"))
    monkeypatch.setattr(thermal, "THROTTLE_UNTIL", assumed(66, "°C", "not before it is repaired"))
    monkeypatch.setattr(thermal, "THROTTLED_SLOWDOWN", assumed(20, "", "to show when busy, too"))
    worker = start()
    busy(worker)
    usual = max(measure_rate(worker) for _ in range(3))
    node.do_break("cooling", device=0)
    wait_until(lambda: node.read("SM_CLOCK")[0] < node.read("SM_CLOCK")[1])
    wait_until(lambda: measure_rate(worker) < usual / 3)
    assert node.read("GPU_TEMP")[0] > node.read("GPU_TEMP")[1] + 10
    node.heal()
    wait_until(lambda: measure_rate(worker) > usual / 2)
    assert node.read("SM_CLOCK")[0] == node.read("SM_CLOCK")[1]


def test_a_scheduled_hang_comes_shows_as_use_without_progress_and_is_repaired(node, start, busy):
    worker = start()
    busy(worker)
    node.do_break("hang", after=1, repairAfter=600, timeCompression=100)
    wait_until(lambda: worker.get("/healthz")[0] == 503)
    wait_until(lambda: node.read("GPU_UTIL") == (100, 100))
    made = count_tokens(worker)
    worker.until("/healthz", 200)
    wait_until(lambda: count_tokens(worker) > made)
    assert node.looks_healthy()


def test_a_fault_by_chance_hits_the_worker_again_and_again(node, start, busy):
    worker = start()
    busy(worker)
    node.do_break("throttle", probability=0.5, period=1, seed=3, slowdown=20)
    seen = set()

    def has_come_and_gone():
        seen.add(node.read("SM_CLOCK")[0] < node.read("SM_CLOCK")[1])
        return seen == {True, False}

    wait_until(has_come_and_gone)
    seen.clear()
    wait_until(has_come_and_gone)
