"""Harms to nodes, and what is seen of one: the fall, the heal, the gated return."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counting import OBJECTIVE, measure_share_inside
from running import Running

from sluice.cli.demo.fleet import View
from sluice.cli.demo.story import PREFERRED, SPARE

PATIENCE_SECONDS = 100.0
"""How long a harm may last: more than the goal for attainment, so that a run that misses it says
by how much."""
LEAST_SECONDS = 20.0
"""A harm lasts at least so long: a window of the pool's signals, and time to read them."""
RETURN_SECONDS = 240.0
LOST_POINTS = 15


@dataclass(frozen=True, slots=True)
class Harm:
    """Something that can happen to a node.

    Attributes:
        action, options: as `Cluster.act_on_node` takes them.
        heal: the action that undoes it.
        all_nodes: all nodes of the preferred class at once.
        latches: the node stays out until it is released by hand.
    """

    action: str
    heal: str = "start"
    options: Mapping[str, Any] = field(default_factory=dict)
    all_nodes: bool = False
    latches: bool = False


def list_harms(rate: float, slowdown: float) -> dict[str, Harm]:
    """Return the harms by name; device faults hit all devices of a node."""

    def make_fault(kind: str, **options: float) -> Harm:
        latches = kind == "corruption"
        return Harm("break", "heal", {"fault": kind, "device": "all", **options}, latches=latches)

    return {
        "kill": Harm("kill"),
        "freeze": Harm("freeze"),
        "off-bus": make_fault("off-bus"),
        "hang": make_fault("hang"),
        "corruption": make_fault("corruption", rate=rate),
        "throttle": make_fault("throttle", slowdown=slowdown),
        "all-kill": Harm("kill", all_nodes=True),
    }


@dataclass(slots=True)
class Seen:
    """What was seen of one harm; `…_s` are seconds since it, None for what was not seen.

    Attributes:
        workers: those on the harmed nodes.
        detection_s: when all harmed nodes were tainted.
        wanted_s, bound_s, serving_s: workers of the spare class beyond those before.
        client_back_s, pool_back_s: when attainment was back at the objective for good, by the
            client's own clock and by the pool's status; 0 when it never was below.
        answered_back_s: the client's without what was refused with 429: of what is left, a pool
            that lost more than it can replace has to serve well what it takes.
        healed_at: seconds since the epoch.
        returned_s: when the nodes had come back and the ramp was over.
        causes: of the marks, by node, as they were when it was tainted.
    """

    nodes: tuple[str, ...]
    workers: frozenset[str]
    spare_before: int
    bound_before: int
    share_before: int
    at: float = 0.0
    detection_s: float | None = None
    wanted_s: float | None = None
    bound_s: float | None = None
    serving_s: float | None = None
    client_back_s: float | None = 0.0
    answered_back_s: float | None = 0.0
    pool_back_s: float | None = 0.0
    healed_at: float = 0.0
    returned_s: float | None = None
    causes: dict[str, str] = field(default_factory=dict)


async def do_harm(running: Running, name: str, harm: Harm, patience: float) -> Seen:
    """Harm nodes, watch until the pool is well or patience is over, heal, await the return."""
    seen = choose_victims(running, await running.fleet.look(), harm)
    print(f"— {name}: {', '.join(seen.nodes)} with {len(seen.workers)} workers", flush=True)
    seen.at = time.time()
    for node in seen.nodes:
        running.cluster.act_on_node(node, harm.action, **harm.options)
    await running.story.until(lambda view: _note(running, seen, view), patience)
    seen.healed_at = time.time()
    for node in seen.nodes:
        running.cluster.act_on_node(node, harm.heal)
        if harm.latches:
            release(running, node)
    if await running.story.until(lambda view: _is_back(running, seen, view), RETURN_SECONDS):
        seen.returned_s = time.time() - seen.at
    return seen


