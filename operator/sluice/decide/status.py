"""The status document of a pool: what a person reads with kubectl, and what the gateway follows.

Pure: the plan, the results of applying it and the previous document go in, a new one comes out.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from sluice.decide import limits
from sluice.decide.recall import format_time, record_memory
from sluice.model.memory import PoolMemory
from sluice.model.plan import (
    Finding,
    PairPlan,
    ParityVerdict,
    PoolPlan,
    Problem,
    Results,
    VariantPlan,
)
from sluice.model.snapshot import Pool

_BLOCKING = frozenset(
    {
        Finding.MODEL_NAME_TAKEN,
        Finding.CLASS_MISSING,
        Finding.NO_NODES,
        Finding.NO_DEVICES,
        Finding.NUMERICS_UNSUPPORTED,
    }
)
"""Findings that are a sharper reason for not being Ready than "nothing serves"."""

_HARMLESS = frozenset({Finding.SIGNALS_MISSING, Finding.KNOWN_ANSWERS_MISSING})
"""Findings that take nothing from the pool while they last."""


def pool_status(
    pool: Pool, plan: PoolPlan, memory: PoolMemory, results: Results, endpoint: str, at: float
) -> dict[str, Any]:
    """Return the whole status document of a pool.

    Args:
        pool: as observed; its previous status gives the conditions' transition times.
        plan: what this pass planned for it.
        memory: what is remembered; its durable part and the decisions go into the document.
        results: what came of applying the plan.
        endpoint: address that users send requests to, or "".
        at: snapshot time, seconds.
    """
    problems = [*plan.problems, *_list_refusals(results)]
    reason, message = _summarise(plan, memory, problems)
    cost = sum(variant.cost_per_hour for variant in plan.variants)
    shown = {v.get("acceleratorClass"): v for v in pool.status.get("variants", ())}
    status: dict[str, Any] = {
        "observedGeneration": plan.generation,
        "costPerHour": _round_money(cost),
        "reason": reason,
        "message": message,
        "placement": _describe_placement(plan.variants),
        "variants": [_describe_variant(variant, shown) for variant in plan.variants],
        "conditions": _list_conditions(pool, plan, problems, at),
        "decisions": [
            {"time": format_time(d.at), "action": d.action, "reason": d.reason}
            for d in memory.decisions
        ],
        "memory": record_memory(memory),
    }
    if endpoint:
        status["endpoint"] = endpoint
    if plan.pairs:
        status["parity"] = [_describe_pair(pair) for pair in plan.pairs]
    if plan.attainment is not None:
        status["attainment"] = f"{100 * plan.attainment:.3g}%"
    return status


def _summarise(plan: PoolPlan, memory: PoolMemory, problems: list[Problem]) -> tuple[str, str]:
    """Return what a person should read first: what is in the way, else the last decision."""
    for problem in problems:
        if problem.finding not in _HARMLESS:
            return problem.finding, problem.message
    if plan.fallback:
        return "FallbackActive", plan.fallback
    if memory.decisions:
        return memory.decisions[-1].action, memory.decisions[-1].reason
    return "Settled", plan.progress or "as wanted since the start"


def _describe_variant(
    variant: VariantPlan, shown: Mapping[Any, Mapping[str, Any]]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "acceleratorClass": variant.accelerator_class,
        "wanted": variant.wanted,
        "ready": variant.ready,
        "serving": variant.serving,
        "share": f"{variant.share}%",
        "costPerHour": _round_money(variant.cost_per_hour),
        "quarantined": list(variant.quarantined),
    }
    if variant.capacity is not None:
        before = shown.get(variant.accelerator_class, {}).get("capacity")
        described["capacity"] = _show_capacity(variant.capacity, before)
    if variant.numerics:
        described["numerics"] = variant.numerics
    if variant.ramp is not None:
        ramp = variant.ramp
        described["ramp"] = {
            "share": f"{ramp.share}%",
            "pods": list(ramp.pods),
            "step": f"{ramp.step}/{ramp.steps}",
            "since": format_time(ramp.since),
        }
        if ramp.hold:
            described["ramp"]["hold"] = ramp.hold
    return described


def _describe_pair(pair: PairPlan) -> dict[str, Any]:
    described: dict[str, Any] = {
        "acceleratorClass": pair.accelerator_class,
        "reference": pair.reference,
        "verdict": pair.verdict.value,
        "audits": pair.found.audits,
    }
    if pair.found.agreement is not None:
        described["agreement"] = f"{100 * pair.found.agreement:.3g}%"
        described["kl"] = f"{pair.found.mean_divergence:.2g}"
    return described


def _show_capacity(capacity: float, before: object) -> str:
    """Return requests/s; what stands already stays while it is right within the dead band.

    A correction drifts back for minutes after the last request: an idle pool must not be written.
    """
    if isinstance(before, str):
        with contextlib.suppress(ValueError):
            if abs(capacity - float(before)) <= limits.DEAD_BAND * capacity:
                return before
    return f"{capacity:.2g}"


def _describe_placement(variants: tuple[VariantPlan, ...]) -> str:
    return ", ".join(f"{v.accelerator_class} {v.serving}/{v.wanted} {v.share}%" for v in variants)


def _round_money(dollars: float) -> str:
    return f"{dollars:.2f}"


def _list_refusals(results: Results) -> list[Problem]:
    return [
        Problem(Finding.APPLY_FAILED, f"{child}: {error}")
        for child, error in sorted(results.errors.items())
    ]


def _list_conditions(
    pool: Pool, plan: PoolPlan, problems: list[Problem], at: float
) -> list[dict[str, Any]]:
    found = [
        ("Ready", *_judge_ready(plan, problems)),
        ("Progressing", *_judge_progress(plan)),
        ("SLOMet", *_judge_slo(pool, plan)),
        ("FallbackActive", *_judge_fallback(plan)),
        ("AnswersVerified", *_judge_answers(pool, problems)),
        ("Degraded", *_judge_degraded(problems)),
    ]
    if plan.pairs is not None:
        found.append(("ParityMet", *_judge_parity(plan.pairs)))
    before = {c["type"]: c for c in pool.status.get("conditions", ()) if "type" in c}
    conditions = []
    for kind, state, reason, message in found:
        old = before.get(kind, {})
        moved = format_time(at)
        if old.get("status") == state:
            moved = old.get("lastTransitionTime", moved)
        conditions.append(
            {
                "type": kind,
                "status": state,
                "reason": reason,
                "message": message,
                "lastTransitionTime": moved,
                "observedGeneration": plan.generation,
            }
        )
    return conditions


def _judge_ready(plan: PoolPlan, problems: list[Problem]) -> tuple[str, str, str]:
    serving = sum(variant.serving for variant in plan.variants)
    if serving:
        wanted = sum(variant.wanted for variant in plan.variants)
        return "True", "Serving", f"{serving} of {wanted} workers serve"
    for problem in problems:
        if problem.finding in _BLOCKING:
            return "False", problem.finding, problem.message
    return "False", "NoServingWorker", "no worker serves yet"


def _judge_progress(plan: PoolPlan) -> tuple[str, str, str]:
    if plan.progress:
        return "True", "Moving", plan.progress
    return "False", "Settled", "every variant has the workers it is wanted to have"


def _judge_slo(pool: Pool, plan: PoolPlan) -> tuple[str, str, str]:
    slo = pool.spec.slo
    bounds = f"TTFT {slo.ttft:g} s and TPOT {slo.tpot:g} s, objective {slo.objective:.4g}"
    if plan.attainment is None:
        missing = any(p.finding is Finding.SIGNALS_MISSING for p in plan.problems)
        if missing:
            return "Unknown", "SignalsMissing", f"not measured now ({bounds})"
        return "Unknown", "NoRequests", f"no request ended in the window ({bounds})"
    met = plan.attainment >= slo.objective
    # The measured share stands in status.attainment; here it would make a write of every pass.
    if met:
        return "True", "InsideObjective", f"enough requests meet {bounds}"
    return "False", "OutsideObjective", f"too few requests meet {bounds}; see status.attainment"


def _judge_fallback(plan: PoolPlan) -> tuple[str, str, str]:
    if plan.fallback:
        return "True", "CapacityLost", plan.fallback
    return "False", "NothingLost", "no capacity is lost to health"


def _judge_answers(pool: Pool, problems: list[Problem]) -> tuple[str, str, str]:
    """Tell whether workers are asked for known answers, or judged by liveness alone."""
    for problem in problems:
        if problem.finding is Finding.KNOWN_ANSWERS_MISSING:
            return "False", problem.finding, problem.message
    if any(worker.answers is not None and worker.answers.at for worker in pool.workers):
        return "True", "KnownAnswers", "workers are asked for known answers, and compared"
    return "Unknown", "NotAskedYet", "no worker has been asked for known answers yet"


def _judge_parity(pairs: Sequence[PairPlan]) -> tuple[str, str, str]:
    """Tell whether the classes that serve say the same; the numbers stand in status.parity."""
    differing = [pair.name for pair in pairs if pair.verdict is ParityVerdict.DIFFERS]
    if differing:
        text = f"answers differ beyond spec.parity: {', '.join(differing)}; see status.parity"
        return "False", "ParityFailed", text
    agreeing = [pair.name for pair in pairs if pair.verdict is ParityVerdict.AGREES]
    if agreeing:
        return "True", "Agrees", f"answers agree within spec.parity: {', '.join(agreeing)}"
    return "Unknown", "AwaitingParity", "too few answers were compared between classes yet"


def _judge_degraded(problems: list[Problem]) -> tuple[str, str, str]:
    grave = [problem for problem in problems if problem.finding not in _HARMLESS]
    if not grave:
        return "False", "AsExpected", "nothing is known to be wrong"
    return "True", grave[0].finding, "; ".join(problem.message for problem in grave)[:1024]
