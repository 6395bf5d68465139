"""Health of nodes: evidence in, states and node actions out.

    Healthy → Failed → Probation → Ramp → Healthy,   and Latched until a person releases it

A node is taken out (tainted, marked) by what speaks against it, or with a worker that failed on it.
It has to look good for a stable window, doubled by every flap (`flaps`), then its devices must
prove themselves (`probation`), then its share of traffic climbs (`ramp`). A wrong answer latches at
once. The mark, an annotation, is the durable part: a restart releases nothing and repeats nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide import limits
from sluice.decide.breaker import suspect_observer
from sluice.decide.evidence import (
    Evidence,
    gather_node,
    has_wrong_answer,
    is_enough,
    join_evidence,
    list_written,
    word_evidence,
)
from sluice.decide.flaps import (
    Outs,
    add_failure,
    forget_outs,
    is_counted,
    latch,
    note_failure,
    stable_window,
    take_out,
)
from sluice.decide.marks import is_marked, plan_gone_mark, plan_mark
from sluice.decide.matching import find_class, list_workers
from sluice.decide.probation import Proof, Verdict, weigh_proof
from sluice.model.memory import Memory, NodeHealth, NodeState, WorkerHealth, WorkerState
from sluice.model.plan import NodeAction
from sluice.model.snapshot import Node, NodeReady, Snapshot


@dataclass(frozen=True, slots=True)
class NodesJudged:
    """What came of judging all nodes.

    Attributes:
        nodes: those that are out, or on their way back.
        outs: when each was taken out lately.
        actions: what to do about marks.
        turns: (node, state before, state after, reason) of those whose state changed.
        marked: nodes that are out, and say so: no restart can forget why.
    """

    nodes: Mapping[str, NodeHealth]
    outs: Mapping[str, Outs]
    actions: tuple[NodeAction, ...]
    turns: tuple[tuple[str, str, str, str], ...]
    marked: frozenset[str]


def judge_nodes(
    snapshot: Snapshot,
    memory: Memory,
    workers: Mapping[str, WorkerHealth],
    against: Mapping[str, tuple[Evidence, ...]],
) -> NodesJudged:
    """Judge every node.

    Args:
        snapshot: what was observed.
        memory: what was remembered before this pass.
        workers: health of the workers, judged in this pass.
        against: what speaks against each worker, by uid.
    """
    doubt = suspect_observer(snapshot)
    climbed, climbing = find_climbed(snapshot, memory)
    classes = {node.name: find_class(node, snapshot.classes) for node in snapshot.nodes}
    judged = _keep_gone(snapshot, memory.nodes, classes)
    outs = dict(memory.outs)
    actions: list[NodeAction] = []
    turns: list[tuple[str, str, str, str]] = []
    for node in snapshot.nodes:
        name, accelerator = node.name, classes[node.name]
        before = _welcome(memory.nodes.get(name), accelerator)
        if accelerator is None and snapshot.unreadable:
            continue  # The class that we cannot read may be the one that the mark is for.
        after: NodeHealth | None = None
        times: Outs = ()
        if accelerator is None:
            if node.released:
                judged.pop(name, None)
                outs.pop(name, None)
            why = "no accelerator class selects it any more"
            actions += plan_gone_mark(node, judged.get(name), outs.get(name, ()), why, snapshot.at)
        else:
            evidence = _gather(snapshot, node, accelerator, workers, against)
            bench = _Bench(
                snapshot, node, accelerator, evidence, doubt, name in climbed, name in climbing
            )
            after, times, why = _judge(bench, before, outs.get(name, ()))
            if after is not None:
                judged[name] = after = _note_sight(after, node, times)
            elif not is_counted(times, snapshot.at):
                times = ()
            outs[name] = times
            actions += plan_mark(node, after, times, why, snapshot.at)
        turns += _note_turn(name, before, after, why)
    outs = forget_outs(outs, judged, snapshot.at)
    marked = frozenset(
        node.name
        for node in snapshot.nodes
        if node.tainted and _is_told(node, judged.get(node.name), outs)
    )
    return NodesJudged(judged, outs, tuple(actions), tuple(turns), marked)


def _is_told(node: Node, health: NodeHealth | None, outs: Mapping[str, Outs]) -> bool:
    return health is not None and is_marked(node, health, outs.get(node.name, ()))


def _note_sight(health: NodeHealth, node: Node, outs: Outs) -> NodeHealth:
    """Return a health with what the next pass compares with."""
    failed = max(health.since, outs[-1]) if outs else health.since
    return replace(health, failed=failed, boot_id=node.boot_id or health.boot_id)


def _welcome(
    before: NodeHealth | None, accelerator: AcceleratorClassSpec | None
) -> NodeHealth | None:
    """Return what was known of a node: it is no longer gone, or was told to be gone already."""
    if before is None or before.gone_since is None:
        return before
    return replace(before, gone_since=None) if accelerator is not None else None


def _keep_gone(
    snapshot: Snapshot,
    before: Mapping[str, NodeHealth],
    classes: Mapping[str, AcceleratorClassSpec | None],
) -> dict[str, NodeHealth]:
    """Return what is kept of nodes that are gone: one that comes back has proven nothing.

    Gone is also what no class selects: labels go with the agent that sets them, and classes are
    deleted to be made anew. While a class cannot be read, it may be the one that selects them.

    Args:
        snapshot: what was observed.
        before: what was remembered.
        classes: the class of every node that is there, None for none.
    """
    still = {NodeState.PROBATION: NodeState.FAILED}
    kept = {}
    for name, health in before.items():
        if classes.get(name) is not None:
            continue  # It is there, and judged.
        if name in classes and snapshot.unreadable:
            kept[name] = health
            continue
        since = health.gone_since if health.gone_since is not None else snapshot.at
        if health.is_out and snapshot.at - since < limits.FLAP_WINDOW:
            state = still.get(health.state, health.state)
            kept[name] = replace(health, state=state, alive_since=None, gone_since=since)
    return kept


def find_climbed(snapshot: Snapshot, memory: Memory) -> tuple[set[str], set[str]]:
    """Return the nodes whose workers have climbed to the top in every pool that has any there.

    And those on which some pool has workers that have not, which must not be cut short.
    """
    climbed: set[str] = set()
    behind: set[str] = set()
    for pool in snapshot.pools:
        remembered = memory.pools.get(pool.key)
        ramped = set(remembered.ramped) if remembered is not None else set()
        for worker in pool.workers:
            if worker.node and worker.ready and not worker.terminating:
                (climbed if worker.node in ramped else behind).add(worker.node)
    return climbed - behind, behind


def _gather(
    snapshot: Snapshot,
    node: Node,
    accelerator: AcceleratorClassSpec,
    workers: Mapping[str, WorkerHealth],
    against: Mapping[str, tuple[Evidence, ...]],
) -> tuple[Evidence, ...]:
    """Return what speaks against a node: its own signs first, then workers failed by evidence.

    Own signs leave of the workers' only what is graver: wrong answers.
    """
    own = gather_node(node, accelerator.health)
    found: list[Evidence] = []
    for worker in list_workers(snapshot):
        health = workers.get(worker.uid)
        if worker.node != node.name or health is None:
            continue
        pieces = against.get(worker.uid, ())
        if health.state is WorkerState.FAILED and is_enough(pieces):
            found.append(join_evidence(f"worker {worker.name}", pieces))
    return (*own, *(piece for piece in found if not own or has_wrong_answer([piece])))


@dataclass(frozen=True, slots=True)
class _Bench:
    """What a node is judged by.

    Attributes:
        evidence: what speaks against it now.
        doubt: why our own sight is in doubt, or "".
        climbed: its share has reached the top wherever it has workers.
        climbing: it has workers whose share has not.
    """

    snapshot: Snapshot
    node: Node
    accelerator: AcceleratorClassSpec
    evidence: tuple[Evidence, ...]
    doubt: str
    climbed: bool
    climbing: bool


_Judged = tuple[NodeHealth | None, Outs, str]
"""Health after (None is Healthy), times it was taken out, and why it is Healthy now."""


def _judge(bench: _Bench, before: NodeHealth | None, outs: Outs) -> _Judged:
    at, node = bench.snapshot.at, bench.node
    if node.released and not node.banned:
        outs = ()
        if before is not None and before.is_out and before.state is not NodeState.PROBATION:
            text = f"released by hand, was out because: {before.reason}"
            return _enter(before, NodeState.PROBATION, text, at), outs, ""
    if before is not None and before.is_out:
        return _judge_out(bench, before, outs)
    if is_enough(list_written(bench.evidence) if bench.doubt else bench.evidence):
        return *take_out(node, bench.accelerator, outs, at, bench.evidence), ""
    why = _find_end_of_ramp(bench, before) if before is not None else ""
    return (None if why else before), outs, why


def _find_end_of_ramp(bench: _Bench, before: NodeHealth) -> str:
    """Return why a node that came back counts like any other from now on, or ""."""
    if bench.climbed:
        return "its share has climbed to the top"
    if not bench.climbing and bench.snapshot.at - before.since >= limits.FLAP_WINDOW:
        return "nothing spoke against it for an hour, and no worker is there to climb"
    return ""


def _judge_out(bench: _Bench, before: NodeHealth, outs: Outs) -> _Judged:
    """Judge a node that is out: it stays, goes into Probation, or comes back."""
    at = bench.snapshot.at
    latches = has_wrong_answer(bench.evidence) or bool(bench.node.banned)
    if latches and before.state is not NodeState.LATCHED:
        outs = outs if bench.node.banned else add_failure(outs, at)
        return latch(before, bench.node, word_evidence(bench.evidence), at), outs, ""
    if before.state is NodeState.LATCHED:
        return before, outs, ""
    bad = _find_bad(bench, before)
    if before.state is NodeState.PROBATION:
        return _judge_probation(bench, before, outs, bad)
    if bad is not None:
        return _judge_relapse(bench, before, outs, bad)
    since = before.alive_since if before.alive_since is not None else at
    window = stable_window(bench.accelerator, outs)
    if at - since < window:
        return replace(before, alive_since=since), outs, ""
    text = (
        f"looked good for {at - since:.0f} s of {window:g} s needed (ready, its Lease renewed,"
        f" nothing failed on it); was out because: {before.reason}"
    )
    return _enter(before, NodeState.PROBATION, text, at), outs, ""


def _judge_probation(bench: _Bench, before: NodeHealth, outs: Outs, bad: "_Bad | None") -> _Judged:
    """Judge a node that has to prove itself: what is wrong counts first, and in any doubt."""
    at = bench.snapshot.at
    proof = weigh_proof(bench.snapshot, bench.node, before)
    if proof.verdict is Verdict.WRONG:
        return latch(before, bench.node, proof.text, at), add_failure(outs, at), ""
    if bad is not None and bad.failed:
        return _fail_again(bench, before, outs, f"went bad in probation: {bad.text}")
    if bench.doubt:
        return replace(before, entered=at), outs, ""  # It begins anew when we see again.
    if bad is not None:
        return _enter(before, NodeState.FAILED, f"in probation: {bad.text}", at), outs, ""
    return _end_proof(bench, before, outs, proof)


def _end_proof(bench: _Bench, before: NodeHealth, outs: Outs, proof: Proof) -> _Judged:
    at = bench.snapshot.at
    if proof.verdict is Verdict.PENDING:
        return before, outs, ""
    if proof.verdict is Verdict.PROVEN:
        return NodeHealth(NodeState.RAMP, at, proof.text, at), outs, ""
    if proof.asked:
        return _fail_again(bench, before, outs, proof.text)
    return _enter(before, NodeState.FAILED, proof.text, at), outs, ""


def _judge_relapse(bench: _Bench, before: NodeHealth, outs: Outs, bad: "_Bad") -> _Judged:
    """Judge a node that is out and does not look good, and perhaps did until now.

    What comes and goes while it is out is a flap as well.
    """
    good = bench.snapshot.at - before.alive_since if before.alive_since is not None else 0.0
    if good < limits.RELAPSE_AFTER or not bad.failed:
        return replace(before, alive_since=None), outs, ""
    return _fail_again(bench, before, outs, f"looked good for {good:.0f} s, then {bad.text}")


def _fail_again(bench: _Bench, before: NodeHealth, outs: Outs, why: str) -> _Judged:
    """Return a node that failed again before it was back: it flaps like one that was."""
    outs = add_failure(outs, bench.snapshot.at)
    return *note_failure(before, bench.node, bench.accelerator, outs, why), ""


def _enter(before: NodeHealth, state: NodeState, reason: str, at: float) -> NodeHealth:
    """Return a node that is still out, in another state."""
    return NodeHealth(state, before.since, reason, at)


@dataclass(frozen=True, slots=True)
class _Bad:
    """What speaks against a node that is out.

    Attributes:
        failed: it has failed; else it may only be late on its way to us, or too little to fail it.
    """

    text: str
    failed: bool = False


def _find_bad(bench: _Bench, before: NodeHealth) -> _Bad | None:
    """Return what speaks against a node that is out, or None."""
    node = bench.node
    trusted = list_written(bench.evidence) if bench.doubt else bench.evidence
    if is_enough(trusted):
        return _Bad(word_evidence(trusted), failed=True)
    if restart := _find_restart(bench, before):
        return _Bad(restart, failed=True)
    if bench.evidence:
        return _Bad(word_evidence(bench.evidence))
    late = _find_late(node, before)
    return _Bad(late) if late else None


def _find_late(node: Node, before: NodeHealth) -> str:
    """Return which of a node's own signs we still wait for, or ""."""
    if node.ready is not NodeReady.TRUE:
        return f"its condition Ready is {node.ready}"
    if node.lease_age is None or node.lease_age > limits.LEASE_STALE:
        return "its Lease is not renewed"
    # Who proves itself answers right now; a release by hand may come before the next renewal. The
    # last beat of a node that died may be seen only after it was taken out: it takes another.
    waiting, renewed = before.state is NodeState.FAILED, node.lease_renewed
    if waiting and (renewed is None or renewed <= before.failed + node.lease_lag):
        return "its Lease has not been renewed since it failed"
    return ""


def _find_restart(bench: _Bench, before: NodeHealth) -> str:
    """Return that a node that is out was started anew, or "".

    Where no worker of ours is left, nothing else tells of a short failure: a Lease that pauses for
    some seconds is still a fresh one.
    """
    known, now = before.boot_id, bench.node.boot_id
    return "it was started anew" if known and now and known != now else ""


def _note_turn(
    node: str, before: NodeHealth | None, after: NodeHealth | None, why: str
) -> list[tuple[str, str, str, str]]:
    old = before.state.value if before is not None else NodeState.HEALTHY.value
    new = after.state.value if after is not None else NodeState.HEALTHY.value
    if old == new:
        return []
    return [(node, old, new, after.reason if after is not None else why)]
