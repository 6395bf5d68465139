"""The way back of traffic: in steps, each gated on errors, TTFT and time per token.

Workers on nodes that have proven themselves form a group of their own inside their variant; it gets
at most the share of its step, whatever it could carry. At the end of a dwell the group is held
against the SLO and the pool's other workers: up a step if it passes, back one if it fails, from the
first step to no traffic at all. What fails it must have been measured in this step. After the last
step its nodes count like any other.

Where the pool compares answers (`spec.parity`), the group's are held against its bounds, too: it
goes up only when enough of them agree with another class's, and loses all traffic as soon as they
differ. Without requests, or without anybody to compare with, nothing is waited for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

from sluice.api.pool import InferencePoolSpec
from sluice.decide import limits
from sluice.decide.demand import find_quantile
from sluice.decide.parity import judge_parity, merge_parity, word_parity
from sluice.decide.variants import VariantView
from sluice.model.memory import PoolMemory, Ramp
from sluice.model.plan import Decision, ParityVerdict
from sluice.model.snapshot import Pool, Worker, WorkerSignals

AWAITING_PARITY: Final = "AwaitingParity"
PARITY_FAILED: Final = "ParityFailed"
SHADOW_FAILED: Final = "ShadowFailed"
"""What holds a ramp."""


@dataclass(frozen=True, slots=True)
class Climb:
    """What a pass made of a pool's ramps.

    Attributes:
        ramps: by class, those that go on.
        ramped: nodes that have climbed to the top.
    """

    ramps: dict[str, Ramp]
    ramped: tuple[str, ...]
    decisions: tuple[Decision, ...]

    def count(self, view: VariantView) -> int:
        """Return how many of a variant's serving workers still climb."""
        ramp = self.ramps.get(view.name)
        return sum(w.node in ramp.nodes for w in view.returning) if ramp is not None else 0

    def share(self, name: str, spec: InferencePoolSpec) -> float:
        """Return the largest part of the traffic (0 to 1) that a class's group may take."""
        ramp = self.ramps.get(name)
        if ramp is None:
            return 1.0
        return spec.shift.ramp.steps[ramp.step] if ramp.step >= 0 else 0.0


def climb_ramps(
    pool: Pool, views: Sequence[VariantView], memory: PoolMemory, returning: set[str], at: float
) -> Climb:
    """Move every ramp of a pool on.

    Args:
        pool: as observed.
        views: its variants.
        memory: what was remembered.
        returning: all nodes of the fleet in state Ramp.
        at: snapshot time, seconds.
    """
    ramped = {node for node in memory.ramped if node in returning}
    ramps: dict[str, Ramp] = {}
    told: list[Decision] = []
    for view in views:
        group = [w for w in view.returning if w.node not in ramped]
        nodes = tuple(sorted({w.node for w in group if w.node}))
        if not nodes:
            continue
        before = memory.ramps.get(view.name)
        if before is None or not set(nodes) <= set(before.nodes):
            ramps[view.name] = Ramp(0, at, nodes)
            told.append(_tell_start(pool, view.name, group, at))
            continue
        # The pool may have been edited to fewer steps meanwhile.
        step = min(before.step, len(pool.spec.shift.ramp.steps) - 1)
        now = replace(before, step=step, nodes=nodes)
        referees = any(v.serving > len(v.returning) for v in views if v.name != view.name)
        after, decision = _move(pool, view, group, now, at, referees=referees)
        if decision is not None:
            told.append(decision)
        if after is None:
            ramped |= set(nodes)
        else:
            ramps[view.name] = after
    return Climb(ramps, tuple(sorted(ramped)), tuple(told))


def _tell_start(pool: Pool, name: str, group: Sequence[Worker], at: float) -> Decision:
    nodes = ", ".join(sorted({w.node or "" for w in group}))
    steps = pool.spec.shift.ramp.steps
    reason = (
        f"{name}: {len(group)} workers on {nodes}, back from quarantine, may take {steps[0]:.0%} of"
        f" the traffic (step 1 of {len(steps)})"
    )
    return Decision(at, "RampStart", reason)


def _move(
    pool: Pool,
    view: VariantView,
    group: Sequence[Worker],
    ramp: Ramp,
    at: float,
    *,
    referees: bool,
) -> tuple[Ramp | None, Decision | None]:
    """Return the ramp after this pass (None at the top) and what was decided.

    `referees` tells whether workers of another class serve that answers are compared with.
    """
    rules, passed = pool.spec.shift.ramp, at - ramp.since
    hold, why = find_parity_hold(pool, group, referees=referees)
    if hold == PARITY_FAILED and ramp.hold != hold:
        text = f"{view.name}: back to 0% of the traffic: {why}"
        return Ramp(-1, at, ramp.nodes, hold), Decision(at, hold, text, warning=True)
    if passed < rules.dwell or pool.signals is None:
        return ramp, None
    if ramp.step >= 0:
        held = _hold_back(pool, view.name, group, ramp, at)
        if held is not None:
            return held
    else:
        hold, why = (hold, why) if hold else find_shadow_hold(pool, group)
    if hold:
        text = f"{view.name}: stays at step {ramp.step + 1} of {len(rules.steps)}: {why}"
        told = None if ramp.hold == hold else Decision(at, "RampHold", text)
        return replace(ramp, hold=hold), told
    seen = _word_measured(merge_signals(w.signals for w in group))
    return _climb(view.name, rules.steps, ramp, seen, at)


