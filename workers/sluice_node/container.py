"""Runs one container of a pod: starts it, probes it, restarts it after its back-off.

Owned by `podrunner`, which says when to begin and ends it when the pod is deleted. What it does is
visible as a `ContainerView`; every change of that calls `on_change`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from sluice_node.backoff import RestartBackoff, format_delay
from sluice_node.environment import ContainerConfigError, list_config_maps
from sluice_node.healthcheck import HealthCheck
from sluice_node.kubeapi import ApiError
from sluice_node.launch import prepare_launch
from sluice_node.logs import LogFile, prune_runs
from sluice_node.podcontext import PodContext
from sluice_node.podstatus import ContainerView, Running, State, Terminated, Waiting
from sluice_node.processes import ContainerProcess, SpawnError, end_leftovers, spawn
from sluice_node.volumes import fetch_config_map

_LOG = logging.getLogger(__name__)
_CONFIG_RETRY_SECONDS = 5.0
_START_ERROR = 128
_LOST = 137


class Container:
    """One container. `adopt` first if the pod already ran under an earlier agent."""

    def __init__(
        self, spec: Mapping[str, Any], pod: PodContext, on_change: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self._pod = pod
        self._on_change = on_change
        self._directory = pod.directory / "containers" / self.name
        self._image = pod.node.config.images.get(spec["image"])
        self._backoff = RestartBackoff()
        self._state: State = Waiting("ContainerCreating")
        self._last: Terminated | None = None
        self._restarts = 0
        self._process: ContainerProcess | None = None
        self._ended = asyncio.Event()
        self._health: HealthCheck | None = None
        self._config_maps: dict[str, Mapping[str, str] | None] = {}
        self.log: LogFile | None = None
        self.previous_log: LogFile | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.running

    def view(self) -> ContainerView:
        """Return what can be seen of it now."""
        running = isinstance(self._state, Running)
        health = self._health if running else None
        process = self._process
        return ContainerView(
            name=self.name,
            image=self.spec["image"],
            state=self._state,
            last=self._last,
            ready=health is not None and health.ready,
            started=health is not None and health.started,
            restarts=self._restarts,
            container_id=self._describe_id() if process is not None else "",
            image_known=self._image is not None,
        )

    def adopt(self, observed: Mapping[str, Any]) -> None:
        """Continue the count of a container whose process died with an earlier agent."""
        self._restarts = int(observed.get("restartCount", 0))
        states = (observed.get("state") or {}, observed.get("lastState") or {})
        ended = next((state["terminated"] for state in states if "terminated" in state), None)
        if "running" in states[0]:
            now = time.time()
            message = "the node's agent ended, and the container with it"
            self._state = Terminated(_LOST, "ContainerStatusUnknown", now, now, message)
        elif ended is not None:
            self._state = Terminated.parse(ended)
        else:
            return
        if self._wants_restart():
            self._last, self._state = self._state, Waiting("ContainerCreating")
            self._restarts += 1

    def set_waiting(self, reason: str, message: str = "") -> None:
        """Say why it does not run."""
        self._set_state(Waiting(reason, message))

    async def run(self) -> None:
        """Keep it running as the pod's restart policy says; return when it ended for good."""
        if self._image is None:
            await self._refuse_image()
        if isinstance(self._state, Terminated):
            return  # under an earlier agent, for good
        first = True
        while True:
            if not first:
                await self._wait_for_restart()
            first = False
            await self._pod.node.gate.wait()
            if await self._start():
                await self._attend()
            if not self._wants_restart():
                return

    async def _refuse_image(self) -> None:
        image = self.spec["image"]
        known = ", ".join(sorted(self._pod.node.config.images)) or "none"
        message = f'image "{image}" is unknown to this emulated node; it knows: {known}'
        self._emit("Failed", f"Failed to pull image: {message}", warning=True)
        self.set_waiting("ErrImagePull", message)
        await asyncio.Event().wait()  # the table does not change while the agent runs

    async def _wait_for_restart(self) -> None:
        """Turn the present end into the last one, and wait for the back-off."""
        ended = self._state
        if not isinstance(ended, Terminated):
            return
        delay = max(0.0, ended.finished_at + self._backoff.delay - time.time())
        if delay:
            text = (
                f"back-off {format_delay(self._backoff.delay)} restarting failed container="
                f"{self.name} pod={self._pod.describe()}"
            )
            self._last = ended
            self.set_waiting("CrashLoopBackOff", text)
            self._emit("BackOff", text, warning=True)
            await asyncio.sleep(delay)
        self._last = ended
        self._restarts += 1
        self._backoff.note_start()

    async def _start(self) -> bool:
        """Start the process; return False if the attempt ended as a container does."""
        while True:
            try:
                await self._fetch_config_maps()
                self._spawn()
            except (ContainerConfigError, ApiError) as error:
                self.set_waiting("CreateContainerConfigError", str(error))
                self._emit("Failed", f"Error: {error}", warning=True)
                await asyncio.sleep(_CONFIG_RETRY_SECONDS)
                await self._pod.node.gate.wait()
            except SpawnError as error:
                now = time.time()
                self._emit("Failed", f"Error: {error}", warning=True)
                self._set_state(Terminated(_START_ERROR, "StartError", now, now, str(error)))
                return False
            else:
                return True

    def _spawn(self) -> None:
        pod, image = self._pod, self._image
        if image is None:
            raise SpawnError(f"the image {self.spec['image']} is unknown")
        directory = self._directory
        ledger, devices = pod.node.ledger, pod.node.devices
        launch = prepare_launch(
            pod.object,
            self.spec,
            node=pod.node.config,
            image=image,
            facts=pod.facts,
            volumes=pod.volumes,
            config_maps=self._config_maps,
            devices=ledger.describe_devices(pod.uid, self.name),
            device_sockets=[
                devices.find_socket(device) for device in ledger.list_devices(pod.uid, self.name)
            ],
            directory=directory,
        )
        self._emit("Pulled", f'Container image "{self.spec["image"]}" is known to this node')
        log = LogFile(directory / f"{self._restarts}.log")
        self._ended = asyncio.Event()
        self._process = spawn(
            launch.arguments,
            environment=launch.environment,
            directory=launch.directory,
            log=log.path,
            on_end=self._note_end,
        )
        before = LogFile(directory / f"{self._restarts - 1}.log")
        self.log = log
        self.previous_log = before if before.path.exists() else None
        prune_runs(directory)
        self._health = HealthCheck(self.spec, self._pod, self._on_change, self._emit)
        self._set_state(Running(self._process.started_at))
        self._emit("Started", f"Container started: process {self._process.pid}")

    async def _attend(self) -> None:
        """Probe the running process until it ends; end it if it is unhealthy."""
        health = self._health
        if health is None:
            return
        async with health.probing() as unhealthy:
            ended = asyncio.create_task(self._ended.wait())
            try:
                either: set[asyncio.Future[Any]] = {ended, unhealthy}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not self.running:
                    return
                reason, grace = unhealthy.result()
                self._emit("Killing", f"Container {self.name} {reason}, will be restarted")
                await self.end(grace)
            finally:
                ended.cancel()

    async def end(self, grace: float) -> None:
        """Ask the process to end, and make it after so many seconds."""
        if not self.running:
            return  # perhaps it never did, and there is nothing to wait for
        self.terminate()
        try:
            await asyncio.wait_for(self._ended.wait(), grace)
        except TimeoutError:
            await self.kill()

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    async def kill(self) -> None:
        """End the process, now."""
        if self._process is not None and self._process.running:
            self._process.kill()
            await self._ended.wait()

    async def wait_ended(self) -> None:
        """Return when there is no process."""
        if self.running:
            await self._ended.wait()

    def give_up(self) -> None:
        """Note that it will not run again: its pod is being deleted."""
        if isinstance(self._state, Waiting):
            now = time.time()
            message = "The container was not running when its pod was terminated"
            lost = Terminated(_LOST, "ContainerStatusUnknown", now, now, message)
            self._set_state(self._last or lost)

    def _note_end(self) -> None:
        process = self._process
        if process is None or process.exit_code is None or process.ended_at is None:
            return
        self._backoff.note_end(process.ran_seconds)
        code = process.exit_code
        if self.log is not None:
            self.log.sample(time.time())
        self._set_state(
            Terminated(
                exit_code=code,
                reason="Error" if code else "Completed",
                started_at=process.started_at,
                finished_at=process.ended_at,
                message=self.log.read_message() if code and self.log is not None else "",
                container_id=self._describe_id(),
            )
        )
        end_leftovers(self._directory)
        self._ended.set()

    def _wants_restart(self) -> bool:
        policy = self._pod.object["spec"].get("restartPolicy", "Always")
        failed = isinstance(self._state, Terminated) and self._state.exit_code != 0
        return policy == "Always" or (policy == "OnFailure" and failed)

    async def _fetch_config_maps(self) -> None:
        namespace = self._pod.object["metadata"]["namespace"]
        for name in list_config_maps(self.spec):
            try:
                found = await fetch_config_map(self._pod.node.api, namespace, name)
            except ApiError:
                if name not in self._config_maps:
                    raise
                _LOG.info("using configmap %s/%s as it was: no API server", namespace, name)
                continue
            self._config_maps[name] = None if found is None else found.get("data") or {}

    def _describe_id(self) -> str:
        return f"local-process://{self._pod.uid}/{self.name}/{self._restarts}"

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._on_change()

    def _emit(self, reason: str, message: str, *, warning: bool = False) -> None:
        events = self._pod.node.events
        events.emit(self._pod.object, reason, message, warning=warning, container=self.name)
