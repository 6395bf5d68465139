"""One emulated node: connects the control plane's wishes with the runners of pods.

Three states: acting; silent (SIGUSR1 to SIGUSR2: no word to the API server, nothing started or
stopped, pods serve on); ending (SIGTERM: pods get a few seconds).
"""

import asyncio
import contextlib
import logging
import signal
import time
from typing import Any

import aiohttp

from sluice_node.config import NodeConfig
from sluice_node.container import Container
from sluice_node.devicebank import DeviceBank
from sluice_node.devicehealth import DeviceReport
from sluice_node.devices import CapacityLedger
from sluice_node.events import EventRecorder
from sluice_node.kubeaccess import KubeAccess
from sluice_node.kubeapi import KubeApi
from sluice_node.kubeletapi import KubeletServer
from sluice_node.nodecontext import AddressBook, NodeContext
from sluice_node.podrunner import PodRunner
from sluice_node.podwatch import CHANGED, LISTED, watch_pods
from sluice_node.processes import end_leftovers
from sluice_node.registration import Registration
from sluice_node.volumes import remove_directory

_LOG = logging.getLogger(__name__)
_END_GRACE = 3.0
_SAMPLE_SECONDS = 1.0
_PORT_RETRY_SECONDS = 0.5
_RERUN_SECONDS = 10.0


class Agent:
    """Runs one node until it is told to end."""

    def __init__(self, config: NodeConfig, access: KubeAccess) -> None:
        """Prepare; must be called where an event loop runs."""
        self._config = config
        self._gate = asyncio.Event()
        self._gate.set()
        self._api = KubeApi(access, self._gate)
        self._probes = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0), trust_env=False
        )
        self._events = EventRecorder(self._api, config.name)
        self._devices = DeviceBank(config, self._take_device_report)
        self._registration = Registration(config, self._api, lambda: self._devices.report)
        self._server = KubeletServer(str(config.address), config.kubelet, self._find_container)
        self._context = NodeContext(
            config=config,
            api=self._api,
            gate=self._gate,
            events=self._events,
            ledger=CapacityLedger(config.capacity),
            devices=self._devices,
            addresses=AddressBook(config),
            probes=self._probes,
        )
        self._runners: dict[str, tuple[PodRunner, asyncio.Task[None]]] = {}
        self._finished: set[str] = set()
        self._ending = asyncio.Event()
        self._mode_changed = asyncio.Event()
        self._silent = False

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; then end the pods.

        Raises:
            OSError: A port or a device's socket cannot be had, or the state directory not be
                written.
        """
        self._context.pods.mkdir(parents=True, exist_ok=True)
        ended = end_leftovers(self._context.pods)
        if ended:
            _LOG.info("ended %d processes that an earlier agent left behind", ended)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGUSR1, self._set_silent, True)  # noqa: FBT003
        loop.add_signal_handler(signal.SIGUSR2, self._set_silent, False)  # noqa: FBT003
        await self._devices.start()
        await self._server.start()
        work = [
            asyncio.create_task(step)
            for step in (
                self._registration.run(),
                self._devices.run(),
                self._events.run(),
                self._sample_logs(),
                self._follow_mode(),
            )
        ]
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({ending, *work}, return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                if task.done():
                    task.result()
        finally:
            await self._end([ending, *work])

    def _take_device_report(self, report: DeviceReport) -> None:
        _LOG.info("%s: %s", report.reason, report.message)
        self._context.ledger.note_unhealthy(report.unhealthy)
        self._registration.hurry()

    def _set_silent(self, silent: bool) -> None:  # noqa: FBT001  # a signal handler's argument
        self._silent = silent
        if silent:
            self._gate.clear()  # at once: the next request waits already
        self._mode_changed.set()

    async def _follow_mode(self) -> None:
        """Watch pods while not silent; close the kubelet port while silent."""
        await self._registration.registered.wait()
        while True:
            watching = asyncio.create_task(self._watch())
            await self._wait_for(watching, silent=True)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            _LOG.info("silent: told to be")
            await self._server.stop()
            await self._wait_for(None, silent=False)
            _LOG.info("acting again")
            await self._reopen_server()
            self._gate.set()
            self._registration.hurry()

    async def _wait_for(self, watching: "asyncio.Task[None] | None", *, silent: bool) -> None:
        while self._silent != silent:
            self._mode_changed.clear()
            changed = asyncio.create_task(self._mode_changed.wait())
            tasks = {changed} if watching is None else {changed, watching}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if watching is not None and watching.done():
                watching.result()

    async def _reopen_server(self) -> None:
        while True:
            try:
                await self._server.start()
            except OSError as error:
                _LOG.warning("cannot open the kubelet port yet: %s", error)
                await asyncio.sleep(_PORT_RETRY_SECONDS)
            else:
                return

    async def _watch(self) -> None:
        async with contextlib.aclosing(watch_pods(self._api, self._config.name)) as changes:
            async for kind, pods in changes:
                if kind == LISTED:
                    self._take_listing(pods)
                elif kind == CHANGED:
                    self._take_pod(pods[0])
                else:
                    self._take_deletion(pods[0]["metadata"]["uid"])

    def _take_listing(self, pods: list[dict[str, Any]]) -> None:
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._runners if uid not in present]:
            self._take_deletion(uid)
        self._finished &= present
        for directory in self._context.pods.iterdir():
            if directory.name not in present and directory.name not in self._runners:
                remove_directory(directory)
        # Pods that were here keep devices and addresses, so they come first.
        for pod in sorted(pods, key=_was_here, reverse=True):
            self._take_pod(pod)

    def _take_pod(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._runners:
            self._runners[uid][0].update(pod)
        elif uid not in self._finished:
            runner = PodRunner(pod, self._context)
            task = asyncio.create_task(self._run_pod(runner))
            self._runners[uid] = runner, task

    def _take_deletion(self, uid: str) -> None:
        self._finished.discard(uid)
        if uid in self._runners:
            self._runners[uid][0].vanish()

    async def _run_pod(self, runner: PodRunner) -> None:
        try:
            await runner.run()
        except Exception:  # noqa: BLE001  # one pod's trouble (a full disk) must not end the others
            _LOG.exception("running pod %s/%s failed", *runner.key)
            await asyncio.sleep(_RERUN_SECONDS)
            self._runners.pop(runner.uid, None)
            if not runner.vanished:
                self._take_pod(runner.pod)
        else:
            self._runners.pop(runner.uid, None)
            if not runner.vanished:
                self._finished.add(runner.uid)

    def _find_container(self, namespace: str, pod: str, name: str) -> Container | None:
        for runner, _ in self._runners.values():
            if runner.key == (namespace, pod):
                return next((c for c in runner.containers if c.name == name), None)
        return None

    async def _sample_logs(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            now = time.time()
            for runner, _ in self._runners.values():
                runner.sample_logs(now)

    async def _end(self, tasks: "list[asyncio.Task[Any]]") -> None:
        """End pods, tasks and connections."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._gate.clear()  # nothing of the end is reported: the node looks dead, as it should
        await asyncio.gather(*(r.end_now(_END_GRACE) for r, _ in self._runners.values()))
        running = [task for _, task in self._runners.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._server.stop()
        await self._devices.stop()
        await self._probes.close()
        await self._api.close()


def _was_here(pod: dict[str, Any]) -> bool:
    return bool((pod.get("status") or {}).get("startTime"))
