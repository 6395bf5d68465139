"""The three probes of one run of a container, and what their verdicts mean.

Until the startup probe passed, the others do not begin. Readiness is shown in the status; failed
startup or liveness probes end the container.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

from sluice_node.podcontext import PodContext
from sluice_node.prober import check_target, run_probe
from sluice_node.probes import ProbeError, ProbeState, ProbeTiming, resolve_target

Verdict = tuple[str, float]
"""Why a container has to end, and the seconds it gets for it."""


class Emit(Protocol):
    """Records an event of the container."""

    def __call__(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Record it."""


class HealthCheck:
    """Probes one process."""

    def __init__(
        self,
        container: Mapping[str, Any],
        pod: PodContext,
        on_change: Callable[[], None],
        emit: Emit,
    ) -> None:
        self._container = container
        self._pod = pod
        self._on_change = on_change
        self._emit = emit
        self._started = asyncio.Event()
        self._unhealthy: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._ready = not container.get("readinessProbe")
        if not container.get("startupProbe"):
            self._started.set()

    @property
    def started(self) -> bool:
        """Whether the startup probe passed, if there is one."""
        return self._started.is_set()

    @property
    def ready(self) -> bool:
        """Whether it may get requests."""
        return self.started and self._ready

    @asynccontextmanager
    async def probing(self) -> AsyncIterator["asyncio.Future[Verdict]"]:
        """Probe inside this context; the future gets a result when the container must end."""
        tasks = [
            asyncio.create_task(self._run(kind))
            for kind in ("startup", "readiness", "liveness")
            if self._container.get(f"{kind}Probe")
        ]
        try:
            yield self._unhealthy
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, kind: str) -> None:
        spec = self._container[f"{kind}Probe"]
        if kind != "startup":
            await self._started.wait()
        try:
            target = resolve_target(spec, self._container, self._pod.facts.pod_ip)
        except ProbeError as error:
            self._emit("Unhealthy", f"{kind.capitalize()} probe errored: {error}", warning=True)
            return
        timing = ProbeTiming.from_spec(spec)
        state = ProbeState(timing, passing=None)
        session = self._pod.node.probes
        await run_probe(
            timing,
            state,
            partial(check_target, session, target, timing.timeout),
            partial(self._note_result, kind, state),
            self._pod.node.gate,
        )

    def _note_result(self, kind: str, state: ProbeState, fault: str | None, decided: bool) -> bool:  # noqa: FBT001  # a callback's argument
        if fault is not None:
            message = f"{kind.capitalize()} probe failed: {fault}"
            self._emit("Unhealthy", message, warning=True)
        if not decided:
            return True
        passing = bool(state.passing)
        if kind == "readiness":
            if passing != self._ready:
                self._ready = passing
                self._on_change()
            return True
        if not passing:
            self._condemn(kind)
            return False
        if kind == "startup":
            self._started.set()
            self._on_change()
        return kind == "liveness"

    def _condemn(self, kind: str) -> None:
        if not self._unhealthy.done():
            spec = self._container[f"{kind}Probe"]
            grace = float(spec.get("terminationGracePeriodSeconds", self._pod.grace_seconds))
            self._unhealthy.set_result((f"failed {kind} probe", grace))
