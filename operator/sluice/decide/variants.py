"""One variant as the planner sees it: workers counted, losses named, problems worded."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.numerics import choose_numerics
from sluice.api.pool import VariantSpec
from sluice.decide import limits
from sluice.decide.devices import (
    count_devices,
    count_held,
    devices_per_worker,
    find_variant,
    suits_numerics,
)
from sluice.decide.matching import selects
from sluice.decide.startup import expected_startup
from sluice.decide.workers import NOT_HEARD
from sluice.model.memory import (
    SERVING_STATES,
    NodeHealth,
    NodeState,
    PoolMemory,
    Storm,
    VariantMemory,
    WorkerHealth,
    WorkerState,
)
from sluice.model.plan import Finding, Problem
from sluice.model.snapshot import Deployment, Node, NodeReady, Pool, Snapshot, Worker
from sluice_accel.rounding import list_numerics


@dataclass(frozen=True, slots=True)
class Fleet:
    """A snapshot with the health judged from it: what all pools share.

    Attributes:
        storms: by class, when its breaker last held something back.
        turns: (node, state before, state after, reason) of nodes whose state changed in this pass.
        marked: nodes that are out, and whose mark says all of it already.
    """

    snapshot: Snapshot
    workers: Mapping[str, WorkerHealth]
    nodes: Mapping[str, NodeHealth]
    storms: Mapping[str, Storm] = field(default_factory=dict)
    turns: tuple[tuple[str, str, str, str], ...] = ()
    marked: frozenset[str] = frozenset()

    def list_nodes(self, accelerator: AcceleratorClassSpec) -> list[Node]:
        """Return the nodes that a class selects."""
        return [node for node in self.snapshot.nodes if selects(accelerator, node)]

    def count_stray(
        self, class_name: str, accelerator: AcceleratorClassSpec, nodes: Container[str]
    ) -> list[int]:
        """Return the devices of each worker of a class that is bound to none of these nodes."""
        return [
            devices_per_worker(find_variant(pool, class_name), accelerator)
            for pool in self.snapshot.pools
            for worker in pool.workers
            if worker.accelerator_class == class_name and worker.node and worker.node not in nodes
        ]

    def is_out(self, name: str) -> bool:
        """Tell whether a node is in quarantine."""
        return name in self.nodes and self.nodes[name].is_out

    def is_returning(self, name: str | None) -> bool:
        """Tell whether a node came back lately, and its share still climbs."""
        health = self.nodes.get(name or "")
        return health is not None and health.state is NodeState.RAMP

    def list_returning(self) -> set[str]:
        """Return the nodes that came back lately, and whose share still climbs.

        Also while only their mark says so: what was climbed must outlive it, or an operator that
        starts in between would let them climb again.
        """
        climbing = {name for name, health in self.nodes.items() if health.state is NodeState.RAMP}
        nodes = self.snapshot.nodes
        told = {node.name for node in nodes if node.mark and node.mark.state == NodeState.RAMP}
        return climbing | told

    def is_usable(self, node: Node) -> bool:
        """Tell whether new workers may go to a node."""
        return (
            not self.is_out(node.name)
            and not node.cordoned
            and node.ready is NodeReady.TRUE
            and (node.lease_age is None or node.lease_age <= limits.LEASE_STALE)
        )

    def find_free_slot(self, accelerator: AcceleratorClassSpec, devices: int) -> bool:
        """Tell whether a usable node has the devices for one worker more.

        Terminating workers still hold theirs.
        """
        held = count_held(self.snapshot, accelerator)
        return any(
            count_devices(accelerator, node) - held.get(node.name, 0) >= devices
            for node in self.list_nodes(accelerator)
            if self.is_usable(node)
        )


@dataclass(frozen=True, slots=True)
class VariantView:
    """A variant with its workers counted.

    Attributes:
        allocated: workers asked for before this pass.
        serving: workers that count: pod ready, not Terminating, state Healthy, Ramp or Suspect. A
            Suspect one gets no new request from the gateway, but is expected back within a second.
        returning: those of them on nodes that came back lately.
        suspect: how many of them are Suspect because they miss probes. Who is Suspect for latency
            serves all the same, and must not keep a pool from settling.
        starting: workers on their way within the expected time.
        bound: workers that hold devices, Terminating ones included.
        failed: workers that get no traffic and are to be deleted.
        proving: workers that get no traffic, and prove themselves with their node.
        lost: why capacity counts as lost to health, or "".
        startable: a new worker could start; False with numerics that the device has not.
    """

    spec: VariantSpec
    accelerator: AcceleratorClassSpec
    devices: int
    deployment: Deployment | None
    memory: VariantMemory
    allocated: int
    workers: tuple[Worker, ...]
    serving: int
    returning: tuple[Worker, ...]
    suspect: int
    ready: int
    starting: int
    bound: int
    failed: tuple[Worker, ...]
    proving: tuple[Worker, ...]
    lost: str
    startable: bool
    problems: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """Name of the accelerator class, which names the variant."""
        return self.spec.accelerator_class


def view_variant(
    fleet: Fleet,
    pool: Pool,
    spec: VariantSpec,
    accelerator: AcceleratorClassSpec,
    memory: PoolMemory,
) -> VariantView:
    """Count the workers of a variant and say what keeps it from what it wants."""
    name = spec.accelerator_class
    remembered = memory.variants.get(name, VariantMemory())
    deployment = pool.deployments.get(name)
    allocated = remembered.wanted
    if allocated is None:
        allocated = deployment.replicas if deployment else spec.min
    workers = tuple(w for w in pool.workers if w.accelerator_class == name)
    live = [w for w in workers if not w.terminating]
    states = {w.uid: fleet.workers[w.uid].state for w in live if w.uid in fleet.workers}
    serving = [w for w in live if w.ready and states.get(w.uid) in SERVING_STATES]
    returning = tuple(w for w in serving if fleet.is_returning(w.node))
    failed = tuple(w for w in live if states.get(w.uid) is WorkerState.FAILED)
    proving = tuple(w for w in live if states.get(w.uid) is WorkerState.PROBATION)
    waiting = [w for w in live if states.get(w.uid) is WorkerState.STARTING]
    overdue = [w for w in waiting if is_overdue(w, accelerator, fleet.snapshot.at)]
    starting = len(waiting) - len(overdue)
    lost = ""
    if len(serving) < allocated:
        lost = _describe_loss(
            fleet, accelerator, failed, overdue, remembered_loss=name in memory.lost
        )
    if lost:
        lost = f"{len(serving)} of {allocated} {name} workers serve: {lost}"
    elif name in memory.lost:
        lost = _find_unheard(fleet, live)
    return VariantView(
        spec=spec,
        accelerator=accelerator,
        devices=devices_per_worker(spec, accelerator),
        deployment=deployment,
        memory=remembered,
        allocated=allocated,
        workers=workers,
        serving=len(serving),
        returning=returning,
        suspect=sum(
            states.get(w.uid) is WorkerState.SUSPECT and (w.probe is None or w.probe.misses > 0)
            for w in live
        ),
        ready=sum(w.ready for w in live),
        starting=starting,
        bound=sum(w.node is not None for w in workers),
        failed=failed,
        proving=proving,
        lost=lost,
        startable=suits_numerics(spec, accelerator),
        problems=_find_problems(fleet, spec, accelerator, live, failed, deployment),
    )


def _find_unheard(fleet: Fleet, live: Sequence[Worker]) -> str:
    """Return who may still be lost: what was lost is not back before it was heard.

    To an operator that starts, workers serve until they have missed its probes.
    """
    held = [fleet.workers.get(worker.uid) for worker in live]
    unheard = sum(one is not None and one.reason == NOT_HEARD for one in held)
    return (
        f"{unheard} of {len(live)} workers have not been heard since the start" if unheard else ""
    )


def is_overdue(worker: Worker, accelerator: AcceleratorClassSpec, at: float) -> bool:
    """Tell whether a start has outlived its expected time, or cannot succeed as it is."""
    age = at - worker.created
    if worker.waiting or (worker.unschedulable and age > limits.UNSCHEDULABLE_AFTER):
        return True
    return age > expected_startup(accelerator)


def _describe_loss(
    fleet: Fleet,
    accelerator: AcceleratorClassSpec,
    failed: tuple[Worker, ...],
    overdue: list[Worker],
    *,
    remembered_loss: bool,
) -> str:
    """Return what took capacity away, or "" when the missing workers are merely starting.

    Names alone: what speaks against each stands in its own problem, and in its node's mark.
    """
    causes = [f"{', '.join(w.name for w in failed)} failed"] if failed else []
    out = [node.name for node in fleet.list_nodes(accelerator) if fleet.is_out(node.name)]
    if out:
        causes.append(f"quarantined: {', '.join(sorted(out))}")
    if overdue:
        causes.append(f"{len(overdue)} not started in time")
    if not causes and remembered_loss:
        causes.append("replacements are starting")
    return "; ".join(causes)


def _find_problems(
    fleet: Fleet,
    spec: VariantSpec,
    accelerator: AcceleratorClassSpec,
    live: list[Worker],
    failed: tuple[Worker, ...],
    deployment: Deployment | None,
) -> tuple[Problem, ...]:
    name = spec.accelerator_class
    problems = [
        Problem(
            Finding.WORKER_FAILED, f"worker {w.name} on {w.node}: {fleet.workers[w.uid].reason}"
        )
        for w in failed
    ]
    if spec.max > 0 and not fleet.list_nodes(accelerator):
        selector = ", ".join(f"{k}={v}" for k, v in sorted(accelerator.node_selector.items()))
        problems.append(
            Problem(
                Finding.NO_NODES,
                f"no node of class {name} (nodeSelector {selector}): add one, or correct the class",
            )
        )
    problems += _find_lack_of_devices(fleet, spec, accelerator)
    problems += _find_odd_numerics(spec, accelerator)
    problems += [
        Problem(Finding.WORKER_CRASHES, f"worker {w.name} does not start: {w.waiting}")
        for w in live
        if w.waiting
    ][:1]
    at = fleet.snapshot.at
    stuck = [w for w in live if w.unschedulable and at - w.created > limits.UNSCHEDULABLE_AFTER]
    if stuck:
        problems.append(
            Problem(
                Finding.UNSCHEDULABLE,
                f"{len(stuck)} {name} workers find no node: {stuck[0].unschedulable}",
            )
        )
    if deployment is not None and deployment.message:
        problems.append(Problem(Finding.PODS_REFUSED, f"variant {name}: {deployment.message}"))
    problems += _find_trouble_of_nodes(fleet, accelerator)
    problems += _find_shared_nodes(fleet, name, accelerator)
    problems += _find_lack_of_answers(name, live)
    return tuple(problems)


def _find_trouble_of_nodes(fleet: Fleet, accelerator: AcceleratorClassSpec) -> list[Problem]:
    """Say which nodes wait for a person, and whose marks a hand has made unreadable."""
    nodes = fleet.list_nodes(accelerator)
    latched = [
        Problem(Finding.NODE_LATCHED, f"node {node.name}: {fleet.nodes[node.name].reason}")
        for node in nodes
        if node.name in fleet.nodes and fleet.nodes[node.name].state is NodeState.LATCHED
    ]
    unreadable = [
        Problem(Finding.NODE_MARK_UNREADABLE, f"node {node.name}: {node.mark_error}")
        for node in nodes
        if node.mark_error
    ]
    return latched + unreadable


def _find_shared_nodes(fleet: Fleet, name: str, accelerator: AcceleratorClassSpec) -> list[Problem]:
    """Say so when another class counts the same devices of a node: there are not so many."""
    classes = fleet.snapshot.classes
    rivals = [
        other
        for other, its in sorted(classes.items())
        if other != name and its.resource_name == accelerator.resource_name
    ]
    for node in fleet.list_nodes(accelerator) if rivals else ():
        also = [other for other in rivals if selects(classes[other], node)]
        if also:
            text = (
                f"node {node.name} is of class {name} and of {', '.join(also)}: both count its"
                f" {accelerator.resource_name}, and the strictest rules of all judge it; let their"
                " nodeSelectors exclude each other"
            )
            return [Problem(Finding.NODES_SHARED, text)]
    return []


def _find_lack_of_answers(name: str, live: list[Worker]) -> list[Problem]:
    """Say so when workers cannot be asked for known answers: then only liveness gates."""
    for worker in live:
        if worker.answers is not None and worker.answers.unavailable:
            text = (
                f"{name} workers are judged by liveness alone, not by known answers"
                f" ({worker.name}: {worker.answers.unavailable}); 'sluice model record' makes them"
            )
            return [Problem(Finding.KNOWN_ANSWERS_MISSING, text)]
    return []


def _find_odd_numerics(spec: VariantSpec, accelerator: AcceleratorClassSpec) -> list[Problem]:
    """Say so when the class's device does not multiply in what the variant asks for."""
    emulation = accelerator.emulation
    if emulation is None or suits_numerics(spec, accelerator):
        return []
    profile = str(emulation.profile)
    text = (
        f"variant {spec.accelerator_class} asks for numerics"
        f" {choose_numerics(spec, accelerator)}, which the device of profile {profile} does not"
        " multiply: its workers stay as they are, and none is added; choose one of"
        f" {', '.join(list_numerics(profile))}, or another class"
    )
    return [Problem(Finding.NUMERICS_UNSUPPORTED, text)]


def _find_lack_of_devices(
    fleet: Fleet, spec: VariantSpec, accelerator: AcceleratorClassSpec
) -> list[Problem]:
    """Say so when the class has nodes, but none that could ever hold a worker."""
    devices = devices_per_worker(spec, accelerator)
    offered = [count_devices(accelerator, node) for node in fleet.list_nodes(accelerator)]
    if spec.max == 0 or not offered or max(offered) >= devices:
        return []
    return [
        Problem(
            Finding.NO_DEVICES,
            f"no node of class {spec.accelerator_class} offers the {devices}"
            f" {accelerator.resource_name} of one worker; the most is {max(offered)} of"
            f" {len(offered)} nodes: correct the class's resourceName or the devices per worker, or"
            " see to the device plugin",
        )
    ]
