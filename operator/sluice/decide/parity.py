"""Parity: whether accelerator classes that serve say the same, by what the gateways compared."""

from collections.abc import Iterable, Sequence
from functools import reduce

from sluice.api.pool import Parity
from sluice.decide import limits
from sluice.model.plan import Decision, PairPlan, ParityVerdict
from sluice.model.snapshot import ParitySignals, Pool, WorkerSignals


def judge_parity(rules: Parity, found: ParitySignals) -> ParityVerdict:
    """Return whether what was compared keeps a pool's bounds; too little of it says nothing."""
    agreement, divergence = found.agreement, found.mean_divergence
    if agreement is None or divergence is None or not _is_enough(found):
        return ParityVerdict.AWAITS
    kept = agreement >= rules.min_top1_agreement and divergence <= float(rules.max_kl)
    return ParityVerdict.AGREES if kept else ParityVerdict.DIFFERS


def _is_enough(found: ParitySignals) -> bool:
    return found.audits >= limits.PARITY_AUDITS and found.judged >= limits.PARITY_TOKENS


def merge_parity(signals: Iterable[WorkerSignals | None]) -> ParitySignals:
    """Add up what was compared of several workers."""
    compared = [one.parity for one in signals if one is not None]
    return reduce(ParitySignals.plus, compared, ParitySignals())


def word_parity(rules: Parity, found: ParitySignals) -> str:
    """Return what was compared, with the bounds that hold: words for a sentence's end."""
    if not _is_enough(found) or found.agreement is None:
        return (
            f"{found.audits} answers compared and {found.judged} tokens judged, of at least"
            f" {limits.PARITY_AUDITS} and {limits.PARITY_TOKENS}"
        )
    return (
        f"same likeliest token {100 * found.agreement:.2f}% (at least"
        f" {100 * rules.min_top1_agreement:g}%), mean KL {found.mean_divergence or 0.0:.2g} nat (at"
        f" most {rules.max_kl}), over {found.judged} tokens of {found.audits} answers"
    )


def plan_pairs(pool: Pool) -> tuple[PairPlan, ...]:
    """Return what is known of each pair of a pool's classes whose answers were compared."""
    rules = pool.spec.parity
    if rules is None or pool.signals is None:
        return ()
    named = {variant.accelerator_class for variant in pool.spec.variants}
    return tuple(
        PairPlan(
            pair.accelerator_class,
            pair.reference,
            judge_parity(rules, pair.found),
            pair.found,
        )
        for pair in pool.signals.parity
        if {pair.accelerator_class, pair.reference} <= named
    )


def tell_pairs(
    pool: Pool, pairs: Sequence[PairPlan], before: Sequence[str], at: float
) -> tuple[list[Decision], tuple[str, ...]]:
    """Return which pairs turned, as decisions, and the names of those that differ now.

    Args:
        pool: as observed.
        pairs: what is known of them.
        before: names of those that differed.
        at: snapshot time, seconds.
    """
    rules = pool.spec.parity
    if rules is None:
        return [], ()
    if pool.signals is None:
        return [], tuple(before)  # nothing is known now: nothing has turned
    told, differing = [], []
    for pair in pairs:
        if pair.verdict is ParityVerdict.DIFFERS:
            differing.append(pair.name)
            if pair.name not in before:
                text = f"{pair.name}: {word_parity(rules, pair.found)}"
                told.append(Decision(at, "ParityFailed", text, warning=True))
        elif pair.name in before and pair.verdict is ParityVerdict.AWAITS:
            differing.append(pair.name)  # until it was seen to agree again
        elif pair.name in before:
            text = f"{pair.name} agree again: {word_parity(rules, pair.found)}"
            told.append(Decision(at, "ParityKept", text))
    return told, tuple(differing)
