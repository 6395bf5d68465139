"""A node without a control plane: real processes, and an API server made of a dict."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import aiohttp

from sluice_node.config import ApiServer, Image, KubeletEndpoint, NodeConfig
from sluice_node.devicebank import DeviceBank
from sluice_node.devices import CapacityLedger
from sluice_node.events import EventRecorder
from sluice_node.kubeapi import ApiError
from sluice_node.nodecontext import AddressBook, NodeContext
from sluice_node.podrunner import PodRunner

PYTHON = sys.executable


class FakeApi:
    """Answers as the API server does, as far as the agent asks."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.away = False
        self._version = 100

    async def get(self, path: str) -> dict[str, Any]:
        self._note("GET", path, None)
        if path not in self.objects:
            raise ApiError(f"{path} not found", 404)
        return self.objects[path]

    async def create(self, path: str, body: Any) -> dict[str, Any]:
        self._note("POST", path, body)
        name = body.get("metadata", {}).get("name")
        self.objects[f"{path}/{name}"] = {
            **body,
            "metadata": {**body.get("metadata", {}), "uid": "u"},
        }
        return self.objects[f"{path}/{name}"]

    async def patch(self, path: str, body: Any, kind: str = "") -> dict[str, Any]:
        self._note("PATCH", path, body)
        thing = self.objects.get(path.removesuffix("/status"))
        if thing is None:
            raise ApiError(f"{path} not found", 404)
        self._version += 1
        if path.endswith("/status"):
            thing["status"] = {**thing.get("status", {}), **body["status"]}
        thing["metadata"]["resourceVersion"] = str(self._version)
        return thing

    async def delete(self, path: str, options: Any) -> None:
        self._note("DELETE", path, options)
        if self.objects.pop(path, None) is None:
            raise ApiError(f"{path} not found", 404)

    def list_requests(self, method: str, ending: str = "") -> list[Any]:
        return [body for m, path, body in self.requests if m == method and path.endswith(ending)]

    def _note(self, method: str, path: str, body: Any) -> None:
        if self.away:
            raise ApiError("no API server")
        self.requests.append((method, path, body))


def make_config(directory: Path, **more: Any) -> NodeConfig:
    fields: dict[str, Any] = {
        "name": "maia-0",
        "kubeconfig": directory / "kubeconfig",
        "state_dir": directory,
        "address": IPv4Address("127.77.1.1"),
        "pod_range": IPv4Network("127.77.1.0/24"),
        "stable_range": IPv4Network("127.77.0.0/24"),
        "kubelet": KubeletEndpoint(
            port=1, cert_file=directory, key_file=directory, client_ca_file=directory
        ),
        "api_server": ApiServer(host="127.0.0.1", port=1, ca_file=directory / "ca"),
        "capacity": {"cpu": "4", "memory": "8Gi", "pods": "9", "sluice.dev/maia": "2"},
        "images": {"w:1": Image(path=(Path(PYTHON).parent,), rootfs={"/models": directory})},
        **more,
    }
    return NodeConfig(**fields)


def make_pod(*command: str, uid: str = "uid-1", **container: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "chat",
            "namespace": "default",
            "uid": uid,
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": {
            "containers": [{"name": "c", "image": "w:1", "command": list(command), **container}],
            "terminationGracePeriodSeconds": 20,
        },
        "status": {"phase": "Pending"},
    }


class World:
    """One node and its fake API server."""

    def __init__(self, context: NodeContext, api: FakeApi) -> None:
        self.context = context
        self.api = api
        self.gate = context.gate
        self._tasks: list[asyncio.Task[None]] = []

    def run_pod(self, pod: dict[str, Any]) -> tuple[PodRunner, "asyncio.Task[None]"]:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self.api.objects[path] = {**pod, "metadata": dict(metadata)}
        runner = PodRunner(pod, self.context)
        task = asyncio.create_task(runner.run())
        self._tasks.append(task)
        return runner, task

    @property
    def status(self) -> dict[str, Any]:
        """The status of the pod as the API server shows it."""
        pod = self.api.objects.get("/api/v1/namespaces/default/pods/chat", {})
        return pod.get("status", {})

    @property
    def container(self) -> dict[str, Any]:
        """The status of its only container."""
        return (self.status.get("containerStatuses") or [{}])[0]

    @property
    def state(self) -> dict[str, Any]:
        """The state of its only container."""
        return self.container.get("state", {})

    async def close(self) -> None:
        """End everything."""
        self.gate.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def delete(pod: dict[str, Any], *, grace: int) -> dict[str, Any]:
    """Return the pod as the watch brings it when somebody deletes it."""
    metadata = {
        **pod["metadata"],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": grace,
    }
    return {**pod, "metadata": metadata}


@asynccontextmanager
async def open_world(directory: Path):
    """Set up a node in a directory, and leave no process behind."""
    api, gate = FakeApi(), asyncio.Event()
    gate.set()
    config = make_config(directory)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as probes:
        context = NodeContext(
            config=config,
            api=api,
            gate=gate,
            events=EventRecorder(api, config.name),
            ledger=CapacityLedger(config.capacity),
            devices=DeviceBank(config, lambda _: None),
            addresses=AddressBook(config),
            probes=probes,
        )
        world = World(context, api)
        try:
            yield world
        finally:
            await world.close()


async def until(condition: Callable[[], Any], *, seconds: float = 15.0) -> None:
    """Return when `condition()` is true; fail the test when that takes too long."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is observed has no event of its own
            await asyncio.sleep(0.005)
