"""What was observed, frozen at one moment: the only input of a decision besides `Memory`.

`observe` builds it, `decide` reads it, a recording replays it. All times are seconds on the
snapshot's own clock: wall time when the process started plus monotonic time since, so that a
stepped system clock moves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec
from sluice.model.keys import PoolKey


class NodeReady(StrEnum):
    """The node's Ready condition as the API server has it."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """What our own liveness probe of a worker has seen; the pod's uid was checked in every answer.

    Attributes:
        misses: consecutive misses up to now; 0 means the last probe was answered.
        answered: how many probes this pod has ever answered.
        up_since: when the current run of answers began; None while missing.
        why: what the last miss was (the worker's own words where it gave some), or "".
        stuck: how many of the misses were the worker's own word that it is stuck.
    """

    misses: int
    answered: int
    up_since: float | None
    why: str = ""
    stuck: int = 0


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """What asking a worker, or one slot of a probation pod, for known answers has shown.

    A round asks every known prompt once. A round that was not answered in time is neither right nor
    wrong: a slow worker is overloaded, a dead one misses its liveness probes.

    Attributes:
        right: rounds in a row answered right up to now.
        right_at: when the last few of them were judged, oldest first, for what was answered before
            a failure proves nothing after it.
        wrong: rounds answered wrong that as many right ones as prove a device have not made good.
        at: when the last round was judged; None before the first.
        wrong_at: when the last of them was judged; None without one.
        detail: what the last wrong round was: prompt number, tokens expected and given, or how far
            scores were off; or "".
        unavailable: why nothing can be judged (no probes.json, of another digest, …), or "".
        silent: rounds in a row that timed out; weak evidence, for a slow worker's do too.
    """

    right: int = 0
    wrong: int = 0
    at: float | None = None
    detail: str = ""
    unavailable: str = ""
    silent: int = 0
    right_at: tuple[float, ...] = ()
    wrong_at: float | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker pod.

    Attributes:
        ready: the kubelet's own word (condition ContainersReady); the node controller flips only
            Ready when an agent falls silent.
        waiting: reason and message of a container that cannot start ("CrashLoopBackOff: …"), or "".
        unschedulable: the scheduler's message while the pod has no node, or "".
        gateway_failures: requests in a row that failed on it, the largest count of a gateway.
        gateway_misses: probes in a row that a gateway missed of it, the largest count.
    """

    uid: str
    name: str
    pool: PoolKey
    accelerator_class: str
    node: str | None
    created: float
    ready: bool
    terminating: bool
    restarts: int = 0
    waiting: str = ""
    unschedulable: str = ""
    probe: Probe | None = None
    gateway_failures: int = 0
    gateway_misses: int = 0
    answers: KnownAnswers | None = None
    signals: "WorkerSignals | None" = None


@dataclass(frozen=True, slots=True)
class ProbationPod:
    """A pod that asks all free devices of a quarantined node for known answers.

    Attributes:
        waiting: reason and message of a container that cannot start, or "".
        unschedulable: the scheduler's message while the pod is not bound, or "".
        started: a container of it has run on the node, whatever came of it.
        slots: by container name, what its devices answered; None before the first round.
    """

    uid: str
    name: str
    node: str
    accelerator_class: str
    created: float
    ready: bool
    terminating: bool
    waiting: str = ""
    unschedulable: str = ""
    slots: Mapping[str, KnownAnswers | None] = field(default_factory=dict)
    started: bool = False


@dataclass(frozen=True, slots=True)
class NodeCondition:
    """A condition that the node's health agent set; `status` is True, False or Unknown."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeMark:
    """The durable part of a node's health, as its annotation holds it.

    Attributes:
        outs: when the node failed lately, oldest first.
    """

    state: str
    since: float
    reason: str
    outs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One node that some accelerator class selects, or that carries a mark of ours.

    Attributes:
        lease_age: seconds, on our monotonic clock, since we last saw its Lease renewed; None when
            it has none.
        lease_renewed: when we last saw the Lease change; None before the first change since start.
        lease_lag: how many seconds before that the node may have beaten, at most.
        allocatable: device counts by resource name (only resources that a class names).
        capacity: the same with the devices that are broken: what is there once they are repaired.
        tainted: our quarantine taint is on it.
        mark: our annotation; None when absent or unreadable (then `mark_error` says why).
        released: somebody asks by annotation to let it back.
        banned: somebody asks by annotation to take it out: the reason given, or "".
        conditions: of the types that a class names in health.nodeConditions, by type.
        boot_id: another one with every start of the machine; "" where it says none.
    """

    name: str
    labels: Mapping[str, str]
    ready: NodeReady
    cordoned: bool
    lease_age: float | None
    lease_renewed: float | None
    allocatable: Mapping[str, int]
    tainted: bool
    mark: NodeMark | None = None
    mark_error: str = ""
    released: bool = False
    banned: str = ""
    conditions: Mapping[str, NodeCondition] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)
    lease_lag: float = 10.0
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: `counts` has one entry more than `bounds` (seconds), for what lies above."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    def plus(self, other: "Distribution") -> "Distribution":
        """Add two up; where the bounds differ (two versions of gateways), keep the fuller one."""
        if self.bounds != other.bounds:
            return max(self, other, key=lambda one: sum(one.counts))
        counts = tuple(x + y for x, y in zip(self.counts, other.counts, strict=True))
        return Distribution(self.bounds, counts)