def _hold_back(
    pool: Pool, name: str, group: Sequence[Worker], ramp: Ramp, at: float
) -> tuple[Ramp, Decision | None] | None:
    """Return the ramp where errors or times keep it from climbing, or take it back; else None."""
    rules, passed, signals = pool.spec.shift.ramp, at - ramp.since, pool.signals
    measured = merge_signals(w.signals for w in group)
    cause = find_failed_gate(pool, measured, _measure_others(pool, group))
    if cause and signals is not None and passed < signals.seconds:
        return ramp, None  # The window still tells of the step before: no way up, nor back.
    if cause:
        after = Ramp(ramp.step - 1, at, ramp.nodes)
        share = rules.steps[after.step] if after.step >= 0 else 0.0
        text = f"{name}: back to {share:.0%} of the traffic: {cause}"
        return after, Decision(at, "RampBack", text, warning=True)
    unheard = measured is None or measured.finished == 0
    arrived = signals is not None and signals.arrived
    if unheard and arrived and passed < limits.GATE_PATIENCE * rules.dwell:
        return ramp, None
    return None


def _climb(
    name: str, steps: Sequence[float], ramp: Ramp, seen: str, at: float
) -> tuple[Ramp | None, Decision]:
    """Return the ramp a step further, None beyond the last, and what to tell of it."""
    passed = at - ramp.since
    if ramp.step + 1 >= len(steps):
        text = f"{name}: {', '.join(ramp.nodes)} is back for good after {passed:.0f} s: {seen}"
        return None, Decision(at, "RampDone", text)
    after = Ramp(ramp.step + 1, at, ramp.nodes)
    text = (
        f"{name}: may take {steps[after.step]:.0%} of the traffic (step {after.step + 1} of"
        f" {len(steps)}) after {passed:.0f} s: {seen}"
    )
    return after, Decision(at, "RampStep", text)


def find_shadow_hold(pool: Pool, group: Sequence[Worker]) -> tuple[str, str]:
    """Return what mirrored requests have against the first step of a group without traffic."""
    measured = merge_signals(w.signals for w in group)
    if pool.spec.parity is None or not pool.spec.parity.shadow or measured is None:
        return "", ""
    cause = find_failed_gate(pool, measured.shadow, _measure_others(pool, group))
    return (SHADOW_FAILED, f"of mirrored requests {cause}") if cause else ("", "")


def find_parity_hold(pool: Pool, group: Sequence[Worker], *, referees: bool) -> tuple[str, str]:
    """Return what parity has against a group's next step, as one word and in words; or ""."""
    rules, signals = pool.spec.parity, pool.signals
    if rules is None or signals is None:
        return "", ""
    found = merge_parity(w.signals for w in group)
    verdict = judge_parity(rules, found)
    if verdict is ParityVerdict.DIFFERS:
        return PARITY_FAILED, word_parity(rules, found)
    if verdict is ParityVerdict.AWAITS and referees and signals.arrived:
        return AWAITING_PARITY, word_parity(rules, found)
    return "", ""


def _measure_others(pool: Pool, group: Sequence[Worker]) -> WorkerSignals | None:
    """Merge what was measured of the pool's workers outside the group, of every class."""
    uids = {w.uid for w in group}
    return merge_signals(w.signals for w in pool.workers if w.uid not in uids)


def merge_signals(signals: Iterable[WorkerSignals | None]) -> WorkerSignals | None:
    """Add up what was measured of several workers; None when nothing was."""
    measured = [one for one in signals if one is not None]
    return reduce(WorkerSignals.plus, measured) if measured else None


def find_failed_gate(
    pool: Pool, measured: WorkerSignals | None, others: WorkerSignals | None
) -> str:
    """Return which gate the group fails, with its numbers, or ""."""
    if measured is None:
        return ""
    bad, all_ended = measured.errors + measured.timeouts, measured.finished + measured.errors
    all_ended += measured.timeouts
    # One error among answers is chance; one instead of any answer is all that is known.
    if bad > (1 if measured.finished else 0) and bad > limits.GATE_ERRORS * all_ended:
        return f"{bad} of {all_ended} attempts ended in an error or a timeout"
    slo = pool.spec.slo
    for what, bound, mine, theirs in (
        ("TTFT", slo.ttft, measured.ttft, others.ttft if others else None),
        ("time per token", slo.tpot, measured.tpot, others.tpot if others else None),
    ):
        own = find_quantile(mine, limits.QUANTILE)
        usual = find_quantile(theirs, limits.QUANTILE) if theirs is not None else None
        if own is None or own <= bound:
            continue
        if usual is None or own > limits.GATE_SLOWER * usual:
            beside = f", the others' {usual:.3g} s" if usual is not None else ""
            return f"p95 {what} {own:.3g} s against the SLO's {bound:g} s{beside}"
    return ""


def _word_measured(measured: WorkerSignals | None) -> str:
    if measured is None:
        return "no request came"
    bad = measured.errors + measured.timeouts
    return f"{measured.finished} requests answered, {bad} errors"
