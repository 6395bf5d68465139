"""What is to be done: typed actions, each with a reason built from the numbers it compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sluice.model.keys import PoolKey
from sluice.model.snapshot import ParitySignals


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing decided, as a person will read it in status, in Events and in `sluice explain`.

    Attributes:
        at: snapshot time, seconds.
        action: CamelCase word that becomes the Event's reason (ScaleUp, FallBack, …).
        reason: one sentence with the numbers that were compared.
        warning: the Event is a Warning.
    """

    at: float
    action: str
    reason: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class RampPlan:
    """How much traffic the workers on nodes that came back get.

    Attributes:
        share: whole percent of the pool's traffic; a part of the variant's share.
        pods: names of those workers.
        step, steps: which step of how many, from 1; 0 while a failed gate keeps all traffic away.
        since: when the step was entered, seconds.
        hold: what keeps it at its step past the dwell, as one word; "" if nothing does.
    """

    share: int
    pods: tuple[str, ...]
    step: int
    steps: int
    since: float
    hold: str = ""


class ParityVerdict(StrEnum):
    """Whether the answers of two classes keep a pool's bounds."""

    AGREES = "Agrees"
    DIFFERS = "Differs"
    AWAITS = "Awaits"


@dataclass(frozen=True, slots=True)
class PairPlan:
    """What is known of a pair of classes.

    Attributes:
        accelerator_class: who made the answers.
        reference: who scored them, too.
    """

    accelerator_class: str
    reference: str
    verdict: ParityVerdict
    found: ParitySignals

    @property
    def name(self) -> str:
        """The pair in words."""
        return f"{self.accelerator_class} against {self.reference}"


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """What one variant is to be.

    Attributes:
        wanted: workers.
        share: whole percent of the pool's traffic; the shares of a pool add up to 100, or are all
            0 when nothing serves.
        serving: workers that count now (pod ready, not terminating, our state Healthy).
        ready: workers whose pod is ready and not terminating.
        capacity: requests/s one worker sustains within the SLO; None while unknown.
        quarantined: pod names that must get no traffic.
        surge: the rolling update may add a pod first (else it removes one first).
        paused: the Deployment must not roll now.
        frozen: leave the Deployment as it is (its class is gone).
        cost_per_hour: dollars, of the workers that hold devices.
        ramp: what of it is on its way back, or None.
        numerics: what new workers compute in; "" if nothing says it.
    """

    accelerator_class: str
    wanted: int
    share: int
    serving: int
    ready: int
    capacity: float | None
    quarantined: tuple[str, ...] = ()
    surge: bool = True
    paused: bool = False
    frozen: bool = False
    cost_per_hour: float = 0.0
    ramp: RampPlan | None = None
    numerics: str = ""


@dataclass(frozen=True, slots=True)
class DeleteWorker:
    """Delete a Failed worker by name; uid and a live read guard it."""

    pool: PoolKey
    name: str
    uid: str
    reason: str


class Finding(StrEnum):
    """What keeps a pool from what it wants; becomes a condition's reason."""

    MODEL_NAME_TAKEN = "ModelNameTaken"
    CLASS_MISSING = "ClassMissing"
    NO_NODES = "NoNodes"
    NO_DEVICES = "NoDevices"
    NUMERICS_UNSUPPORTED = "NumericsUnsupported"
    UNSCHEDULABLE = "Unschedulable"
    WORKER_CRASHES = "WorkerCrashes"
    WORKER_FAILED = "WorkerFailed"
    NODE_LATCHED = "NodeLatched"
    NODES_SHARED = "NodesShared"
    NODE_MARK_UNREADABLE = "NodeMarkUnreadable"
    KNOWN_ANSWERS_MISSING = "KnownAnswersMissing"
    CAPACITY_SHORT = "CapacityShort"
    PODS_REFUSED = "PodsRefused"
    BREAKER_OPEN = "BreakerOpen"
    ROLL_WAITS = "RollWaits"
    SIGNALS_MISSING = "SignalsMissing"
    APPLY_FAILED = "ApplyFailed"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding with its sentence: what is wrong, the value, what to do."""

    finding: Finding
    message: str


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What is to be done for one pool.

    Attributes:
        workers: False when the pool gets no Deployments at all (its model name is taken).
        attainment: share of requests (0 to 1) inside the SLO; None while nothing is known.
        fallback: why fallback is active, or "".
        progress: why the pool is not yet what it is wanted to be, or "".
        decisions: what was newly decided in this pass.
        pairs: classes whose answers were compared; None if the pool does not want that.
    """

    key: PoolKey
    uid: str
    generation: int
    variants: tuple[VariantPlan, ...]
    workers: bool = True
    attainment: float | None = None
    fallback: str = ""
    progress: str = ""
    problems: tuple[Problem, ...] = ()
    decisions: tuple[Decision, ...] = ()
    deletes: tuple[DeleteWorker, ...] = ()
    demand: float | None = None
    pairs: tuple[PairPlan, ...] | None = None


@dataclass(frozen=True, slots=True)
class QuarantineNode:
    """Taint a node and write its mark; applying it twice changes nothing.

    Attributes:
        state: Failed, Latched or Probation, as it stands in the mark.
        outs: when the node failed lately, this time included.
        released: a release by hand is obeyed with it; one that comes later is left to be seen.
    """

    node: str
    since: float
    reason: str
    state: str = "Failed"
    outs: tuple[float, ...] = ()
    released: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseNode:
    """Remove our taint from a node; its mark stays while it still says something.

    Attributes:
        at: snapshot time, seconds.
        outs: when it failed lately; the mark stays to remember them.
        state: what the mark says: Ramp while the node's share climbs, Healthy for the flaps alone
            (then no outs mean no mark), or what is held of a node that no class selects.
        released: as above.
    """

    node: str
    reason: str
    at: float = 0.0
    outs: tuple[float, ...] = ()
    state: str = "Healthy"
    released: bool = False


NodeAction = QuarantineNode | ReleaseNode


@dataclass(frozen=True, slots=True)
class StartProbation:
    """Make the pod that asks a node's free devices for known answers.

    Attributes:
        pool: whose model they are asked with.
        slots: workers' worth of devices that are free on the node.
    """

    node: str
    accelerator_class: str
    pool: PoolKey
    slots: int


@dataclass(frozen=True, slots=True)
class EndProbation:
    """Delete a probation pod; uid and a live read guard it."""

    node: str
    name: str
    uid: str
    reason: str


ProbationAction = StartProbation | EndProbation


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole fleet's plan of one pass."""

    at: float
    pools: Mapping[PoolKey, PoolPlan] = field(default_factory=dict)
    nodes: tuple[NodeAction, ...] = ()
    probations: tuple[ProbationAction, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """What came of applying a pool's plan: refusals by child name, and outside edits put back."""

    errors: Mapping[str, str] = field(default_factory=dict)
    put_back: tuple[str, ...] = ()
