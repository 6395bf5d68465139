"""The fleet of a gateway without a cluster: a fixed list of servers, each asked what it serves.

A model that a backend names is a pool, and the backend a worker of it. What is known of a backend
stays while it is away: whether it lives is for the prober to say.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog

from sluice_gateway import names
from sluice_gateway.backends import Backend, Backends
from sluice_gateway.engines import Engine, parse_emulation
from sluice_gateway.fleet import Fleet
from sluice_gateway.health import Verdict
from sluice_gateway.objects import PoolDecision, PoolSpec, WorkerPod
from sluice_gateway.settings import Following

_MODELS: Final = "/v1/models"
_HEALTH_PATHS: Final = ("/healthz", "/health")
_UNTOLD: Final = frozenset({401, 403, 404, 405, 501})
"""What a server answers that tells nothing of its health there."""
_MODEL_LENGTH: Final = 256


class AnswerError(Exception):
    """A backend did not say what it serves; the message says what it did instead."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a backend said of itself; `uid` is empty if it names none.

    `models` has what it says that it emulates, for each model that it serves, by name; None where
    it says nothing.
    """

    models: Mapping[str, Engine | None]
    uid: str
    health_path: str
    key: str


class BackendWatch:
    """Keeps pools and workers as the backends say.

    Args:
        session: For the questions to them alone.
        created: Wall time that models are said to be created at.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        told: Backends,
        session: aiohttp.ClientSession,
        *,
        following: Following,
        created: float,
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._fleet = fleet
        self._told = told
        self._created = created
        self._decision = PoolDecision(shares=told.shares, quarantined=frozenset())
        self._followers = [
            BackendFollower(
                backend,
                BackendClient(backend, session, following),
                self,
                following=following,
                clock=clock,
                log=log.bind(backend=backend.name, url=backend.base),
            )
            for backend in told.backends
        ]

    @property
    def watches(self) -> Sequence["BackendFollower"]:
        """One for each backend."""
        return self._followers

    def explain_unsynced(self) -> str:
        """Return a sentence until each backend was asked, and one has named its models."""
        waiting = [follower for follower in self._followers if not follower.asked]
        if not waiting and any(follower.synced for follower in self._followers):
            return ""
        states = ", ".join(
            f"{follower.backend.name} ({follower.trouble or 'being asked'})"
            for follower in self._followers
            if not follower.synced
        )
        return f"no models known yet of {states}"

    def is_well(self, backend: Backend) -> bool:
        """Return whether a backend serves, by all that is known."""
        workers = self._list_workers(backend)
        return bool(workers) and all(
            self._fleet.workers[uid].health.verdict is Verdict.LIVE for uid in workers
        )

    def take(self, backend: Backend, found: Found) -> None:
        """Put what a backend said into the fleet."""
        pods = {pod.uid: pod for pod in _build_pods(backend, found)}
        for model in found.models:
            if model not in self._fleet.pools:
                self._fleet.put_pool(self._build_spec(model), self._decision)
        for uid, pod in pods.items():
            known = self._fleet.workers.get(uid)
            if known is None or known.pod != pod:
                self._fleet.put_worker(pod)
        for uid in self._list_workers(backend) - pods.keys():
            self._fleet.remove_worker(uid)
        for key in [key for key, pool in self._fleet.pools.items() if not pool.workers]:
            self._fleet.remove_pool(key)

    def _list_workers(self, backend: Backend) -> set[str]:
        workers = self._fleet.workers.items()
        return {uid for uid, worker in workers if worker.pod.name == backend.name}

    def _build_spec(self, model: str) -> PoolSpec:
        told = self._told
        return PoolSpec(model, self._created, model, told.slo, told.variants, parity=told.parity)


