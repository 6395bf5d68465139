"""What the planner remembers from one pass to the next.

`plan(Snapshot, Memory)` returns the next one. The part that must survive a restart is written
before the action it belongs to: a pool's in its status, a node's in an annotation. Windows are not
written: they are rebuilt from observation, and until one full window has been seen nothing scales
down and nothing leaves quarantine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sluice.model.keys import PoolKey
from sluice.model.plan import Decision


class WorkerState(StrEnum):
    """Our own word on a worker, next to the kubelet's.

    Failed and Probation get no traffic; Ramp gets the share of its step.
    """

    STARTING = "Starting"
    HEALTHY = "Healthy"
    SUSPECT = "Suspect"
    FAILED = "Failed"
    PROBATION = "Probation"
    RAMP = "Ramp"


SERVING_STATES: Final = frozenset({WorkerState.HEALTHY, WorkerState.SUSPECT, WorkerState.RAMP})
"""States in which a ready worker counts; the gateway bypasses a Suspect one until it answers."""


class NodeState(StrEnum):
    """Our own word on a node.

    Failed, Latched and Probation are out: tainted. Ramp is back, with little traffic at first.
    Healthy ones are not remembered; the word stands in the mark of one that came back, for as long
    as its flaps count.
    """

    HEALTHY = "Healthy"
    FAILED = "Failed"
    LATCHED = "Latched"
    PROBATION = "Probation"
    RAMP = "Ramp"


OUT_STATES: Final = frozenset({NodeState.FAILED, NodeState.LATCHED, NodeState.PROBATION})
"""States in which a node carries our taint."""


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
    """Health of one node; only nodes that are out, or on their way back, are remembered.

    Attributes:
        since: when it was taken out; in Ramp, when it came back (durable).
        reason: of the present state (durable).
        entered: when the present state was entered, or recalled after a restart.
        alive_since: since when everything that speaks for the node has been good without a break;
            None while something speaks against it.
        gone_since: since when there is no such node, or no class selects it; None while there is.
        failed: when it last failed, which may be while it was out (durable: the last of its outs).
        boot_id: of the machine's last start that was seen; "" after a restart of the operator.
    """

    state: NodeState
    since: float
    reason: str
    entered: float = 0.0
    alive_since: float | None = None
    gone_since: float | None = None
    failed: float = 0.0
    boot_id: str = ""

    @property
    def is_out(self) -> bool:
        """Tell whether the node carries our taint."""
        return self.state in OUT_STATES


@dataclass(frozen=True, slots=True)
class Ramp:
    """How far a variant's workers on nodes that came back have climbed.

    Attributes:
        step: index into spec.shift.ramp.steps; -1 is no traffic at all, after a gate failed at the
            first step.
        since: when the step was entered.
        nodes: the nodes that came back, by name.
        hold: what keeps it at its step past the dwell, as one word; "" if nothing does.
    """

    step: int
    since: float
    nodes: tuple[str, ...]
    hold: str = ""


@dataclass(frozen=True, slots=True)
class Storm:
    """A class had more nodes out than its breaker lets act on.

    Attributes:
        at: when that was last so.
        allowed: the nodes that were acted on.
    """

    at: float
    allowed: tuple[str, ...]


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
        ramps: how far each class's workers that came back have climbed (durable).
        ramped: nodes that have climbed to the top here (durable), until no pool's ramp needs them.
        decisions: the last ten, oldest first (durable).
        passed: time of the last pass over this pool.
        differing: pairs of classes whose answers were last seen to differ, by name.
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
    ramps: Mapping[str, Ramp] = field(default_factory=dict)
    ramped: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    passed: float | None = None
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """All that `plan` remembers; empty at start, filled from what is durable in the snapshot.

    Attributes:
        nodes: those that are out or on their way back, by name.
        outs: when each node failed lately, oldest first; nodes that flap are let back later and
            later, and in the end only by hand.
        storms: by class, the last time that its breaker held something back.
    """

    pools: Mapping[PoolKey, PoolMemory] = field(default_factory=dict)
    nodes: Mapping[str, NodeHealth] = field(default_factory=dict)
    outs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    workers: Mapping[str, WorkerHealth] = field(default_factory=dict)
    storms: Mapping[str, Storm] = field(default_factory=dict)
    started: float | None = None