@dataclass(frozen=True, slots=True)
class ParitySignals:
    """What the gateways compared of answers between two classes, over 300 s.

    Attributes:
        audits: answers.
        judged: tokens of them where one of the two workers was sure of one.
        agreed: those of the judged where both have the same likeliest token.
        divergence: sum of KL(maker, reference) over the judged, in nat.
    """

    audits: int = 0
    judged: int = 0
    agreed: int = 0
    divergence: float = 0.0

    @property
    def agreement(self) -> float | None:
        """Share of the judged tokens with the same likeliest one; None without any."""
        return self.agreed / self.judged if self.judged else None

    @property
    def mean_divergence(self) -> float | None:
        """Mean KL divergence at the judged tokens, in nat; None without any."""
        return self.divergence / self.judged if self.judged else None

    def plus(self, other: "ParitySignals") -> "ParitySignals":
        """Add up what was compared of two workers, or by two gateways."""
        return ParitySignals(
            self.audits + other.audits,
            self.judged + other.judged,
            self.agreed + other.agreed,
            self.divergence + other.divergence,
        )


@dataclass(frozen=True, slots=True)
class PairSignals:
    """What was compared of answers of one class with another's."""

    accelerator_class: str
    reference: str
    found: ParitySignals


@dataclass(frozen=True, slots=True)
class WorkerSignals:
    """What the gateways measured of one worker over the window.

    Attributes:
        parity: of its answers, and of others' that it scored.
        shadow: the same of mirrored requests, over 300 s; None if nothing was mirrored to it.
        seconds: length of the window.
        errors: attempts that ended in an error, a broken connection or nonsense.
        timeouts: attempts that gave no token in time, first or next.
    """

    seconds: float
    finished: int
    errors: int
    timeouts: int
    ttft: Distribution
    tpot: Distribution
    parity: ParitySignals = ParitySignals()
    shadow: "WorkerSignals | None" = None

    def plus(self, other: "WorkerSignals") -> "WorkerSignals":
        """Add up what was measured of two workers, or of one by two gateways."""
        return WorkerSignals(
            seconds=min(self.seconds, other.seconds),
            finished=self.finished + other.finished,
            errors=self.errors + other.errors,
            timeouts=self.timeouts + other.timeouts,
            ttft=self.ttft.plus(other.ttft),
            tpot=self.tpot.plus(other.tpot),
            parity=self.parity.plus(other.parity),
            shadow=self.shadow.plus(other.shadow)
            if self.shadow and other.shadow
            else self.shadow or other.shadow,
        )


@dataclass(frozen=True, slots=True)
class VariantSignals:
    """What the gateways measured of one variant over the window; gauges are sums or maxima."""

    sent: int
    finished: int
    met: int
    inflight: int
    oldest_pending: float
    ttft: Distribution
    tpot: Distribution


@dataclass(frozen=True, slots=True)
class PoolSignals:
    """What all Ready gateways together measured of one pool.

    Attributes:
        at: when the oldest of the merged answers was read.
        seconds: length of the observed window, the shortest of the merged ones.
        prompt_tokens, output_tokens: sums over finished requests, in real tokens.
        parity: pairs of classes whose answers were compared.
    """

    at: float
    seconds: float
    arrived: int
    finished: int
    met: int
    failed: int
    rejected: int
    waiting: int
    prompt_tokens: int
    output_tokens: int
    variants: Mapping[str, VariantSignals]
    parity: tuple[PairSignals, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """The live Deployment of a variant, as far as decisions need it.

    Attributes:
        template_hash: our annotation on it; "" when absent.
        updated: pods made from its newest template.
        replicas: what its spec asks for.
        total: pods it has in all, of any template.
        observed: its controller has seen the newest spec.
        surge: its rolling update adds a pod first.
        message: why its controller cannot make pods (quota, admission), or "".
    """

    replicas: int
    template_hash: str
    updated: int
    total: int
    observed: bool
    paused: bool
    surge: bool = True
    message: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    """One InferencePool with what belongs to it.

    Attributes:
        templates: digest of the pod template that the current spec renders to, by class name.
        deployments: live Deployments by class name, also of classes no longer in the spec.
        signals: None while any Ready gateway did not answer, or none exists.
        status: the status document as last read; holds the durable memory and the conditions.
        force_roll: value of the forcing annotation, or "".
    """

    key: PoolKey
    uid: str
    generation: int
    created: float
    spec: InferencePoolSpec
    templates: Mapping[str, str]
    deployments: Mapping[str, Deployment]
    workers: tuple[Worker, ...]
    signals: PoolSignals | None
    status: Mapping[str, Any] = field(default_factory=dict)
    force_roll: str = ""
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole fleet at the moment `at`.

    Attributes:
        unreadable: why a class that exists cannot be read, by its name.
        observer_ok: our own control target answered; False makes every miss doubtful.
        probations: pods that prove quarantined nodes.
        cool_down: seconds without destructive actions after a breaker had to hold.
        gateways: how many gateways are Ready.
        endpoint: the address that users send requests to; "" while there is none.
    """

    at: float
    pools: tuple[Pool, ...]
    classes: Mapping[str, AcceleratorClassSpec]
    nodes: tuple[Node, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    observer_ok: bool = True
    gateways: int = 0
    endpoint: str = ""
    probations: tuple[ProbationPod, ...] = ()
    cool_down: float = 60.0
