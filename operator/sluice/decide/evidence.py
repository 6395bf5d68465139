"""Evidence: what speaks against a worker or a node, each piece with source and weight.

The weights of what speaks against one thing at one moment add up: at `FAILED` it is Failed, above
nothing it is Suspect. Client evidence (wrong answers, requests that failed at the gateways)
outweighs what a worker says of itself: it fails a worker whose own health endpoint is content. What
is slow is never failed for that alone: overload looks the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from sluice.api.accelerator import Health
from sluice.decide import limits
from sluice.decide.demand import find_quantile
from sluice.model.snapshot import KnownAnswers, Node, Worker

FAILED: Final = 1.0
"""Sum of weights at which a worker or node is Failed."""
_ROUNDING: Final = 1e-9
_TOLD: Final = 2


class Source(StrEnum):
    """Who says so."""

    LIVENESS = "liveness"
    ANSWERS = "known answers"
    SILENCE = "silence"
    GATEWAY = "gateway"
    LATENCY = "latency"
    CONDITION = "node condition"
    HAND = "hand"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that speaks against a worker or a node.

    Attributes:
        weight: 1 is enough to fail it.
        text: the numbers behind it, as they stand in a reason.
    """

    source: Source
    weight: float
    text: str


_WRITTEN: Final = frozenset({Source.CONDITION, Source.HAND})


