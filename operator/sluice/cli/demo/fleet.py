"""What the demo sees of the cluster: the pool's status, its workers, and their steps."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError
from sluice.kube.paths import NODES, PODS, POOLS
from sluice.model.names import ANNOTATION_HEALTH, LABEL_NAME, LABEL_POOL, TAINT_QUARANTINE, WORKER


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of the pool's status."""

    name: str
    wanted: int
    serving: int
    share: int
    ramp: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """The pool at one moment."""

    variants: dict[str, Variant]
    conditions: dict[str, str]
    placement: str
    attainment: str
    cost: str
    reason: str
    message: str
    decisions: tuple[tuple[str, str, str], ...]

    def share(self, name: str) -> int:
        """Return a variant's share in percent."""
        return self.variants[name].share if name in self.variants else 0

    def serving(self, name: str) -> int:
        """Return a variant's serving workers."""
        return self.variants[name].serving if name in self.variants else 0

    def ramp(self, name: str) -> str:
        """Return which step of its ramp a variant is at, as 2/5; "" without a ramp."""
        return self.variants[name].ramp if name in self.variants else ""

    def wanted(self, name: str) -> int:
        """Return a variant's wanted workers."""
        return self.variants[name].wanted if name in self.variants else 0


EMPTY = View({}, {}, "", "", "", "", "", ())


@dataclass(slots=True)
class Fleet:
    """Reads the cluster; an answer that does not come leaves the last one."""

    client: KubeClient
    session: aiohttp.ClientSession
    namespace: str
    pool: str
    view: View = EMPTY
    workers: dict[str, list[str]] = field(default_factory=dict)
    tainted: set[str] = field(default_factory=set)
    marks: dict[str, tuple[str, str]] = field(default_factory=dict)
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)
    _counting: set[asyncio.Task[None]] = field(default_factory=set)

    async def look(self) -> View:
        """Read status, workers and nodes; return the view."""
        try:
            found = await self.client.get(POOLS, self.namespace, self.pool)
            self.view = read_view(found.get("status", {}))
            await self._look_at_workers()
            nodes = [node async for node in self.client.list_pages(NODES)]
            self.tainted = {
                node["metadata"]["name"]
                for node in nodes
                if any(t.get("key") == TAINT_QUARANTINE for t in node["spec"].get("taints", ()))
            }
            self.marks = {node["metadata"]["name"]: read_state(node) for node in nodes}
        except KubeError:
            return self.view
        return self.view

    async def close(self) -> None:
        """End what still counts."""
        for counting in self._counting:
            counting.cancel()
        await asyncio.gather(*self._counting, return_exceptions=True)

    async def _look_at_workers(self) -> None:
        selector = f"{LABEL_NAME}={WORKER},{LABEL_POOL}={self.pool}"
        workers: dict[str, list[str]] = {}
        async for pod in self.client.list_pages(PODS, self.namespace, selector):
            node = pod["spec"].get("nodeName", "")
            if node and "deletionTimestamp" not in pod["metadata"]:
                workers.setdefault(node, []).append(pod["metadata"]["name"])
                # Apart from the look, for a worker that hangs would hold it up.
                counting = asyncio.create_task(self._count_steps(pod))
                self._counting.add(counting)
                counting.add_done_callback(self._counting.discard)
        self.workers = workers

    async def _count_steps(self, pod: dict[str, Any]) -> None:
        """Read a worker's step counters; those of the dead keep their last value."""
        address = pod.get("status", {}).get("podIP")
        if not address:
            return
        try:
            async with self.session.get(
                f"http://{address}:8000/metrics", timeout=aiohttp.ClientTimeout(total=0.5)
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return
        counted = {
            line.split("{", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("sluice_worker_steps")
        }
        self.steps[pod["metadata"]["uid"]] = (
            counted.get("sluice_worker_steps_total", 0.0),
            counted.get("sluice_worker_steps_overrun_total", 0.0),
        )

    def overrun_share(self) -> float:
        """Return the share of all steps in which computing took longer than the device would."""
        total = sum(steps for steps, _ in self.steps.values())
        return sum(overrun for _, overrun in self.steps.values()) / total if total else 0.0


def read_state(node: dict[str, Any]) -> tuple[str, str]:
    """Return state and reason of a node's mark; Healthy where it bears none."""
    text = node["metadata"].get("annotations", {}).get(ANNOTATION_HEALTH, "{}")
    try:
        mark = json.loads(text)
        return str(mark.get("state", "Healthy")), str(mark.get("reason", ""))
    except (ValueError, AttributeError):
        return "Unreadable", text


def read_view(status: dict[str, Any]) -> View:
    """Return the view that a status document gives."""
    return View(
        variants={
            v["acceleratorClass"]: Variant(
                v["acceleratorClass"],
                v["wanted"],
                v["serving"],
                int(v["share"].rstrip("%")),
                v.get("ramp", {}).get("step", ""),
            )
            for v in status.get("variants", ())
        },
        conditions={c["type"]: c["status"] for c in status.get("conditions", ())},
        placement=status.get("placement", ""),
        attainment=status.get("attainment", ""),
        cost=status.get("costPerHour", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        decisions=tuple((d["time"], d["action"], d["reason"]) for d in status.get("decisions", ())),
    )
