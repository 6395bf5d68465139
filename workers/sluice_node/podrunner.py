"""Runs one pod from its binding to its end: one task, which owns the pod's containers.

`agent` makes a runner for every pod of the node and feeds it what the watch brings; the runner
reports by `statuswriter`, and deletes the pod from the API when its last process has ended.
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Any

from sluice_node.addresses import NoAddressError
from sluice_node.container import Container
from sluice_node.contents import VolumeError
from sluice_node.devices import AdmissionError
from sluice_node.environment import PodFacts
from sluice_node.kubeapi import ApiError
from sluice_node.nodecontext import NodeContext
from sluice_node.podcontext import PodContext
from sluice_node.podstatus import PodView, decide_phase
from sluice_node.statuswriter import StatusWriter
from sluice_node.support import find_unsupported
from sluice_node.timestamps import parse_time
from sluice_node.volumes import PodVolumes, remove_directory

_LOG = logging.getLogger(__name__)
_STABLE_ADDRESS = "sluice.dev/stable-address"
_RETRY_SECONDS = 2.0
_REFRESH_SECONDS = 10.0
_VANISHED_GRACE = 2.0
_OVER = ("Succeeded", "Failed")


class PodRunner:
    """One pod on this node."""

    def __init__(self, pod: dict[str, Any], node: NodeContext) -> None:
        self._pod = pod
        self._node = node
        self.uid: str = pod["metadata"]["uid"]
        self._directory = node.pods / self.uid
        self._ip = ""
        self._failure: tuple[str, str] | None = None
        self._ended = False
        self._vanished = False
        self._updated = asyncio.Event()
        self._deleting = asyncio.Event()
        started = (pod.get("status") or {}).get("startTime")
        self._started_at = parse_time(started) if started else time.time()
        self._was_here = bool(started)
        # As the agent before left it: what the watch brings later is our own.
        self._left = (pod.get("status") or {}).get("containerStatuses") or ()
        facts = PodFacts("", str(node.config.address))
        volumes = PodVolumes(pod, self._directory, facts, node.api)
        self._context = PodContext(pod, node, facts, volumes, self._directory)
        self.containers: tuple[Container, ...] = ()
        self._writer = StatusWriter(pod, node.api, self.view)
        self._make_containers()
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting.set()

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        metadata = self._pod["metadata"]
        return metadata["namespace"], metadata["name"]

    @property
    def over(self) -> bool:
        """Whether the pod reached its final phase."""
        return decide_phase(self.view()) in _OVER

    def view(self) -> PodView:
        """Return what can be seen of the pod now."""
        return PodView(
            restart_policy=self._pod["spec"].get("restartPolicy", "Always"),
            containers=tuple(container.view() for container in self.containers),
            pod_ip=self._ip,
            host_ip=str(self._node.config.address),
            started_at=self._started_at,
            generation=int(self._pod["metadata"].get("generation", 0)),
            failure=self._failure,
            ended=self._ended,
            before=self._writer.known,
        )

    def update(self, pod: dict[str, Any]) -> None:
        """Take in what the watch brought."""
        self._pod = pod
        self._writer.observe(pod)
        self._updated.set()
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting.set()

    def vanish(self) -> None:
        """Take in that the pod is gone from the API: there is nobody left to report to."""
        self._vanished = True
        self._updated.set()
        self._deleting.set()

    async def run(self) -> None:
        """Run the pod to its end and leave nothing of it."""
        writing = asyncio.create_task(self._writer.run())
        try:
            if (self._pod.get("status") or {}).get("phase") in _OVER:
                self._writer.silence()
            elif not self._deleting.is_set():
                await self._run_until_deleted()
            await self._deleting.wait()
            await self._node.gate.wait()
            await self._end_containers()
            writing.cancel()
            self._release()
            await self._finalise()
        finally:
            writing.cancel()
            for container in self.containers:
                await container.kill()
            self._release()
        remove_directory(self._directory)

    @property
    def pod(self) -> dict[str, Any]:
        """The pod as seen last."""
        return self._pod

    @property
    def vanished(self) -> bool:
        """Whether the pod is gone from the API."""
        return self._vanished

    def sample_logs(self, now: float) -> None:
        """See `LogFile.sample`."""
        for container in self.containers:
            if container.log is not None and container.running:
                container.log.sample(now)

    async def end_now(self, grace: float) -> None:
        """End all processes: the agent itself ends."""
        await asyncio.gather(*(container.end(grace) for container in self.containers))

    def _make_containers(self) -> None:
        spec = self._pod["spec"]
        self.containers = tuple(
            Container(entry, self._context, self._note_change) for entry in spec["containers"]
        )

    def _note_change(self) -> None:
        self._writer.hurry()
        self._updated.set()

    async def _run_until_deleted(self) -> None:
        live = asyncio.create_task(self._live())
        deleting = asyncio.create_task(self._deleting.wait())
        try:
            await asyncio.wait({live, deleting}, return_when=asyncio.FIRST_COMPLETED)
            if live.done():
                live.result()
        finally:
            live.cancel()
            deleting.cancel()
            await asyncio.gather(live, deleting, return_exceptions=True)

    async def _live(self) -> None:
        """Admit, prepare and run the pod; return when its containers ended for good."""
        try:
            self._node.ledger.admit(self.uid, self._pod["spec"])
        except AdmissionError as error:
            self._failure = (error.reason, f"Pod was rejected: {error}")
            self._emit(error.reason, str(error))
            self._writer.hurry()
            return
        unsupported = find_unsupported(self._pod["spec"])
        if unsupported is not None:
            self._emit("Failed", f"Error: {unsupported}")
            self._say_waiting("CreateContainerConfigError", unsupported)
            await asyncio.Event().wait()
        self._writer.hurry()
        await self._assign_address()
        await self._prepare_volumes()
        self._adopt()
        self._writer.hurry()
        refreshing = asyncio.create_task(self._refresh_volumes())
        try:
            async with asyncio.TaskGroup() as group:
                for container in self.containers:
                    group.create_task(container.run())
        finally:
            refreshing.cancel()
        self._writer.hurry()
        self._release()

    async def _assign_address(self) -> None:
        stable = (self._pod["metadata"].get("annotations") or {}).get(_STABLE_ADDRESS)
        before = (self._pod.get("status") or {}).get("podIP")
        book = self._node.addresses
        if before and book.hold(self.uid, before):
            self._ip = before
        while not self._ip:
            try:
                self._ip = book.assign(self.uid, stable)
            except NoAddressError as error:
                self._emit("FailedCreatePodSandBox", str(error))
                self._say_waiting("ContainerCreating", str(error))
                await asyncio.sleep(_RETRY_SECONDS)
        facts = PodFacts(self._ip, str(self._node.config.address))
        volumes = PodVolumes(self._pod, self._directory, facts, self._node.api)
        self._context = PodContext(self._pod, self._node, facts, volumes, self._directory)
        self._make_containers()

    async def _prepare_volumes(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                await self._context.volumes.prepare()
            except (VolumeError, ApiError) as error:
                self._emit("FailedMount", f"Volumes cannot be prepared: {error}")
                self._say_waiting("ContainerCreating", str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _refresh_volumes(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                await self._context.volumes.prepare()
            except (VolumeError, OSError) as error:  # a full disk may become free again
                self._emit("FailedMount", f"Volumes cannot be refreshed: {error}")
            except ApiError as error:
                _LOG.debug("volumes of %s stay as they are: %s", self.key, error)

    def _adopt(self) -> None:
        if not self._was_here:
            return
        by_name = {status["name"]: status for status in self._left}
        for container in self.containers:
            if container.name in by_name:
                container.adopt(by_name[container.name])

    def _say_waiting(self, reason: str, message: str) -> None:
        for container in self.containers:
            container.set_waiting(reason, message)

    async def _end_containers(self) -> None:
        """SIGTERM, the grace period (which may be shortened meanwhile), SIGKILL."""
        loop = asyncio.get_running_loop()
        running = [container for container in self.containers if container.running]
        for container in running:
            self._emit("Killing", f"Stopping container {container.name}", warning=False)
            container.terminate()
        deadline = loop.time() + self._find_grace()
        while any(container.running for container in running):
            self._updated.clear()
            try:
                await asyncio.wait_for(self._updated.wait(), deadline - loop.time())
            except TimeoutError:
                break
            deadline = min(deadline, loop.time() + self._find_grace())
        await self._node.gate.wait()
        for container in self.containers:
            await container.kill()
            container.give_up()
        self._ended = True

    def _find_grace(self) -> float:
        if self._vanished:
            return _VANISHED_GRACE
        given = self._pod["metadata"].get("deletionGracePeriodSeconds")
        return self._context.grace_seconds if given is None else float(given)

    def _release(self) -> None:
        self._node.ledger.release(self.uid)
        if self._ip:
            self._node.addresses.release(self.uid)

    async def _finalise(self) -> None:
        """Report the end and delete the pod from the API, however long that takes."""
        namespace, name = self.key
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        while not self._vanished:
            try:
                await self._writer.write()
                await self._node.api.delete(path, options)
            except ApiError as error:
                if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    return
                _LOG.warning("cannot delete pod %s/%s yet: %s", namespace, name, error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    def _emit(self, reason: str, message: str, *, warning: bool = True) -> None:
        self._node.events.emit(self._pod, reason, message, warning=warning)