def list_written(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Return what stands in the API, and so needs no sight of ours that could be in doubt."""
    return tuple(piece for piece in evidence if piece.source in _WRITTEN)


def is_enough(evidence: Iterable[Evidence]) -> bool:
    """Tell whether the evidence fails what it speaks against."""
    return sum(piece.weight for piece in evidence) >= FAILED - _ROUNDING


def word_evidence(evidence: Iterable[Evidence]) -> str:
    """Return one sentence: the two heaviest pieces, and how many more there are."""
    ranked = sorted(evidence, key=lambda piece: -piece.weight)
    told = ", ".join(piece.text for piece in ranked[:_TOLD])
    more = len(ranked) - _TOLD
    return f"{told} and {more} more" if more > 0 else told


def join_evidence(subject: str, pieces: Sequence[Evidence]) -> Evidence:
    """Return several pieces against one subject as one, of the gravest source among them."""
    wrong = [piece for piece in pieces if piece.source is Source.ANSWERS]
    gravest = wrong[0] if wrong else max(pieces, key=lambda piece: piece.weight)
    weight = sum(piece.weight for piece in pieces)
    return replace(gravest, weight=weight, text=f"{subject}: {word_evidence(pieces)}")


def has_wrong_answer(evidence: Iterable[Evidence]) -> bool:
    """Tell whether a wrong answer is among it, which latches."""
    return any(piece.source is Source.ANSWERS for piece in evidence)


def gather_worker(
    worker: Worker,
    node: Node | None,
    health: Health,
    usual: float | None,
    forgiven: float | None = None,
) -> tuple[Evidence, ...]:
    """Return what speaks against a worker.

    Args:
        worker: the worker, heard before by our probes.
        node: its node, if it is known.
        health: how its class is judged.
        usual: seconds a token takes on the other workers of its variant (`find_usual_paces`).
        forgiven: wrong answers given until then do not count: its node has been released since, and
            is asked anew; None where none are forgiven.
    """
    found = [
        _hear_liveness(worker, health),
        _hear_gateways(worker, health),
        _hear_gateway_probes(worker),
        _hear_answers(worker, forgiven),
        _hear_silence(worker),
        _compare_latency(worker, usual),
    ]
    about_node = gather_node(node, health) if node is not None else ()
    return (*(piece for piece in found if piece is not None), *about_node)


def gather_node(node: Node, health: Health) -> tuple[Evidence, ...]:
    """Return what speaks against a node itself.

    Its conditions count only while its Lease is renewed: those of a dead node stay as they were.
    """
    found = []
    if node.banned:
        text = f"taken out by hand: {node.banned}"
        found.append(Evidence(Source.HAND, FAILED, text))
    if node.lease_age is not None and node.lease_age <= limits.LEASE_STALE:
        for kind in health.node_conditions:
            condition = node.conditions.get(kind)
            if condition is not None and condition.status == "False":
                text = f"{kind} is False on {node.name}: {condition.reason}: {condition.message}"
                found.append(Evidence(Source.CONDITION, FAILED, text.removesuffix(": ")))
    return tuple(found)


def _hear_liveness(worker: Worker, health: Health) -> Evidence | None:
    """Probes missed in a row; a worker that answers that it is stuck says more than silence."""
    probe, needed = worker.probe, health.liveness.failures
    if probe is None or not probe.misses:
        return None
    text = f"{probe.misses} of {needed} liveness probes in a row missed"
    if probe.stuck:
        text += f", {probe.stuck} by its own word that it is stuck"
    if probe.why:
        text += f" ({probe.why})"
    counted = probe.misses + probe.stuck * (limits.STUCK_MISSES - 1)
    return Evidence(Source.LIVENESS, min(1.0, counted / needed), text)


def _hear_gateways(worker: Worker, health: Health) -> Evidence | None:
    """Requests that failed in a row, with no token in between.

    As many as liveness needs misses make a worker Suspect, and Failed with any other sign; twice as
    many fail it alone, whatever it says of itself.
    """
    failures, needed = worker.gateway_failures, health.liveness.failures
    if failures < needed:
        return None
    weight = FAILED if failures >= 2 * needed else limits.WEIGHT_FAILED_REQUESTS
    text = f"{failures} requests in a row failed at the gateway"
    return Evidence(Source.GATEWAY, weight, text)


def _hear_gateway_probes(worker: Worker) -> Evidence | None:
    """The gateways' own probes, where ours miss too: two that see the same save a third look.

    Alone they say nothing: a gateway may be cut off from a worker that we hear well.
    """
    ours = worker.probe.misses if worker.probe is not None else 0
    if not ours or worker.gateway_misses < limits.GATEWAY_MISSES:
        return None
    text = f"{worker.gateway_misses} probes in a row missed by a gateway too"
    return Evidence(Source.GATEWAY, limits.WEIGHT_GATEWAY_PROBES, text)


def _hear_answers(worker: Worker, forgiven: float | None) -> Evidence | None:
    answers = worker.answers
    if answers is None or not is_wrong_since(answers, forgiven):
        return None
    text = f"wrong answer to a known question: {answers.detail or 'no detail'}"
    return Evidence(Source.ANSWERS, FAILED, text)


def is_wrong_since(answers: KnownAnswers, since: float | None) -> bool:
    """Tell whether a wrong answer counts, if those given until a time (seconds) do not."""
    if since is None or answers.wrong_at is None:
        return answers.wrong > 0
    return answers.wrong > 0 and answers.wrong_at > since


def _hear_silence(worker: Worker) -> Evidence | None:
    """Known answers that do not come, while a health endpoint may be content.

    With requests that fail in a row it is a hang that the worker does not tell of itself.
    """
    answers = worker.answers
    if answers is None or answers.silent < limits.SILENT_ROUNDS:
        return None
    text = f"{answers.silent} rounds of known answers in a row timed out"
    return Evidence(Source.SILENCE, limits.WEIGHT_SILENCE, text)


def find_usual_paces(workers: Iterable[Worker]) -> dict[str, float]:
    """Return the median time a token (seconds) of each worker's siblings, by its uid.

    Only where enough was measured of it and of one of them. All at once, for a look at all others
    from each one would cost the square of the fleet.
    """
    paces: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for worker in workers:
        own = find_pace(worker)
        if own is not None:
            variant = str(worker.pool), worker.accelerator_class
            paces.setdefault(variant, []).append((own, worker.uid))
    usual = {}
    for known in paces.values():
        known.sort()
        middle = (len(known) - 1) // 2
        for place, (_, uid) in enumerate(known):
            if len(known) > 1:  # the middle of those without this one
                usual[uid] = known[middle if middle < place else middle + 1][0]
    return usual


def find_pace(worker: Worker) -> float | None:
    """Return the median time a token (seconds) that the gateways measured; None for too few."""
    return find_quantile(worker.signals.tpot, 0.5) if worker.signals is not None else None


def _compare_latency(worker: Worker, usual: float | None) -> Evidence | None:
    own = find_pace(worker) if usual is not None else None
    if own is None or usual is None or own < limits.OUTLIER_FACTOR * usual:
        return None
    text = f"{own:.3g} s a token, its siblings {usual:.3g} s"
    return Evidence(Source.LATENCY, limits.WEIGHT_OUTLIER, text)
