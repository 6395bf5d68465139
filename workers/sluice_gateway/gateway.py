"""Puts the gateway together, and runs it from start to drain."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Self

import aiohttp
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from sluice_gateway.access import Access
from sluice_gateway.adminapi import AdminApi
from sluice_gateway.admission import Admission
from sluice_gateway.audit import Auditor
from sluice_gateway.backends import Backends
from sluice_gateway.backendwatch import BackendWatch
from sluice_gateway.bodies import Bodies
from sluice_gateway.clusterwatch import ClusterWatch
from sluice_gateway.connections import LimitedServer
from sluice_gateway.decisions import DecisionLog
from sluice_gateway.failover import Failover
from sluice_gateway.fleet import Fleet
from sluice_gateway.keptconnections import KeptConnections
from sluice_gateway.keystore import KeyStore
from sluice_gateway.kubeaccess import KubeAccess
from sluice_gateway.metrics import FleetCollector, Metrics
from sluice_gateway.mounted import MountedSecret, MountError
from sluice_gateway.otlp import SpanExporter
from sluice_gateway.prober import Prober
from sluice_gateway.publicapi import PublicApi
from sluice_gateway.relay import Relay
from sluice_gateway.requestlog import RequestLog
from sluice_gateway.settings import Settings
from sluice_gateway.shadow import Shadow
from sluice_gateway.signals import Signals
from sluice_gateway.sources import FleetSource, list_works
from sluice_gateway.sweep import Sweep
from sluice_gateway.tls import Certificate
from sluice_gateway.tlssite import TlsSite
from sluice_gateway.tracer import Tracer
from sluice_gateway.upstream import Upstream
from sluice_gateway.usage import UsageLog

_SEED_BITS = 31
_BACKLOG = 1024
_WORKER_IDLE_SECONDS = 15.0
"""Idle connections to workers are closed here before the workers close them."""


class ListenError(Exception):
    """It cannot listen as told: a port, or a Secret for it; the message says what to do."""


class PartFailedError(Exception):
    """A part that runs for ever has ended: a bug, and a reason to start afresh."""


class Gateway:
    """All parts of one gateway. Inside its context it listens and serves.

    Args:
        access: The cluster whose pools it serves, or the servers that stand for one.

    Attributes:
        fleet: The pools and workers that it knows.
        port: Public port; the real one when the settings say 0. `admin_port` likewise.
    """

    def __init__(
        self,
        settings: Settings,
        access: KubeAccess | Backends,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._settings = settings
        self._log = log
        self._access = access
        self._clock = time.monotonic
        self._random = Random()
        self._draining = False
        self._stack = AsyncExitStack()
        self._source: FleetSource | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._connections = KeptConnections(
            connect_seconds=settings.relaying.connect_seconds,
            idle_seconds=_WORKER_IDLE_SECONDS,
            clock=self._clock,
        )
        self._registry = CollectorRegistry()
        self.fleet = Fleet(
            clock=self._clock,
            inflight_most=settings.relaying.inflight_most,
            failures_to_fail=settings.probing.failures,
            patience=settings.patience,
        )
        self._metrics = Metrics(self._registry, self.fleet)
        self._signals = Signals(
            self.fleet, uid=settings.uid, clock=self._clock, started_at=time.time()
        )
        self._decisions = DecisionLog(gateway=settings.uid)
        self.fleet.on_workers_changed.append(self._signals.forget_departed)
        self.fleet.on_workers_changed.append(self._metrics.workers.forget_departed)
        self.fleet.on_pool_removed.append(self._metrics.forget_pool)
        self.port = settings.port
        self.admin_port = settings.admin_port

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._draining = True
        await self._stack.aclose()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then for the drain delay; leaving the context drains.

        Raises:
            PartFailedError: If a part fails that should run for ever.
        """
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({stopping, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        if stopping not in done:
            stopping.cancel()
            failed = next(iter(done))
            raise PartFailedError(failed.get_name()) from failed.exception()
        self._draining = True
        self._log.info("draining", delay=self._settings.drain_delay)
        await asyncio.sleep(self._settings.drain_delay)

    def explain_unready(self) -> str:
        """Return why the gateway should get no requests now; nothing if it should."""
        return "draining" if self._draining else self.explain_unsynced()

    def explain_unsynced(self) -> str:
        """Return what is not known yet of pools and workers; nothing if all is."""
        return self._source.explain_unsynced() if self._source else "starting"

    async def _start(self) -> None:
        """Start every part; what is entered into the stack stops in the opposite order."""
        settings = self._settings
        admin = AdminApi(
            self._signals,
            self._registry,
            decisions=self._decisions,
            why_unready=self.explain_unready,
            why_unsynced=self.explain_unsynced,
        )
        runner = web.AppRunner(admin.build_app(), access_log=None)
        self.admin_port = await self._listen(runner, settings.admin_port, "--admin-port")
        probe_session = await self._open_session()
        prober = Prober(
            self.fleet,
            probe_session,
            probing=settings.probing,
            clock=self._clock,
            random=self._random.random,
            log=self._log,
        )
        self._stack.push_async_callback(prober.close)
        self.fleet.on_workers_changed.append(prober.follow_fleet)
        self._stack.callback(self._connections.close)
        auditor, shadow = self._start_comparing()
        relay = self._build_relay(prober, auditor, shadow)
        sweep = Sweep(
            self.fleet,
            patience=settings.patience,
            probe_now=prober.probe_now,
            clock=self._clock,
            log=self._log,
        )
        self._start_task("sweep", sweep.run())
        self._source = self._build_source(await self._open_session(limit=8))
        for name, work in list_works(self._source):
            self._start_task(name, work)
        self._registry.register(FleetCollector(self.fleet, self._source.watches, self._clock))
        await self._start_public(relay)
        self._log.info("listening", host=settings.host, port=self.port, admin_port=self.admin_port)

    def _start_comparing(self) -> tuple[Auditor, Shadow]:
        """Start what compares accelerators beside the traffic."""
        auditor = self._auditor = Auditor(
            self.fleet,
            self._connections,
            auditing=self._settings.auditing,
            signals=self._signals,
            metrics=self._metrics.comparing,
            clock=self._clock,
            random=self._random.random,
            log=self._log,
        )
        shadow = Shadow(
            self.fleet,
            self._connections,
            auditor,
            shadowing=self._settings.shadowing,
            signals=self._signals,
            metrics=self._metrics.comparing,
            clock=self._clock,
            random=self._random.random,
            log=self._log,
        )
        self._start_task("audit", auditor.run())
        self._start_task("shadow", shadow.run())
        return auditor, shadow

    def _build_source(self, session: aiohttp.ClientSession) -> FleetSource:
        """Follow the cluster, or the servers that stand for one."""
        if isinstance(self._access, Backends):
            return BackendWatch(
                self.fleet,
                self._access,
                session,
                following=self._settings.following,
                created=time.time(),
                clock=self._clock,
                log=self._log,
            )
        return ClusterWatch(
            self.fleet,
            self._access,
            session,
            watching=self._settings.watching,
            random=self._random.random,
            clock=self._clock,
            log=self._log,
        )

    def _build_relay(self, prober: Prober, auditor: Auditor, shadow: Shadow) -> Relay:
        relaying = self._settings.relaying
        upstream = Upstream(
            self._connections,
            relaying=relaying,
            slow_reader_seconds=self._settings.limits.slow_reader_seconds,
            clock=self._clock,
        )
        admission = Admission(
            self.fleet, relaying=relaying, clock=self._clock, random=self._random.random
        )
        failover = Failover(
            self.fleet,
            admission,
            relaying=relaying,
            clock=self._clock,
            random=self._random.random,
        )
        return Relay(
            self.fleet,
            admission,
            failover,
            upstream,
            relaying=relaying,
            signals=self._signals,
            metrics=self._metrics,
            probe_now=prober.probe_now,
            clock=self._clock,
            wall=time.time,
            random=self._random.random,
            on_answered=(auditor.offer, shadow.offer),
        )

    async def _start_public(self, relay: Relay) -> None:
        settings = self._settings
        api = PublicApi(
            relay,
            Bodies(settings.limits),
            access=await self._open_access(),
            tracer=await self._open_tracer(),
            signals=self._signals,
            metrics=self._metrics,
            request_log=RequestLog(self._log),
            decisions=self._decisions,
            is_synced=lambda: not self.explain_unsynced(),
            is_draining=lambda: self._draining,
            names_workers=settings.names_workers,
            draw_seed=lambda: self._random.getrandbits(_SEED_BITS),
            clock=self._clock,
            wall=time.time,
        )
        server = LimitedServer(api.handle, limits=settings.limits, log=self._log)
        # aiohttp waits for handlers twice as long before it cancels them.
        runner = web.ServerRunner(server, shutdown_timeout=settings.drain_seconds / 2)
        certificate = await self._open_certificate()
        if certificate is None:
            self.port = await self._listen(runner, settings.port, "--port")
            return
        await runner.setup()
        site = TlsSite(
            runner,
            server,
            settings.host,
            settings.port,
            context=certificate.context,
            backlog=_BACKLOG,
            log=self._log,
        )
        await self._start_site(runner, site, settings.port, "--port")
        self.port = site.port

    async def _open_certificate(self) -> Certificate | None:
        """Read the certificate, if there is one, and follow it."""
        if self._settings.tls_dir is None:
            return None
        period = self._settings.mount_period
        certificate = Certificate(
            self._settings.tls_dir, self._registry, period=period, log=self._log
        )
        await self._follow_secret(certificate.secret, "--tls-dir")
        return certificate

    async def _open_access(self) -> Access:
        """Read the API keys, if there are any, and follow them."""
        usage = UsageLog(self._registry, self._log)
        self.fleet.on_pool_removed.append(usage.forget_pool)
        directory = self._settings.api_keys_dir
        if directory is None:
            return Access(None, self.fleet, usage, clock=self._clock)
        store = KeyStore(directory, period=self._settings.mount_period, log=self._log)
        access = Access(store, self.fleet, usage, clock=self._clock)
        store.on_changed.append(access.forget_departed)
        await self._follow_secret(store.secret, "--api-keys-dir")
        self._stack.callback(usage.write)
        self._start_task("usage log", usage.run())
        self._log.info("API keys asked for", keys=len(store.keys))
        return access

    async def _open_tracer(self) -> Tracer:
        """Export spans, if the settings say where to."""
        export = self._settings.export
        if export is None:
            return Tracer(self._random.getrandbits, None, None)
        session = await self._open_session(limit=1)
        exporter = SpanExporter(export, session, self._registry, self._log)
        self._stack.push_async_callback(exporter.close)
        self._start_task("span export", exporter.run())
        return Tracer(self._random.getrandbits, exporter, export.sampler)

    async def _follow_secret(self, secret: MountedSecret[Any], flag: str) -> None:
        try:
            await secret.start()
        except MountError as error:
            raise ListenError(f"{flag}: {error}") from error
        self._start_task(flag, secret.run())

    async def _listen(self, runner: web.BaseRunner, port: int, flag: str) -> int:
        """Start a plain server; return the port that it really has."""
        await runner.setup()
        site = web.TCPSite(runner, self._settings.host, port, backlog=_BACKLOG)
        await self._start_site(runner, site, port, flag)
        return int(runner.addresses[0][1])

    async def _start_site(
        self, runner: web.BaseRunner, site: web.BaseSite, port: int, flag: str
    ) -> None:
        host = self._settings.host
        self._stack.push_async_callback(runner.cleanup)
        try:
            await site.start()
        except OSError as error:
            raise ListenError(
                f"cannot listen on {host}:{port} ({error.strerror}); "
                f"free the port, or name another with {flag}"
            ) from error

    async def _open_session(self, *, limit: int = 0) -> aiohttp.ClientSession:
        """Open a client session without time limits, cookies or decompression of its own."""
        relaying = self._settings.relaying
        connector = aiohttp.TCPConnector(limit=limit, keepalive_timeout=_WORKER_IDLE_SECONDS)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=relaying.connect_seconds),
            auto_decompress=False,
        )
        return await self._stack.enter_async_context(session)

    def _start_task(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        self._stack.push_async_callback(_cancel, task)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