class BackendFollower:
    """Asks one backend what it serves, again and again.

    Attributes:
        kind: Its name, for logs and metrics; `synced`, `connected`, `heard_at` as in `Watch`.
        asked: It has been asked once, and answered or not.
        trouble: What was wrong the last time; empty if nothing.
    """

    def __init__(
        self,
        backend: Backend,
        client: "BackendClient",
        watch: BackendWatch,
        *,
        following: Following,
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.backend = backend
        self._client = client
        self._watch = watch
        self._following = following
        self._clock = clock
        self._log = log
        self._found: Found | None = None
        self.kind = f"backend {backend.name}"
        self.synced = False
        self.connected = False
        self.heard_at = 0.0
        self.asked = False
        self.trouble = ""

    async def run(self) -> None:
        """Ask until cancelled: often while it is not well."""
        told = self._following
        while True:
            await self._ask()
            began = self._clock()
            while True:
                await asyncio.sleep(told.eager_period)
                rested = self._clock() - began >= told.period
                if rested or not self.connected or not self._watch.is_well(self.backend):
                    break

    async def _ask(self) -> None:
        # What is not well may have been replaced by something that has its health elsewhere.
        settled = self._found if self._watch.is_well(self.backend) else None
        try:
            found = await self._client.ask(settled)
        except AnswerError as error:
            self._note_trouble(str(error))
        else:
            self._note_found(found)
        self.asked = True

    def _note_trouble(self, sentence: str) -> None:
        if self.trouble != sentence:
            self._log.warning("backend away", reason=sentence)
        self.trouble = sentence
        self.connected = False

    def _note_found(self, found: Found) -> None:
        self._watch.take(self.backend, found)
        if found != self._found or not self.connected:
            self._log.info(
                "backend serves",
                models=list(found.models),
                emulates=sorted({one.profile for one in found.models.values() if one}) or None,
                uid=found.uid or None,
                health=found.health_path,
            )
        self._found = found
        self.trouble = ""
        self.connected = self.synced = True
        self.heard_at = self._clock()


class BackendClient:
    """Asks one backend."""

    def __init__(
        self, backend: Backend, session: aiohttp.ClientSession, following: Following
    ) -> None:
        self._backend = backend
        self._session = session
        self._following = following

    async def ask(self, before: Found | None) -> Found:
        """Return what it serves.

        Args:
            before: What it said before, if that still holds: its health is where it was.

        Raises:
            AnswerError: If it cannot be reached, or its answer is no list of models.
        """
        key = await asyncio.to_thread(self._read_key)
        status, body, uid = await self._get(_MODELS, key)
        if status != 200:  # noqa: PLR2004
            hint = "; name a file with its key: key-file=PATH" if status in (401, 403) else ""
            raise AnswerError(f"{_MODELS} answered {status}{hint}")
        models = read_models(body, self._following.models_most)
        if before is not None and before.uid == uid:
            return Found(models, uid, before.health_path, key)
        for path in _HEALTH_PATHS:
            status, _, named = await self._get(path, key)
            if status not in _UNTOLD:
                return Found(models, uid or named, path, key)
        return Found(models, uid, _MODELS, key)

    async def _get(self, path: str, key: str) -> tuple[int, bytes, str]:
        """Return status, body and the uid that the answer names."""
        most = self._following.answer_bytes
        try:
            async with (
                asyncio.timeout(self._following.request_seconds),
                self._session.get(
                    f"{self._backend.base}{path}",
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    allow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                while part := await response.content.readany():
                    body += part
                    if len(body) > most:
                        raise AnswerError(f"{path} answered with more than {most} bytes")
                uid = response.headers.get(names.HEADER_WORKER_UID, "")
                if not uid.isascii():
                    raise AnswerError(f"{names.HEADER_WORKER_UID} is not in ASCII")
                return response.status, bytes(body), uid
        except TimeoutError as error:
            seconds = self._following.request_seconds
            raise AnswerError(f"no answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AnswerError(f"{type(error).__name__}: {error}"[:200]) from error

    def _read_key(self) -> str:
        path = self._backend.key_file
        if path is None:
            return ""
        try:
            key = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise AnswerError(f"cannot read its key-file {path}: {type(error).__name__}") from error
        if not key.isprintable() or " " in key:
            raise AnswerError(f"its key-file {path} has more than one word; put only the key there")
        return key


def read_models(body: bytes, most: int) -> dict[str, Engine | None]:
    """Return what an OpenAI list of models says of each: sorted by name, at most so many.

    Raises:
        AnswerError: If it is no such list.
    """
    try:
        entries = json.loads(body)["data"]
        named = {entry["id"]: entry.get("emulation") for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnswerError(f"{_MODELS} is no list of models") from error
    fit = [name for name in named if _is_name(name)]
    return {name: parse_emulation(named[name]) for name in sorted(fit)[:most]}


def _is_name(name: object) -> bool:
    """Return whether a model can be called so: it stands in logs, metrics and lists."""
    return isinstance(name, str) and 0 < len(name) <= _MODEL_LENGTH and name.isprintable()


def _build_pods(backend: Backend, found: Found) -> list[WorkerPod]:
    """Return a worker for each model of a backend.

    Another uid is another worker; so is the same backend under another model's name.
    """
    own = f"{backend.name}@{found.uid}" if found.uid else backend.name
    several = len(found.models) > 1
    return [
        WorkerPod(
            uid=f"{own}/{model}" if several else own,
            name=backend.name,
            pool=model,
            variant=backend.variant,
            host="",
            port=0,
            ready=True,
            base=backend.base,
            fence=found.uid,
            health_path=found.health_path,
            key=found.key,
            engine=engine,
        )
        for model, engine in found.models.items()
    ]
