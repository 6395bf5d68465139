"""kopf in a thread and an event loop of its own, begun anew whenever it ends.

Some answers of an API server that goes away or comes back end all of kopf: an error inside a watch,
a list that is none, a token refused before the kubelet has renewed it. That must end neither the
operator nor its other tasks, and kopf cancels every task of the loop in which it ends. What it
misses meanwhile, the re-list finds.
"""

import asyncio
import contextlib
import datetime as dt
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import kopf
import structlog

from sluice.observe.events import configure, register_handlers
from sluice.observe.store import Kind, Object, Store

log = structlog.get_logger()

BACKOFF_FIRST: Final = 0.5
BACKOFF_MOST: Final = 15.0
"""Seconds until kopf is begun anew; each further time that it ends at once doubles the pause."""

TOKEN_LIFE: Final = dt.timedelta(minutes=5)
"""kopf asks again for credentials after this long, and so picks up a renewed token."""

STABLE: Final = 60.0
"""Seconds after which an end is no longer the same trouble as the end before."""

END_SECONDS: Final = 5.0
"""How long its thread may take to end; the process does not wait for it any longer."""

_SAID_MOST: Final = 300


class Watching:
    """Keeps the store up to date by events.

    Args:
        store: where events go, in the loop in which `run` runs.
        log_in: returns fresh credentials; runs in that loop, too.

    Attributes:
        ends: how often kopf has ended by itself.
    """

    def __init__(self, store: Store, log_in: Callable[[], Awaitable[kopf.ConnectionInfo]]) -> None:
        self._store = store
        self._log_in = log_in
        self.ends = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        pause = BACKOFF_FIRST
        while True:
            began = loop.time()
            why = await _Turn(loop, self._store, self._log_in).run()
            self.ends += 1
            pause = BACKOFF_FIRST if loop.time() - began > STABLE else pause
            log.warning("watches ended; they begin anew", error=why, pause=pause, ends=self.ends)
            await asyncio.sleep(pause)
            pause = min(BACKOFF_MOST, 2 * pause)


class _Turn:
    """One life of kopf: a thread that ends when kopf ends, or is told to end."""

    def __init__(
        self,
        home: asyncio.AbstractEventLoop,
        store: Store,
        log_in: Callable[[], Awaitable[kopf.ConnectionInfo]],
    ) -> None:
        self._home = home
        self._taker = _Taker(home, store)
        self._log_in = log_in
        self._begun: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._stopping = False
        self._logged_in = -math.inf
        self._why = "without a word"
        self._ended: asyncio.Future[str] = home.create_future()

    async def run(self) -> str:
        """Return why kopf ended; when cancelled, end it."""
        # A daemon: a thread that hangs must not keep the process from its end.
        threading.Thread(target=self._work, name="kopf", daemon=True).start()
        try:
            return await asyncio.shield(self._ended)
        finally:
            if not self._ended.done():
                self._tell_stop()
                await asyncio.wait({self._ended}, timeout=END_SECONDS)

    def _tell_stop(self) -> None:
        self._stopping = True
        if self._begun is not None:
            loop, stop = self._begun
            with contextlib.suppress(RuntimeError):  # it has closed by itself
                loop.call_soon_threadsafe(stop.set)

    def _work(self) -> None:
        try:
            asyncio.run(self._watch())
            why = self._why
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the operator
            why = f"{type(error).__name__}: {error}"[:_SAID_MOST]
        with contextlib.suppress(RuntimeError):  # the operator's loop has closed
            self._home.call_soon_threadsafe(self._tell_end, why)

    def _tell_end(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    async def _watch(self) -> None:
        """Let kopf watch; it writes nothing."""
        # Of this loop: for a flag of threads kopf would block one until that is set, also at its
        # own end.
        stop = asyncio.Event()
        self._begun = asyncio.get_running_loop(), stop
        if self._stopping:
            return
        registry = kopf.OperatorRegistry()
        settings = kopf.OperatorSettings()
        configure(settings)
        register_handlers(registry, self._taker)

        async def log_in(**_: Any) -> kopf.ConnectionInfo:
            self._note_login(stop)
            return await self._fetch_credentials()

        kopf.on.login(registry=registry)(log_in)
        await kopf.operator(
            registry=registry,
            settings=settings,
            clusterwide=True,
            standalone=True,
            stop_flag=stop,
        )

    def _note_login(self, stop: asyncio.Event) -> None:
        """End where credentials were refused, long before they expire.

        The API server may take the same token again when it is well, but kopf never would, nor end.
        """
        now = asyncio.get_running_loop().time()
        if now - self._logged_in < TOKEN_LIFE.total_seconds() / 2:
            self._why = "the API server refused the credentials"
            stop.set()
        self._logged_in = now

    async def _fetch_credentials(self) -> kopf.ConnectionInfo:
        async def ask() -> kopf.ConnectionInfo:
            return await self._log_in()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self._home))


class _Taker:
    """Hands events from kopf's thread over to the loop that owns the store."""

    def __init__(self, home: asyncio.AbstractEventLoop, store: Store) -> None:
        self._home = home
        self._store = store

    def put(self, kind: Kind, item: Object) -> None:
        """An object was added or changed."""
        self._hand_over(self._store.put, kind, item)

    def drop(self, kind: Kind, item: Object) -> None:
        """An object was deleted."""
        self._hand_over(self._store.drop, kind, item)

    def _hand_over(
        self, take: Callable[[Kind, Mapping[str, Any]], None], kind: Kind, item: Object
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the operator's loop has closed
            self._home.call_soon_threadsafe(take, kind, item)
