"""Probation: what a node's devices must answer before its taint goes.

A bare pod takes all free devices of the node, one container a worker's worth of them, and each is
asked for known answers; a worker still bound there is asked through its own slot. Only when every
one has answered all rounds right is the node proven. Where there are no known answers (no
probes.json for the weights), starting and staying alive is all the proof there is, and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sluice.decide import limits
from sluice.decide.devices import count_free, devices_per_worker, find_variant, suits_numerics
from sluice.decide.evidence import is_wrong_since
from sluice.decide.matching import claim_models, list_classes, list_workers
from sluice.decide.startup import expected_startup
from sluice.model.memory import NodeHealth, NodeState
from sluice.model.plan import EndProbation, ProbationAction, StartProbation
from sluice.model.snapshot import KnownAnswers, Node, Pool, ProbationPod, Snapshot, Worker


class Verdict(StrEnum):
    """What the proof has come to."""

    PENDING = "pending"
    PROVEN = "proven"
    WRONG = "wrong"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Proof:
    """The state of a node's proof, with the numbers behind it.

    Attributes:
        asked: somebody was there to be asked, or ended again and again; that no pod could start
            (no model, no room, no image) is not the node's failure.
    """

    verdict: Verdict
    text: str
    asked: bool = True


def find_pod(snapshot: Snapshot, node: str) -> ProbationPod | None:
    """Return the probation pod of a node, or None."""
    return next((pod for pod in snapshot.probations if pod.node == node), None)


def list_bound(snapshot: Snapshot, node: str) -> list[Worker]:
    """Return the workers on a node that are to stay there."""
    return [w for w in list_workers(snapshot) if w.node == node and not w.terminating]


def choose_pool(snapshot: Snapshot, class_name: str) -> Pool | None:
    """Return the pool whose model a node of the class is proven with: the first by priority.

    Not one whose model name another pool owns: it gets no workers, and has no say in nodes. Nor
    one whose numerics the class's device does not have: no worker of it would start on any node.
    """
    owners, accelerator = claim_models(snapshot.pools), snapshot.classes[class_name]
    able = [
        pool
        for pool in snapshot.pools
        if owners[pool.spec.model.name] == pool.key
        and any(
            v.accelerator_class == class_name and v.max > 0 and suits_numerics(v, accelerator)
            for v in pool.spec.variants
        )
    ]
    return min(able, key=lambda p: (-p.spec.priority, p.created, p.key), default=None)


def choose_start(snapshot: Snapshot, node: Node) -> StartProbation | None:
    """Return what asks all free devices of a node, or None when no pool uses a class of it.

    `slots` may be 0: then workers hold them all, or there are none.
    """
    for name in list_classes(node, snapshot.classes):
        pool = choose_pool(snapshot, name)
        if pool is not None:
            accelerator = snapshot.classes[name]
            devices = devices_per_worker(find_variant(pool, name), accelerator)
            slots = count_free(snapshot, accelerator, node) // devices
            return StartProbation(node.name, name, pool.key, slots)
    return None


def weigh_proof(snapshot: Snapshot, node: Node, health: NodeHealth) -> Proof:
    """Judge how far the proof of a node in Probation has come."""
    pod = find_pod(snapshot, node.name)
    bound = list_bound(snapshot, node.name)
    answers: dict[str, KnownAnswers | None] = {w.name: w.answers for w in bound}
    if pod is not None and not pod.terminating:
        answers |= {f"{pod.name} {slot}": heard for slot, heard in sorted(pod.slots.items())}
    wrong = _find_wrong(answers, health.entered)
    if wrong:
        return Proof(Verdict.WRONG, wrong)
    waited = snapshot.at - health.entered
    # Of several classes the pod may be of any.
    classes = [snapshot.classes[name] for name in list_classes(node, snapshot.classes)]
    patience = max(map(expected_startup, classes)) + limits.PROOF_PATIENCE
    missing = _find_missing(snapshot, node, pod, bound)
    if not missing:
        missing = _find_unanswered(answers, health.entered, snapshot.at)
    if missing and waited > patience:
        asked = bool(bound) if pod is None else pod.started and not pod.terminating
        return Proof(Verdict.FAILED, f"no proof within {patience:.0f} s: {missing}", asked)
    if missing:
        return Proof(Verdict.PENDING, missing)
    return Proof(Verdict.PROVEN, _word_proven(answers))


def _find_wrong(answers: Mapping[str, KnownAnswers | None], since: float) -> str:
    """Return what was answered wrong since the probation began: a repair came before it."""
    for name, heard in answers.items():
        if heard is not None and is_wrong_since(heard, since):
            return f"{name} gave a wrong answer in probation: {heard.detail or 'no detail'}"
    return ""


def _find_missing(
    snapshot: Snapshot, node: Node, pod: ProbationPod | None, bound: Sequence[Worker]
) -> str:
    """Return what is not even there to be asked, or ""."""
    silent = [w.name for w in bound if not w.ready or w.probe is None or w.probe.up_since is None]
    if silent:
        return f"{', '.join(silent)} does not answer its liveness probes"
    ending = [w.name for w in list_workers(snapshot) if w.node == node.name and w.terminating]
    if ending:
        return f"{', '.join(ending)} holds devices until it has ended"
    start = choose_start(snapshot, node)
    if pod is not None:
        return _find_missing_of_pod(pod, start)
    if start is None:
        names = ", ".join(list_classes(node, snapshot.classes))
        return f"no pool uses class {names}, so there is no model to prove the node with"
    if start.slots:
        return "the probation pod is not there yet"
    resource = snapshot.classes[start.accelerator_class].resource_name
    return "" if bound else f"the node offers no free {resource}"


def _find_missing_of_pod(pod: ProbationPod, start: StartProbation | None) -> str:
    if pod.terminating:
        return f"{pod.name} of an earlier proof is still ending"
    if pod.waiting or pod.unschedulable:
        return f"{pod.name} does not start: {pod.waiting or pod.unschedulable}"
    if _is_outgrown(pod, start):
        return f"{pod.name} does not ask all devices that are free by now"
    return "" if pod.ready else f"{pod.name} is starting"


def _is_outgrown(pod: ProbationPod, start: StartProbation | None) -> bool:
    """Tell whether devices became free since the pod was made, which it does not ask."""
    if start is None or start.accelerator_class != pod.accelerator_class:
        return False
    return start.slots > len(pod.slots)


def _find_unanswered(answers: Mapping[str, KnownAnswers | None], since: float, now: float) -> str:
    """Return who has not answered enough rounds right since the probation began, or "".

    What is right at a time to come is by another clock than ours, and may have been before it.
    """
    for name, heard in answers.items():
        if heard is None:
            return f"{name} has not been asked yet"
        right = sum(since < at <= now for at in heard.right_at)
        if not heard.unavailable and right < limits.PROOF_ROUNDS:
            text = f"{name} has answered {right} of {limits.PROOF_ROUNDS} rounds right"
            ahead = sum(at > now for at in heard.right_at)
            return f"{text}, and {ahead} at times to come, which prove nothing" if ahead else text
    return ""


def _word_proven(answers: Mapping[str, KnownAnswers | None]) -> str:
    asked = [name for name, heard in answers.items() if heard is not None and not heard.unavailable]
    text = f"{limits.PROOF_ROUNDS} rounds of known answers right on {', '.join(asked)}"
    unproven = {
        name: heard.unavailable
        for name, heard in answers.items()
        if heard is not None and heard.unavailable
    }
    if not unproven:
        return text
    name, why = next(iter(unproven.items()))
    alive = f"{', '.join(unproven)} stays alive, but has no known answers ({name}: {why})"
    return f"{text}; {alive}" if asked else alive


def choose_probations(
    snapshot: Snapshot, nodes: Mapping[str, NodeHealth]
) -> tuple[ProbationAction, ...]:
    """Return the probation pods to make and to delete.

    A pod is made once the node's mark says Probation: a restart must not forget why it is there.
    """
    actions: list[ProbationAction] = []
    by_name = {node.name: node for node in snapshot.nodes}
    for pod in snapshot.probations:
        health, node = nodes.get(pod.node), by_name.get(pod.node)
        why = ""
        if health is None or node is None or health.state is not NodeState.PROBATION:
            why = f"its node is {health.state.value if health is not None else 'not in probation'}"
        elif _is_outgrown(pod, choose_start(snapshot, node)):
            why = "more devices are free on its node than it asks"
        if why and not pod.terminating:
            actions.append(EndProbation(pod.node, pod.name, pod.uid, why))
    for node in snapshot.nodes:
        health = nodes.get(node.name)
        marked = node.tainted and node.mark is not None and node.mark.state == NodeState.PROBATION
        if health is None or health.state is not NodeState.PROBATION or not marked:
            continue
        start = choose_start(snapshot, node)
        if find_pod(snapshot, node.name) is None and start is not None and start.slots:
            actions.append(start)
    return tuple(actions)