def release(running: Running, node: str) -> None:
    """Let a node out of quarantine, and its flaps be forgotten, as a person would."""
    running.kubectl("annotate", "node", node, "sluice.dev/release=yes", "--overwrite")


def choose_victims(running: Running, view: View, harm: Harm) -> Seen:
    """Return the preferred nodes to harm: all, or the one with most workers."""
    workers = running.fleet.workers
    nodes = sorted(
        (name for name in running.fleet.marks if name.startswith("maia-")),
        key=lambda name: (-len(workers.get(name, ())), name),
    )
    chosen = nodes if harm.all_nodes else nodes[:1]
    return Seen(
        tuple(chosen),
        frozenset(pod for node in chosen for pod in workers.get(node, ())),
        view.wanted(SPARE),
        _count_spares(running),
        view.share(PREFERRED),
    )


def _count_spares(running: Running) -> int:
    """Return how many workers are bound to nodes of the spare class."""
    found = running.fleet.workers.items()
    return sum(len(pods) for node, pods in found if node.startswith("gpu-"))


def _note(running: Running, seen: Seen, view: View) -> bool:
    """Write down what is new; tell whether there is nothing more to wait for."""
    passed = time.time() - seen.at
    for node in running.fleet.tainted.intersection(seen.nodes):
        seen.causes.setdefault(node, running.fleet.marks[node][1])
    if seen.detection_s is None and running.fleet.tainted.issuperset(seen.nodes):
        seen.detection_s = passed
    if seen.wanted_s is None and view.wanted(SPARE) > seen.spare_before:
        seen.wanted_s = passed
    if seen.bound_s is None and _count_spares(running) > seen.bound_before:
        seen.bound_s = passed
    if seen.serving_s is None and view.serving(SPARE) > seen.spare_before:
        seen.serving_s = passed
    outcomes, now = running.load.outcomes, time.time()
    client = measure_share_inside(outcomes, now)
    seen.client_back_s = _follow(seen.client_back_s, client, passed)
    answered = measure_share_inside(outcomes, now, count_shed=False)
    seen.answered_back_s = _follow(seen.answered_back_s, answered, passed)
    seen.pool_back_s = _follow(seen.pool_back_s, read_attainment(view), passed)
    back = [seen.answered_back_s]
    if len(seen.nodes) == 1:  # the spare class cannot replace them all: some stay refused
        back += [seen.client_back_s, seen.pool_back_s]
    stages = (seen.detection_s, seen.wanted_s, seen.bound_s, seen.serving_s)
    return passed >= LEAST_SECONDS and None not in (*back, *stages)


def _follow(back_s: float | None, share: float | None, passed: float) -> float | None:
    """Return since when a share is back at the objective: None while it is below."""
    if share is not None and share < OBJECTIVE:
        return None
    return passed if back_s is None and share is not None else back_s


def read_attainment(view: View) -> float | None:
    """Return the pool's own attainment, 0 to 1."""
    return float(view.attainment.rstrip("%")) / 100 if view.attainment else None


def _is_back(running: Running, seen: Seen, view: View) -> bool:
    """Tell whether the nodes have come back all the way."""
    return (
        view.conditions.get("FallbackActive") == "False"
        and is_whole(running, view)
        and view.share(PREFERRED) >= seen.share_before - LOST_POINTS
    )


def is_whole(running: Running, view: View) -> bool:
    """Tell whether no node is out or on its way back, and no share climbs."""
    marks = running.fleet.marks
    return (
        not running.fleet.tainted
        and all(state == "Healthy" for state, _ in marks.values())
        and not view.ramp(PREFERRED)
    )


async def wait_for_ends(running: Running, until: float, seconds: float) -> None:
    """Wait until all requests sent before `until` have ended, or are so many seconds old."""

    def have_ended(_: View) -> bool:
        return not any(
            one.ended is None and one.sent < until and time.time() - one.sent <= seconds
            for one in running.load.outcomes
        )

    await running.story.until(have_ended, seconds)
