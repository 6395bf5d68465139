"""The story: load until the pool spills, kill a Maia node, watch fallback and the gated return.

Then a device of a Maia node begins to compute wrongly: known answers must catch it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sluice.cli.demo.fleet import Fleet, View
from sluice.cli.demo.load import Load

PREFERRED = "maia-200"
SPARE = "h100"
HIGHEST_RATE = 8.0
AFTER_SPILL = 0.65
LOOK_EVERY = 0.5
RETURN_SECONDS = 240.0
CATCH_SECONDS = 120.0
"""Known answers see such a fault in their first round; this is for a machine that is busy."""


@dataclass(slots=True)
class Kill:
    """What was seen of one kill; seconds since it, None for what was not seen."""

    node: str
    at: float
    detection_s: float | None = None
    replacement_wanted_s: float | None = None
    replacement_bound_s: float | None = None
    replacement_ready_s: float | None = None
    returned_s: float | None = None
    workers: tuple[str, ...] = ()
    spare_before: int = 0
    bound_before: int = 0


@dataclass(slots=True)
class Corruption:
    """What was seen of a device that computed wrongly; seconds since then, None for not seen.

    Attributes:
        workers: pods on the node; what they answered wrong before the catch is the fault's doing.
        cause: what the node's mark says.
    """

    node: str
    at: float
    rate: float
    workers: tuple[str, ...] = ()
    caught_s: float | None = None
    returned_s: float | None = None
    cause: str = ""


class Act(Protocol):
    """Does something to a node."""

    def __call__(self, node: str, action: str, **options: Any) -> object:
        """Kill, freeze, stop, start, break or heal it."""


@dataclass(slots=True)
class Story:
    """Plays the phases; `act` does something to a node, `say` tells which phase it is.

    Attributes:
        release: asks for a node's release from quarantine, as a person would.
        steps: steps of the ramp that were seen, in order.
    """

    fleet: Fleet
    load: Load
    act: Act
    say: Callable[[str], None]
    release: Callable[[str], object] = lambda _: None
    kills: list[Kill] = field(default_factory=list)
    corruptions: list[Corruption] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    spilled: bool = False
    fell_back: bool = False
    returned: bool = False

    async def until(self, holds: Callable[[View], bool], seconds: float) -> bool:
        """Look until something holds; False when it did not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            view = await self.fleet.look()
            step = view.ramp(PREFERRED)
            if step and step not in self.steps[-1:]:
                self.steps.append(step)
            if holds(view):
                return True
            await asyncio.sleep(LOOK_EVERY)
        return False

    async def climb(self) -> None:
        """Raise the load step by step until the preferred class is full and the pool spills."""
        rate = 1.0
        while rate <= HIGHEST_RATE:
            self.load.rate = rate
            self.say(f"load {rate:.1f} requests/s")
            if await self.until(lambda v: v.wanted(SPARE) > 0, 12.0):
                self.spilled = True
                break
            rate += 0.75

    async def ease(self) -> None:
        """Lower the load until the spare class is empty again, so that the fallback can be told."""
        self.load.rate *= AFTER_SPILL
        self.say(f"spilled; load {self.load.rate:.1f} requests/s, until {SPARE} is empty again")
        await self.until(
            lambda v: v.wanted(SPARE) == 0 and v.conditions.get("Progressing") == "False", 120.0
        )

    async def kill_and_return(self, harm: str = "kill", node: str = "") -> Kill:
        """Kill or freeze a node, see what happens, heal it.

        Args:
            harm: what to do to it.
            node: which; the one of the preferred class with most workers if it is not said.
        """
        view = await self.fleet.look()
        node = node if node in self.fleet.workers else self._choose_node()
        kill = Kill(
            node,
            time.time(),
            workers=tuple(self.fleet.workers[node]),
            spare_before=view.wanted(SPARE),
            bound_before=self._count_spares(),
        )
        share_before = view.share(PREFERRED)
        self.kills.append(kill)
        self.say(f"{harm}: {node} with {len(kill.workers)} workers, under load")
        self.act(node, harm)
        kill.at = time.time()
        await self._watch_fallback(kill)
        await asyncio.sleep(10)
        self.say(f"healing {node}")
        self.act(node, "start")
        self.returned = await self.until(
            lambda v: self._is_back(v, node) and v.share(PREFERRED) >= share_before - 15,
            RETURN_SECONDS,
        )
        if self.returned:
            kill.returned_s = time.time() - kill.at
        return kill

    async def corrupt_and_catch(self, rate: float = 1e-2) -> Corruption:
        """Let a device of the preferred class compute wrongly until known answers catch it.

        Then it is repaired and released by hand, has to prove itself, and comes back.
        """
        await self.fleet.look()
        node = self._choose_node()
        seen = Corruption(node, time.time(), rate, tuple(self.fleet.workers[node]))
        self.corruptions.append(seen)
        self.say(
            f"silent corruption: one value in {1 / rate:.0f} is wrong on {node}, all else well"
        )
        self.act(node, "break", fault="corruption", device="all", rate=rate)
        seen.at = time.time()
        latched = await self.until(lambda _: self.fleet.marks[node][0] == "Latched", CATCH_SECONDS)
        if latched:
            seen.caught_s, seen.cause = time.time() - seen.at, self.fleet.marks[node][1]
            self.say(f"caught after {seen.caught_s:.1f} s: {seen.cause}")
        self.act(node, "heal")
        self.say(f"{node} is repaired, and released by hand: it has to prove itself first")
        self.release(node)
        if await self.until(lambda view: self._is_back(view, node), RETURN_SECONDS):
            seen.returned_s = time.time() - seen.at
        return seen

    def _is_back(self, view: View, node: str) -> bool:
        """Tell whether a node has come back all the way, and nothing falls back any more."""
        return (
            view.conditions.get("FallbackActive") == "False"
            and node not in self.fleet.tainted
            and self.fleet.marks.get(node, ("", ""))[0] == "Healthy"
            and not view.ramp(PREFERRED)
        )

    def _choose_node(self) -> str:
        """Return the node of the preferred class with most workers."""
        return max(
            (name for name in self.fleet.workers if name.startswith("maia-")),
            key=lambda name: len(self.fleet.workers[name]),
        )

    def _count_spares(self) -> int:
        """Return how many workers are bound to nodes of the spare class."""
        return sum(
            len(pods) for node, pods in self.fleet.workers.items() if node.startswith("gpu-")
        )

    async def _watch_fallback(self, kill: Kill) -> None:
        def seen(view: View) -> bool:
            passed = time.time() - kill.at
            if kill.detection_s is None and kill.node in self.fleet.tainted:
                kill.detection_s = passed
            if kill.replacement_wanted_s is None and view.wanted(SPARE) > kill.spare_before:
                kill.replacement_wanted_s = passed
            if kill.replacement_bound_s is None and self._count_spares() > kill.bound_before:
                kill.replacement_bound_s = passed
            if kill.replacement_ready_s is None and view.serving(SPARE) > kill.spare_before:
                kill.replacement_ready_s = passed
            fell = view.conditions.get("FallbackActive") == "True"
            self.fell_back = self.fell_back or (fell and view.share(SPARE) > 0)
            return self.fell_back and kill.replacement_ready_s is not None

        self.say(f"{kill.node} is lost; the pool falls back")
        await self.until(seen, 60.0)
