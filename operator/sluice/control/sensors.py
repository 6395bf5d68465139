"""Everything that observes, also on a standby: lists, Leases, probes, signals."""

import asyncio
import os
from collections.abc import Callable

import aiohttp

from sluice.control.settings import Settings
from sluice.decide.matching import list_workers
from sluice.kube.client import KubeClient
from sluice.model.clock import Clock
from sluice.model.gatewaypods import find_scheme
from sluice.model.memory import NodeState
from sluice.model.names import LABEL_CLASS
from sluice.model.snapshot import Snapshot
from sluice.observe.answers import AnswerProber, AnswerTarget
from sluice.observe.leases import LeaseBook
from sluice.observe.probes import Prober, Target
from sluice.observe.resync import read_leases, relist, repeat
from sluice.observe.signals import NOTHING, Signals, read_signals
from sluice.observe.snapshot import Sight, Unreadable, build_snapshot, is_ready, slot_key
from sluice.observe.store import Kind, Object, Store

SELF = "self"
"""Key of the control target among the probes."""

PROOF_PERIOD = 1.0
"""Seconds between two rounds of known answers on a node that has to prove itself."""

STALE_TICKS = 3
"""Signals older than this many fast ticks are missing."""


class Sensors:
    """Holds the store, the probes, the signals and the Leases, and makes snapshots of them.

    Args:
        client: how to reach the API server.
        settings: times and ports.
        clock: steady clock.
        wake: called when something changed that a pass should look at.
        namespace: of Sluice itself; a pod elsewhere is no gateway, whatever its labels say.
    """

    def __init__(
        self,
        client: KubeClient,
        settings: Settings,
        clock: Clock,
        wake: Callable[[], None],
        namespace: str,
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._namespace = namespace
        self.store = Store(lambda _: wake())
        self._refresh = asyncio.Event()
        self._leases = LeaseBook(clock)
        self._signals: tuple[float, Signals] = (0.0, NOTHING)
        self._session: aiohttp.ClientSession | None = None
        self.prober: Prober | None = None
        self.answers: AnswerProber | None = None

    async def run(self) -> None:
        """Observe until cancelled."""
        settings = self._settings
        # A probe must not wait behind other probes, nor reuse a connection to a pod that is gone.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            self._session = session
            self.prober = Prober(session, self._clock, self._wake)
            self.answers = AnswerProber(
                session, self._clock, self._wake, settings.known_answers_per_second
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(
                        repeat("relist", settings.relist, self._relist, self._refresh)
                    )
                    group.create_task(
                        repeat("leases", settings.leases, self._lease, asyncio.Event())
                    )
                    group.create_task(self._follow_signals())
            finally:
                self.prober.stop()
                self.answers.stop()

    def take_snapshot(self, *, leading: bool = True) -> tuple[Snapshot, dict[str, Unreadable]]:
        """Return the fleet as it stands now, and what in it cannot be read; aims the probes.

        Only who leads asks for known answers: a worker has one slot for them, and a standby that
        takes it would keep the leader from its proof.
        """
        now = self._clock()
        read_at, signals = self._signals
        if now - read_at > STALE_TICKS * self._settings.fast_tick:
            signals = NOTHING
        probes = self.prober.results() if self.prober else {}
        own = probes.pop(SELF, None)
        snapshot, unreadable = build_snapshot(
            self.store,
            Sight(
                at=now,
                probes=probes,
                signals=signals,
                leases=self._leases,
                observer_ok=own is not None and own.misses == 0,
                gateways=len(self._list_gateways()),
                endpoint=self._find_endpoint(),
                worker_image=self._settings.worker_image,
                answers=self.answers.results() if self.answers else {},
                cool_down=self._settings.storm_cool_down,
                namespace=self._namespace,
            ),
        )
        self._aim(snapshot)
        if leading:
            self._ask(snapshot)
        elif self.answers is not None:
            self.answers.stop()
        return snapshot, unreadable

    def refresh(self) -> None:
        """Ask for a re-list now."""
        self._refresh.set()

    def _aim(self, snapshot: Snapshot) -> None:
        """Probe every worker that its kubelet calls ready, and ourselves."""
        if self.prober is None:
            return
        host = _bracket(os.environ.get("POD_IP", "127.0.0.1"))
        own = f"http://{host}:{self._settings.admin_port}/healthz"
        targets = [Target(SELF, own, 1.0, 0.5)]
        for item in self.store.list(Kind.WORKERS):
            name = item["metadata"].get("labels", {}).get(LABEL_CLASS, "")
            accelerator = snapshot.classes.get(name)
            url = find_url(item, "http")
            if accelerator is None or not url or not is_ready(item):
                continue
            liveness = accelerator.health.liveness
            uid = item["metadata"]["uid"]
            targets.append(Target(uid, f"{url}/healthz", liveness.period, liveness.timeout))
        self.prober.set_targets(targets)

    def _ask(self, snapshot: Snapshot) -> None:
        """Ask every worker for known answers, and nodes that have to prove themselves more often.

        Whoever misses probes is asked on: a hang is no answer, and takes none away.
        """
        if self.answers is None:
            return
        proving = {
            node.name
            for node in snapshot.nodes
            if node.mark is not None and node.mark.state == NodeState.PROBATION
        }
        # Labels alone make no worker: whoever may make pods could fill the line, and bring a list
        # of answers that rules over other people's models.
        ours = {worker.uid for worker in list_workers(snapshot)}
        targets = []
        for item in self.store.list(Kind.WORKERS):
            name = item["metadata"].get("labels", {}).get(LABEL_CLASS, "")
            accelerator, url = snapshot.classes.get(name), find_url(item, "http")
            if accelerator is None or not url or not is_ready(item):
                continue
            usual = accelerator.health.known_answers.period
            often = item.get("spec", {}).get("nodeName") in proving
            period = min(usual, PROOF_PERIOD) if often else usual
            uid = item["metadata"]["uid"]
            if uid in ours:
                targets.append(AnswerTarget(uid, uid, url, period, proving=often))
        for item in self.store.list(Kind.PROBATIONS):
            if item["metadata"].get("namespace") != self._namespace or not is_ready(item):
                continue
            uid = item["metadata"]["uid"]
            for container in item["spec"]["containers"]:
                slot, url = container["name"], find_url(item, container["name"])
                if url:
                    key = slot_key(uid, slot)
                    targets.append(AnswerTarget(key, uid, url, PROOF_PERIOD, proving=True))
        self.answers.set_targets(targets)

    def _find_endpoint(self) -> str:
        if self._settings.gateway.endpoint:
            return self._settings.gateway.endpoint
        urls = [find_url(pod, "http", find_scheme(pod)) for pod in self._list_gateways()]
        return f"{urls[0]}/v1" if urls else ""

    def _list_gateways(self) -> list[Object]:
        """Return the Ready gateways of our own namespace.

        Whoever may make pods anywhere else could pose as one, and have the users of every pool sent
        to itself.
        """
        return [
            pod
            for pod in self.store.list(Kind.GATEWAYS)
            if pod["metadata"].get("namespace") == self._namespace and is_ready(pod)
        ]

    async def _follow_signals(self) -> None:
        assert self._session is not None  # noqa: S101  # run() has made it
        while True:
            urls = [find_url(pod, "admin") for pod in self._list_gateways()]
            window = self._settings.signal_window
            signals = await read_signals(self._session, urls, window, self._clock)
            self._signals = (self._clock(), signals)
            await asyncio.sleep(self._settings.fast_tick / 2)

    async def _relist(self) -> None:
        await relist(self._client, self.store, self._clock)
        self._wake()

    async def _lease(self) -> None:
        await read_leases(self._client, self._leases, self._clock)


def find_url(pod: Object, port: str, scheme: str = "http") -> str:
    """Return the base URL of a pod's named port, or "" while it has no address."""
    address = pod.get("status", {}).get("podIP", "")
    for container in pod.get("spec", {}).get("containers", ()):
        for entry in container.get("ports", ()):
            if address and entry.get("name") == port:
                return f"{scheme}://{_bracket(address)}:{entry['containerPort']}"
    return ""


def _bracket(address: str) -> str:
    """Return an address as it stands in a URL: IPv6 needs brackets."""
    return f"[{address}]" if ":" in address else address
