"""What the planner remembers from one pass to the next.

`plan(Snapshot, Memory)` returns the next one. The part that must survive a restart is written
before the action it belongs to: a pool's in its status, a node's in an annotation. Windows are not
written: they are rebuilt from observation, and until one full window has been seen nothing scales
down and nothing leaves quarantine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sluice.model.keys import PoolKey
from sluice.model.plan import Decision


class WorkerState(StrEnum):
    """Our own word on a worker, next to the kubelet's."""

    STARTING = "Starting"
    HEALTHY = "Healthy"
    SUSPECT = "Suspect"
    FAILED = "Failed"


class NodeState(StrEnum):
    """Our own word on a node.

    Only nodes that are out are remembered with their state. Healthy stands in the mark of one that
    came back, for as long as its flaps count.
    """

    HEALTHY = "Healthy"
    FAILED = "Failed"
    LATCHED = "Latched"


class Direction(StrEnum):
    """Which way a variant was last scaled."""

    UP = "Up"
    DOWN = "Down"


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """Health of one worker, by pod uid; `since` is when the state was entered."""

    state: WorkerState
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Health of one node; only nodes that are not Healthy are remembered.

    Attributes:
        alive_since: since when everything that speaks for the node has been good without a break;
            None while something speaks against it.
    """

    state: NodeState
    since: float
    reason: str
    alive_since: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The last scaling step of a variant."""

    direction: Direction
    at: float


@dataclass(frozen=True, slots=True)
class VariantMemory:
    """What is remembered of one variant.

    Attributes:
        correction: factor on the profile's capacity, learnt from broken and kept SLOs.
        corrected: when it was last lowered.
        wanted: workers last asked for (durable); None before the first decision.
        step: the last scaling step (durable).
        recommendations: (time, workers) over the stable window, oldest first; only those that no
            later one reaches, so that the first is the window's maximum.
    """

    correction: float = 1.0
    corrected: float | None = None
    wanted: int | None = None
    step: Step | None = None
    recommendations: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What is remembered of one pool.

    Attributes:
        uid: the pool's; a namesake made anew begins with nothing.
        since: start of the unbroken observation of this pool; a restart or a gap in the signals
            starts it anew.
        rate, prompt_tokens, output_tokens: last known demand (requests/s) and mean lengths.
        shares, shares_for: the shares last given, and the serving workers they were given for.
        lost: since when a variant's capacity has been lost to health, by class (durable).
        decisions: the last ten, oldest first (durable).
        passed: time of the last pass over this pool.
    """

    uid: str = ""
    since: float | None = None
    rate: float | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    variants: Mapping[str, VariantMemory] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
    shares_for: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    passed: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """All that `plan` remembers; empty at start, filled from what is durable in the snapshot.

    Attributes:
        nodes: those that are out, by name.
        outs: when each node was last taken out, oldest first; nodes that flap are let back later
            and later, and in the end only by hand.
    """

    pools: Mapping[PoolKey, PoolMemory] = field(default_factory=dict)
    nodes: Mapping[str, NodeHealth] = field(default_factory=dict)
    outs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    workers: Mapping[str, WorkerHealth] = field(default_factory=dict)
    started: float | None = None
